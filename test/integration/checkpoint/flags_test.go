package checkpoint_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// A connection that is closed at the restore instead of going on.
func TestTCPClose(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "mkfifo /tmp/p; nc -l -p 99 </tmp/p & exec 8>/tmp/p; until grep -q :0063 /proc/net/tcp /proc/net/tcp6; do :; done; "+
		"sleep 10000 | nc 127.0.0.1 99 & until grep -q ' 01 ' /proc/net/tcp; do :; done; "+echo)
	c.run().ask("a", "a 1")
	c.checkpoint("--tcp-established")
	c.refused("TCP", "restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	c.restore("--tcp-close").ask("b", "b 2")
	const established = " 01 "
	if got := c.must("exec", c.ID, "cat", "/proc/net/tcp", "/proc/net/tcp6"); strings.Contains(got, established) {
		t.Errorf("connections: %s", got)
	}
}

// A listener with a connection that it has not accepted yet: the connection is left out.
func TestTCPSkipInFlight(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `exec perl -MSocket -e '$| = 1; socket(S, PF_INET, SOCK_STREAM, 0); bind(S, pack_sockaddr_in(99, INADDR_LOOPBACK)); listen(S, 5) or die;
		while (<STDIN>) { if (/accept/) { accept(C, S) or die; } print; }'`)
	c.useHostPrograms()
	talk := c.run()
	talk.ask("a", "a")
	c.connectTo("99")
	c.refused("In-flight", "checkpoint", "--image-path", c.path("images"), c.ID)
	talk.ask("b", "b")
	c.checkpoint("--tcp-skip-in-flight")
	talk = c.restore()
	talk.ask("c", "c")
	c.connectTo("99")
	talk.ask("accept", "accept") // which waits for one: the other is not there any more
}

// connectTo makes a connection inside the container's network from outside of the container.
func (c *container) connectTo(port string) {
	c.t.Helper()
	client := exec.Command("nsenter", "--net", "--target", jsonNumber(c.state().Pid), "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+" && echo made && exec sleep 1000")
	talk := connect(c.t, client)
	if err := client.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _, _ = client.Process.Kill(), client.Wait() })
	talk.expect("made")
}

// A file that is open under a name that is gone, while another name of it is left.
func TestLinkRemap(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "echo content >/tmp/one; ln /tmp/one /tmp/other; exec 7</tmp/one; rm /tmp/one; "+echo)
	talk := c.run()
	talk.ask("a", "a 1")
	c.refused("link", "checkpoint", "--image-path", c.path("images"), c.ID)
	talk.ask("b", "b 2")
	c.checkpoint("--link-remap")
	c.restore().ask("c", "c 3")
	if got := c.must("exec", c.ID, "sh", "-c", "cat /proc/1/fd/7; ls -a /tmp"); got != "content\n.\n..\nother\n" {
		t.Errorf("the file, and what is beside it: %q", got)
	}
}

// What no flag says can be in a file of criu's own, which an annotation names.
func TestConfigurationFile(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "echo content >/tmp/one; ln /tmp/one /tmp/other; exec 7</tmp/one; rm /tmp/one; "+echo)
	c.Spec.Annotations = map[string]string{"org.criu.config": c.path("criu.conf")}
	if err := os.WriteFile(c.path("criu.conf"), []byte("link-remap\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore().ask("b", "b 2")
}

// A socket of a server outside, as a logger's.
func TestExternalSocket(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `exec perl -MSocket -e '$| = 1; socket(S, PF_UNIX, SOCK_DGRAM, 0); connect(S, pack_sockaddr_un($ENV{LOG})) or die "$!";
		while (<STDIN>) { defined(send(S, $_, 0)) or die; print; }'`)
	c.useHostPrograms()
	// criu looks for the other end in the same network, and then by the name that it has outside.
	c.Spec.Process.Env = append(c.Spec.Process.Env, "LOG="+c.path("sockets/log"))
	c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if err := os.Mkdir(c.path("sockets"), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.path("sockets/log"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	heard := func(want string) {
		t.Helper()
		_ = server.SetReadDeadline(time.Now().Add(30 * time.Second))
		buffer := make([]byte, 100)
		if n, err := server.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Fatalf("heard %q, %v, want %q", buffer[:n], err, want)
		}
	}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: c.path("sockets"), Source: c.path("sockets"), Options: []string{"bind"}})
	talk := c.run()
	talk.ask("a", "a")
	heard("a\n")
	c.refused("--ext-unix-sk", "checkpoint", "--image-path", c.path("images"), c.ID)
	c.checkpoint("--ext-unix-sk")
	c.restore("--ext-unix-sk").ask("b", "b")
	heard("b\n")
}

// A terminal that is not the container's own: another one takes its place.
func TestShellJob(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "stty -echo; "+echo)
	c.writeConfig()
	talk := c.overTerminal("run", "--detach", "--bundle", c.Dir, c.ID)
	talk.ask("a", "a 1")
	c.refused("/dev/pts", "checkpoint", "--image-path", c.path("images"), c.ID)
	talk.ask("b", "b 2")
	c.checkpoint("--shell-job")
	c.overTerminal("restore", "--detach", "--shell-job", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID).ask("c", "c 3")
}

// overTerminal runs a verb that starts the container on a terminal of the test's.
func (c *container) overTerminal(args ...string) *conversation {
	c.t.Helper()
	master, slave := openTerminal(c.t)
	command := c.command(args...)
	command.Stdin, command.Stdout, command.Stderr = slave, slave, slave
	talk := talkOver(c.t, master)
	if err := command.Run(); err != nil {
		c.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, c.logs())
	}
	return talk
}

func openTerminal(t testing.TB) (master int, slave *os.File) {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/pts/"+jsonNumber(number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	settings.Lflag &^= unix.ECHO
	settings.Oflag &^= unix.ONLCR
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, settings); err != nil {
		t.Fatal(err)
	}
	slave = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// The memory goes to a page server, everything else to the images.
func TestPageServer(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	if err := os.Mkdir(c.path("pages"), 0o700); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	server := exec.Command("criu", "page-server", "-D", c.path("pages"), "--address", "127.0.0.1", "--port", port, "-v4", "-o", "server.log")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	c.awaitListener(port)
	c.checkpoint("--page-server", "127.0.0.1:"+port)
	if err := server.Wait(); err != nil {
		t.Fatalf("criu page-server: %v\n%s", err, c.logs())
	}
	if here, _ := filepath.Glob(c.path("images/pages-*.img")); len(here) > 0 {
		t.Errorf("memory in the images: %v", here)
	}
	there, err := filepath.Glob(c.path("pages/*.img"))
	if err != nil || len(there) == 0 {
		t.Fatalf("nothing has come to the server: %v", err)
	}
	for _, file := range there {
		if err := os.Rename(file, filepath.Join(c.path("images"), filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
	c.restore().ask("b", "b 2")
}

// awaitListener waits for somebody to listen without connecting, which a server that serves one client would take for it.
func (c *container) awaitListener(port string) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		output, err := exec.Command("ss", "-Hltn", "sport = :"+port).Output()
		if err != nil {
			c.t.Fatal(err)
		}
		if len(output) > 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("nobody listens on port %s", port)
		}
	}
}

// What a pre-dump has and the dump after it has too is taken out of the pre-dump's files, and what is restored out of
// all of them.
func TestAutoDedup(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, `i=0; while read line; do i=$((i+1)); v=$(head -c 4000000 /dev/zero | tr '\0' $line); echo "$line $i"; done`)
	talk := c.run()
	talk.ask("a", "a 1")
	var chain []string
	if tracksMemory() {
		c.must("checkpoint", "--pre-dump", "--image-path", c.path("first"), c.ID)
		full := blocks(t, c.path("first"))
		talk.ask("b", "b 2")
		c.must("checkpoint", "--pre-dump", "--image-path", c.path("second"), "--parent-path", "../first", c.ID)
		if got := blocks(t, c.path("first")); got != full {
			t.Errorf("%d blocks of memory, and %d without --auto-dedup", full, got)
		}
		talk.ask("c", "c 3")
		second := blocks(t, c.path("second"))
		chain = []string{"--parent-path", "../second", "--auto-dedup"}
		defer func() {
			if got := blocks(t, c.path("second")); got >= second {
				t.Errorf("%d blocks of memory before, %d after --auto-dedup", second, got)
			}
		}()
	}
	c.checkpoint(chain...)
	before := blocks(t, c.path("images"))
	talk = c.restore("--auto-dedup")
	talk.ask("d", "d "+map[bool]string{true: "4", false: "2"}[chain != nil])
	if after := blocks(t, c.path("images")); after >= before {
		t.Errorf("%d blocks of memory before, %d after the restore with --auto-dedup", before, after)
	}
}

// tracksMemory says whether a pre-dump is possible: not every kernel has what it takes.
func tracksMemory() bool {
	return exec.Command("criu", "check", "--feature", "mem_dirty_track").Run() == nil
}

// blocks is how much room the memory in a directory of images takes.
func blocks(t testing.TB, dir string) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pages-*.img"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no memory in %q: %v", dir, err)
	}
	for _, file := range files {
		var stat unix.Stat_t
		if err := unix.Stat(file, &stat); err != nil {
			t.Fatal(err)
		}
		sum += stat.Blocks
	}
	return sum
}

// How much of the cgroups comes back: limits, and groups that the container has made itself.
func TestCgroupModes(t *testing.T) {
	testenv.NeedCRIU(t)
	for mode, want := range map[string]struct {
		refusal string
		limit   string
		inside  bool // in the group that the container has made
	}{
		"soft":   {limit: "123", inside: true},
		"full":   {limit: "77", inside: true},
		"ignore": {limit: "123"},
		"strict": {refusal: "criu failed"},
	} {
		t.Run(mode, func(t *testing.T) {
			testenv.NeedCRIU(t)
			c := newContainer(t, "sleep 1000 & mkdir /sys/fs/cgroup$PIDS/made; echo $! >/sys/fs/cgroup$PIDS/made/cgroup.procs; [ -z $PIDS ] || echo 50 >/sys/fs/cgroup$PIDS/made/pids.max; "+echo)
			pids := "/pids"
			if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
				pids = ""
				want.limit = "123" // criu keeps no limits of version 2
			}
			c.Spec.Process.Env = append(c.Spec.Process.Env, "PIDS="+pids)
			for i, m := range c.Spec.Mounts {
				if m.Type == "cgroup" {
					c.Spec.Mounts[i].Options = []string{"nosuid", "noexec", "nodev"}
				}
			}
			limit := int64(123)
			c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
			c.run().ask("a", "a 1")
			c.must("update", "--pids-limit", "77", c.ID)
			c.checkpoint("--manage-cgroups-mode", mode)
			if want.refusal != "" {
				c.refused(want.refusal, "restore", "--detach", "--manage-cgroups-mode", mode, "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
				c.gone()
				return
			}
			c.restore("--manage-cgroups-mode", mode).ask("b", "b 2")
			if got, err := os.ReadFile("/sys/fs/cgroup" + pids + testenv.CgroupParent + "/" + c.ID + "/pids.max"); err != nil || strings.TrimSpace(string(got)) != want.limit {
				t.Errorf("pids.max %q, %v, want %s", got, err, want.limit)
			}
			if got := c.must("exec", c.ID, "sh", "-c", "cat /proc/$(pidof sleep)/cgroup"); strings.Contains(got, "/made\n") != want.inside {
				t.Errorf("cgroups of a process: %s", got)
			}
			if pids == "" {
				return // where a group with processes hands no controllers down
			}
			if got := c.verb("exec", c.ID, "cat", "/sys/fs/cgroup/pids/made/pids.max").Stdout; (got == "50\n") != want.inside {
				t.Errorf("limit of the group that the container has made: %q", got)
			}
		})
	}
}

// The network's content is left out in any case: what an engine's hooks make comes in its place.
func TestEmptyNetwork(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	c.run().ask("a", "a 1")
	add := exec.Command("nsenter", "--net", "--target", jsonNumber(c.state().Pid), "ip", "address", "add", "127.77.7.7/32", "dev", "lo")
	if r := testenv.Execute(t, add); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	c.checkpoint("--empty-ns", "network")
	c.restore("--empty-ns", "network").ask("b", "b 2")
	const look = "ip address show lo; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced"
	got := c.must("exec", c.ID, "sh", "-c", look)
	if strings.Contains(got, "127.77") || !strings.Contains(got, "127.0.0.1") {
		t.Errorf("addresses: %s", got)
	}
	if !strings.HasSuffix(got, "\n1\n1\n") {
		t.Errorf("sysctls: %s", got)
	}
}
