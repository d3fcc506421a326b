package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
)

// Inside says where hooks of the container's namespaces run that are programs of the host.
type Inside struct {
	State      specs.State
	Pid        int
	Namespaces []specs.LinuxNamespace
	Dir        string // of the host
}

// Start starts a hook, with the state to read and a file for what it prints.
type Start func(hook specs.Hook, state, output *os.File) (*launch.Process, error)

// RunInside runs hooks, one after the other, in the container's namespaces.
func RunInside(kind string, list []specs.Hook, inside Inside) error {
	return RunBy(inside.start, kind, list, inside.State)
}

// RunBy runs hooks, one after the other, that are started in a way of their own.
func RunBy(start Start, kind string, list []specs.Hook, state specs.State) error {
	for i, hook := range list {
		if err := runBy(start, hook, state); err != nil {
			return fmt.Errorf("cannot run hook %s[%d] %q: %w", kind, i, hook.Path, err)
		}
	}
	return nil
}

func runBy(start Start, hook specs.Hook, state specs.State) error {
	input, err := stateFile(state)
	if err != nil {
		return err
	}
	defer func() { _ = input.Close() }()
	output, err := memoryFile("output", nil)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	process, err := start(hook, input, output)
	if err != nil {
		return err
	}
	defer process.Close()
	if err := process.Executed(); err != nil {
		process.Kill()
		return err
	}
	if err := await(process, hook.Timeout); err != nil {
		return because(err, output)
	}
	return nil
}

func (i Inside) start(hook specs.Hook, state, output *os.File) (*launch.Process, error) {
	way, err := namespace.WayInto(i.Pid, i.Namespaces)
	if err != nil {
		return nil, err
	}
	defer way.Close()
	dir, err := i.openDir()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }()
	p := launch.New()
	way.AddPid(p)
	way.AddSetns(p)
	p.Call("enter", fmt.Sprintf("%q", i.Dir), unix.SYS_FCHDIR, launch.Int(dir))
	Redirect(p, state, output)
	p.Call("close", "the runtime's descriptors", unix.SYS_CLOSE_RANGE, launch.Int(3), launch.Int(uint32(1<<32-1)), launch.Int(unix.CLOSE_RANGE_CLOEXEC))
	p.Call("execute", fmt.Sprintf("%q", hook.Path), unix.SYS_EXECVE, p.String(hook.Path), p.Strings(Args(hook)), p.Strings(env(hook)))
	return way.Fork(p, launch.Birth{CgroupFD: -1}, nil)
}

// openDir opens the directory as the container has it, in which other mounts may be on the way. The container's root may
// not have the right to walk there.
func (i Inside) openDir() (int, error) {
	path := fmt.Sprintf("/proc/%d/root", i.Pid)
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open the container's root %q: %w", path, err)
	}
	defer func() { _ = unix.Close(root) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	dir, err := sys.Openat2(root, i.Dir, &how)
	if err != nil {
		return -1, fmt.Errorf("cannot open %q: %w", i.Dir, err)
	}
	return dir, nil
}

// Redirect adds the redirection of a hook's standard descriptors.
func Redirect(p *launch.Program, state, output *os.File) {
	p.Call("give", "the state", unix.SYS_DUP3, launch.Int(int(state.Fd())), launch.Int(0), launch.Int(0))
	p.Call("redirect", "the output", unix.SYS_DUP3, launch.Int(int(output.Fd())), launch.Int(1), launch.Int(0))
	p.Call("redirect", "the output", unix.SYS_DUP3, launch.Int(int(output.Fd())), launch.Int(2), launch.Int(0))
}

// because adds what a hook has printed to its failure.
func because(failure error, output *os.File) error {
	const enough = 4 << 10
	text := make([]byte, enough)
	n, err := output.ReadAt(text, 0)
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		return failure
	}
	return fmt.Errorf("%w: %s", failure, bytes.TrimSpace(text[:n]))
}

func await(process *launch.Process, timeout *int) error {
	if timeout != nil {
		end := time.AfterFunc(time.Duration(*timeout)*time.Second, func() {
			_ = unix.PidfdSendSignal(process.PidFD, unix.SIGKILL, nil, 0)
		})
		defer end.Stop()
	}
	status, err := process.Reap()
	switch {
	case err != nil:
		return err
	case status.Signaled() && timeout != nil && status.Signal() == unix.SIGKILL:
		return fmt.Errorf("it took longer than its timeout of %d s", *timeout)
	case status.Signaled():
		return fmt.Errorf("signal: %s", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}

// stateFile returns a file with the state, at its start.
func stateFile(state specs.State) (*os.File, error) {
	content, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	return memoryFile("state", content)
}

func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := sys.DataFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot create a file for a hook: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := file.WriteAt(content, 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
