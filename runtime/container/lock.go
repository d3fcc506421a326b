package container

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
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
	if pidfd, err := unix.PidfdOpen(c.Pid, 0); err == nil {
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
		if err := flock(dir, deadline); err != nil {
			_ = dir.Close()
			err = fmt.Errorf("cannot lock container %q: %w", c.ID, err)
			if errors.Is(err, errBusy) {
				return errdefs.As(errdefs.ErrUnavailable, err)
			}
			return err
		}
		// The command that had the lock may have deleted the container, and another one may have created it again.
		var locked, there unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &locked); err == nil && unix.Stat(c.dir, &there) == nil && locked.Ino == there.Ino {
			c.lock = dir
			return nil
		}
		_ = dir.Close()
	}
}

// flock polls, as flock(2) itself takes no deadline.
func flock(dir *os.File, deadline time.Time) error {
	for delay := 100 * time.Microsecond; ; delay = min(2*delay, 20*time.Millisecond) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
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
	if c.lock != nil {
		// Not by closing alone: the process that waits for start has a copy of the descriptor.
		_ = unix.Flock(int(c.lock.Fd()), unix.LOCK_UN)
		_ = c.lock.Close()
		c.lock = nil
	}
}

// unlocked runs hooks of the host without the lock, as they may call the runtime for their own container. If they, or
// another command meanwhile, delete the container, it is lost to this command.
func (c *Container) unlocked(run func() error) error {
	c.Close()
	err := run()
	if lockErr := c.relock(); lockErr != nil && !errors.Is(lockErr, errNoContainer) {
		return errors.Join(err, lockErr)
	}
	return err
}

// relock locks the container again, and notices if it has been deleted in the meantime, or if another one has its ID now.
func (c *Container) relock() error {
	if c.lost {
		return c.absent(os.ErrNotExist)
	}
	now := &Container{State: State{ID: c.ID}, dir: c.dir}
	err := now.acquire(lockPatience)
	if err == nil {
		err = now.load()
	}
	if err == nil && (now.Pid != c.Pid || now.StartTime != c.StartTime || !now.Created.Equal(c.Created)) {
		err = c.absent(os.ErrNotExist)
	}
	if err != nil {
		c.lost = errors.Is(err, errNoContainer)
		now.Close()
		return err
	}
	c.lock = now.lock
	return nil
}
