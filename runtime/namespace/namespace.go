// Package namespace plans which namespaces a container's process is born in, joins and makes, and in which order: the
// owner of a namespace decides who may enter it, so the order depends on whether the user namespace is new, joined or
// the runtime's own.
package namespace

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/launch"
)

// kind is one type of namespace.
type kind struct {
	name specs.LinuxNamespaceType
	flag int
	file string // in /proc/PID/ns
}

// kinds are in the order in which they are joined: the mount namespace late, because it takes the host's paths away.
func kinds() []kind {
	return []kind{
		{specs.UserNamespace, unix.CLONE_NEWUSER, "user"},
		{specs.IPCNamespace, unix.CLONE_NEWIPC, "ipc"},
		{specs.UTSNamespace, unix.CLONE_NEWUTS, "uts"},
		{specs.NetworkNamespace, unix.CLONE_NEWNET, "net"},
		{specs.PIDNamespace, unix.CLONE_NEWPID, "pid"},
		{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "cgroup"},
		{specs.TimeNamespace, unix.CLONE_NEWTIME, "time"},
		{specs.MountNamespace, unix.CLONE_NEWNS, "mnt"},
	}
}

// late namespaces are made by the child itself, once it is in its cgroup and its time offsets are set.
const late = unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// Plan says how the process gets into its namespaces.
type Plan struct {
	New    int // made for the container
	Joined int // entered by path

	fds     map[int]int // of the joined ones, by flag
	paths   map[int]string
	within  []launch.Namespace
	offsets map[string]specs.LinuxTimeOffset
}

// New plans the namespaces of a configuration and opens those that are joined.
func New(linux *specs.Linux) (*Plan, error) {
	plan := &Plan{fds: map[int]int{}, paths: map[int]string{}, offsets: linux.TimeOffsets}
	for _, wanted := range linux.Namespaces {
		k, ok := find(wanted.Type)
		switch {
		case !ok:
			plan.Close()
			return nil, fmt.Errorf("linux.namespaces: unknown type %q", wanted.Type)
		case (plan.New|plan.Joined)&k.flag != 0:
			plan.Close()
			return nil, fmt.Errorf("linux.namespaces: type %q is there twice", wanted.Type)
		case wanted.Path == "":
			plan.New |= k.flag
			continue
		}
		if err := plan.open(k, wanted.Path); err != nil {
			plan.Close()
			return nil, err
		}
	}
	err := plan.check()
	if path, joined := plan.paths[unix.CLONE_NEWUSER]; joined && err == nil {
		err = checkJoinedUser(linux, path)
	}
	if len(linux.Sysctl) > 0 && plan.Joined != 0 && err == nil {
		err = plan.checkSysctls(linux.Sysctl)
	}
	if err != nil {
		plan.Close()
		return nil, err
	}
	return plan, plan.chooseWithin()
}

func find(name specs.LinuxNamespaceType) (kind, bool) {
	for _, k := range kinds() {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

func (p *Plan) open(k kind, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the %s namespace %q: %w", k.name, path, err)
	}
	p.Joined |= k.flag
	p.fds[k.flag], p.paths[k.flag] = fd, path
	actual, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || actual != k.flag {
		return fmt.Errorf("cannot join namespace %q: it is no %s namespace", path, k.name)
	}
	return nil
}

func (p *Plan) check() error {
	switch {
	case p.New&unix.CLONE_NEWUSER != 0 && p.Joined&unix.CLONE_NEWNS != 0:
		return fmt.Errorf("linux.namespaces: the root of a new user namespace may not mount in the mount namespace %q of another", p.paths[unix.CLONE_NEWNS])
	case len(p.offsets) > 0 && p.New&unix.CLONE_NEWTIME == 0:
		return fmt.Errorf("linux.timeOffsets: the container has no new time namespace")
	}
	return nil
}

// checkSysctls refuses settings in a namespace that is the runtime's own, by whatever path.
func (p *Plan) checkSysctls(sysctls map[string]string) error {
	for name := range sysctls {
		holder, _ := config.SysctlNamespace(name)
		k, ok := find(holder)
		if !ok || p.Joined&k.flag == 0 {
			continue
		}
		var own, joined unix.Stat_t
		if err := errors.Join(unix.Stat("/proc/self/ns/"+k.file, &own), unix.Fstat(p.fds[k.flag], &joined)); err != nil {
			return fmt.Errorf("cannot look at namespace %q: %w", p.paths[k.flag], err)
		}
		if own.Ino == joined.Ino && own.Dev == joined.Dev {
			return fmt.Errorf("linux.sysctl %q: the namespace that has it is the host's, %q", name, p.paths[k.flag])
		}
	}
	return nil
}

// chooseWithin decides which namespaces the thread is in for the moment of the fork.
func (p *Plan) chooseWithin() error {
	for _, k := range kinds() {
		if p.Joined&k.flag == 0 || k.flag&(unix.CLONE_NEWUSER|unix.CLONE_NEWNS|late) != 0 {
			continue
		}
		// A process can't change its own pid namespace, and a child in a new user namespace has no right to enter those of the host.
		if k.flag != unix.CLONE_NEWPID && p.New&unix.CLONE_NEWUSER == 0 || k.flag == unix.CLONE_NEWPID && p.pidLater() {
			continue
		}
		within, err := Enter(k.flag, p.fds[k.flag], p.paths[k.flag])
		if err != nil {
			p.Close()
			return err
		}
		p.within = append(p.within, within)
	}
	return nil
}

// Enter describes a namespace to be in for the moment of a fork.
func Enter(flag, fd int, path string) (launch.Namespace, error) {
	for _, k := range kinds() {
		if k.flag != flag {
			continue
		}
		own, err := unix.Open("/proc/thread-self/ns/"+k.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return launch.Namespace{}, fmt.Errorf("cannot open the runtime's own %s namespace: %w", k.name, err)
		}
		return launch.Namespace{Type: flag, FD: fd, OwnFD: own, Path: path}, nil
	}
	return launch.Namespace{}, fmt.Errorf("no namespace has the flag %#x", flag)
}

// Close closes the descriptors.
func (p *Plan) Close() {
	for _, fd := range p.fds {
		_ = unix.Close(fd)
	}
	for _, within := range p.within {
		_ = unix.Close(within.OwnFD)
	}
}

// Birth returns how the child is to be born.
func (p *Plan) Birth() launch.Birth {
	birth := launch.Birth{CgroupFD: -1, Within: p.within}
	if !p.inherits() {
		birth.Flags = uint64(p.New &^ late)
	}
	return birth
}

// Mapped tells whether the child waits for its user mappings.
func (p *Plan) Mapped() bool { return p.New&unix.CLONE_NEWUSER != 0 }

// Simple tells whether the child needs neither an answer of the parent's nor memory of its own to enter its namespaces.
func (p *Plan) Simple() bool {
	return !p.Mapped() && !p.ForksAgain() && (p.New|p.Joined)&unix.CLONE_NEWTIME == 0
}

// ForksAgain tells whether the child replaces itself by a sibling.
func (p *Plan) ForksAgain() bool {
	return p.inherits() && (p.New&unix.CLONE_NEWPID != 0 || p.pidLater())
}

// pidLater tells whether only in the user namespace that is joined the child has the right to the pid namespace, which
// its sibling is born in.
func (p *Plan) pidLater() bool {
	const both = unix.CLONE_NEWUSER | unix.CLONE_NEWPID
	return p.Joined&both == both && os.Geteuid() != 0
}

// UserLater tells whether the child makes the new user namespace itself, and reports that it is ready for its mappings:
// it has to enter a namespace before which can't be entered from within, nor by this process for the moment of a fork.
func (p *Plan) UserLater() bool { return p.New&unix.CLONE_NEWUSER != 0 && p.Joined&late != 0 }

// inherits tells whether the child is born in the runtime's namespaces, as the user namespace that is to own its new ones
// comes later.
func (p *Plan) inherits() bool { return p.Joined&unix.CLONE_NEWUSER != 0 || p.UserLater() }

// Path returns the path by which a namespace is joined.
func (p *Plan) Path(flag int) string { return p.paths[flag] }

// OwnUser tells whether the container is in another user namespace than the runtime.
func (p *Plan) OwnUser() bool { return (p.New|p.Joined)&unix.CLONE_NEWUSER != 0 }

// Add adds the entering of all namespaces but a new cgroup namespace. As soon as the child is in its mount namespace, and
// before it becomes the root of another user namespace, asHost is called to add what is best done just then.
func (p *Plan) Add(program *launch.Program, asHost func() error) error {
	p.addJoins(program)
	if p.UserLater() {
		program.Call("create", "the user namespace", unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWUSER))
		program.Report(launch.Ready)
	}
	if p.Mapped() {
		program.Wait()
	}
	if p.inherits() {
		if more := p.New &^ (late | unix.CLONE_NEWPID | unix.CLONE_NEWUSER); more != 0 {
			program.Call("create", "the container's namespaces", unix.SYS_UNSHARE, launch.Int(more))
		}
	}
	if p.ForksAgain() {
		forkAgain(program, uint64(p.New&unix.CLONE_NEWPID))
	}
	if err := asHost(); err != nil {
		return err
	}
	// The child is not dumpable, and its files in /proc are those of the host's root, not of the user namespace's. It has
	// the right to set its offsets in both cases.
	if p.New&unix.CLONE_NEWTIME != 0 {
		p.addTime(program)
	}
	if p.OwnUser() {
		BecomeRoot(program)
	}
	return nil
}

// forkAgain makes the program go on in another process, which leads a session as the one before does: it can have no
// terminal otherwise.
func forkAgain(program *launch.Program, flags uint64) {
	program.SecondFork(flags)
	program.Call("create", "a session", unix.SYS_SETSID)
}

// AddCgroup adds the making of a new cgroup namespace. The child is in its cgroup before.
func (p *Plan) AddCgroup(program *launch.Program) {
	if p.New&unix.CLONE_NEWCGROUP != 0 {
		program.Call("create", "the cgroup namespace", unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWCGROUP))
	}
}

// addJoins enters what the host may enter before the user namespace, and the rest after it.
func (p *Plan) addJoins(program *launch.Program) {
	entered := 0
	for _, within := range p.within {
		entered |= within.Type
	}
	join := func(k kind) launch.Op {
		return program.Call("join", fmt.Sprintf("the %s namespace %q", k.name, p.paths[k.flag]), unix.SYS_SETNS, launch.Int(p.fds[k.flag]), launch.Int(k.flag))
	}
	userJoined := p.Joined&unix.CLONE_NEWUSER != 0
	for _, k := range kinds() {
		if p.Joined&k.flag == 0 || (entered|unix.CLONE_NEWUSER)&k.flag != 0 {
			continue
		}
		if !userJoined {
			join(k)
			continue
		}
		denied := program.NewLabel()
		join(k).OnError(denied, unix.EPERM)
		program.Close(launch.Int(p.fds[k.flag])) // the mark of success
		program.Place(denied)
	}
	if !userJoined {
		return
	}
	for _, k := range kinds() {
		if p.Joined&k.flag == 0 || entered&k.flag != 0 {
			continue
		}
		op := join(k)
		if k.flag != unix.CLONE_NEWUSER {
			op.Tolerate(unix.EBADF)
		}
	}
}

// BecomeRoot makes the child the root of its user namespace.
func BecomeRoot(program *launch.Program) {
	program.Call("become", "group 0 of the user namespace", unix.SYS_SETRESGID, launch.Int(0), launch.Int(0), launch.Int(0))
	program.Call("become", "user 0 of the user namespace", unix.SYS_SETRESUID, launch.Int(0), launch.Int(0), launch.Int(0))
}

// addTime makes the time namespace: its offsets can be set until a process enters it.
func (p *Plan) addTime(program *launch.Program) {
	program.Call("create", "the time namespace", unix.SYS_UNSHARE, launch.Int(unix.CLONE_NEWTIME))
	if len(p.offsets) > 0 {
		var lines []byte
		for clock, offset := range p.offsets {
			lines = fmt.Appendf(lines, "%s %d %d\n", clock, offset.Secs, offset.Nanosecs)
		}
		program.WriteFile("set", "linux.timeOffsets", "/proc/self/timens_offsets", string(lines))
	}
	fd := program.Call("open", "the time namespace", unix.SYS_OPENAT, launch.Cwd, program.String("/proc/self/ns/time_for_children"),
		launch.Int(os.O_RDONLY|unix.O_CLOEXEC), launch.Int(0)).Result()
	program.Call("enter", "the time namespace", unix.SYS_SETNS, fd, launch.Int(unix.CLONE_NEWTIME))
	program.Close(fd)
}
