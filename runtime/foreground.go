package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/signals"
	"github.com/berthd/berth/runtime/terminal"
)

// foreground is what a command that waits for its process does meanwhile: it passes signals on, and copies the terminal.
type foreground struct {
	caught   *signals.Catcher
	terminal *terminal.Foreground

	early []unix.Signal // that guard has taken, for the process
}

// newForeground makes what is needed to wait for a process in the foreground. From here on no signal is lost.
func newForeground(detach bool, consoleSocket string) (*foreground, error) {
	f := &foreground{}
	if detach {
		return f, nil
	}
	var err error
	if f.caught, err = signals.Catch(forwarded()...); err != nil || consoleSocket != "" {
		return f, err
	}
	f.terminal, err = terminal.NewForeground()
	return f, err
}

// guard keeps a process that does not get ready from keeping the runtime: if a signal that asks a program to end comes, and
// the process is not ready after a while, giveUp is called. Otherwise the process gets the signals when it is ready, which is
// told by the returned function. A timer does nothing as long as all goes well, unlike a goroutine that waits for signals.
func (f *foreground) guard(giveUp func(number unix.Signal)) (ready func()) {
	if f.caught == nil {
		return func() {}
	}
	isReady, ended := make(chan struct{}), make(chan struct{})
	const usual = time.Second
	timer := time.AfterFunc(usual, func() {
		defer close(ended)
		f.waitToGiveUp(isReady, giveUp)
	})
	return sync.OnceFunc(func() {
		close(isReady)
		if !timer.Stop() {
			<-ended
		}
	})
}

func (f *foreground) waitToGiveUp(isReady chan struct{}, giveUp func(number unix.Signal)) {
	const interval, patience = 100 * time.Millisecond, 2 * time.Second
	var asked unix.Signal
	var deadline time.Time
	for asked == 0 || time.Now().Before(deadline) {
		for number, ok := f.caught.Next(); ok; number, ok = f.caught.Next() {
			f.early = append(f.early, number)
			if asked == 0 && slices.Contains([]unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}, number) {
				asked, deadline = number, time.Now().Add(patience)
			}
		}
		select {
		case <-isReady:
			return
		case <-time.After(interval):
		}
	}
	giveUp(asked)
}

// forwarded are the signals that are sent to programs, as against those that the kernel raises for a fault of the
// runtime's own, and SIGURG, with which Go interrupts its threads.
func forwarded() []unix.Signal {
	numbers := []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, unix.SIGALRM, unix.SIGCONT, unix.SIGTSTP,
		unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGPIPE, unix.SIGIO, unix.SIGPWR, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM,
		unix.SIGTRAP, unix.SIGSTKFLT, unix.SIGSYS,
	}
	for number := firstRealTime; number <= lastRealTime; number++ {
		numbers = append(numbers, unix.Signal(number))
	}
	return numbers
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
func (f *foreground) wait(g *globals, w waiter) (int, error) {
	process := w.Process()
	for _, number := range f.early {
		f.forward(g, number, process)
	}
	events := []unix.PollFd{{Fd: int32(process.PidFD), Events: unix.POLLIN}, {Fd: int32(f.caught.FD()), Events: unix.POLLIN}}
	for events[0].Revents == 0 {
		if _, err := unix.Poll(events, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 1, fmt.Errorf("cannot wait for process %d: %w", process.Pid, err)
		}
		for number, ok := f.caught.Next(); ok; number, ok = f.caught.Next() {
			f.forward(g, number, process)
		}
	}
	status, err := w.Wait()
	g.note("process %d ended with status %d", process.Pid, exitStatus(status))
	if f.terminal != nil {
		f.terminal.Finish()
	}
	return exitStatus(status), err
}

func (f *foreground) forward(g *globals, number unix.Signal, process *launch.Process) {
	if number == unix.SIGWINCH {
		if f.terminal != nil {
			f.terminal.Resize()
		}
		return
	}
	g.note("signal %d (%s) goes to process %d", int(number), number, process.Pid)
	_ = unix.PidfdSendSignal(process.PidFD, number, nil, 0)
}

// giveUp ends the runtime as a signal would. What it has made of the container is left to delete.
func (g *globals) giveUp(id string) func(number unix.Signal) {
	return func(number unix.Signal) {
		g.report(fmt.Errorf("cannot wait any longer for the process of container %q: signal: %s (delete --force removes what there is)", id, number))
		os.Exit(exitStatus(unix.WaitStatus(number)))
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
