package stores_test

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// containerd is a private containerd.
type containerd struct {
	t       testing.TB
	address string
	ctr     string
	// namespace is where ctr acts.
	namespace string
}

// startContainerd starts a containerd that keeps its images and layers in our services.
func startContainerd(t testing.TB, content, snapshots *service) *containerd {
	t.Helper()
	return launchContainerd(t, "", fmt.Sprintf(`
[proxy_plugins.berth]
  type = "snapshot"
  address = %q
[proxy_plugins.berth-content]
  type = "content"
  address = %q
`, snapshots.Address, content.Address), `"io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.native"`)
}

// launchContainerd starts a containerd with a namespace for ctr, further configuration, and without some plugins.
func launchContainerd(t testing.TB, namespace, more, disabled string) *containerd {
	t.Helper()
	program, ctr := testenv.Peer(t, "containerd"), testenv.Peer(t, "ctr")
	dir := testenv.ShortDir(t)
	c := &containerd{t: t, address: filepath.Join(dir, "c.sock"), ctr: ctr, namespace: cmp.Or(namespace, testenv.CgroupParent[1:])}
	if disabled != "" {
		disabled = ", " + disabled
	}
	config := fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"%[5]s]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.address, c.address+".ttrpc", disabled) + more
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", file, "--log-level", "warn")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	testenv.Until(t, startLimit, "containerd answers", func() error {
		_, err := exec.Command(ctr, "--address", c.address, "version").CombinedOutput()
		return err
	})
	return c
}

// run runs a ctr command and returns what it prints. Containers have their cgroups below one with the namespace's name.
func (c *containerd) run(args ...string) (string, error) {
	output, err := exec.Command(c.ctr, append([]string{"--address", c.address, "--namespace", c.namespace}, args...)...).CombinedOutput()
	return string(output), err
}

func (c *containerd) mustRun(args ...string) string {
	c.t.Helper()
	output, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

func TestContainerdRunsContainersOnOurStores(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Peer(t, "runc")
	dir := testenv.ShortDir(t)
	content, snapshots := start(t, "berth-contentstore", dir), start(t, "berth-snapshotter", dir)
	c := startContainerd(t, content, snapshots)

	const image = "example.com/busybox:test"
	c.mustRun("images", "import", "--snapshotter", "berth", imageArchive(t, image))
	if blobs := files(t, filepath.Join(content.Root, "blobs", "sha256")); len(blobs) < 4 {
		t.Errorf("%d blobs in the content store, want at least manifest, config and two layers", len(blobs))
	}
	run := func(id string, command ...string) string {
		t.Helper()
		return c.mustRun(append([]string{"run", "--rm", "--snapshotter", "berth", "--runtime", "io.containerd.runc.v2", image, id}, command...)...)
	}
	if got := run("one", "/bin/echo", "hello"); got != "hello\n" {
		t.Errorf("the container said %q", got)
	}
	// The second layer's whiteout hides a file of the first, and what one container writes no other sees.
	if got := run("two", "/bin/sh", "-c", "ls /etc; echo x > /etc/new; cat /etc/new"); got != "second\nx\n" {
		t.Errorf("the container saw %q", got)
	}
	if got := run("three", "/bin/ls", "/etc"); got != "second\n" {
		t.Errorf("another container saw %q", got)
	}

	// containerd's diff service asks an open ingest for its digest, and reads of one namespace what another has brought.
	parent := strings.TrimSpace(c.mustRun("snapshots", "--snapshotter", "berth", "ls"))
	parent = strings.Fields(strings.Split(parent, "\n")[1])[0]
	c.mustRun("snapshots", "--snapshotter", "berth", "prepare", "changed", parent)
	if layer := c.mustRun("snapshots", "--snapshotter", "berth", "diff", "changed"); layer == "" {
		t.Error("the diff of a snapshot is empty")
	}
	c.mustRun("snapshots", "--snapshotter", "berth", "rm", "changed")

	// Without the image nothing keeps its blobs and layers: containerd removes them through our services.
	c.mustRun("images", "rm", "--sync", image)
	if blobs := files(t, filepath.Join(content.Root, "blobs", "sha256")); len(blobs) != 0 {
		t.Errorf("blobs left after the image was removed: %v", blobs)
	}
	if err := snapshots.stop(); err != nil { // waits for directories that are being removed
		t.Error(err)
	}
	if layers := files(t, filepath.Join(snapshots.Root, "snapshots")); len(layers) != 0 {
		t.Errorf("layers left after the image was removed: %v", layers)
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// imageArchive writes a docker archive of an image with two layers: busybox with /etc/first, and a layer that replaces
// /etc/first by /etc/second.
func imageArchive(t testing.TB, name string) string {
	t.Helper()
	lower := testenv.BusyboxRootfs(t)
	if err := os.RemoveAll(filepath.Join(lower, "etc")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(lower, "etc", "first"), "1")
	upper := filepath.Join(testenv.ShortDir(t), "upper")
	writeFile(t, filepath.Join(upper, "etc", "second"), "2")
	writeFile(t, filepath.Join(upper, "etc", ".wh.first"), "")
	layers := [][]byte{testenv.Tar(t, lower), testenv.Tar(t, upper)}

	var ids, names []string
	for i, layer := range layers {
		ids = append(ids, fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))
		names = append(names, fmt.Sprintf("layer%d.tar", i))
	}
	config := mustJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	manifest := mustJSON(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": names}})
	path := filepath.Join(testenv.ShortDir(t), "image.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	addFile(t, w, "manifest.json", manifest)
	addFile(t, w, "config.json", config)
	for i, layer := range layers {
		addFile(t, w, names[i], layer)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func addFile(t testing.TB, w *tar.Writer, name string, content []byte) {
	t.Helper()
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
