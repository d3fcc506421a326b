package sys

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExecutables executes a program from each kind of file, and tries to write to it.
func TestExecutables(t *testing.T) {
	write := func(fd int) error {
		_, err := unix.Write(fd, []byte("#!/bin/sh\nexit 7\n"))
		return err
	}
	for name, create := range map[string]func() (int, error){
		"in memory": func() (int, error) {
			fd, err := ExecutableFile("program", 0)
			if err != nil {
				return -1, err
			}
			return fd, write(fd)
		},
		"without a name": func() (int, error) { return UnnamedFile("program", write) },
		"temporary":      func() (int, error) { return temporaryFile(write) },
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := create()
			if err != nil {
				t.Fatal(err)
			}
			handle := os.NewFile(uintptr(fd), "program")
			defer func() { _ = handle.Close() }()
			command := exec.Command("/proc/self/fd/3")
			command.ExtraFiles = []*os.File{handle}
			var exit *exec.ExitError
			if err := command.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Errorf("executed: %v", err)
			}
			if name != "without a name" || os.Geteuid() != 0 {
				return
			}
			if _, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
				t.Errorf("opened to write: %v", err)
			}
		})
	}
	for name, fill := range map[string]func(func(int) error) (int, error){
		"without a name": func(write func(int) error) (int, error) { return UnnamedFile("program", write) }, "temporary": temporaryFile,
	} {
		if _, err := fill(func(int) error { return unix.ENOSPC }); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDataIsNotExecutable(t *testing.T) {
	fd, err := DataFile("data")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_EXEC == 0 {
		t.Skipf("the kernel can't seal that (Linux 6.3): %d, %v", seals, err)
	}
	if err := unix.Fchmod(fd, 0o700); !errors.Is(err, unix.EPERM) {
		t.Errorf("made executable: %v", err)
	}
}
