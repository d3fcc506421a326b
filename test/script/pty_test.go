package script_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// limit is how long a person would wait before calling something broken.
const limit = 20 * time.Second

// terminal is a person before a terminal in which one program runs.
type terminal struct {
	t       *testing.T
	screen  *os.File // the end that the person has
	line    *os.File // the end that the program has
	program *exec.Cmd

	mu      sync.Mutex
	changed *sync.Cond
	shown   bytes.Buffer
	seen    int // how much of shown earlier expectations took
	closed  bool
}

// openTerminal runs berth with args in a new terminal of that size.
func openTerminal(t *testing.T, d *daemon, size unix.Winsize, args ...string) *terminal {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &terminal{t: t, screen: screen, line: line}
	p.changed = sync.NewCond(&p.mu)
	p.resize(size)
	p.program = exec.Command(testenv.Binary(t, "berth"), args...)
	p.program.Env = append(os.Environ(), "BERTH_HOST="+d.Host, "NO_COLOR=")
	p.program.Stdin, p.program.Stdout, p.program.Stderr = line, line, line
	p.program.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.program.Start(); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(p.read)
	t.Cleanup(func() {
		if p.program.ProcessState == nil {
			_ = p.program.Process.Kill()
			_ = p.program.Wait()
		}
		_ = line.Close() // the last one: the reader's next read fails
		reader.Wait()
		_ = screen.Close()
		if t.Failed() {
			t.Logf("the terminal of berth %q:\n%s", args, p.shown.String())
		}
	})
	return p
}

func (p *terminal) read() {
	buffer := make([]byte, 4096)
	for {
		n, err := p.screen.Read(buffer)
		p.mu.Lock()
		p.shown.Write(buffer[:n])
		p.closed = err != nil
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits until text is shown behind what was expected before.
func (p *terminal) expect(text string) {
	p.t.Helper()
	timer := time.AfterFunc(limit, func() {
		p.mu.Lock()
		p.closed = true
		p.changed.Broadcast()
		p.mu.Unlock()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if at := bytes.Index(p.shown.Bytes()[p.seen:], []byte(text)); at >= 0 {
			p.seen += at + len(text)
			return
		}
		if p.closed {
			p.t.Fatalf("the terminal did not show %q, but %q", text, p.shown.Bytes()[p.seen:])
		}
		p.changed.Wait()
	}
}

func (p *terminal) typed(keys string) {
	p.t.Helper()
	if _, err := p.screen.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) resize(size unix.Winsize) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.screen.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) settings() unix.Termios {
	p.t.Helper()
	settings, err := unix.IoctlGetTermios(int(p.line.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *settings
}

// exits waits for the program to exit with a status.
func (p *terminal) exits(status int) {
	p.t.Helper()
	timer := time.AfterFunc(limit, func() { _ = p.program.Process.Kill() })
	defer timer.Stop()
	err := p.program.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if got := p.program.ProcessState.ExitCode(); got != status {
		p.t.Fatalf("exit status %d (%v), want %d", got, p.program.ProcessState, status)
	}
}

func columns(width, height uint16) unix.Winsize { return unix.Winsize{Row: height, Col: width} }

func sizeText(width, height uint16) string { return fmt.Sprintf("%d %d", height, width) }
