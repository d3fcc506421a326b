// Package process writes the operations that turn a child, which is in its namespaces and root already, into the
// user's process: identity, limits, terminal, capabilities, filter, and the execution of the program.
//
// What needs privileges comes before they are given up, and the seccomp filter as late as possible, because it may
// forbid what this package does:
//
//	HOME → limits, terminal → user and groups → capabilities → working directory, program
//	    → [last leg: wait for start → descriptors → labels → filter → last capabilities → execve]
//	    → [or with no_new_privs: … → labels → no_new_privs → last capabilities → filter → execve]
//
// To load a filter takes no_new_privs or CAP_SYS_ADMIN, which the last capabilities may take away. With no_new_privs the
// filter comes last, and need allow nothing but execve.
//
// The execution of the last leg changes the capabilities by the kernel's rules: root has the bounding set afterwards,
// and everybody else the ambient set.
package process

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/capability"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/seccomp"
)

// Config is what there is to know beside the configuration.
type Config struct {
	Process  *specs.Process
	Filter   *seccomp.Filter  // nil without
	Masks    capability.Masks // nothing at all if Process.Capabilities is nil
	LastCap  int              // the kernel's highest capability
	Preserve int              // descriptors from 3 on that the program inherits
	Chown    []int            // which of 0, 1, 2 are given to the user
	Bare     bool             // the environment is complete, also without HOME
	Program  string           // executed in place of what the arguments name, with the same arguments

	// Terminal is the descriptor of the program's terminal.
	Terminal *launch.Arg
	// Wait adds the waiting for the permission to execute.
	Wait func(l *launch.Last)
	// Attributes are written to files in /proc/self/attr before the execution. AttributesFD is a number for its descriptor,
	// which HoldAttributes opens.
	Attributes   []Attribute
	AttributesFD int
}

// Attribute is a label that the kernel is to give to the program that is executed.
type Attribute struct {
	Field string // of config.json
	File  string // in /proc/self/attr
	Value string
}

// Add adds the operations.
func Add(p *launch.Program, c Config) error {
	home := launch.Int(0)
	if c.lacksHome() {
		home = c.addHome(p)
	}
	if err := c.addLimits(p); err != nil {
		return err
	}
	c.addTerminal(p)
	addSignals(p)
	c.addDirectoryAndUser(p)
	path, err := c.addLookup(p)
	if err != nil {
		return err
	}
	// Others could walk through what is left open while the process waits (CVE-2024-21626).
	p.Call("close", "the runtime's descriptors", unix.SYS_CLOSE_RANGE, launch.Int(3+c.Preserve), launch.Int(uint32(1<<32-1)), launch.Int(unix.CLOSE_RANGE_CLOEXEC))
	last := p.NewLast()
	c.addLast(last)
	p.Enter(last, path, home)
	return nil
}

// HoldAttributes adds the opening of the process's directory in the host's /proc, while that can be reached. What a
// process has open while it waits others can walk through (CVE-2024-21626), and so it is a mount of its own, out of
// which no ".." leads.
func (c Config) HoldAttributes(p *launch.Program) {
	if len(c.Attributes) == 0 {
		return
	}
	const quoted = `"/proc/self/attr"`
	name := p.String("/proc/self/attr")
	opened := p.NewLabel()
	dir := p.Call("open", quoted, unix.SYS_OPEN_TREE, launch.Cwd, name, launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)).
		Then(opened).OnError(0, unix.EPERM).Result()
	// An ordinary user has no right to mount, and no more rights on the other side than the container has anyway.
	p.Call("open", quoted, unix.SYS_OPENAT, launch.Cwd, name, launch.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), launch.Int(0)).Into(dir)
	p.Place(opened)
	stat := launch.Pin(p, &unix.Statfs_t{})
	p.Call("check", quoted, unix.SYS_FSTATFS, dir, stat)
	p.Expect("use", quoted, stat, launch.Masked{Mask: 1<<32 - 1, Value: unix.PROC_SUPER_MAGIC, Errno: unix.ENOTSUP}).
		Explain(func(unix.Errno) error {
			return fmt.Errorf("cannot use %s: it is not in a file system of type \"proc\"", quoted)
		})
	p.Call("keep", quoted, unix.SYS_DUP3, dir, launch.Int(c.AttributesFD), launch.Int(unix.O_CLOEXEC))
	p.Close(dir)
}

// addLast adds what the process does in an image of its own, once nothing of the runtime is in it any more.
func (c Config) addLast(l *launch.Last) {
	// The execution of the image has let others in the container trace the process again, which has no filter yet.
	l.Call("protect", "the process", unix.SYS_PRCTL, launch.Int(unix.PR_SET_DUMPABLE), launch.Int(0), launch.Int(0), launch.Int(0), launch.Int(0))
	c.Wait(l)
	for _, attribute := range c.Attributes {
		l.Keep(c.AttributesFD)
		l.Call("set", attribute.Field, unix.SYS_OPENAT, launch.Int(c.AttributesFD), l.String(attribute.File), launch.Int(unix.O_WRONLY|unix.O_CLOEXEC), launch.Int(0)).ToNext()
		l.Call("set", attribute.Field, unix.SYS_WRITE, launch.Int(0), l.String(attribute.Value), launch.Int(len(attribute.Value)))
	}
	l.Call("close", "the runtime's descriptors", unix.SYS_CLOSE_RANGE, launch.Int(3+c.Preserve), launch.Int(uint32(1<<32-1)), launch.Int(unix.CLOSE_RANGE_CLOEXEC))
	if c.Process.NoNewPrivileges {
		l.Call("set", "process.noNewPrivileges", unix.SYS_PRCTL, launch.Int(unix.PR_SET_NO_NEW_PRIVS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
	}
	if c.Process.NoNewPrivileges {
		c.addLastCapabilities(l)
		c.addFilter(l)
	} else {
		c.addFilter(l)
		c.addLastCapabilities(l)
	}
	env := c.environment()
	variables := l.Strings(env)
	if c.lacksHome() {
		l.Replaces(variables, len(env)-1)
	}
	name := c.program()
	l.Call("execute", fmt.Sprintf("%q", name), unix.SYS_EXECVE, launch.Int(0), l.Strings(c.Process.Args), variables).TakesPath().
		Explain(func(errno unix.Errno) error { return ExecutionFailed(name, errno) })
}

func (c Config) addTerminal(p *launch.Program) {
	if c.Terminal == nil {
		for _, fd := range c.Chown {
			p.Call("give", fmt.Sprintf("descriptor %d to the user", fd), unix.SYS_FCHOWN, launch.Int(fd), launch.Int(c.Process.User.UID), launch.Int(-1)).
				Tolerate(unix.EINVAL, unix.EPERM, unix.EROFS, unix.EBADF)
		}
		return
	}
	p.Call("control", "the terminal", unix.SYS_IOCTL, *c.Terminal, launch.Int(unix.TIOCSCTTY), launch.Int(0))
	for fd := range 3 {
		p.Call("redirect", "the standard descriptors to the terminal", unix.SYS_DUP3, *c.Terminal, launch.Int(fd), launch.Int(0))
	}
	p.Call("give", "the terminal to the user", unix.SYS_FCHOWN, launch.Int(0), launch.Int(c.Process.User.UID), launch.Int(-1)).
		Tolerate(unix.EINVAL, unix.EPERM, unix.EROFS)
}

func (c Config) addFilter(l *launch.Last) {
	if c.Filter == nil {
		return
	}
	instructions := launch.LastSlice(l, c.Filter.Program)
	program := l.Words(launch.Int(len(c.Filter.Program)), instructions) // struct sock_fprog
	l.Call("load", "linux.seccomp", unix.SYS_SECCOMP, launch.Int(unix.SECCOMP_SET_MODE_FILTER), launch.Int(c.Filter.Flags), program)
	if c.Filter.Notify {
		l.AwaitRelease("the seccomp agent")
	}
}

// ExecutionFailed says why a program could not be executed.
func ExecutionFailed(name string, errno unix.Errno) error {
	switch errno {
	case unix.EACCES:
		return fmt.Errorf("cannot start the process: exec: %q: permission denied", name)
	case unix.EISDIR: // as execve has it too: engines look for those words
		return fmt.Errorf("cannot start the process: exec: %q: is a directory: permission denied", name)
	case unix.ENOEXEC:
		return fmt.Errorf("cannot start the process: exec: %q: exec format error", name)
	case unix.ENOENT: // the file is there: its interpreter isn't
		return fmt.Errorf("cannot start the process: exec: %q: no such file or directory (the program's interpreter is missing)", name)
	}
	return fmt.Errorf("cannot start the process: exec: %q: %w", name, errno)
}
