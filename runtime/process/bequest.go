package process

import (
	"fmt"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Bequeath gives this thread what the programs that it starts hand on to their children without knowing of it.
func Bequeath(spec *specs.Spec) error {
	if wanted := spec.Process.IOPriority; wanted != nil {
		number, err := IOPriority(wanted)
		if err != nil {
			return err
		}
		const whoProcess, self = 1, 0
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, self, uintptr(number)); errno != 0 {
			return fmt.Errorf("cannot set process.ioPriority: %w", errno)
		}
	}
	if wanted := spec.Linux.Personality; wanted != nil {
		number, err := Personality(wanted)
		if err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(number), 0, 0); errno != 0 {
			return fmt.Errorf("cannot set linux.personality: %w", errno)
		}
	}
	wanted := spec.Linux.MemoryPolicy
	if wanted == nil {
		return nil
	}
	mode, mask, length, err := MemoryPolicy(wanted)
	if err != nil {
		return err
	}
	// The kernel reads the mask before the call returns: that is safe with the pointer converted in the call itself.
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(mode), uintptr(unsafe.Pointer(mask)), uintptr(length)); errno != 0 {
		return fmt.Errorf("cannot set linux.memoryPolicy: %w", errno)
	}
	return nil
}
