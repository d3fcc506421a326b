package process

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// sigaction is the kernel's struct sigaction: handler, flags, restorer, mask.
type sigaction [4]uintptr

const (
	ignored     = 1 // SIG_IGN
	lastSignal  = 64
	sigsetBytes = 8
)

// addSignals gives the container's program the default action of the signals that the runtime's caller ignores: nohup
// ignores SIGHUP, and what make starts ignores a signal of the C library. Handlers end with execve by themselves.
func addSignals(p *launch.Program) {
	var initial *sigaction
	for number := 1; number <= lastSignal; number++ {
		var now sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), 0, uintptr(unsafe.Pointer(&now)), sigsetBytes, 0, 0)
		if errno != 0 || now[0] != ignored {
			continue
		}
		if initial == nil {
			initial = new(sigaction)
		}
		p.Call("reset", fmt.Sprintf("signal %d", number), unix.SYS_RT_SIGACTION,
			launch.Int(number), launch.Pin(p, initial), launch.Int(0), launch.Int(sigsetBytes))
	}
}
