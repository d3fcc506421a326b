// Package testenv gives the black-box tests what they stand on: the built binaries, root file systems made from
// Debian's busybox, a real registry, and the peers to compare with. Everything it makes goes away with the test.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// NeedRoot skips the test unless it runs as root: namespaces, mounts and cgroups of the host need it.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces, mounts and cgroups")
	}
}

// Repo returns the top folder of the checkout.
func Repo(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if ok {
		if repo := filepath.Dir(filepath.Dir(filepath.Dir(file))); exists(filepath.Join(repo, "go.mod")) {
			return repo
		}
	}
	// Built with -trimpath: go test runs in the package's folder, which lies below the checkout.
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "go.mod")) {
			return dir
		}
	}
	t.Fatal("cannot find the checkout: no go.mod above the working directory")
	return ""
}

// BinDir returns the folder of the built binaries: $BERTH_BIN, or bin/ of the checkout.
func BinDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("BERTH_BIN"); dir != "" {
		return dir
	}
	return filepath.Join(Repo(t), "bin")
}

// Binary returns the path of one built program. It fails the test if `make build` has not made it.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(BinDir(t), name)
	if !exists(path) { // the stat also tells Go's test cache that the result depends on this file
		t.Fatalf("%s is missing: run make build first", path)
	}
	return path
}

// Peer returns the path of a program of Debian's that berth is compared or combined with, and skips the test without it.
func Peer(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs Debian's %s, which is not installed (make deps installs it)", name)
	}
	return path
}

// NewestPeer returns the path of a program that hack/peers pins, and skips the test without it.
func NewestPeer(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Repo(t), ".cache", "peers", name)
	if !exists(path) {
		t.Skipf("needs the newest %s, which make test-deps builds where it can", name)
	}
	return path
}

// ShortDir returns an empty directory with a short path, as socket addresses end at 107 bytes. It is removed after
// the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(stateParent(), "b.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove the test's directory: %v", err)
		}
	})
	return dir
}

// Patience is a limit for something that takes far less on a machine that is not emulated.
func Patience(limit time.Duration) time.Duration {
	if os.Getenv("VMRUN") == "1" {
		return 10 * limit
	}
	return limit
}

// stateParent is /data in the test VM, whose root is an overlay and can't be another overlay's upper directory.
func stateParent() string {
	if os.Getenv("VMRUN") == "1" {
		return "/data"
	}
	return "/tmp"
}

// BusyboxRootfs returns a fresh root file system with Debian's static busybox, a link for each of its applets, and
// the files and folders that programs expect.
func BusyboxRootfs(t testing.TB) string {
	t.Helper()
	root := filepath.Join(ShortDir(t), "rootfs")
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var/www"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n",
		"etc/group":      "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
		"etc/os-release": "ID=berth-test\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	installBusybox(t, filepath.Join(root, "bin"))
	return root
}

func installBusybox(t testing.TB, bin string) {
	t.Helper()
	busybox := Peer(t, "busybox")
	content, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), content, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatalf("cannot list busybox's applets: %v", err)
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
