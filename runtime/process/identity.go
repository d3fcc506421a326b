package process

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

const maxCap = 63

// addBounding drops what the process and its descendants must never have.
func (c Config) addBounding(p *launch.Program) {
	for number := 0; number <= min(c.LastCap, maxCap); number++ {
		if c.Masks.Bounding&(1<<number) == 0 {
			p.Call("drop", fmt.Sprintf("capability %d from the bounding set", number), unix.SYS_PRCTL,
				launch.Int(unix.PR_CAPBSET_DROP), launch.Int(number), launch.Int(0), launch.Int(0), launch.Int(0))
		}
	}
}

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
	set := p.Call("set", "process.user.additionalGids", unix.SYS_SETGROUPS, launch.Int(len(user.AdditionalGids)), groups)
	if len(user.AdditionalGids) == 0 {
		set.Tolerate(unix.EPERM) // a user namespace may deny setgroups, and then there is nothing to drop
	}
	p.Call("become", fmt.Sprintf("group %d", user.GID), unix.SYS_SETRESGID, launch.Int(user.GID), launch.Int(user.GID), launch.Int(user.GID))
	p.Call("become", fmt.Sprintf("user %d", user.UID), unix.SYS_SETRESUID, launch.Int(user.UID), launch.Int(user.UID), launch.Int(user.UID))
	prctl(unix.PR_SET_KEEPCAPS, 0)
	p.Call("set", "process.user.umask", unix.SYS_UMASK, launch.Int(c.umask()))
	c.addCapabilities(p, c.untilFilter())
}

func (c Config) umask() uint32 {
	if c.Process.User.Umask != nil {
		return *c.Process.User.Umask
	}
	return 0o022
}

// untilFilter are the capabilities that must outlast the change of user: a filter without no_new_privs needs one.
func (c Config) untilFilter() uint64 {
	if c.Filter != nil && !c.Process.NoNewPrivileges {
		return 1 << unix.CAP_SYS_ADMIN
	}
	return 0
}

// addCapabilities sets the process's sets, with more than asked for until the next call.
func (c Config) addCapabilities(p *launch.Program, more uint64) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	effective, permitted := c.Masks.Effective|more, c.Masks.Permitted|more
	data := &[2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(c.Masks.Inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(c.Masks.Inheritable >> 32)},
	}
	p.Call("set", "process.capabilities", unix.SYS_CAPSET, launch.Pin(p, header), launch.Pin(p, data))
	ambient := func(action, number int) launch.Op {
		return p.Call("set", "process.capabilities.ambient", unix.SYS_PRCTL,
			launch.Int(unix.PR_CAP_AMBIENT), launch.Int(action), launch.Int(number), launch.Int(0), launch.Int(0))
	}
	ambient(unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	for number := 0; number <= maxCap; number++ {
		if c.Masks.Ambient&(1<<number) != 0 {
			// One that isn't permitted and inheritable can't be raised, which runc only warns of.
			ambient(unix.PR_CAP_AMBIENT_RAISE, number).Tolerate(unix.EPERM)
		}
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
