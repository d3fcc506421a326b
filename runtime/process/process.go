// Package process writes the operations that turn a child, which is in its namespaces and root already, into the
// user's process: identity, limits, terminal, capabilities, filter, and the execution of the program.
//
// What needs privileges comes before they are given up, and the seccomp filter as late as possible, because it may
// forbid what this package does:
//
//	limits, bounding set → user and groups → capabilities → working directory, program
//	    → [wait for start] → no_new_privs, filter → last capabilities → execve
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
	Home     string           // for HOME, unless the environment has it

	// Terminal is the descriptor of the program's terminal.
	Terminal *launch.Arg
	// Notify sends the filter's descriptor to the listener; nil without.
	Notify func(p *launch.Program, listener launch.Arg)
	// Wait adds the waiting for the permission to execute.
	Wait func(p *launch.Program)
	// Attributes are descriptors of files in /proc/self/attr with what to write there before the execution.
	Attributes []Attribute
}

// Attribute is a label that the kernel is to give to the program that is executed.
type Attribute struct {
	Field string // of config.json
	FD    launch.Arg
	Value string
}

// Add adds the operations.
func Add(p *launch.Program, c Config) error {
	if err := c.addLimits(p); err != nil {
		return err
	}
	c.addTerminal(p)
	c.addBounding(p)
	c.addDirectoryAndUser(p)
	path, err := c.addLookup(p)
	if err != nil {
		return err
	}
	c.addDescriptors(p)
	if c.Wait != nil {
		c.Wait(p)
	}
	for _, attribute := range c.Attributes {
		p.Call("set", attribute.Field, unix.SYS_WRITE, attribute.FD, p.String(attribute.Value), launch.Int(len(attribute.Value)))
	}
	if c.Process.NoNewPrivileges {
		p.Call("set", "process.noNewPrivileges", unix.SYS_PRCTL, launch.Int(unix.PR_SET_NO_NEW_PRIVS), launch.Int(1), launch.Int(0), launch.Int(0), launch.Int(0))
	}
	c.addFilter(p)
	if c.untilFilter() != 0 {
		c.addCapabilities(p, 0)
	}
	c.addExecute(p, path)
	return nil
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

// addDescriptors lets nothing through to the program but what it is meant to inherit.
func (c Config) addDescriptors(p *launch.Program) {
	for fd := 3; fd < 3+c.Preserve; fd++ {
		p.Call("preserve", fmt.Sprintf("descriptor %d", fd), unix.SYS_FCNTL, launch.Int(fd), launch.Int(unix.F_SETFD), launch.Int(0))
	}
	p.Call("close", "the runtime's descriptors", unix.SYS_CLOSE_RANGE, launch.Int(3+c.Preserve), launch.Int(uint32(1<<32-1)), launch.Int(unix.CLOSE_RANGE_CLOEXEC))
}

func (c Config) addFilter(p *launch.Program) {
	if c.Filter == nil {
		return
	}
	program := &unix.SockFprog{Len: uint16(len(c.Filter.Program)), Filter: &c.Filter.Program[0]}
	listener := p.Call("load", "linux.seccomp", unix.SYS_SECCOMP, launch.Int(unix.SECCOMP_SET_MODE_FILTER), launch.Int(c.Filter.Flags), launch.Pin(p, program)).Result()
	if c.Notify != nil {
		c.Notify(p, listener)
		p.Close(listener)
	}
}

// addExecute executes the program that the lookup has found.
func (c Config) addExecute(p *launch.Program, path launch.Arg) {
	env := c.Process.Env
	if c.Home != "" {
		env = append(env[:len(env):len(env)], "HOME="+c.Home)
	}
	name := c.Process.Args[0]
	p.Call("execute", fmt.Sprintf("%q", name), unix.SYS_EXECVE, path, p.Strings(c.Process.Args), p.Strings(env)).
		Explain(func(errno unix.Errno) error { return ExecutionFailed(name, errno) })
}

// ExecutionFailed says why a program could not be executed.
func ExecutionFailed(name string, errno unix.Errno) error {
	switch errno {
	case unix.EACCES:
		return fmt.Errorf("cannot start the process: exec: %q: permission denied", name)
	case unix.ENOEXEC:
		return fmt.Errorf("cannot start the process: exec: %q: exec format error", name)
	case unix.ENOENT: // the file is there: its interpreter isn't
		return fmt.Errorf("cannot start the process: exec: %q: no such file or directory (the program's interpreter is missing)", name)
	}
	return fmt.Errorf("cannot start the process: exec: %q: %w", name, errno)
}
