package dropin_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// startDocker starts Debian's dockerd on a private containerd, with berth-runtime as its default runtime. It has no
// bridge and leaves the host's network alone.
func startDocker(t *testing.T, flags ...string) *engine {
	t.Helper()
	return startDockerIn(t, testenv.ShortDir(t), nil, flags...)
}

// startDockerIn has the wrapper in front of the daemons' command lines.
func startDockerIn(t *testing.T, dir string, wrapper []string, flags ...string) *engine {
	t.Helper()
	client, daemon := testenv.Peer(t, "docker"), testenv.Peer(t, "dockerd")
	parent := cgroupParent(t, "docker")
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "d-exec/netns/default"), unix.MNT_DETACH) }) // which the daemon leaves
	containerd := startContainerd(t, dir, wrapper...)
	host := "unix://" + filepath.Join(dir, "d.sock")
	args := append(slices.Clone(wrapper), daemon,
		"--host", host, "--data-root", filepath.Join(dir, "d-root"), "--exec-root", filepath.Join(dir, "d-exec"),
		"--pidfile", filepath.Join(dir, "d.pid"), "--containerd", containerd, "--bridge", "none", "--iptables=false",
		"--cgroup-parent", parent, "--exec-opt", "native.cgroupdriver=cgroupfs",
		"--add-runtime", "berth="+testenv.Binary(t, "berth-runtime"), "--default-runtime", "berth", "--log-level", "warn")
	background(t, dir, []string{client, "--host", host, "version"}, append(args, flags...)...)
	e := &engine{t: t, client: []string{client, "--host", host}, run: []string{"--network", "none"}, containerd: containerd}
	e.must("import", archive(t, dir), image)
	return e
}

func TestDocker(t *testing.T) {
	e := startDocker(t)
	if got := e.must("info", "--format", "{{.DefaultRuntime}}"); got != "berth" {
		t.Fatalf("the default runtime is %q", got)
	}
	stories(t, e)
}

// TestDockerWithUsersRemapped has every container in a user namespace. The daemons see files of their own that say which
// users it has.
func TestDockerWithUsersRemapped(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.ShortDir(t)
	script := files{
		"passwd": read(t, "/etc/passwd") + "mapped:x:20000:20000::/:/bin/false\n",
		"group":  read(t, "/etc/group") + "mapped:x:20000:\n",
		"subuid": "mapped:600000:65536\n", "subgid": "mapped:600000:65536\n",
	}.write(t, dir)
	// Both daemons in one mount namespace, as one makes mounts for the other.
	namespace := filepath.Join(dir, "mounts")
	for _, command := range []string{
		`chmod 755 "$0" && mount --bind "$0" "$0" && mount --make-private "$0" && touch "$1"`,
		`exec unshare --mount="$1" --propagation private sh -c '` + script + `true'`,
	} {
		if output, err := exec.Command("sh", "-c", command, dir, namespace).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	t.Cleanup(func() {
		for _, path := range []string{namespace, dir} {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	e := startDockerIn(t, dir, []string{testenv.Peer(t, "nsenter"), "--mount=" + namespace}, "--userns-remap", "mapped")
	e.remapped = true
	for _, story := range []struct {
		name string
		tell func(*engine)
	}{{"run", run}, {"flags", flags}, {"life", life}, {"exec", execute}, {"pause", pause}, {"terminal", terminal}, {"copying", copying}, {"remapped", remapped}} {
		t.Run(story.name, func(t *testing.T) {
			if story.name == "flags" && os.Getenv("VMRUN") != "" {
				t.Skip("takes long in emulation, where TestDocker has them all")
			}
			inner := *e
			inner.t = t
			story.tell(&inner)
		})
	}
}

func remapped(e *engine) {
	e.want("0 600000 65536", "run", "--rm", image, "sh", "-c", "while read a b c; do echo $a $b $c; done < /proc/self/uid_map")
	e.want("0 0", "run", "--rm", image, "stat", "-c", "%u %g", "/etc/passwd")
	e.want("0 0 4294967295", "run", "--rm", "--userns", "host", image, "sh", "-c", "while read a b c; do echo $a $b $c; done < /proc/self/uid_map")
}
