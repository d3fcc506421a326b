// Package stdio connects the standard streams of one process to where the manager wants them: fifos, files, or a
// socket that several clients can attach to, with a log file beside it.
//
//	without a terminal                               with a terminal
//	  fifo         init gets it as it is               relayed from the pty's master
//	               an exec gets a pipe, relayed
//	  file         the process gets it as it is        relayed from the pty's master
//	  stream       a pipe, relayed to the hub          relayed from the pty's master to the hub
//	  ""           /dev/null                           read and dropped
//
// Output is copied by the shim only where it has several readers, or where it has to end before the last process that
// can write it: background processes of an exec outlive the exec, and its client waits for the end of the fifo.
package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// Config says where the streams of a process go. Each is "", the path of a fifo, a file:// or a stream:// URI.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	Exec                  bool     // not the container's init process
	UID, GID              int      // owner of the pipes that the process gets
	Buffers               *Buffers // shared by the processes of a container
}

// Process is the shim's side of the streams of one process. Its life: Open, then the runtime is run with Files, then
// Begin if that succeeded; Drain when the process has exited; Close in any case.
type Process struct {
	config Config
	hub    *hub // nil without a stream URI

	child   [3]*os.File // ends for the process, closed by Begin
	keep    []*os.File  // read ends of the fifos that the process has got, and of its input fifo
	relays  []*relay
	begun   bool // the relays run
	feeding sync.WaitGroup
	hangup  sync.Once // types the end of input into a terminal

	mu      sync.Mutex
	stdin   *os.File // the shim's end of the process's stdin; nil when there is none or it was closed
	console *os.File // the pty's master, with a terminal
}

// Open prepares the streams. A stream socket is listening when it returns.
func Open(config Config) (_ *Process, err error) {
	p := &Process{config: config}
	defer func() {
		if err != nil {
			_ = p.Close()
		}
	}()
	for _, uri := range []string{config.Stdin, config.Stdout, config.Stderr} {
		if err := p.openHub(uri); err != nil {
			return nil, err
		}
	}
	if p.hub != nil {
		p.hub.input = p.feed
		p.hub.inputEnd = p.endInput
	}
	if config.Terminal {
		return p, nil
	}
	if err := p.openStdin(); err != nil {
		return nil, err
	}
	for i, uri := range []string{config.Stdout, config.Stderr} {
		if err := p.openOutput(i+1, uri); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Process) openHub(uri string) (err error) {
	if !strings.HasPrefix(uri, "stream:") || p.hub != nil {
		return nil
	}
	p.hub, err = listen(uri)
	return err
}

// openStdin makes the pipe that the process reads. A fifo is not handed over as it is: a process that reads it before
// the client has opened its end would see the end of input.
func (p *Process) openStdin() error {
	if p.config.Stdin == "" {
		return nil
	}
	var err error
	p.stdin, p.child[0], err = p.pipe(0)
	return err
}

// openOutput sets the file that the process writes stdout (1) or stderr (2) to.
func (p *Process) openOutput(number int, uri string) (err error) {
	if uri == "" {
		return nil
	}
	isStream, isFile := strings.HasPrefix(uri, "stream:"), strings.HasPrefix(uri, "file:")
	if isFile || !isStream && !p.config.Exec {
		direct, err := openTarget(uri)
		if err != nil {
			return err
		}
		if direct.reader != nil {
			p.keep = append(p.keep, direct.reader)
		}
		p.child[number] = direct.writer
		return nil
	}
	var dst io.Writer
	if isStream {
		dst = p.hub.writer(byte(number))
	} else if dst, err = openRelayed(uri); err != nil {
		return err
	}
	ours, theirs, err := p.pipe(number)
	if err != nil {
		if t, ok := dst.(*target); ok {
			t.close()
		}
		return err
	}
	p.child[number] = theirs
	p.relays = append(p.relays, p.relay(ours, dst))
	return nil
}

// pipe makes a pipe of an end for the shim and one for the process: its stdin (0) or output. The process's end belongs
// to its user, who may open it again through /proc/self/fd.
func (p *Process) pipe(number int) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	if number == 0 {
		fds[0], fds[1] = fds[1], fds[0]
	}
	ours, theirs = pollable(fds[0], "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	if err := unix.Fchown(fds[1], p.config.UID, p.config.GID); err != nil {
		_, _ = ours.Close(), theirs.Close()
		return nil, nil, fmt.Errorf("cannot give a pipe to user %d: %w", p.config.UID, err)
	}
	return ours, theirs, nil
}

// pollable makes a file of a descriptor whose readers and writers wait in Go's poller, not each in a thread.
func pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true) // fails only for a descriptor that isn't one
	return os.NewFile(uintptr(fd), name)
}

// Files returns what the runtime is to be given as descriptors 0, 1 and 2; nil stands for /dev/null.
func (p *Process) Files() [3]*os.File { return p.child }

// Begin starts to relay, once the runtime has started the process. Until then nothing is read, so what a failing
// runtime printed to the process's stderr goes nowhere: its log says the same. console is the pty's master.
func (p *Process) Begin(console *os.File) error {
	p.closeChildEnds()
	if console != nil {
		if err := p.beginConsole(console); err != nil {
			return err
		}
	}
	p.begun = true
	for _, r := range p.relays {
		go r.run()
	}
	if p.config.Stdin != "" && !strings.HasPrefix(p.config.Stdin, "stream:") {
		return p.feedFromFifo()
	}
	if p.hub != nil {
		p.hub.begin()
	}
	return nil
}

// beginConsole takes the pty's master over, and closes it if that fails.
func (p *Process) beginConsole(console *os.File) (err error) {
	dst := io.Discard
	switch uri := p.config.Stdout; {
	case strings.HasPrefix(uri, "stream:"):
		dst = p.hub.writer(1)
	case uri != "":
		if dst, err = openRelayed(uri); err != nil {
			_ = console.Close()
			return err
		}
	}
	p.mu.Lock()
	p.console = console
	if p.config.Stdin != "" {
		p.stdin = console
	}
	p.mu.Unlock()
	r := p.relay(console, dst)
	r.terminal = true
	p.relays = append(p.relays, r)
	return nil
}

func (p *Process) closeChildEnds() {
	for i, f := range p.child {
		if f != nil {
			_ = f.Close()
			p.child[i] = nil
		}
	}
}

// feedFromFifo copies the client's input fifo to the process.
func (p *Process) feedFromFifo() error {
	fd, err := unix.Open(p.config.Stdin, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open input fifo: %w", &os.PathError{Op: "open", Path: p.config.Stdin, Err: err})
	}
	fifo := pollable(fd, p.config.Stdin)
	p.keep = append(p.keep, fifo)
	input := p.relay(fifo, feeder{p})
	input.waitFirst = true
	p.feeding.Go(func() {
		input.run()
		if !p.config.Terminal {
			_ = p.CloseStdin()
		}
	})
	return nil
}

type feeder struct{ p *Process }

func (f feeder) Write(b []byte) (int, error) { return len(b), f.p.feed(b) }

// feed writes input to the process, waiting until it has taken all of it.
func (p *Process) feed(b []byte) error {
	p.mu.Lock()
	stdin := p.stdin
	p.mu.Unlock()
	if stdin == nil {
		return os.ErrClosed
	}
	_, err := stdin.Write(b)
	return err
}

// endInput is called when a stream client says that its input ends. That of a terminal goes on for other clients,
// unless the process has only one.
func (p *Process) endInput() {
	if !p.config.Terminal {
		_ = p.CloseStdin()
		return
	}
	if p.hub.stdinOnce {
		p.hangup.Do(func() { _ = p.feed([]byte{endOfTransmission}) })
	}
}

// endOfTransmission typed at the start of a line is the end of input to a program that reads a terminal.
const endOfTransmission = 4

// CloseStdin ends the process's input. It does nothing with a terminal, whose input can't end before it.
func (p *Process) CloseStdin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stdin == nil || p.stdin == p.console {
		return nil
	}
	err := p.stdin.Close()
	p.stdin = nil
	return err
}

// Resize sets the size of the process's terminal. A terminal that has ended has no size: its client's request crossed
// with the end.
func (p *Process) Resize(width, height uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.console == nil {
		return errdefs.As(errdefs.ErrFailedPrecondition, errors.New("cannot resize the terminal: the process has none"))
	}
	raw, err := p.console.SyscallConn()
	if err != nil {
		return nil
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	if err == nil && ioctlErr != nil { // err: it is closed
		return fmt.Errorf("cannot resize the terminal to %dx%d: %w", width, height, ioctlErr)
	}
	return nil
}

const (
	// slowClient bounds how long a hub's client that doesn't read can hold up the end of a process that has exited.
	slowClient = 10 * time.Second
	// slowFifo bounds how long a fifo's client can hold up the deletion of a process, as with containerd's shim.
	slowFifo = 2 * time.Second
)

// Drain returns when everything that the exited process wrote has reached the log, files and the hub's clients. What its
// surviving children, if any, write later is read and dropped: they must neither block nor die of SIGPIPE. The clients
// of fifos are not waited for: a fifo ends with the last process that can write it, or at Close.
func (p *Process) Drain() {
	if p.hub != nil {
		p.hub.limitWrites(time.Now().Add(slowClient))
	}
	p.drain(func(r *relay) bool { return !r.toFifo() })
	if p.hub != nil {
		p.hub.finish()
	}
}

// drain drains some of the relays, all at once.
func (p *Process) drain(which func(*relay) bool) {
	for _, r := range p.relays {
		if which(r) {
			r.beginDrain()
		}
	}
	for _, r := range p.relays {
		if which(r) {
			<-r.drained
		}
	}
}

// Close releases everything. The process has exited and was drained, or it was never started. Fifos that surviving
// children still write end here, with what was written so far.
func (p *Process) Close() error {
	p.closeChildEnds()
	_ = p.CloseStdin()
	for _, f := range p.keep {
		_ = f.Close() // wakes the goroutines that read or write it
	}
	if p.begun {
		p.drain((*relay).toFifo)
	}
	for _, r := range p.relays {
		r.abandon(p.begun)
	}
	p.feeding.Wait()
	if p.hub == nil {
		return nil
	}
	return p.hub.close()
}
