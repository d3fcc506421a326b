package script_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

const (
	ctrlC = "\x03"
	ctrlP = "\x10"
	ctrlQ = "\x11"
	ctrlX = "\x18"
)

// TestTerminals runs what needs a terminal, over one daemon.
func TestTerminals(t *testing.T) {
	w := newWorld(t)
	d := startDaemon(t)
	image := w.image("busybox")
	for name, test := range map[string]func(*testing.T, *daemon, string){
		"run": testRunTerminal, "detach": testDetach, "detach keys": testDetachKeys, "exec": testExecTerminal,
		"privileged": testPrivilegedTerminal, "start": testStartTerminal,
		"signals": testSignals, "colours": testColours, "input ends": testInputEnds, "interrupt": testInterrupt, "stats": testStats,
	} {
		// The first to come pulls the image: the others must not see the bars.
		if _, err := d.berth("pull", "-q", image); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { test(t, d, image) })
	}
	t.Run("progress", func(t *testing.T) { testProgress(t, d, w.image("web")) })
}

func testRunTerminal(t *testing.T, d *daemon, image string) {
	p := openTerminal(t, d, columns(101, 31), "run", "--rm", "-it", image, "sh")
	before := p.settings()
	p.expect("# ")
	p.typed("stty size; tty\r")
	p.expect(sizeText(101, 31))
	p.expect("/dev/pts/0")
	if p.settings() == before {
		t.Error("the terminal is not raw while the container has it")
	}
	// The size follows.
	p.resize(columns(121, 41))
	p.typed("until stty size | grep ^41; do sleep 0.02; done\r")
	p.expect("\n" + sizeText(121, 41))
	// Ctrl-C goes to what runs in the container, not to berth.
	p.typed("sh -c 'echo ready; exec sleep 1000'\r")
	p.expect("\nready")
	p.typed(ctrlC)
	p.expect("# ")
	p.typed("exit 5\r")
	p.exits(5)
	if p.settings() != before {
		t.Error("the terminal is not as it was")
	}
}

func testDetach(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "away") })
	p := openTerminal(t, d, columns(80, 24), "run", "-it", "--name", "away", image, "sh")
	before := p.settings()
	p.expect("# ")
	p.typed("x=kept\r")
	p.expect("# ")
	// The first key alone is passed on with what follows.
	p.typed("cat -v\r" + "a" + ctrlP + "b\r")
	p.expect("\na^Pb")
	p.typed(ctrlC)
	p.expect("# ")
	p.typed(ctrlP + ctrlQ)
	p.expect("comes back\r\n") // by a terminal that is no longer raw: the next line begins at its left edge
	p.exits(0)
	if p.settings() != before {
		t.Error("the terminal is not as it was")
	}
	p = openTerminal(t, d, columns(90, 30), "attach", "away")
	p.typed("\r")
	p.expect("# ")
	p.typed("echo $x; stty size\r")
	p.expect("kept\r\n")
	p.expect(sizeText(90, 30))
	p.typed("exit 3\r")
	p.exits(3)
}

func testDetachKeys(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "other") })
	p := openTerminal(t, d, columns(80, 24), "run", "-it", "--detach-keys", "ctrl-x,x", "--name", "other", image, "cat")
	p.typed("hello\r")
	p.expect("hello\r\nhello\r\n")
	p.typed(ctrlX + "x")
	p.exits(0)
	state, err := d.berth("inspect", "--format", "{{.State.Status}}", "other")
	if err != nil || state != "running\n" {
		t.Errorf("the container is %q (%v), not running", state, err)
	}
}

// testPrivilegedTerminal: the runtime protects its binary from processes with CAP_SYS_PTRACE by a second execution, which
// has to find the shim's socket unused. One such process in a container concerns all that come after it.
func testPrivilegedTerminal(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "strong", "plain") })
	for _, args := range [][]string{
		{"run", "--rm", "-t", "--privileged", image, "tty"},
		{"run", "--rm", "-t", "--cap-add", "SYS_PTRACE", image, "tty"},
		{"run", "-d", "--name", "strong", "--privileged", image, "sleep", "1000"},
		{"exec", "-t", "strong", "tty"},
		{"run", "-d", "--name", "plain", image, "sleep", "1000"},
		{"run", "--rm", "-t", "--pid", "container:plain", image, "tty"},
		{"exec", "-t", "--privileged", "plain", "tty"},
		{"exec", "-t", "plain", "tty"},
	} {
		output, err := d.berth(args...)
		if err != nil || !slices.Contains(args, "-d") && !strings.HasPrefix(output, "/dev/pts/") {
			t.Errorf("berth %v: %v: %q", args, err, output)
		}
	}
}

func testExecTerminal(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "box") })
	if _, err := d.berth("run", "-d", "--name", "box", image, "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	p := openTerminal(t, d, columns(77, 22), "exec", "-it", "box", "sh")
	before := p.settings()
	p.expect("# ")
	p.typed("stty size; tty\r")
	p.expect(sizeText(77, 22))
	p.expect("/dev/pts/")
	p.resize(columns(66, 33))
	p.typed("until stty size | grep '^33'; do sleep 0.02; done\r")
	p.expect("\n" + sizeText(66, 33))
	p.typed("sh -c 'echo ready; exec cat'\r")
	p.expect("\nready")
	p.typed(ctrlC)
	p.expect("# ")
	p.typed("exit 6\r")
	p.exits(6)
	if p.settings() != before {
		t.Error("the terminal is not as it was")
	}
	// A terminal without input, and a command that is not there: the terminal stays usable.
	p = openTerminal(t, d, columns(77, 22), "exec", "-t", "box", "tty")
	p.expect("/dev/pts/")
	p.exits(0)
	p = openTerminal(t, d, columns(77, 22), "exec", "-it", "box", "nosuch")
	p.expect("executable file not found")
	p.exits(127)
	if p.settings() != before {
		t.Error("the terminal is not as it was after an error")
	}
	// Detaching leaves the process.
	p = openTerminal(t, d, columns(77, 22), "exec", "-it", "box", "sh", "-c", "echo ready; exec sleep 77")
	p.expect("ready")
	p.typed(ctrlP + ctrlQ)
	p.exits(0)
	if processes, err := d.berth("top", "box", "-eo", "pid,args"); err != nil || !strings.Contains(processes, "sleep 77") {
		t.Errorf("the process did not outlive its client: %q (%v)", processes, err)
	}
}

func testStartTerminal(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "again") })
	if _, err := d.berth("create", "-it", "--name", "again", image, "sh"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p := openTerminal(t, d, columns(99, 44), "start", "-ai", "again")
		p.expect("# ")
		p.typed("stty size\r")
		p.expect(sizeText(99, 44))
		p.typed("exit 1\r")
		p.exits(1)
	}
}

// testSignals sends signals to berth itself, where it has no terminal: they are the container's.
func testSignals(t *testing.T, d *daemon, image string) {
	command := exec.Command(testenv.Binary(t, "berth"), "run", "--rm", image, "sh", "-c",
		`trap 'echo caught; exit 8' INT; trap 'echo hup' HUP; echo ready; while :; do sleep 0.02; done`)
	command.Env = append(os.Environ(), "BERTH_HOST="+d.Host)
	output := &watchedBuffer{wanted: make(chan string, 8)}
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = command.Process.Kill() }()
	for _, step := range []struct {
		line   string
		signal syscall.Signal
	}{{"ready", syscall.SIGHUP}, {"hup", syscall.SIGINT}, {"caught", 0}} {
		if line := <-output.wanted; line != step.line {
			t.Fatalf("got %q, want %q", line, step.line)
		}
		if step.signal != 0 {
			if err := command.Process.Signal(step.signal); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _ = command.Wait(); command.ProcessState.ExitCode() != 8 {
		t.Errorf("exit status %d, want the container's 8", command.ProcessState.ExitCode())
	}
}

// watchedBuffer tells each line as it comes.
type watchedBuffer struct {
	rest   []byte
	wanted chan string
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.rest = append(b.rest, p...)
	for {
		line, rest, found := bytes.Cut(b.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		b.wanted <- string(line)
		b.rest = rest
	}
}

func testColours(t *testing.T, d *daemon, _ string) {
	p := openTerminal(t, d, columns(80, 24), "logs", "nosuch")
	p.expect("\x1b[1;31mberth:\x1b[0m ")
	p.exits(1)
	if _, err := d.berth("logs", "nosuch"); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("colours where there is no terminal: %v", err)
	}
}

// testInputEnds ends the input with the key for that: it is the container's terminal that reads it.
func testInputEnds(t *testing.T, d *daemon, image string) {
	p := openTerminal(t, d, columns(80, 24), "run", "--rm", "-it", image, "cat")
	p.typed("one\r")
	p.expect("one\r\none\r\n")
	p.typed("\x04")
	p.exits(0)
}

// testInterrupt gives up a pull from a registry that never answers.
func testInterrupt(t *testing.T, d *daemon, _ string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := openTerminal(t, d, columns(80, 24), "run", "--rm", listener.Addr().String()+"/demo/busybox", "true")
	asked, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = asked.Close() }()
	p.typed(ctrlC)
	p.exits(130)
	if images, err := d.berth("images", "--format", "{{.Repository}}"); err != nil || strings.Contains(images, listener.Addr().String()) {
		t.Errorf("images after the interrupt: %q (%v)", images, err)
	}
}

// testStats watches what a container uses on a screen that is drawn anew each second.
func testStats(t *testing.T, d *daemon, image string) {
	t.Cleanup(func() { _, _ = d.berth("rm", "-f", "watched") })
	if _, err := d.berth("run", "-d", "--name", "watched", image, "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	p := openTerminal(t, d, columns(120, 24), "stats", "watched")
	for range 2 {
		p.expect("\x1b[H\x1b[2J")
		p.expect("watched")
	}
	p.typed(ctrlC)
	p.exits(130)
}

func testProgress(t *testing.T, d *daemon, image string) {
	p := openTerminal(t, d, columns(80, 24), "pull", image)
	p.expect(": Done")
	p.expect("Status: Downloaded newer image for ")
	p.exits(0)
	if !strings.Contains(p.shown.String(), "\x1b[4A") {
		t.Error("the four layers were not redrawn in their place")
	}
}
