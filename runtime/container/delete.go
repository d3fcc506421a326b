package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// Signal sends a signal to the container's first process. With it SIGKILL ends all others: where they would live on
// without a pid namespace of their own, it is sent to all.
func (c *Container) Signal(signal unix.Signal) error {
	if c.endsBeforeStart(signal) {
		signal = unix.SIGKILL
	}
	if signal == unix.SIGKILL && c.sharesPids() {
		if pids, err := c.Pids(); err == nil && len(pids) > 0 {
			return c.SignalAll(signal)
		}
	}
	if err := c.require("kill", specs.StateCreating, specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return err
	}
	if c.Pid == 0 {
		return c.require("kill")
	}
	pidfd, err := sys.PidfdOpen(c.Pid)
	if err != nil {
		return fmt.Errorf("cannot kill container %q: %w", c.ID, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if !c.alive() { // and the descriptor may be of another process with its pid
		return c.require("kill")
	}
	if err := unix.PidfdSendSignal(pidfd, signal, nil, 0); err != nil {
		return fmt.Errorf("cannot kill container %q: %w", c.ID, err)
	}
	if signal == unix.SIGKILL {
		c.thaw()
	}
	return nil
}

// endsBeforeStart tells whether a signal that would end a program without a handler is to end a container that has not
// started. The kernel does not deliver such a signal to the first process of a pid namespace. The lock keeps the container
// from being started meanwhile; without it the program gets the signal.
func (c *Container) endsBeforeStart(signal unix.Signal) bool {
	if !slices.Contains([]unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}, signal) || c.lock != nil || c.acquire(time.Second) != nil {
		return false
	}
	if c.Status() == specs.StateCreated {
		return true // with the lock, until the caller has sent the signal
	}
	c.Close()
	return false
}

// sharesPids tells whether the container's processes see others than their own.
func (c *Container) sharesPids() bool {
	spec, err := c.Spec()
	if err != nil {
		return false
	}
	own := namespaceOf(spec, specs.PIDNamespace)
	return own == nil || own.Path != ""
}

// thaw lets frozen processes go on, for a signal that they have: with cgroup v1 not even SIGKILL reaches them before.
func (c *Container) thaw() {
	if group, err := c.loadCgroup(); err == nil {
		_ = group.Thaw()
		_ = group.Close()
	}
}

// SignalAll sends a signal to every process of the container. Without a cgroup only the first is known, and takes the others
// along if the pid namespace is its own.
func (c *Container) SignalAll(signal unix.Signal) error {
	if c.endsBeforeStart(signal) {
		signal = unix.SIGKILL
	}
	if len(c.Cgroups) == 0 {
		if c.Status() == specs.StateStopped {
			return nil
		}
		return c.Signal(signal)
	}
	group, err := c.loadCgroup()
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	if signal == unix.SIGKILL {
		return group.Kill()
	}
	pids, err := group.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot kill process %d of container %q: %w", pid, c.ID, err)
		}
	}
	return nil
}

// Delete removes a container that has not started or has stopped, or with force one in any state. One that is creating, and
// whose hooks don't run, is what a killed create has left: a create that is at work has the lock.
func (c *Container) Delete(force bool) error {
	if c.lost {
		return nil
	}
	if status := c.Status(); status != specs.StateStopped {
		if !force && status != specs.StateCreated && !c.abandoned(status) {
			return fmt.Errorf("cannot delete container %q that is not stopped: it is %s", c.ID, status)
		}
		if err := c.end(); err != nil {
			return err
		}
	}
	return c.Remove()
}

// abandoned tells whether the create has been killed that was to make the container, of which the caller has the lock.
func (c *Container) abandoned(status specs.ContainerState) bool {
	_, err := os.Lstat(filepath.Join(c.dir, creatingFile))
	return status == specs.StateCreating && errors.Is(err, os.ErrNotExist)
}

// end kills the first process and waits until it has gone.
func (c *Container) end() error {
	if c.Pid == 0 {
		return nil // processes of a killed create end with its cgroup
	}
	pidfd, err := sys.PidfdOpen(c.Pid)
	if err != nil {
		return nil // it has just gone
	}
	defer func() { _ = unix.Close(pidfd) }()
	if !c.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill container %q: %w", c.ID, err)
	}
	c.thaw()
	const patience = 10 * time.Second
	for limit := time.Now().Add(patience); ; {
		ready := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(max(time.Until(limit), 0).Milliseconds()))
		if n > 0 {
			return nil
		}
		if !errors.Is(err, unix.EINTR) || time.Now().After(limit) {
			return fmt.Errorf("cannot kill container %q: its process %d does not end", c.ID, c.Pid)
		}
	}
}

// Remove removes what is left of a container whose first process has ended. If something else than the state can't be
// removed, the state stays, so that delete can be repeated.
func (c *Container) Remove() error {
	if c.lock == nil {
		if err := c.relock(); errors.Is(err, errNoContainer) {
			return nil // another command was faster
		} else if err != nil {
			return err
		}
	}
	defer c.Close()
	if err := errors.Join(c.removeCgroup(), c.Class.Delete()); err != nil {
		return fmt.Errorf("cannot delete container %q, it can be tried again: %w", c.ID, err)
	}
	spec, err := c.Spec()
	if removeErr := c.removeDir(); removeErr != nil {
		return fmt.Errorf("cannot remove the state of container %q: %w", c.ID, removeErr)
	}
	c.lost = true
	c.Close()
	if err == nil {
		c.poststop(spec.Hooks)
	}
	return nil
}

// removeCgroup ends the processes that live on without a pid namespace of their own, and removes the cgroup.
func (c *Container) removeCgroup() error {
	if len(c.Cgroups) == 0 {
		return nil
	}
	group, err := c.loadCgroup()
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	var killErr error
	if pids, err := group.Pids(); err != nil || len(pids) > 0 {
		killErr = group.Kill()
	}
	if err := group.Delete(); err != nil {
		return errors.Join(killErr, err)
	}
	return nil
}

// removeDir tries it without looking first: most containers have the state and nothing else.
func (c *Container) removeDir() error {
	if unix.Unlink(filepath.Join(c.dir, stateFile)) == nil && unix.Rmdir(c.dir) == nil {
		return nil
	}
	return os.RemoveAll(c.dir)
}

// Purge removes a directory that has no readable state: what a create that was killed has left.
func Purge(root, id string) error {
	c, err := at(root, id)
	if err != nil {
		return err
	}
	if err := c.acquire(lockPatience); err != nil {
		return err
	}
	defer c.Close()
	return os.RemoveAll(c.dir)
}
