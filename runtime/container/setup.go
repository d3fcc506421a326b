package container

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/process"
	"github.com/berthd/berth/runtime/rootfs"
	"github.com/berthd/berth/runtime/seccomp"
	"github.com/berthd/berth/runtime/terminal"
)

// setup is the writing of a container's setup program.
type setup struct {
	options   CreateOptions
	container *Created
	group     cgroup.Cgroup
	later     bool // the process joins the cgroup when it is released: it is still being made
	plan      *namespace.Plan
	listener  int // of the socket at which the process waits, or -1
	sysctls   int // descriptor of /proc/sys, if there are any to set
	terminal  *launch.Arg
	root      *rootfs.Builder
}

func (c *Created) newSetup(o CreateOptions, group cgroup.Cgroup) *setup {
	return &setup{options: o, container: c, group: group, plan: c.plan, listener: -1}
}

func (s *setup) close() {
	if s.root != nil {
		s.root.Close()
	}
	if s.listener >= 0 {
		_ = unix.Close(s.listener)
	}
	if s.sysctls > 0 {
		_ = unix.Close(s.sysctls)
	}
}

// program writes down the child's life: every line of it is one step of what a container is.
func (s *setup) program() (*launch.Program, error) {
	p := launch.New()
	spec := s.container.Spec
	p.Close(launch.Int(int(s.container.lock.Fd()))) // or the lock would last as long as the child
	p.Call("create", "a session", unix.SYS_SETSID)
	addOOMScore(p, spec.Process.OOMScoreAdj)
	p.Call("clear", "the umask", unix.SYS_UMASK, launch.Int(0)) // modes of devices and directories are as asked for
	config := s.rootfs()
	if s.later {
		config.Join = func() {
			p.Wait()
			joinCgroup(p, s.group)
			process.ResetAffinity(p)
			s.plan.AddCgroup(p)
		}
	} else {
		joinCgroup(p, s.group)
		process.ResetAffinity(p)
	}
	root := rootfs.New(p, config)
	s.root = root
	if err := errors.Join(root.Prepare(), s.openSysctls()); err != nil {
		return nil, err
	}
	if err := s.plan.Add(p, root.Open); err != nil {
		return nil, err
	}
	if !s.later {
		s.plan.AddCgroup(p)
	}
	if !s.container.SharedKeyring {
		addKeyring(p, s.container.ID, s.plan.OwnUser())
	}
	dumpable, err := s.opensForHooks()
	if err != nil {
		return nil, err
	}
	setDumpable(p, dumpable)
	s.addNames(p)
	s.addLoopback(p)
	c, err := processConfig(spec.Process, s.container.filter)
	if err != nil {
		return nil, err
	}
	if err := grant(&c, s.plan.OwnUser(), s.options.Warn); err != nil {
		return nil, err
	}
	c.HoldAttributes(p)
	if err := root.Fill(func() { s.addPause(p, dumpable) }); err != nil {
		return nil, err
	}
	if err := addPersonality(p, spec.Linux.Personality); err != nil {
		return nil, err
	}
	if spec.Linux.MemoryPolicy != nil {
		if err := process.AddMemoryPolicy(p, spec.Linux.MemoryPolicy); err != nil {
			return nil, err
		}
	}
	c.Preserve, c.Terminal = s.options.PreserveFDs, s.terminal
	if c.Wait, err = s.wait(); err != nil {
		return nil, err
	}
	return p, process.Add(p, c)
}

// addPause adds the wait for the host, whose hooks find all that is mounted and can reach it, and then what may be about
// network devices that have come meanwhile.
func (s *setup) addPause(p *launch.Program, dumpable int) {
	if pauses(s.container.Spec) {
		p.Report(launch.Ready)
		p.Wait()
	}
	if dumpable != 0 {
		setDumpable(p, 0)
	}
	addSysctls(p, s.sysctls, s.container.Spec.Linux.Sysctl)
}

// opensForHooks returns 1 if the process stays dumpable up to the pause, or else 0: hooks of an ordinary user don't come
// into the namespaces of a process that they may not look at. Those of root do.
//
// Who looks at a process can take it over, with the host still around this one, and needs rights in its user namespace
// for it. In a new one there is nobody yet but hooks; and who has rights to it from outside is the user, who may do the
// same to the runtime. One that was there before is full of the user's containers, from which nothing hides: a hook's
// program may be looked at as soon as it is executed, whatever the process was before; a pid namespace hides it only from
// those that are not in the host's; and Linux 6.18 opens the mount namespace itself, by a number that can be guessed.
func (s *setup) opensForHooks() (int, error) {
	list := s.container.Spec.Hooks
	switch {
	case list == nil || !pauses(s.container.Spec) || os.Geteuid() == 0:
		return 0, nil
	case s.plan.New&unix.CLONE_NEWUSER != 0:
		return 1, nil
	case len(list.CreateContainer) > 0:
		return 0, errdefs.As(errdefs.ErrInvalidArgument, errors.New("cannot run hooks.createContainer for an ordinary user: "+
			"other containers of the user namespace that linux.namespaces joins could reach the host by them; they need a new one"))
	}
	return 0, nil
}

// setDumpable sets whether others may look at the process, and trace it. The kernel closes it as well when the user
// changes.
func setDumpable(p *launch.Program, dumpable int) {
	p.Call("protect", "the process", unix.SYS_PRCTL, launch.Int(unix.PR_SET_DUMPABLE), launch.Int(dumpable), launch.Int(0), launch.Int(0), launch.Int(0))
}

// joinCgroup makes the child enter its cgroup where it was not born in it.
func joinCgroup(p *launch.Program, group cgroup.Cgroup) {
	if group == nil {
		return
	}
	if cgroup.Distant(group) {
		p.Wait()
	}
	for _, file := range group.JoinFiles() {
		p.WriteFile("join", fmt.Sprintf("cgroup %q", strings.TrimSuffix(file, "/tasks")), file, "0")
	}
}

// adopt moves a process that waits for it in joinCgroup.
func adopt(process *launch.Process, group cgroup.Cgroup) error {
	if !cgroup.Distant(group) {
		return nil
	}
	if err := process.Unless(group.Add(process.Pid)); err != nil {
		return err
	}
	return process.Release()
}

// addKeyring enters a session keyring of the container's own: the keys of who started it are none of its business. A
// process of exec finds the first one's by its name, which takes the right to search it.
func addKeyring(p *launch.Program, id string, ownUser bool) {
	const usual, byUser, byOthers = 0x3f130000, 0x080000, 0x08
	permissions := usual | byUser
	if ownUser {
		permissions = usual | byOthers
	}
	keyring := p.Call("enter", "the container's session keyring", unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), p.String("_ses."+id)).
		Tolerate(unix.ENOSYS, unix.EPERM).Result()
	p.Call("open", "the session keyring to the container", unix.SYS_KEYCTL, launch.Int(unix.KEYCTL_SETPERM), keyring, launch.Int(permissions)).Tolerate()
}

func addPersonality(p *launch.Program, wanted *specs.LinuxPersonality) error {
	if wanted == nil {
		return nil
	}
	number, err := process.Personality(wanted)
	if err != nil {
		return err
	}
	p.Call("set", "linux.personality", unix.SYS_PERSONALITY, launch.Int(number))
	return nil
}

func (s *setup) addNames(p *launch.Program) {
	if name := s.container.Spec.Hostname; name != "" {
		p.Call("set", fmt.Sprintf("hostname %q", name), unix.SYS_SETHOSTNAME, p.String(name), launch.Int(len(name)))
	}
	if name := s.container.Spec.Domainname; name != "" {
		p.Call("set", fmt.Sprintf("domainname %q", name), unix.SYS_SETDOMAINNAME, p.String(name), launch.Int(len(name)))
	}
}

// addLoopback brings up the loopback interface of a new network namespace, as programs expect it.
func (s *setup) addLoopback(p *launch.Program) {
	if s.plan.New&unix.CLONE_NEWNET == 0 {
		return
	}
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return // the name is not too long
	}
	request.SetUint16(unix.IFF_UP)
	socket := p.Call("create", "a socket", unix.SYS_SOCKET, launch.Int(unix.AF_INET), launch.Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), launch.Int(0)).Result()
	p.Call("bring up", "the loopback interface", unix.SYS_IOCTL, socket, launch.Int(unix.SIOCSIFFLAGS), launch.Pin(p, request))
	p.Close(socket)
}

// attributes are the labels of the process, for files of the host's /proc that are written when it is out of sight.
func attributes(c *process.Config) error {
	add := func(field, file, value string) {
		c.Attributes = append(c.Attributes, process.Attribute{Field: field, File: file, Value: value})
	}
	if c.Process.ApparmorProfile != "" {
		file := "apparmor/exec"
		if _, err := os.Stat("/proc/self/attr/apparmor"); err != nil {
			file = "exec" // before Linux 5.8
		}
		add("process.apparmorProfile", file, "exec "+c.Process.ApparmorProfile)
	}
	if c.Process.SelinuxLabel != "" {
		add("process.selinuxLabel", "exec", c.Process.SelinuxLabel)
	}
	if len(c.Attributes) == 0 {
		return nil
	}
	var err error
	if c.AttributesFD, err = unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil { // what holds the number
		return fmt.Errorf("cannot open /dev/null: %w", err)
	}
	return nil
}

func (s *setup) rootfs() rootfs.Config {
	c := rootfs.Config{
		Spec: s.container.Spec, Bundle: s.container.Bundle, Root: s.container.Rootfs,
		NoPivot: s.options.NoPivot, OwnUser: s.plan.OwnUser(), BindDevices: s.plan.OwnUser() || s.group == nil || !s.later && s.group.Barred(),
		CgroupPaths:     s.container.Cgroups,
		Warn:            s.options.Warn,
		CgroupNamespace: (s.plan.New|s.plan.Joined)&unix.CLONE_NEWCGROUP != 0,
		Detached:        (s.plan.New|s.plan.Joined)&unix.CLONE_NEWNS == 0,
	}
	if s.container.Spec.Process.Terminal {
		made := terminal.Terminal{Socket: s.options.Console, Size: s.container.Spec.Process.ConsoleSize}
		c.Console = func(p *launch.Program, openPtmx func(flags int) launch.Op) launch.Arg {
			slave := made.Add(p, openPtmx(unix.O_RDWR|unix.O_NOCTTY).Result())
			s.terminal = &slave
			return slave
		}
	}
	return c
}

// compilation returns the filter of a configuration, nil without, when it is compiled.
type compilation func() (*seccomp.Filter, error)

// compile begins to compile the filter, which takes as long as what is done meanwhile.
func compile(spec *specs.Spec) compilation {
	profile := spec.Linux.Seccomp
	if profile == nil {
		return func() (*seccomp.Filter, error) { return nil, nil }
	}
	compiled := sync.OnceValues(func() (*seccomp.Filter, error) { return seccomp.Compile(profile) })
	go func() { _, _ = compiled() }()
	return compiled
}

// processConfig is what create and exec have in common.
func processConfig(wanted *specs.Process, filter compilation) (process.Config, error) {
	c := process.Config{Process: wanted}
	var err error
	if c.Filter, err = filter(); err != nil {
		return c, err
	}
	if !wanted.Terminal {
		c.Chown = ownable(wanted.User.UID)
	}
	return c, attributes(&c)
}

// ownable returns which standard descriptors the user is given: not those that are the user's already, and not
// /dev/null, which is the whole host's, nor terminals, which are those of who sits there: users of the host with the same
// number could read what is typed.
func ownable(uid uint32) []int {
	var fds []int
	for fd := range 3 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil || stat.Uid == uid || stat.Mode&unix.S_IFMT == unix.S_IFCHR && others(fd, stat.Rdev) {
			continue
		}
		fds = append(fds, fd)
	}
	return fds
}

func others(fd int, device uint64) bool {
	if device == unix.Mkdev(1, 3) {
		return true
	}
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// pauses tells whether something comes between the namespaces and the root: hooks, or network devices, which have to be
// there before their settings are written.
func pauses(spec *specs.Spec) bool {
	h := spec.Hooks
	if len(spec.Linux.NetDevices) > 0 {
		return true
	}
	//nolint:staticcheck // prestart hooks are deprecated, and still what people have
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}
