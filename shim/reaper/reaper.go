// Package reaper collects the exit status of every process that becomes a child of the shim: the runtimes it starts,
// and the container processes that those leave behind.
//
// A container process is started by a runtime that exits, so it becomes the shim's child (the shim is a subreaper)
// before the shim knows its pid, and it may be dead by then. Two rules make this free of races: processes are reaped
// in one place only, under a lock; and while a Window is open, exits that nobody has claimed yet are kept.
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Exit tells how a process ended.
type Exit struct {
	Status int // as shells count: the exit code, or 128 + signal
	At     time.Time
}

// Child is a claimed process. Exited is closed when it has ended; Exit is valid from then on.
type Child struct {
	Pid    int
	Exited chan struct{}
	exit   Exit
	pidfd  int // -1 when the process had ended before it was claimed, or after it was reaped
	reaper *Reaper
}

// Reaper owns wait4 of this process: nothing else may wait for children.
type Reaper struct {
	signals chan os.Signal
	done    chan struct{}

	mu        sync.Mutex
	children  map[int]*Child
	windows   int
	count     uint64                // of the windows that were opened
	unclaimed map[int]unclaimedExit // kept while a window is open
}

// unclaimedExit is the exit of a process that nobody had claimed.
type unclaimedExit struct {
	Exit
	window uint64 // the newest window of that time
}

// New makes the calling process a subreaper and starts to reap.
func New() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become the reaper of orphaned processes: %w", err)
	}
	r := &Reaper{
		signals:   make(chan os.Signal, 1), // SIGCHLDs merge anyway: each makes us look at all children
		done:      make(chan struct{}),
		children:  map[int]*Child{},
		unclaimed: map[int]unclaimedExit{},
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	go r.loop()
	return r, nil
}

// Close stops reaping and waits for the reaping goroutine to end.
func (r *Reaper) Close() {
	signal.Stop(r.signals)
	close(r.signals)
	<-r.done
}

func (r *Reaper) loop() {
	defer close(r.done)
	for range r.signals {
		for r.reapOne() {
		}
	}
}

// reapOne reaps one dead child and reports whether there was one. The lock covers wait4, so that a pid seen under
// the lock as not reaped can't be reused by the kernel while the lock is held.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	for err == unix.EINTR {
		pid, err = unix.Wait4(-1, &status, unix.WNOHANG, nil)
	}
	if err != nil || pid <= 0 {
		return false
	}
	exit := Exit{Status: status.ExitStatus(), At: time.Now()}
	if status.Signaled() {
		exit.Status = 128 + int(status.Signal())
	}
	if child, ok := r.children[pid]; ok {
		child.end(exit)
	} else if r.windows > 0 {
		r.unclaimed[pid] = unclaimedExit{exit, r.count}
	}
	return true
}

// end records the exit. The reaper's lock is held, or nobody else has the child yet.
func (c *Child) end(exit Exit) {
	delete(c.reaper.children, c.Pid)
	c.exit = exit
	if c.pidfd >= 0 {
		_ = unix.Close(c.pidfd)
		c.pidfd = -1
	}
	close(c.Exited)
}

// Exit returns how the child ended. Call it after Exited was closed.
func (c *Child) Exit() Exit { return c.exit }

// Signal sends a signal to this very process, never to a later one with the same pid. It returns unix.ESRCH when the
// process has ended.
func (c *Child) Signal(sig unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.pidfd < 0 {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
}

// KillGroup kills the process and the others of its process group, which it leads.
func (c *Child) KillGroup() {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.pidfd >= 0 { // not reaped, so that the number is still the group's
		_ = unix.Kill(-c.Pid, unix.SIGKILL)
		_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
	}
}

// Window is a time span in which no exit is lost. Open one before a process may be started, Claim the processes
// that were, then Close it.
type Window struct {
	reaper *Reaper
	number uint64
}

// Open opens a window.
func (r *Reaper) Open() *Window {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows++
	r.count++
	return &Window{reaper: r, number: r.count}
}

// Close ends the window. Exits that nobody claimed in any window are forgotten: those were orphans of no interest.
func (w *Window) Close() {
	r := w.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.windows--; r.windows == 0 {
		clear(r.unclaimed)
	}
}

// Claim makes the process with this pid, started since the window was opened, the caller's.
func (w *Window) Claim(pid int) (*Child, error) {
	r := w.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	child := &Child{Pid: pid, Exited: make(chan struct{}), pidfd: -1, reaper: r}
	if _, ok := r.children[pid]; ok {
		return nil, fmt.Errorf("cannot watch process %d: it is watched already", pid)
	}
	pidfd, err := openChild(pid)
	if err == nil {
		delete(r.unclaimed, pid) // the exit of an earlier process with this number
		child.pidfd = pidfd
		r.children[pid] = child
		return child, nil
	}
	// An exit from before this window is that of an earlier process, too.
	if exit, ok := r.unclaimed[pid]; ok && exit.window >= w.number {
		delete(r.unclaimed, pid)
		child.end(exit.Exit)
		return child, nil
	}
	return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
}

// openChild returns a descriptor of a child that was not reaped yet.
func openChild(pid int) (int, error) {
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
	}
	if err != nil {
		_ = unix.Close(pidfd)
		return -1, os.NewSyscallError("waitid", err)
	}
	return pidfd, nil
}
