package runtime_test

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// privileged gives the container every capability that this test has, and no restriction.
func privileged(c *container) {
	all := strings.Fields("CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID SETPCAP NET_ADMIN SYS_CHROOT SYS_PTRACE SYS_ADMIN MKNOD")
	for i := range all {
		all[i] = "CAP_" + all[i]
	}
	c.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	c.Spec.Process.NoNewPrivileges = false
	c.Spec.Root.Readonly = false
	c.Spec.Linux.MaskedPaths, c.Spec.Linux.ReadonlyPaths = nil, nil
}

func binarySum(t testing.TB) [sha256.Size]byte {
	t.Helper()
	content, err := os.ReadFile(testenv.Runtime(t))
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

// TestBinaryIsNotWritable tries what CVE-2019-5736 did: to make the runtime execute itself, and to write to it
// through /proc/PID/exe.
func TestBinaryIsNotWritable(t *testing.T) {
	before := binarySum(t)
	c := newContainer(t)
	privileged(c)
	attack := "#!/proc/self/exe\n"
	if err := os.WriteFile(filepath.Join(c.Rootfs, "attack"), []byte(attack), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"/attack"}, {"/proc/self/exe", "--version"}} {
		c.Spec.Process.Args = args
		r := c.run()
		if r.Status == 0 || strings.Contains(r.Stdout, "version") {
			t.Errorf("%v executed the runtime: %+v", args, r)
		}
	}
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	for _, command := range []string{"/attack", "/proc/self/exe"} {
		if r := c.verb("exec", c.ID, command, "--version"); r.Status == 0 || strings.Contains(r.Stdout, "version") {
			t.Errorf("exec of %s executed the runtime: %+v", command, r)
		}
	}
	if binarySum(t) != before {
		t.Error("the runtime's binary has changed")
	}
}

// TestWaitingProcessIsNotTheRuntime looks at what a created container's process is before its start.
func TestWaitingProcessIsNotTheRuntime(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	privileged(c)
	c.writeConfig()
	c.leave("create", "--bundle", c.Bundle, c.ID)
	pid := strconv.Itoa(c.state().Pid)
	var own, waiting unix.Stat_t
	if err := unix.Stat(testenv.Runtime(t), &own); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join("/proc", pid, "exe"), &waiting); err != nil {
		t.Fatal(err)
	}
	if own.Ino == waiting.Ino && own.Dev == waiting.Dev {
		t.Error("the waiting process has the host's binary as its exe")
	}
	maps := readFile(t, filepath.Join("/proc", pid, "maps"))
	if strings.Contains(maps, testenv.Runtime(t)) {
		t.Errorf("the waiting process maps the host's binary:\n%s", maps)
	}
}

// TestNoDescriptorLeaks: CVE-2024-21626 was a descriptor of the host's that a working directory led into.
func TestNoDescriptorLeaks(t *testing.T) {
	leak, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	c := newContainer(t).shell("ls /proc/self/fd | tr '\\n' ' '")
	c.writeConfig()
	run := c.command("run", "--bundle", c.Bundle, c.ID)
	run.ExtraFiles = []*os.File{leak, leak, leak}            // 3, 4, 5: inherited, and not close-on-exec
	wantEqual(t, testenv.Execute(t, run).Stdout, "0 1 2 3 ") // 3 is what ls reads
	c.Spec.Process.Args = []string{"sleep", "1000"}
	c.start()
	inside := c.command("exec", c.ID, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '")
	inside.ExtraFiles = []*os.File{leak}
	wantEqual(t, testenv.Execute(t, inside).Stdout, "0 1 2 3 ")
}

func TestWorkingDirectoryIsInsideTheRoot(t *testing.T) {
	leak, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	for fd := 3; fd < 12; fd++ {
		c := newContainer(t, "pwd")
		c.Spec.Process.Cwd = "/proc/self/fd/" + strconv.Itoa(fd)
		c.writeConfig()
		run := c.command("run", "--bundle", c.Bundle, c.ID)
		run.ExtraFiles = []*os.File{leak, leak, leak, leak}
		if r := testenv.Execute(t, run); r.Status == 0 {
			t.Errorf("descriptor %d was entered: %+v", fd, r)
		}
	}
	c := sleeping(t, nil)
	for fd := 3; fd < 12; fd++ {
		inside := c.command("exec", "--cwd", "/proc/self/fd/"+strconv.Itoa(fd), c.ID, "pwd")
		inside.ExtraFiles = []*os.File{leak, leak, leak, leak}
		if r := testenv.Execute(t, inside); r.Status == 0 {
			t.Errorf("descriptor %d was entered by exec: %+v", fd, r)
		}
	}
}

func TestPreservedDescriptors(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := newContainer(t).shell("echo through >&3; ls /proc/self/fd | tr '\\n' ' '")
	c.writeConfig()
	run := c.command("run", "--preserve-fds", "1", "--bundle", c.Bundle, c.ID)
	run.ExtraFiles = []*os.File{writer, writer}
	wantEqual(t, testenv.Execute(t, run).Stdout, "0 1 2 3 4 ")
	writer.Close()
	buffer := make([]byte, 64)
	n, _ := reader.Read(buffer)
	wantEqual(t, string(buffer[:n]), "through\n")
	if r := c.run("--preserve-fds", "3"); r.Status != 1 || !strings.Contains(r.Stderr, "--preserve-fds") {
		t.Errorf("descriptors that are not open: %+v", r)
	}
}

// hostile makes the container's root file system one that leads elsewhere.
func hostile(t testing.TB, c *container, link, target string) {
	t.Helper()
	path := filepath.Join(c.Rootfs, link)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestLinksStayInTheRoot has links of the image in place of mount points, which must lead inside the root only.
func TestLinksStayInTheRoot(t *testing.T) {
	for _, link := range []string{"proc", "sys", "dev", "etc", "mnt"} {
		t.Run(link, func(t *testing.T) {
			outside := t.TempDir()
			before, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			c := newContainer(t, "true")
			c.Spec.Root.Readonly = false
			c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt/made", "tmpfs", "tmpfs"), mount("/etc/made", "bind", outside, "bind"))
			hostile(t, c, link, strings.Repeat("../", 20)+outside)
			r := c.run()
			if refused := link == "proc" || link == "sys" || link == "dev"; (r.Status != 0) != refused {
				t.Errorf("a link in place of /%s: %+v", link, r)
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) > 0 {
				t.Errorf("outside of the root there is now %v, %v", entries, err)
			}
			after, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Count(string(after), outside) > strings.Count(string(before), outside) {
				t.Errorf("something is mounted outside of the root: %v\n%s", err, after)
			}
		})
	}
}

func TestMagicLinksAreNotFollowed(t *testing.T) {
	c := newContainer(t, "true")
	c.Spec.Root.Readonly = false
	hostile(t, c, "mnt", "/proc/self/root")
	c.Spec.Mounts = append(c.Spec.Mounts, mount("/mnt/tmp", "tmpfs", "tmpfs"))
	c.refused(`"/mnt/tmp"`)
}

// TestMaskNeedsTheRealNull: CVE-2025-31133 replaced /dev/null by a link, so that what was to be hidden was bound
// somewhere else instead.
func TestMaskNeedsTheRealNull(t *testing.T) {
	for name, replace := range map[string]func(dev string) error{
		"link": func(dev string) error { return os.Symlink("/proc/sysrq-trigger", filepath.Join(dev, "null")) },
		"file": func(dev string) error { return os.WriteFile(filepath.Join(dev, "null"), nil, 0o666) },
		"zero": func(dev string) error {
			return unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			dev := t.TempDir()
			if err := replace(dev); err != nil {
				t.Fatal(err)
			}
			var mounts []specs.Mount
			for _, m := range c.Spec.Mounts {
				if !strings.HasPrefix(m.Destination, "/dev") {
					mounts = append(mounts, m)
				}
			}
			c.Spec.Mounts = append(mounts, mount("/dev", "bind", dev, "bind"))
			c.refused("/dev/null")
		})
	}
}

// TestExistingDevicesAreChecked: a file of the image in place of a device must not pass for it.
func TestExistingDevicesAreChecked(t *testing.T) {
	c := newContainer(t, "true")
	var mounts []specs.Mount
	for _, m := range c.Spec.Mounts {
		if !strings.HasPrefix(m.Destination, "/dev") {
			mounts = append(mounts, m)
		}
	}
	c.Spec.Mounts = mounts
	if err := os.WriteFile(filepath.Join(c.Rootfs, "dev/random"), []byte("4"), 0o666); err != nil {
		t.Fatal(err)
	}
	c.refused("/dev/random")
}

func TestProcOfTheContainer(t *testing.T) {
	c := newContainer(t).shell("echo 1 > /proc/sys/kernel/panic 2>/dev/null || echo protected; ls /proc | grep -c '^[0-9]'")
	out := c.output()
	answer, count, _ := strings.Cut(out, "\n")
	wantEqual(t, answer, "protected")
	if count != "2\n" && count != "3\n" { // the shell, ls and perhaps already grep
		t.Errorf("the container sees %q processes", count)
	}
}

// TestNoZombiesOfTheRuntime: what exec has started is reaped outside of the container.
func TestNoZombiesOfTheRuntime(t *testing.T) {
	c := sleeping(t, nil)
	for range 3 {
		c.must("exec", c.ID, "true")
	}
	processes := c.must("exec", c.ID, "ps")
	wantContains(t, processes, "sleep 1000")
	wantContains(t, processes, " ps\n") // or it would show no zombie either
	if strings.Contains(processes, "true") {
		t.Errorf("a process that has ended is left:\n%s", processes)
	}
}

// TestDebuggerSeesNoBinary: a process with CAP_SYS_PTRACE in the container looks at every process that comes in.
func TestDebuggerSeesNoBinary(t *testing.T) {
	before := binarySum(t)
	c := newContainer(t)
	privileged(c)
	c.shell(`while :; do for p in /proc/[0-9]*; do
			grep -q '^sleep$' $p/comm 2>/dev/null && echo $p >> /met
			if readlink $p/exe 2>/dev/null | grep -q 'berth-runtime$'; then (exec 9<$p/exe && sleep 0.2; echo x 9<&- > /proc/self/fd/9) 2>/dev/null; fi
		done; done`)
	c.start()
	for range 20 {
		c.must("exec", c.ID, "sleep", "0.1")
	}
	if met, err := os.ReadFile(filepath.Join(c.Rootfs, "met")); err != nil || len(met) == 0 {
		t.Errorf("the debugger has met nobody: %v", err)
	}
	if binarySum(t) != before {
		t.Error("the runtime's binary has changed")
	}
	if _, err := exec.Command(testenv.Runtime(t), "--version").Output(); err != nil {
		t.Error(err)
	}
}
