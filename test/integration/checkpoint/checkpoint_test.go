package checkpoint_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

func TestGoesOn(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	talk := c.run()
	talk.ask("a", "a 1")
	before := c.state()
	c.checkpoint("--work-path", c.path("work"))
	c.gone()
	if _, err := os.Stat(c.path("work/dump.log")); err != nil {
		t.Errorf("criu's log: %v", err)
	}

	talk = c.restore("--pid-file", c.path("pid"), "--work-path", c.path("work"))
	talk.ask("b", "b 2")
	if _, err := os.Stat(c.path("work/restore.log")); err != nil {
		t.Errorf("criu's log: %v", err)
	}
	after := c.state()
	if after.Status != "running" || !after.Created.After(before.Created) {
		t.Errorf("state %+v, before %+v", after, before)
	}
	if pid, err := os.ReadFile(c.path("pid")); err != nil || strings.TrimSpace(string(pid)) != jsonNumber(after.Pid) {
		t.Errorf("pid file %q, %v", pid, err)
	}
	if got := c.must("exec", c.ID, "sh", "-c", "echo $$ $(hostname); cat /proc/1/comm"); !strings.HasSuffix(got, "sh\n") {
		t.Errorf("exec: %q", got)
	}
	c.must("pause", c.ID)
	if got := c.status(); got != "paused" {
		t.Errorf("paused: %s", got)
	}
	c.must("resume", c.ID)
	talk.ask("c", "c 3")
	c.must("delete", "--force", c.ID)
	c.gone()
}

func TestSecondCheckpoint(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore().ask("b", "b 2")
	// With the directories that are taken if none are given.
	checkpoint, restore := c.command("checkpoint", c.ID), c.command("restore", "--detach", "--no-subreaper", "--no-pivot", c.ID)
	checkpoint.Dir, restore.Dir = c.Dir, c.Dir
	if r := testenv.Execute(t, checkpoint); r.Status != 0 {
		t.Fatalf("%+v\n%s", r, c.logs())
	}
	talk := connect(t, restore)
	if err := restore.Run(); err != nil {
		t.Fatalf("restore: %v\n%s", err, c.logs())
	}
	talk.ask("c", "c 3")
}

func TestForegroundRestore(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	c.checkpoint()
	command := c.command("restore", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	talk := connect(t, command)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	talk.ask("b", "b 2")
	_ = talk.in.Close()
	_ = command.Stdin.(*os.File).Close()
	_ = command.Wait()
	if got := command.ProcessState.ExitCode(); got != 42 {
		t.Errorf("status %d, want the container's, which is 42", got)
	}
	c.gone()
}

func TestLeaveRunning(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	talk := c.run()
	talk.ask("a", "a 1")
	c.checkpoint("--leave-running")
	talk.ask("b", "b 2")
	if got := c.status(); got != "running" {
		t.Errorf("status %q", got)
	}
	c.must("delete", "--force", c.ID)
	c.restore().ask("c", "c 2") // and not 3: what came later is not in it
}

func TestPreDump(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	if !tracksMemory() {
		t.Skip("criu can't see with this kernel which memory has changed")
	}
	talk := c.run()
	talk.ask("a", "a 1")
	c.must("checkpoint", "--pre-dump", "--image-path", c.path("first"), c.ID)
	talk.ask("b", "b 2")
	c.checkpoint("--parent-path", "../first", "--auto-dedup")
	if link, err := os.Readlink(c.path("images/parent")); err != nil || link != "../first" {
		t.Errorf("parent of the images: %q, %v", link, err)
	}
	c.restore().ask("c", "c 3")
}

func TestPaused(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	c.must("pause", c.ID)
	c.checkpoint()
	talk := c.restore()
	if c.status() == "paused" {
		c.must("resume", c.ID)
	}
	talk.ask("b", "b 2")
}

func TestFileLocks(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "exec 9>/tmp/lock; /usr/bin/flock -n 9 && "+echo)
	c.useHostPrograms()
	talk := c.run()
	talk.ask("a", "a 1")
	c.refused("lock", "checkpoint", "--image-path", c.path("images"), c.ID)
	talk.ask("b", "b 2") // the refusal has not hurt it
	c.checkpoint("--file-locks")
	c.restore("--file-locks").ask("c", "c 3")
	if r := c.verb("exec", c.ID, "/usr/bin/flock", "-n", "/tmp/lock", "true"); r.Status != 1 {
		t.Errorf("the lock is not held: %+v", r)
	}
}

func TestTCPEstablished(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, "mkfifo /tmp/p; nc -l -p 99 </tmp/p & exec 8>/tmp/p; until grep -q :0063 /proc/net/tcp /proc/net/tcp6; do :; done; "+
		"sleep 10000 | nc 127.0.0.1 99 & while read line; do echo $line >&8; done")
	talk := c.run()
	talk.ask("a", "a")
	c.refused("tcp-established", "checkpoint", "--image-path", c.path("images"), c.ID)
	talk.ask("b", "b")
	c.checkpoint("--tcp-established")
	c.restore("--tcp-established").ask("c", "c")
}

func TestLazyPages(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	ready, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	port := freePort(t)
	dump := c.command("checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:"+port, "--status-fd", "3",
		"--image-path", c.path("images"), "--work-path", c.path("dumping"), c.ID)
	dump.ExtraFiles = []*os.File{theirs}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	_ = ready.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("no word that the pages are to be had: %v\n%s", err, c.logs())
	}
	pages := c.lazyPages(port)
	// With its images only: the container that is left has its ID.
	here := c.ID
	t.Cleanup(func() { c.verb("delete", "--force", here) })
	c.ID += "-there"
	c.Spec.Linux.CgroupsPath += "-there"
	c.writeConfig()
	command := c.command("restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images"), "--lazy-pages", "--work-path", c.path("work"), c.ID)
	talk := connect(t, command)
	if err := command.Run(); err != nil {
		_ = dump.Wait()
		if log, _ := os.ReadFile(c.path("dumping/dump.log")); strings.Contains(string(log), "page-pipe: splice: -1: Bad file descriptor") {
			t.Skip("this criu can't send lazy pages with this kernel: its own splice fails")
		}
		t.Fatalf("restore: %v\n%s", err, c.logs())
	}
	talk.ask("b", "b 2")
	if err := pages.Wait(); err != nil {
		t.Errorf("criu lazy-pages: %v", err)
	}
	if err := dump.Wait(); err != nil {
		t.Errorf("checkpoint: %v", err)
	}
	c.must("delete", "--force", c.ID)
}

// lazyPages starts criu's client of a page server, which hands memory to what is restored.
func (c *container) lazyPages(port string) *exec.Cmd {
	c.t.Helper()
	if err := os.Mkdir(c.path("work"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	pages := exec.Command("criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port,
		"-D", c.path("images"), "-W", c.path("work"), "-o", "pages.log")
	if err := pages.Start(); err != nil {
		c.t.Fatal(err)
	}
	testenv.Until(c.t, time.Minute, "criu lazy-pages has made its socket", func() error {
		_, err := os.Stat(c.path("work/lazy-pages.socket"))
		return err
	})
	return pages
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func TestRefusals(t *testing.T) {
	c := newContainer(t, echo)
	c.writeConfig()
	images := c.path("images")
	c.refused("does not exist", "checkpoint", "--image-path", images, c.ID)
	c.refused("soft, full, strict or ignore", "checkpoint", "--manage-cgroups-mode", "none", c.ID)
	c.refused("network", "checkpoint", "--empty-ns", "mount", c.ID)
	c.refused("relative", "checkpoint", "--image-path", images, "--parent-path", "/tmp", c.ID)
	c.refused("parent-path", "checkpoint", "--image-path", images, "--parent-path", "nowhere", c.ID)
	c.refused("ADDRESS:PORT", "checkpoint", "--page-server", "nowhere", c.ID)
	c.refused("exactly 1 argument", "checkpoint")
	c.refused("nowhere", "restore", "--bundle", c.Dir, "--image-path", c.path("nowhere"), c.ID)
	c.refused("descriptors", "restore", "--bundle", c.Dir, "--image-path", images, c.ID)
	c.refused("config.json", "restore", "--bundle", c.path("nowhere"), c.ID)
	c.refused("console", "restore", "--bundle", c.Dir, "--console-socket", c.path("nowhere"), c.ID)
	c.gone()

	c.detached("create", "--bundle", c.Dir, c.ID)
	c.refused("created", "checkpoint", "--image-path", images, c.ID)
	c.refused("already exists", "restore", "--bundle", c.Dir, "--image-path", images, c.ID)
	c.must("start", c.ID)
	c.refused("not open for writing", "checkpoint", "--lazy-pages", "--status-fd", "77", "--image-path", images, c.ID)
	c.refused("not open for writing", "checkpoint", "--lazy-pages", "--status-fd", "0", "--image-path", images, c.ID) // /dev/null, to read
	c.refused("no port", "checkpoint", "--page-server", "127.0.0.1:port", "--image-path", images, c.ID)
	command := c.command("checkpoint", "--image-path", images, c.ID)
	command.Args = append([]string{command.Args[0], "--criu", c.path("no-criu")}, command.Args[1:]...)
	if r := testenv.Execute(t, command); r.Status != 1 || !strings.Contains(r.Stderr, "no-criu") {
		t.Errorf("--criu: %+v", r)
	}
}

// A restore that fails leaves nothing of its container.
func TestBrokenImages(t *testing.T) {
	testenv.NeedCRIU(t)
	c := newContainer(t, echo)
	c.run().ask("a", "a 1")
	c.checkpoint()
	files, err := filepath.Glob(c.path("images/core-*.img"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no image of a process: %v", err)
	}
	if err := os.WriteFile(files[0], []byte("not an image"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.refused("criu failed", "restore", "--detach", "--bundle", c.Dir, "--image-path", c.path("images"), c.ID)
	c.gone()
}
