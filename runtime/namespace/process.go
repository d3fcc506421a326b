package namespace

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/runtime/launch"
)

// differing returns the flags of those of the wanted namespaces in which a process differs from the runtime. To enter a
// user namespace that one is in fails, while the others may be entered again.
func differing(pid int, wanted []specs.LinuxNamespace) (int, error) {
	flags := 0
	for _, namespace := range wanted {
		k, ok := find(namespace.Type)
		if !ok {
			return 0, fmt.Errorf("linux.namespaces: unknown type %q", namespace.Type)
		}
		if k.flag == unix.CLONE_NEWUSER {
			var own, other unix.Stat_t
			path := fmt.Sprintf("/proc/%d/ns/%s", pid, k.file)
			if err := unix.Stat(path, &other); err != nil {
				return 0, fmt.Errorf("cannot look at namespace %q: %w", path, err)
			}
			if err := unix.Stat("/proc/self/ns/"+k.file, &own); err == nil && own.Ino == other.Ino && own.Dev == other.Dev {
				continue
			}
		}
		flags |= k.flag
	}
	return flags, nil
}

// Way is how a process comes into the namespaces of another. Whoever writes its program adds the two steps of the way,
// AddPid and AddSetns, in this order.
type Way struct {
	pidfd  int // of the other process
	flags  int // of the namespaces that it enters itself
	within []launch.Namespace
	fds    []int
	root   int // descriptor of the other's root if the container has no mount namespace, or -1
	// forksAgain: only in the user namespace has the process the right to the pid namespace, which its child is in.
	forksAgain bool
}

// WayInto returns the way into the namespaces that a configuration gives the process pid. Its pid namespace is one to be
// born in.
func WayInto(pid int, wanted []specs.LinuxNamespace) (_ *Way, err error) {
	way := &Way{root: -1}
	defer func() {
		if err != nil {
			way.Close()
		}
	}()
	if way.pidfd, err = sys.PidfdOpen(pid); err != nil {
		return nil, fmt.Errorf("cannot open the container's process: %w", err)
	}
	way.fds = append(way.fds, way.pidfd)
	if way.flags, err = differing(pid, wanted); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(wanted, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		path := fmt.Sprintf("/proc/%d/root", pid)
		if way.root, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("cannot open the container's root %q: %w", path, err)
		}
		way.fds = append(way.fds, way.root)
	}
	if way.flags&unix.CLONE_NEWPID == 0 {
		return way, nil
	}
	way.flags &^= unix.CLONE_NEWPID
	if way.forksAgain = way.OwnUser() && os.Geteuid() != 0; way.forksAgain {
		return way, nil
	}
	return way, way.bearIn(fmt.Sprintf("/proc/%d/ns/pid", pid))
}

// bearIn makes a pid namespace the one to be born in.
func (w *Way) bearIn(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open namespace %q: %w", path, err)
	}
	w.fds = append(w.fds, fd)
	within, err := Enter(unix.CLONE_NEWPID, fd, path)
	if err != nil {
		return err
	}
	w.within = []launch.Namespace{within}
	w.fds = append(w.fds, within.OwnFD)
	return nil
}

// OwnUser tells whether the way leads into another user namespace than the runtime's.
func (w *Way) OwnUser() bool { return w.flags&unix.CLONE_NEWUSER != 0 }

// AddPid adds what is needed to be in the pid namespace, where the process can't be born in it.
func (w *Way) AddPid(program *launch.Program) {
	if !w.forksAgain {
		return
	}
	program.Call("join", "the container's user and pid namespaces", unix.SYS_SETNS, launch.Int(w.pidfd), launch.Int(unix.CLONE_NEWUSER|unix.CLONE_NEWPID))
	forkAgain(program, 0)
}

// AddSetns adds the entering of all other namespaces at once, and of the root where no mount namespace brings it along.
func (w *Way) AddSetns(program *launch.Program) {
	flags := w.flags
	if w.forksAgain {
		flags &^= unix.CLONE_NEWUSER
	}
	if flags != 0 {
		program.Call("join", "the container's namespaces", unix.SYS_SETNS, launch.Int(w.pidfd), launch.Int(flags))
	}
	if w.OwnUser() {
		BecomeRoot(program)
	}
	if w.root >= 0 {
		program.Call("enter", "the container's root", unix.SYS_FCHDIR, launch.Int(w.root))
		program.Call("change the root to", "the container's", unix.SYS_CHROOT, program.String("."))
	}
}

// Fork starts a process on the program. It is born as birth says, but shares memory only if the way allows it: who forks
// again doesn't, and a time namespace is entered by processes with memory of their own. What has to be done for it from
// outside before the first step of the way is adopt's, which may be nil.
func (w *Way) Fork(program *launch.Program, birth launch.Birth, adopt func(*launch.Process) error) (*launch.Process, error) {
	birth.Within = w.within
	birth.Shared = birth.Shared && !w.forksAgain && w.flags&unix.CLONE_NEWTIME == 0
	process, err := launch.Fork(program, birth)
	if err != nil {
		return nil, err
	}
	if adopt != nil {
		err = adopt(process)
	}
	if err == nil && w.forksAgain {
		err = process.Follow()
	}
	if err != nil {
		process.Kill()
		process.Close()
		return nil, err
	}
	return process, nil
}

// Close closes the descriptors.
func (w *Way) Close() {
	for _, fd := range w.fds {
		_ = unix.Close(fd)
	}
}
