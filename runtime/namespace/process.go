package namespace

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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

// AddPid adds what is needed to be in the pid namespace of a process that ForksAgain.
func (i *Inside) AddPid(program *launch.Program, pidfd int) {
	if !i.ForksAgain {
		return
	}
	program.Call("join", "the container's user and pid namespaces", unix.SYS_SETNS, launch.Int(pidfd), launch.Int(unix.CLONE_NEWUSER|unix.CLONE_NEWPID))
	program.SecondFork(0)
}

// AddSetns adds the entering of all other namespaces of a process at once, and of its root where no mount namespace
// brings it along.
func (i *Inside) AddSetns(program *launch.Program, pidfd, flags int) {
	ownUser := flags&unix.CLONE_NEWUSER != 0
	if i.ForksAgain {
		flags &^= unix.CLONE_NEWUSER
	}
	if flags != 0 {
		program.Call("join", "the container's namespaces", unix.SYS_SETNS, launch.Int(pidfd), launch.Int(flags))
	}
	if ownUser {
		BecomeRoot(program)
	}
	if i.root >= 0 {
		program.Call("enter", "the container's root", unix.SYS_FCHDIR, launch.Int(i.root))
		program.Call("change the root to", "the container's", unix.SYS_CHROOT, program.String("."))
	}
}

// Inside is how a process is born that is to live in the namespaces of another.
type Inside struct {
	launch.Birth
	// ForksAgain: only in the user namespace has the process the right to the pid namespace, which its child is in.
	ForksAgain bool

	fds  []int
	root int // descriptor of the process's root if the container has no mount namespace, or -1
}

// BirthIn returns how a process comes into the namespaces that a configuration gives the process pid: born in its pid
// namespace, and with the flags of all others for AddSetns.
func BirthIn(pid int, wanted []specs.LinuxNamespace) (*Inside, int, error) {
	flags, err := differing(pid, wanted)
	if err != nil {
		return nil, 0, err
	}
	inside := &Inside{Birth: launch.Birth{CgroupFD: -1}, root: -1}
	if !slices.ContainsFunc(wanted, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		path := fmt.Sprintf("/proc/%d/root", pid)
		if inside.root, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, 0, fmt.Errorf("cannot open the container's root %q: %w", path, err)
		}
		inside.fds = []int{inside.root}
	}
	if flags&unix.CLONE_NEWPID == 0 {
		return inside, flags, nil
	}
	if flags&unix.CLONE_NEWUSER != 0 && os.Geteuid() != 0 {
		inside.ForksAgain = true
		return inside, flags &^ unix.CLONE_NEWPID, nil
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		inside.Close()
		return nil, 0, fmt.Errorf("cannot open namespace %q: %w", path, err)
	}
	inside.fds = append(inside.fds, fd)
	within, err := Enter(unix.CLONE_NEWPID, fd, path)
	if err != nil {
		inside.Close()
		return nil, 0, err
	}
	inside.Within = []launch.Namespace{within}
	inside.fds = append(inside.fds, within.OwnFD)
	return inside, flags &^ unix.CLONE_NEWPID, nil
}

// Close closes the descriptors.
func (i *Inside) Close() {
	for _, fd := range i.fds {
		_ = unix.Close(fd)
	}
}
