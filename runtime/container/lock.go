package container

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/kernelfile"
)

// lockPatience bounds the wait for another command that works on the container. Such a command may wait itself for
// something that never happens: a frozen process, a mount of a server that is gone.
const lockPatience = 10 * time.Second

var errBusy = errors.New("another command still works on it")

// Seize is Lock for delete --force. If another command keeps the lock, it kills the container's processes, which makes a
// command that waits for one of them fail and release the lock.
func Seize(root, id string) (*Container, error) {
	c, err := at(root, id)
	if err != nil {
		return nil, err
	}
	err = c.acquire(time.Second)
	if errors.Is(err, errBusy) {
		if c.load() == nil {
			c.killWithoutLock()
		}
		c.State = State{ID: id}
		err = c.acquire(lockPatience)
	}
	if err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// killWithoutLock kills whatever processes the container has so far. What fails is left to the command with the lock.
func (c *Container) killWithoutLock() {
	if group, err := c.loadCgroup(); err == nil {
		_ = group.Kill()
		_ = group.Close()
	}
	if pidfd, err := sys.PidfdOpen(c.Pid); err == nil {
		if c.alive() {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(pidfd)
	}
}

// acquire locks the container's directory.
func (c *Container) acquire(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		fd, err := kernelfile.Open(c.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return c.absent(err)
		}
		dir := os.NewFile(uintptr(fd), c.dir)
		if err := flock(dir, unix.LOCK_EX, deadline); err != nil {
			_ = dir.Close()
			return c.notLocked(err)
		}
		if c.isAt(dir) {
			c.lock = dir
			return nil
		}
		_ = dir.Close()
	}
}

// isAt tells whether a directory still is that of the container: the command that had the lock may have deleted the
// container, and another one may have created it again.
func (c *Container) isAt(dir *os.File) bool {
	var locked, there unix.Stat_t
	return unix.Fstat(int(dir.Fd()), &locked) == nil && unix.Stat(c.dir, &there) == nil && locked.Ino == there.Ino && locked.Dev == there.Dev
}

func (c *Container) notLocked(err error) error {
	wrapped := fmt.Errorf("cannot lock container %q: %w", c.ID, err)
	if errors.Is(err, errBusy) {
		return errdefs.As(errdefs.ErrUnavailable, wrapped)
	}
	return wrapped
}

// flock polls, as flock(2) itself takes no deadline.
func flock(file *os.File, how int, deadline time.Time) error {
	for delay := 100 * time.Microsecond; ; delay = min(2*delay, 20*time.Millisecond) {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return err
		case time.Now().After(deadline):
			return errBusy
		}
		time.Sleep(delay)
	}
}

// Close lets others change the container.
func (c *Container) Close() {
	c.Yield()
	if c.yielded != nil {
		_ = c.yielded.Close()
		c.yielded = nil
	}
}

// Yield lets others change the container until relock. The directory stays open, so that no other one can pass for it.
func (c *Container) Yield() {
	c.allowTracers()
	if c.lock != nil {
		// Closing would not do: the process that waits for start has a copy of the descriptor.
		_ = unix.Flock(int(c.lock.Fd()), unix.LOCK_UN)
		c.lock, c.yielded = nil, c.lock
	}
}

// unlocked runs hooks of the host without the lock, as they may call the runtime for their own container. If they, or
// another command meanwhile, delete the container, it is lost to this command.
func (c *Container) unlocked(run func() error) error {
	c.Yield()
	err := run()
	if lockErr := c.relock(); lockErr != nil && !errors.Is(lockErr, errNoContainer) {
		return errors.Join(err, lockErr)
	}
	return err
}

// relock locks the container again after Yield, and notices if it has been deleted in the meantime, even if another one has
// its ID now.
func (c *Container) relock() error {
	if c.lost || c.yielded == nil {
		return c.absent(os.ErrNotExist)
	}
	if err := flock(c.yielded, unix.LOCK_EX, time.Now().Add(lockPatience)); err != nil {
		return c.notLocked(err)
	}
	c.lock, c.yielded = c.yielded, nil
	if !c.isAt(c.lock) {
		c.lost = true
		c.Close()
		return c.absent(os.ErrNotExist)
	}
	return nil
}
