package process

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/capability"
	"github.com/berthd/berth/runtime/launch"
)

const maxCap = 63

// addUser changes the user and its groups. The capabilities survive it, for what comes after.
func (c Config) addUser(p *launch.Program) {
	user := c.Process.User
	prctl := func(option, value int) {
		p.Call("keep", "the capabilities", unix.SYS_PRCTL, launch.Int(option), launch.Int(value), launch.Int(0), launch.Int(0), launch.Int(0))
	}
	prctl(unix.PR_SET_KEEPCAPS, 1)
	groups := launch.Int(0)
	if len(user.AdditionalGids) > 0 {
		groups = launch.PinSlice(p, user.AdditionalGids)
	}
	set := p.Call("set", "process.user.additionalGids", unix.SYS_SETGROUPS, launch.Int(len(user.AdditionalGids)), groups).
		Explain(noGroups)
	// A user namespace may deny setgroups, and then there is nothing to drop, nor can its root help what groups an image
	// has: runc leaves them out too. But an ordinary user has made the namespace, or let it be made, just for the container.
	if len(user.AdditionalGids) == 0 || os.Geteuid() == 0 && holds(unix.CAP_SETGID) {
		set.Tolerate(unix.EPERM)
	}
	p.Call("become", fmt.Sprintf("group %d", user.GID), unix.SYS_SETRESGID, launch.Int(user.GID), launch.Int(user.GID), launch.Int(user.GID)).
		Explain(func(errno unix.Errno) error { return unmapped("group", user.GID, errno) })
	p.Call("become", fmt.Sprintf("user %d", user.UID), unix.SYS_SETRESUID, launch.Int(user.UID), launch.Int(user.UID), launch.Int(user.UID)).
		Explain(func(errno unix.Errno) error { return unmapped("user", user.UID, errno) })
	prctl(unix.PR_SET_KEEPCAPS, 0)
	p.Call("set", "process.user.umask", unix.SYS_UMASK, launch.Int(c.umask()))
	c.addCapabilities(p)
}

// unmapped explains why the process can't become a user or group.
func unmapped(kind string, id uint32, errno unix.Errno) error {
	if errno != unix.EINVAL {
		return nil
	}
	return fmt.Errorf("cannot become %s %d: the container's user namespace has no such %[1]s", kind, id)
}

func noGroups(errno unix.Errno) error {
	const failed = "cannot set process.user.additionalGids"
	switch errno {
	case unix.EINVAL:
		return errors.New(failed + ": the container's user namespace lacks one of them")
	case unix.EPERM:
		return errors.New(failed + ": the container's user namespace, whose mappings are none of newgidmap's, denies it")
	}
	return nil
}

func (c Config) umask() uint32 {
	if c.Process.User.Umask != nil {
		return *c.Process.User.Umask
	}
	return 0o022
}

// untilEnd are the capabilities that must outlast the change of user, up to the last leg's end. A filter without
// no_new_privs needs CAP_SYS_ADMIN. And whoever may trace a process of its own user and capabilities could seize this one
// when it executes the last leg, which makes it dumpable, and be rid of the filter and of no_new_privs, which come later:
// the process is traced only by those who have all that it has. Who has CAP_SYS_PTRACE doesn't need to ask.
func (c Config) untilEnd() uint64 {
	const admin, tracer = 1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_SYS_PTRACE
	if c.Masks.Permitted&(admin|tracer) == admin && mayTrace() {
		return admin | tracer
	}
	return admin // nobody makes containers without it
}

// mayTrace tells whether the child has CAP_SYS_PTRACE, as it does in a user namespace of an ordinary user's.
func mayTrace() bool {
	return os.Geteuid() != 0 || holds(unix.CAP_SYS_PTRACE)
}

// holds tells whether the runtime has a capability.
func holds(number int) bool {
	held, err := capability.Held()
	return err == nil && held&(1<<number) != 0
}

// LostAmbient returns the names of the ambient capabilities that are asked for and can't be raised.
func (c Config) LostAmbient() []string {
	return capability.NamesOf(c.Masks.Ambient &^ c.ambient())
}

// ambient is what may be raised of what is asked for. As with runc, the process does without the rest.
func (c Config) ambient() uint64 {
	return c.Masks.Ambient & c.Masks.Permitted & c.Masks.Inheritable
}

// addCapabilities sets the process's sets, with what is needed until the end of the last leg.
func (c Config) addCapabilities(p *launch.Program) {
	const object = "process.capabilities"
	needed := c.untilEnd()
	header, data := capabilities(c.Masks.Permitted|needed|1<<unix.CAP_SETPCAP, c.Masks.Inheritable|needed)
	p.Call("set", object, unix.SYS_CAPSET, launch.PinSlice(p, header), launch.PinSlice(p, data))
	prctl := func(what string, args ...launch.Arg) {
		p.Call("set", what, unix.SYS_PRCTL, args...)
	}
	for number := 0; number <= min(c.LastCap, maxCap); number++ {
		if c.Masks.Bounding&(1<<number) == 0 {
			prctl(object+".bounding", launch.Int(unix.PR_CAPBSET_DROP), launch.Int(number), launch.Int(0), launch.Int(0), launch.Int(0))
		}
	}
	prctl(object+".ambient", launch.Int(unix.PR_CAP_AMBIENT), launch.Int(unix.PR_CAP_AMBIENT_CLEAR_ALL), launch.Int(0), launch.Int(0), launch.Int(0))
	raised := c.ambient()
	if c.Process.User.UID != 0 { // root keeps what is inheritable anyway
		raised |= needed
	}
	for number := 0; number <= maxCap; number++ {
		if raised&(1<<number) != 0 {
			prctl(object+".ambient", launch.Int(unix.PR_CAP_AMBIENT), launch.Int(unix.PR_CAP_AMBIENT_RAISE), launch.Int(number), launch.Int(0), launch.Int(0))
		}
	}
}

// addLastCapabilities takes away what the execution of the last leg has given to root, and what was needed until there.
// The kernel takes from the ambient set what leaves the inheritable one.
func (c Config) addLastCapabilities(l *launch.Last) {
	available := c.ambient()
	if c.Process.User.UID == 0 {
		available = c.Masks.Bounding | c.Masks.Inheritable
	}
	header, data := capabilities(c.Masks.Permitted&available, c.Masks.Inheritable)
	effective := c.Masks.Effective & c.Masks.Permitted & available
	data[0].Effective, data[1].Effective = uint32(effective), uint32(effective>>32)
	l.Call("set", "process.capabilities", unix.SYS_CAPSET, launch.LastSlice(l, header), launch.LastSlice(l, data))
}

func capabilities(permitted, inheritable uint64) ([]unix.CapUserHeader, []unix.CapUserData) {
	return []unix.CapUserHeader{{Version: unix.LINUX_CAPABILITY_VERSION_3}}, []unix.CapUserData{
		{Effective: uint32(permitted), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(permitted >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
}

// addDirectoryAndUser enters the working directory as root or, where root isn't let in, as the user.
func (c Config) addDirectoryAndUser(p *launch.Program) {
	cwd := c.Process.Cwd
	quoted := fmt.Sprintf("working directory %q", cwd)
	entered := new(uint64)
	mark := launch.Pin(p, entered)
	denied, inside := p.NewLabel(), p.NewLabel()
	path := p.String(cwd)
	p.Call("enter", quoted, unix.SYS_CHDIR, path).OnError(denied, unix.EACCES, unix.EPERM)
	p.Store(mark, launch.Int(1))
	p.Place(denied)
	c.addUser(p)
	retry := p.NewLabel()
	p.Expect("enter", quoted, mark, launch.Masked{Mask: 1, Value: 1, Errno: unix.EAGAIN}).OnError(retry, unix.EAGAIN).Then(inside)
	p.Place(retry)
	p.Call("enter", quoted, unix.SYS_CHDIR, path)
	p.Place(inside)

	// A descriptor of the host's that leaked into the container could be entered through /proc/self/fd. The kernel
	// names a directory outside of the root "(unreachable)".
	name := make([]byte, unix.PathMax)
	buffer := launch.PinSlice(p, name)
	p.Call("check", quoted, unix.SYS_GETCWD, buffer, launch.Int(len(name)))
	p.Expect("enter", quoted, buffer, launch.Masked{Mask: 0xff, Value: '/', Errno: unix.EXDEV}).
		Explain(func(unix.Errno) error {
			return fmt.Errorf("cannot enter %s: it is outside of the container's root", quoted)
		})
}
