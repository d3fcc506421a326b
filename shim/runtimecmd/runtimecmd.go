// Package runtimecmd runs an OCI runtime (berth-runtime, runc, crun) by its command line and turns what it logged into
// an error. The runtime is started from a read-only copy of its mount, so that a container that gets hold of the
// runtime's executable through /proc can't write to it.
package runtimecmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/reaper"
)

// Runtime is one runtime with its global options. Everything in it is kept in the bundle, for the delete verb.
type Runtime struct {
	Binary        string `json:"binary"` // absolute path
	Root          string `json:"root"`   // the runtime's --root
	SystemdCgroup bool   `json:"systemd_cgroup,omitempty"`
	NoPivotRoot   bool   `json:"no_pivot_root,omitempty"`
	NoNewKeyring  bool   `json:"no_new_keyring,omitempty"`
}

const (
	defaultRuntime = "berth-runtime"
	defaultRoot    = "/run/berth/runtime"
)

// Name returns the name or the path of the runtime that the options ask for.
func Name(opts *options.Options) string {
	if name := opts.GetBinaryName(); name != "" {
		return name
	}
	return defaultRuntime
}

// For returns the runtime that the options ask for, and makes its state directory for the namespace.
func For(opts *options.Options, namespace string) (Runtime, error) {
	root := opts.GetRoot()
	if root == "" {
		root = defaultRoot
	}
	binary, err := Find(Name(opts))
	if err != nil {
		return Runtime{}, err
	}
	root = filepath.Join(root, namespace)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return Runtime{}, fmt.Errorf("cannot make the runtime's state directory: %w", err)
	}
	return Runtime{
		Binary: binary, Root: root, SystemdCgroup: opts.GetSystemdCgroup(),
		NoPivotRoot: opts.GetNoPivotRoot(), NoNewKeyring: opts.GetNoNewKeyring(),
	}, nil
}

// Find returns the absolute path of a runtime binary: as given if it has a slash, otherwise from the folder of the
// running program or from $PATH.
func Find(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		if err := unix.Access(name, unix.X_OK); err != nil {
			return "", errdefs.As(errdefs.ErrNotFound, fmt.Errorf("cannot use runtime %q: %w", name, err))
		}
		return filepath.Abs(name)
	}
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if self, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(self)}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if filepath.IsAbs(path) && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", errdefs.As(errdefs.ErrNotFound, fmt.Errorf("cannot find runtime %q: it is neither beside the shim nor in $PATH", name))
}

// Call is one invocation.
type Call struct {
	Args    []string
	Dir     string        // the runtime's working directory: the bundle
	Files   [3]*os.File   // the runtime's, and so the container process's, stdio; nil is /dev/null
	LogFile string        // where the runtime writes its JSON log; removed after the call
	PidFile string        // where it writes the pid of the process it leaves behind; "" if it leaves none
	Limit   time.Duration // after which the runtime is killed; 0 is what its command usually needs at most
}

// The limits of the runtime's commands, where the client of the shim has no shorter one.
const (
	launchLimit     = 100 * time.Second // hooks are run
	checkpointLimit = time.Hour         // all memory of the container goes to a disk, or comes from there
	killLimit       = 10 * time.Second
	otherLimit      = 30 * time.Second
	// endLimit bounds the wait for the end of a killed runtime: the kernel may hold it in a system call.
	endLimit = 5 * time.Second
)

func (c *Call) limit() time.Duration {
	if c.Limit > 0 {
		return c.Limit
	}
	switch c.Args[0] {
	case "create", "start", "exec":
		return launchLimit
	case "checkpoint", "restore":
		return checkpointLimit
	case "kill":
		return killLimit
	}
	return otherLimit
}

// ErrUnclaimed says that a runtime has succeeded, and the process that it left behind is not known.
var ErrUnclaimed = errors.New("the process that the runtime started can't be found")

// Start runs a call that leaves a process behind (create, exec) and returns that process.
func (r *Runtime) Start(ctx context.Context, reap *reaper.Reaper, call Call) (*reaper.Child, error) {
	window := reap.Open()
	defer window.Close()
	call.Args = append(call.Args[:1:1], append([]string{"--pid-file", call.PidFile}, call.Args[1:]...)...)
	defer func() { _ = os.Remove(call.PidFile) }()
	if err := r.run(ctx, window, call); err != nil {
		return nil, err
	}
	child, err := r.claim(window, call.PidFile)
	if err != nil {
		return nil, errdefs.As(ErrUnclaimed, err)
	}
	return child, nil
}

// claim finds the process that a call has left behind.
func (r *Runtime) claim(window *reaper.Window, pidFile string) (*reaper.Child, error) {
	content, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pid that %s wrote: %w", filepath.Base(r.Binary), err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("cannot use the pid that %s wrote: %q is not one", filepath.Base(r.Binary), content)
	}
	return window.Claim(pid)
}

// Run runs a call that leaves nothing behind (start, kill, delete …).
func (r *Runtime) Run(ctx context.Context, reap *reaper.Reaper, call Call) error {
	window := reap.Open()
	defer window.Close()
	return r.run(ctx, window, call)
}

func (r *Runtime) run(ctx context.Context, window *reaper.Window, call Call) error {
	args := []string{filepath.Base(r.Binary), "--root", r.Root, "--log", call.LogFile, "--log-format", "json"}
	if r.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	// Made here, it tells AwaitCalls of the call from before its first instant on.
	if err := os.WriteFile(call.LogFile, nil, 0o600); err == nil {
		defer func() { _ = os.Remove(call.LogFile) }()
	} else if call.PidFile != "" {
		return fmt.Errorf("cannot make the runtime's log: %w", err)
	} else {
		args[4] = os.DevNull // a full disk must not keep a container from being stopped
	}
	pid, err := spawn(r.Binary, append(args, call.Args...), call)
	if err != nil {
		return fmt.Errorf("cannot run runtime %q: %w", r.Binary, err)
	}
	child, err := window.Claim(pid)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, call.limit())
	defer cancel()
	select {
	case <-child.Exited:
	case <-ctx.Done():
		passed := time.Since(began).Round(time.Second)
		endCall(child)
		return errdefs.As(ctx.Err(), fmt.Errorf("cannot %s the container: %q did not end within %v and was killed",
			call.Args[0], r.Binary, passed))
	}
	if child.Exit().Status == 0 {
		return nil
	}
	return failure(args[0], call, child.Exit().Status)
}

// endCall kills a runtime and what it has started but the container: hooks, criu.
func endCall(child *reaper.Child) {
	child.KillGroup()
	select {
	case <-child.Exited:
	case <-time.After(endLimit):
	}
}

// failure is the error of a call, in the runtime's own words: the last error it logged.
func failure(name string, call Call, status int) error {
	content, err := os.ReadFile(call.LogFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read the log of %s %s, which ended with status %d: %w", name, call.Args[0], status, err)
	}
	said := ""
	for line := range bytes.Lines(content) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal" || said == "") && entry.Msg != "" {
			said = entry.Msg
		}
	}
	if said == "" {
		return fmt.Errorf("cannot %s the container: %s ended with status %d and logged nothing", call.Args[0], name, status)
	}
	err = errors.New(said)
	switch {
	case strings.Contains(said, "does not exist"):
		return errdefs.As(errdefs.ErrNotFound, err)
	case strings.Contains(said, "not running"), strings.Contains(said, "process already finished"),
		strings.Contains(strings.ToLower(said), "no such process"): // it ended while the runtime was at work
		return errdefs.As(errdefs.ErrNotFound, err)
	case strings.Contains(said, "not implemented"), strings.Contains(said, "unknown command"):
		return errdefs.As(errdefs.ErrUnimplemented, err)
	}
	return err
}

// spawn starts the program from a read-only detached copy of its mount.
func spawn(binary string, args []string, call Call) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	attr := &syscall.ProcAttr{
		Env: os.Environ(), Files: make([]uintptr, len(call.Files)), Sys: &syscall.SysProcAttr{Setpgid: true},
	}
	if info, err := os.Stat(call.Dir); err == nil && info.IsDir() {
		attr.Dir = call.Dir
	}
	for i, f := range call.Files {
		if f == nil {
			f = null
		}
		attr.Files[i] = f.Fd()
	}
	// A script's interpreter opens the path anew, when a descriptor is closed already.
	if script, err := isScript(binary); err != nil {
		return 0, err
	} else if script {
		return syscall.ForkExec(binary, args, attr)
	}
	fd, err := readOnly(binary, firstUnused(attr.Files))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) { // not root, or an old kernel
		return syscall.ForkExec(binary, args, attr)
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	// The child still has this close-on-exec descriptor when the kernel looks the path up. A runtime that protects itself
	// further has only its name to find its file by.
	return syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(fd), append([]string{binary}, args[1:]...), attr)
}

func isScript(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var magic [2]byte
	_, err = io.ReadFull(f, magic[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return string(magic[:]) == "#!", nil
}

// firstUnused is the least number from which on descriptors are left alone by syscall.ForkExec. In the child it copies its
// pipe and files to the numbers above the highest of the files, without a look at what is open there.
func firstUnused(files []uintptr) int {
	highest := slices.Max(append([]uintptr{uintptr(len(files))}, files...))
	return int(highest) + len(files) + 2 // the pipe, and one more where its copy is stepped over
}

// readOnly returns a descriptor, not below a number, of the file on a read-only mount that is in nobody's mount tree and goes
// away with its last user.
func readOnly(path string, least int) (int, error) {
	low, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(low) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(low, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	fd, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, least)
	if err != nil {
		return -1, fmt.Errorf("cannot copy a descriptor: %w", err)
	}
	return fd, nil
}
