package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/kernelfile"
)

// freezePatience bounds waiting for processes that are deep inside the kernel. The freezers of the cgroups library
// wait for ever.
const freezePatience = 10 * time.Second

// refuseFrozen fails if a process would stop as soon as it is in the cgroup: a frozen cgroup was there before, or one above
// it is frozen, which a new one inherits. state is a function that tells of the cgroup, as Cgroup.Frozen does.
func refuseFrozen(dir string, state func() (bool, error)) error {
	frozen, err := state()
	if err == nil && frozen {
		err = errdefs.As(errdefs.ErrFailedPrecondition,
			fmt.Errorf("the container's cgroup %q is frozen, or one above it: a process in it would not run", dir))
	}
	return err
}

// freezeV1 writes FROZEN or THAWED until the kernel agrees. A process forked at the wrong moment can leave the cgroup
// FREEZING for good, and writing again helps.
func freezeV1(file, state string) error {
	deadline := time.Now().Add(freezePatience)
	for delay := 20 * time.Microsecond; ; delay = min(2*delay, 10*time.Millisecond) {
		if err := kernelfile.Write(file, state); err != nil {
			return fmt.Errorf("cannot change the freezer to %s: %w", state, err)
		}
		current, err := kernelfile.ReadOnce(file)
		if err != nil {
			return fmt.Errorf("cannot read the freezer's state: %w", err)
		}
		if strings.TrimSpace(string(current)) == state {
			return nil
		}
		if time.Now().After(deadline) {
			err := fmt.Errorf("cannot change the freezer to %s: it is still %s after %v",
				state, strings.TrimSpace(string(current)), freezePatience)
			return errors.Join(err, kernelfile.Write(file, "THAWED")) // half frozen is worse than running
		}
		time.Sleep(delay)
	}
}

// freezeV2 writes cgroup.freeze and waits for the event that all processes have stopped.
func freezeV2(dir string, freeze bool) error {
	value, wanted := "0", "frozen 0"
	if freeze {
		value, wanted = "1", "frozen 1"
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("cannot watch the freezer: %w", err)
	}
	defer events.Close()
	if err := kernelfile.Write(filepath.Join(dir, "cgroup.freeze"), value); err != nil {
		return fmt.Errorf("cannot change the freezer: %w", err)
	}
	deadline := time.Now().Add(freezePatience)
	for {
		if _, err := events.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("cannot watch the freezer: %w", err)
		}
		content, err := io.ReadAll(events)
		if err != nil {
			return fmt.Errorf("cannot watch the freezer: %w", err)
		}
		if strings.Contains(string(content), wanted) {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			err := fmt.Errorf("cannot change the freezer: the processes have not stopped after %v", freezePatience)
			return errors.Join(err, kernelfile.Write(filepath.Join(dir, "cgroup.freeze"), "0"))
		}
		// The kernel flags a change of cgroup.events as an urgent condition since the last read.
		poll := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch the freezer: %w", err)
		}
	}
}
