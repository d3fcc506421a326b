package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// removePatience is how long Delete waits for killed processes to leave.
const removePatience = 10 * time.Second

// removeTree removes dir and the cgroups below it. The kernel says EBUSY while a process that was killed is still on
// its way out; v1 has no event for that, so it is asked again, soon at first.
func removeTree(dir string, deadline time.Time) error {
	for delay := 100 * time.Microsecond; ; delay = min(2*delay, 50*time.Millisecond) {
		err := removeOnce(dir)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("cannot remove the cgroup: %w", err)
		}
		time.Sleep(delay)
	}
}

// removeOnce tries the directory itself first, as a container seldom makes cgroups of its own.
func removeOnce(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EBUSY {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
		return readErr
	}
	removed := false
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeOnce(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
			removed = true
		}
	}
	if removed {
		err = unix.Rmdir(dir)
	}
	if err == nil || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

// removeEmpty undoes makeDirs. Another container may have come to live in the outer ones meanwhile: those stay.
func removeEmpty(made []string) error {
	for i := len(made) - 1; i >= 0; i-- {
		if err := unix.Rmdir(made[i]); err != nil && err != unix.ENOENT {
			if err == unix.EBUSY && i < len(made)-1 {
				return nil
			}
			return fmt.Errorf("cannot remove the cgroup: %w", &os.PathError{Op: "rmdir", Path: made[i], Err: err})
		}
	}
	return nil
}

// refuseOccupied fails if an existing cgroup has processes: limits and kills would hit them too.
func refuseOccupied(dir string) error {
	pids, err := processes(dir)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("the container's cgroup %q is not empty: %d processes are in it", dir, len(pids)))
	}
	return nil
}
