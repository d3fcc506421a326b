package namespace

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// Of returns the flags of the namespaces in which a process differs from the runtime. A setns to one's own user
// namespace fails, so that those in common must be left out.
func Of(pid int) (int, error) {
	differing := 0
	for _, k := range kinds() {
		var own, other unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/"+k.file, &own); err != nil {
			continue // the kernel has no such namespaces
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, k.file)
		if err := unix.Stat(path, &other); err != nil {
			return 0, fmt.Errorf("cannot look at the %s namespace of process %d: %w", k.name, pid, err)
		}
		if own.Ino != other.Ino || own.Dev != other.Dev {
			differing |= k.flag
		}
	}
	return differing, nil
}

// AddSetns adds the entering of all namespaces of a process at once. The pid namespace is entered at the fork, and
// the flags must not have it.
func AddSetns(program *launch.Program, pidfd, flags int) {
	if flags == 0 {
		return
	}
	program.Call("join", "the container's namespaces", unix.SYS_SETNS, launch.Int(pidfd), launch.Int(flags))
	if flags&unix.CLONE_NEWUSER != 0 {
		BecomeRoot(program)
	}
}

// Inside is how a process is born that is to live in the namespaces of another.
type Inside struct {
	launch.Birth
	fds []int
}

// BirthIn returns how a process comes into the namespaces of the process pid: born in its pid namespace, and with the
// flags of all others for AddSetns.
func BirthIn(pid int) (*Inside, int, error) {
	flags, err := Of(pid)
	if err != nil {
		return nil, 0, err
	}
	inside := &Inside{Birth: launch.Birth{CgroupFD: -1}}
	if flags&unix.CLONE_NEWPID == 0 {
		return inside, flags, nil
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open namespace %q: %w", path, err)
	}
	within, err := Enter(unix.CLONE_NEWPID, fd, path)
	if err != nil {
		_ = unix.Close(fd)
		return nil, 0, err
	}
	inside.Within = []launch.Namespace{within}
	inside.fds = []int{fd, within.OwnFD}
	return inside, flags &^ unix.CLONE_NEWPID, nil
}

// Close closes the descriptors.
func (i *Inside) Close() {
	for _, fd := range i.fds {
		_ = unix.Close(fd)
	}
}
