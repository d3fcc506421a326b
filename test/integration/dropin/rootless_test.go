package dropin_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// files are those of /etc that a test has of its own, for processes in a mount namespace of their own.
type files map[string]string

// write writes the files to a directory and returns a shell's commands that put them in place.
func (f files) write(t *testing.T, dir string) string {
	t.Helper()
	script := ""
	for name, content := range f {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		script += "mount --bind " + path + " /etc/" + name + " && "
	}
	return script
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestRootlessPodman has an ordinary user run containers, with ranges of users and without the right to make cgroups.
func TestRootlessPodman(t *testing.T) {
	testenv.NeedRoot(t)
	podman := testenv.Peer(t, "podman")
	for _, helper := range []string{"newuidmap", "newgidmap", "unshare", "setpriv"} {
		testenv.Peer(t, helper)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &stat); err == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC {
		t.Skip("with cgroup v2 podman wants a cgroup that a user's systemd has delegated")
	}
	dir := testenv.ShortDir(t)
	script := files{
		"passwd": "bertha:x:1000:1000::" + dir + ":/bin/sh\n" + read(t, "/etc/passwd"),
		"group":  "bertha:x:1000:\n" + read(t, "/etc/group"),
		"subuid": "bertha:500000:65536\n", "subgid": "bertha:500000:65536\n",
	}.write(t, dir)
	runtime := filepath.Join(dir, "berth-runtime") // the checkout may be root's alone
	if output, err := exec.Command("sh", "-c", `cp "$0" "$1" && chmod 755 "$2" && mkdir "$2/run" "$2/net" && chown -R 1000:1000 "$2"`,
		testenv.Binary(t, "berth-runtime"), runtime, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	archived := archive(t, dir)
	script += `cd "$0" && exec setpriv --reuid 1000 --regid 1000 --clear-groups env -i HOME="$0" USER=bertha XDG_RUNTIME_DIR="$0/run" PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"`
	e := &engine{t: t, client: []string{
		"unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir, podman,
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--network-config-dir", filepath.Join(dir, "net"), "--runtime", runtime,
	}, run: []string{"--network", "none", "--stop-timeout", "0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}}
	t.Cleanup(func() { e.must("system", "reset", "--force"); e.must("system", "migrate") })
	e.must("import", "--quiet", archived, image)
	for name, tell := range map[string]func(*engine){
		"run": run, "life": life, "exec": execute, "statuses": statuses, "stop": stop, "terminal": terminal, "input": input, "detached": detached, "mapped": mapped,
	} {
		t.Run(name, func(t *testing.T) {
			inner := *e
			inner.t = t
			tell(&inner)
		})
	}
}

// mapped looks at who the users of containers are outside.
func mapped(e *engine) {
	e.want("0 1000 1\n1 500000 65536", "run", "--rm", image, "sh", "-c", "while read a b c; do echo $a $b $c; done < /proc/self/uid_map")
	e.want("0 1 999\n999 0 1", "run", "--rm", "--userns", "keep-id:uid=999,gid=999", image, "sh", "-c", "while read a b c; do echo $a $b $c; done < /proc/self/uid_map | head -2")
	e.want("77", "run", "--rm", "--user", "77", image, "id", "-u")
}
