package main

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/terminal"
)

// foreground is what a command that waits for its process does meanwhile: it passes signals on, and copies the terminal.
type foreground struct {
	signals  chan os.Signal
	catching chan struct{} // closed when signals are caught
	terminal *terminal.Foreground
	done     chan struct{}
}

// newForeground makes what is needed to wait for a process in the foreground.
func newForeground(detach bool, consoleSocket string) (*foreground, error) {
	f := &foreground{}
	if detach {
		return f, nil
	}
	f.signals, f.catching = make(chan os.Signal, 64), make(chan struct{})
	go f.catch()
	if consoleSocket != "" {
		return f, nil
	}
	var err error
	f.terminal, err = terminal.NewForeground()
	return f, err
}

// catch begins to catch the signals that are sent to programs, as against those that the kernel raises for a fault of
// the runtime's own. It takes a while, in which the process is being made. The rarer ones come later,
// while it is running.
func (f *foreground) catch() {
	defer close(f.catching)
	signal.Notify(f.signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM,
		unix.SIGALRM, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH)
}

// catchMore begins to catch the rarer signals.
func (f *foreground) catchMore() {
	rare := []os.Signal{unix.SIGPIPE, unix.SIGIO, unix.SIGPWR, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGTRAP, unix.SIGSTKFLT, unix.SIGSYS}
	for number := firstRealTime; number <= lastRealTime; number++ {
		rare = append(rare, unix.Signal(number))
	}
	signal.Notify(f.signals, rare...)
}

// connect begins to copy the terminal, if the process has one. From here on no signal is lost.
func (f *foreground) connect(wanted bool) error {
	if f.catching != nil {
		<-f.catching
	}
	if f.terminal == nil || !wanted {
		return nil
	}
	return f.terminal.Start()
}

// waiter is a process to wait for.
type waiter interface {
	Wait() (unix.WaitStatus, error)
	Process() *launch.Process
}

// wait passes signals on until the process has ended, and returns its status.
func (f *foreground) wait(g *globals, w waiter) (int, error) {
	f.done = make(chan struct{})
	stopped := make(chan struct{})
	go f.catchMore()
	go func() {
		defer close(stopped)
		f.forward(g, w.Process())
	}()
	status, err := w.Wait()
	g.note("process %d ended with status %d", w.Process().Pid, exitStatus(status))
	close(f.done)
	<-stopped
	if f.terminal != nil {
		f.terminal.Finish()
	}
	return exitStatus(status), err
}

func (f *foreground) forward(g *globals, process *launch.Process) {
	for {
		select {
		case <-f.done:
			return
		case s := <-f.signals:
			switch s {
			case unix.SIGWINCH:
				if f.terminal != nil {
					f.terminal.Resize()
				}
			default:
				number := s.(unix.Signal)
				g.note("signal %d (%s) goes to process %d", int(number), number, process.Pid)
				_ = unix.PidfdSendSignal(process.PidFD, number, nil, 0)
			}
		}
	}
}

func (f *foreground) close() {
	if f.terminal != nil {
		f.terminal.Close()
	}
}

var (
	errNoConsole      = errors.New("cannot detach from a process with a terminal: --console-socket says where it goes")
	errUselessConsole = errors.New("cannot use --console-socket: it is for a process with a terminal that is left to itself")
)
