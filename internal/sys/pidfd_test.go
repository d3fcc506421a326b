package sys_test

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// TestPidfdOfNoProcess: neither a process group that has lost its leader nor a thread is a process.
func TestPidfdOfNoProcess(t *testing.T) {
	leader := exec.Command("sh", "-c", "sleep 1000 & exit 0")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := leader.Run(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(-leader.Process.Pid, unix.SIGKILL) }()
	thread, done := make(chan int, 2), make(chan struct{})
	defer close(done)
	for range 2 { // one of them may be on the first thread
		go func() {
			runtime.LockOSThread()
			if tid := unix.Gettid(); tid != unix.Getpid() {
				thread <- tid
			}
			<-done
		}()
	}
	for what, pid := range map[string]int{"a group": leader.Process.Pid, "a thread": <-thread} {
		if fd, err := sys.PidfdOpen(pid); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: %d, %v", what, fd, err)
		}
	}
}
