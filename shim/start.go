package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/shim/stdio"
)

// bootstrap is what containerd 2 reads from start's output. Older ones read the bare address.
type bootstrap struct {
	Version  int    `json:"version"` // of the task API
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// taskVersion is the newest version of the task API that the shim serves.
const taskVersion = 3

// start leaves a serving shim behind and prints where it listens. The socket is made here: it can be connected to as
// soon as its address is printed.
func start(inv invocation, out io.Writer) (err error) {
	if info, err := os.Stat(inv.bundle); err != nil {
		return fmt.Errorf("cannot use the bundle: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("cannot use bundle %q: it is no directory", inv.bundle)
	}
	lock, err := inv.lock(false)
	if err != nil {
		return fmt.Errorf("cannot start a shim for container %q: %w", inv.id, err)
	}
	defer func() { _ = lock.Close() }()
	if abandoned(unix.Stdout) {
		return fmt.Errorf("cannot start a shim for container %q: nobody reads its address", inv.id)
	}
	if shim, err := inv.findShim(); err != nil {
		return err
	} else if shim >= 0 {
		_ = unix.Close(shim)
		return fmt.Errorf("cannot start a shim for container %q: one is running already", inv.id)
	}
	listener, path, err := inv.bind()
	if err != nil {
		return err
	}
	defer func() {
		_ = listener.Close()
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	address := "unix://" + path
	// containerd 1.x looks there when it has been restarted; later ones keep a file of their own.
	if err := atomicfile.WriteVolatile(filepath.Join(inv.bundle, "address"), []byte(address), 0o600); err != nil {
		return err
	}
	pid, err := background(inv, listener, lock)
	if err != nil {
		return fmt.Errorf("cannot start the shim: %w", err)
	}
	// Caught, so that a manager that was killed meanwhile makes the print fail: the shim is wanted no more.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	if err := printAddress(out, address); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		return fmt.Errorf("cannot print the shim's address: %w", err)
	}
	return nil
}

// bind listens on the first of the shim's places for a socket that can be used.
func (inv *invocation) bind() (*stdio.Listener, string, error) {
	var errs []error
	for _, path := range inv.sockets() {
		err := os.MkdirAll(filepath.Dir(path), 0o711)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot make the directory of the shim's socket: %w", err))
			continue
		}
		listener, err := stdio.ListenUnix(path)
		if err == nil {
			return listener, path, nil
		}
		errs = append(errs, err)
	}
	return nil, "", errors.Join(errs...)
}

// abandoned tells whether the descriptor is a pipe whose reader is gone: the manager was killed after it had asked for
// the shim, and its successor's delete may have been here already.
func abandoned(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&unix.POLLERR != 0
}

// printAddress answers in the form that the manager understands: it says which version it knows, if it knows any
// but the second.
func printAddress(out io.Writer, address string) error {
	wanted, err := strconv.Atoi(os.Getenv("MAX_SHIM_VERSION"))
	if err != nil || wanted < taskVersion {
		_, err := io.WriteString(out, address)
		return err
	}
	return json.NewEncoder(out).Encode(bootstrap{Version: taskVersion, Address: address, Protocol: "ttrpc"})
}

// background starts the serving process, which inherits the listening socket and the lock on the bundle.
func background(inv invocation, listener *stdio.Listener, lock *os.File) (pid int, err error) {
	socket, err := listener.File()
	if err != nil {
		return 0, err
	}
	defer func() { _ = socket.Close() }()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer func() { _ = unix.Close(null) }()
	log, err := openLog(inv.bundle)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(log) }()
	args := []string{
		program, "-namespace", inv.namespace, "-id", inv.id, "-bundle", inv.bundle,
		"-address", inv.address, "-publish-binary", inv.publisher, "-socket", inv.listen, serveVerb,
	}
	// Whatever else the manager's parents left open is neither the shim's business nor the container's.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("close_range", err)
	}
	return syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   append(environment(), frugality()...),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(log), listenerFd: socket.Fd(), lockFd: lock.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// environment is that of the manager, without what Go's runtime reads, and without the socket for word that its service
// is ready: the OCI runtime takes it for the container's, and waits for the word.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == "NOTIFY_SOCKET" || name == "GOMAXPROCS" || name == "GODEBUG"
	})
}

// frugality is what Go's runtime reads in the serving process: one processor is enough for what a shim does, and each
// costs memory, as huge pages do, which are 2 MiB each however little of it is in use.
func frugality() []string { return []string{"GOMAXPROCS=1", "GODEBUG=disablethp=1"} }

// leaveFrugality keeps the OCI runtime and what it executes from it.
func leaveFrugality() error {
	for _, entry := range frugality() {
		name, _, _ := strings.Cut(entry, "=")
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	return nil
}

// openLog opens what will be the shim's stderr: the fifo that containerd reads, or a file in the bundle. The fifo is
// opened for reading too, so that the shim never fails or waits because nobody listens.
func openLog(bundle string) (int, error) {
	path := filepath.Join(bundle, "log")
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return -1, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	path = filepath.Join(bundle, "shim.log")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
