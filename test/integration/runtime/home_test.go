package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// TestHomeOfWhatIsMounted: HOME is what the /etc/passwd says that the container's programs see, whatever the image has
// there, for its first process, its hooks and exec alike.
func TestHomeOfWhatIsMounted(t *testing.T) {
	dir := t.TempDir()
	passwd := filepath.Join(dir, "passwd")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/mounted/root:/bin/sh\nuser:x:1000:1000::/mounted/user:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bound := mount("/etc/passwd", "bind", passwd, "bind", "ro")
	bind := func(m specs.Mount) func(c *container) {
		return func(c *container) { c.Spec.Mounts = append(c.Spec.Mounts, m) }
	}
	for name, test := range map[string]struct {
		change func(c *container)
		want   string
	}{
		"image":  {func(*container) {}, "/home"},
		"file":   {bind(bound), "/mounted/user"},
		"volume": {bind(mount("/etc", "bind", dir, "rbind")), "/mounted/user"},
		"empty":  {bind(mount("/etc", "tmpfs", "tmpfs")), "/"},
		"link": {func(c *container) {
			linkPasswd(t, c)
			bind(mount("/real", "bind", dir, "rbind"))(c)
		}, "/mounted/user"},
		"user namespace": {func(c *container) {
			mapUsers(t, c)
			bind(bound)(c)
		}, "/mounted/user"},
		"no namespace": {func(c *container) {
			c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.MountNamespace)
			c.Spec.Linux.MaskedPaths, c.Spec.Linux.ReadonlyPaths = nil, nil
			bind(bound)(c)
		}, "/mounted/user"},
		"joined namespace": {func(c *container) { joinMounts(t, c, passwd) }, "/mounted/user"},
	} {
		t.Run(name, func(t *testing.T) {
			user := func(args ...string) *container {
				c := newContainer(t, args...)
				c.Spec.Process.User.UID = 1000
				test.change(c)
				return c
			}
			wantEqual(t, user("sh", "-c", "echo $HOME").output(), test.want+"\n")
			c := user("sleep", "1000")
			c.start()
			wantEqual(t, c.must("exec", c.ID, "sh", "-c", "echo $HOME"), test.want+"\n")
			wantEqual(t, c.must("exec", "--user", "4242", c.ID, "sh", "-c", "echo $HOME"), "/\n")
		})
	}
}

func linkPasswd(t *testing.T, c *container) {
	t.Helper()
	name := filepath.Join(c.Rootfs, "etc/passwd")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real/passwd", name); err != nil {
		t.Fatal(err)
	}
}

// joinMounts lets the container join a mount namespace in which another file is mounted on its image's /etc/passwd.
func joinMounts(t *testing.T, c *container, passwd string) {
	t.Helper()
	done := filepath.Join(t.TempDir(), "mounted")
	script := fmt.Sprintf("mount --bind %s %s && touch %s && exec sleep 1000", passwd, filepath.Join(c.Rootfs, "etc/passwd"), done)
	holder := exec.Command("unshare", "--mount", "sh", "-c", script)
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	testenv.WaitFor(t, "the mount", func() bool { _, err := os.Stat(done); return err == nil })
	path := fmt.Sprintf("/proc/%d/ns/mnt", holder.Process.Pid)
	c.Spec.Linux.Namespaces = append(withoutNamespace(c.Spec, specs.MountNamespace), specs.LinuxNamespace{Type: specs.MountNamespace, Path: path})
}

// TestHomeOfHooks: a hook in the container that is given no environment has that of the container's program, HOME with it.
func TestHomeOfHooks(t *testing.T) {
	shared := t.TempDir()
	c := newContainer(t, "true")
	show := func(name string, env []string) specs.Hook {
		return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf(`echo "${HOME-none}" > %s/%s`, shared, name)}, Env: env}
	}
	c.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{show("inherited", nil), show("given", []string{"X=1"})}}
	c.Spec.Mounts = append(c.Spec.Mounts, mount(shared, "bind", shared, "bind"))
	c.output()
	wantEqual(t, readFile(t, filepath.Join(shared, "inherited")), "/root")
	wantEqual(t, readFile(t, filepath.Join(shared, "given")), "none")
}
