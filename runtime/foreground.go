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
	terminal *terminal.Foreground
	done     chan struct{}
}

// newForeground begins to catch signals, so that none is lost before the process is there.
func newForeground(detach bool, consoleSocket string) (*foreground, error) {
	f := &foreground{}
	if detach {
		return f, nil
	}
	f.signals = make(chan os.Signal, 64)
	signal.Notify(f.signals)
	if consoleSocket != "" {
		return f, nil
	}
	var err error
	f.terminal, err = terminal.NewForeground()
	return f, err
}

// connect begins to copy the terminal, if the process has one.
func (f *foreground) connect(wanted bool) error {
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
func (f *foreground) wait(w waiter) (int, error) {
	f.done = make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.forward(w.Process().PidFD)
	}()
	status, err := w.Wait()
	close(f.done)
	<-stopped
	if f.terminal != nil {
		f.terminal.Finish()
	}
	return exitStatus(status), err
}

func (f *foreground) forward(pidfd int) {
	for {
		select {
		case <-f.done:
			return
		case s := <-f.signals:
			switch s {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // of our own making
			case unix.SIGWINCH:
				if f.terminal != nil {
					f.terminal.Resize()
				}
			default:
				_ = unix.PidfdSendSignal(pidfd, s.(unix.Signal), nil, 0)
			}
		}
	}
}

func (f *foreground) close() {
	if f.terminal != nil {
		f.terminal.Close()
	}
}

var errNoConsole = errors.New("cannot detach from a process with a terminal: --console-socket says where it goes")
