package dropin_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestPodmanUnderSystemd: podman of an ordinary user calls the runtime as root of a user namespace, and its containers
// are units of the user's own systemd.
func TestPodmanUnderSystemd(t *testing.T) {
	testenv.NeedRoot(t)
	account, err := user.Lookup("bertha")
	if err != nil {
		t.Skip("needs the user bertha with a systemd manager, as make test-vm PART=systemd has")
	}
	home := filepath.Join("/run/user", account.Uid)
	if _, err := os.Stat(filepath.Join(home, "systemd/private")); err != nil {
		t.Skipf("needs a systemd manager of the user bertha: %v", err)
	}
	rootfs := testenv.BusyboxRootfs(t)
	if output, err := exec.Command("chown", "-R", account.Uid+":"+account.Gid, filepath.Dir(rootfs)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	asUser := []string{
		"setpriv", "--reuid", account.Uid, "--regid", account.Gid, "--clear-groups",
		"env", "-i", "-C", home, "PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home,
		"DBUS_SESSION_BUS_ADDRESS=unix:path=" + filepath.Join(home, "bus"),
	}
	e := &engine{t: t, client: append(slices.Clone(asUser),
		testenv.Peer(t, "podman"), "--root", filepath.Join(home, "p-root"), "--runroot", filepath.Join(home, "p-run"),
		"--tmpdir", filepath.Join(home, "p-tmp"), "--storage-driver", "vfs", "--cgroup-manager", "systemd", "--events-backend", "none",
		"--runtime", testenv.Binary(t, "berth-runtime"),
	), run: []string{"--network", "none", "--memory", "64m", "--pids-limit", "50"}}
	t.Cleanup(func() { e.must("rm", "--all", "--force", "--time", "0") })
	limits := "cd /sys/fs/cgroup; cat memory.max pids.max; id -u; exit 7"
	if r := e.try("run", "--rm", "--rootfs", rootfs, "sh", "-c", limits); r.status != 7 || r.stdout != "67108864\n50\n0\n" {
		t.Errorf("%+v", r)
	}
	id := strings.TrimSpace(e.must("run", "--detach", "--name", "one", "--rootfs", rootfs, "sleep", "1000"))
	ask := append(asUser[1:], "systemctl", "--user", "show", "libpod-"+id+".scope", "--property", "MemoryMax", "--value")
	show := exec.Command(asUser[0], ask...)
	if output, err := show.CombinedOutput(); err != nil || string(output) != "67108864\n" {
		t.Errorf("the unit's MemoryMax: %q, %v", output, err)
	}
	e.want("0::/", "exec", "one", "cat", "/proc/self/cgroup")
	e.must("pause", "one")
	e.must("unpause", "one")
	e.must("update", "--memory", "128m", "one")
	e.want("134217728", "exec", "one", "cat", "/sys/fs/cgroup/memory.max")
	e.must("rm", "--force", "--time", "0", "one")
	if output, err := exec.Command("find", "/sys/fs/cgroup/user.slice", "-name", "libpod-"+id+"*").CombinedOutput(); err != nil || len(output) > 0 {
		t.Errorf("left: %s, %v", output, err)
	}
}
