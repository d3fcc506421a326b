package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/container"
	"github.com/berthd/berth/runtime/terminal"
)

// execution holds the flags of exec.
type execution struct {
	options                 container.ExecOptions
	process, consoleSocket  string
	cwd, user               string
	env, gids, capabilities list
	tty, detach             bool
	nnp                     *bool // nil: as the container has it
	apparmor, label         string
	ignored                 []string // fields of the file that there are none of
}

func (g *globals) exec(args []string) (int, error) {
	flags := newFlags("exec", "[options] ID COMMAND [ARGUMENT…]  or  exec [options] -process FILE ID")
	e := execution{options: container.ExecOptions{Warn: g.warn, Console: -1}}
	both(flags.StringVar, &e.process, "process,p", "`file` with the process as JSON")
	flags.StringVar(&e.consoleSocket, "console-socket", "", "`path` of a unix socket to send the terminal's master to")
	flags.StringVar(&e.cwd, "cwd", "", "working `directory`")
	both(flags.StringVar, &e.user, "user,u", "`UID[:GID]`")
	flags.Var(&e.env, "env", "set `NAME=VALUE`; may be repeated")
	flags.Var(&e.env, "e", "short for -env")
	flags.Var(&e.gids, "additional-gids", "`gid` of a further group; may be repeated")
	flags.Var(&e.gids, "g", "short for -additional-gids")
	flags.Var(&e.capabilities, "cap", "give the process this `capability` too; may be repeated")
	flags.Var(&e.capabilities, "c", "short for -cap")
	both(flags.BoolVar, &e.tty, "tty,t", "give the process a terminal")
	both(flags.BoolVar, &e.detach, "detach,d", "don't wait for the process to end")
	flags.BoolFunc("no-new-privs", "set no_new_privs, or with =false don't", func(text string) error {
		value, err := strconv.ParseBool(text)
		e.nnp = &value
		return err
	})
	flags.StringVar(&e.apparmor, "apparmor", "", "AppArmor `profile`")
	flags.StringVar(&e.label, "process-label", "", "SELinux `label`")
	flags.StringVar(&e.options.PidFile, "pid-file", "", "`file` to write the process's pid to")
	flags.StringVar(&e.options.PidfdSocket, "pidfd-socket", "", "`path` of a unix socket to send a pidfd of the process to")
	flags.IntVar(&e.options.PreserveFDs, "preserve-fds", 0, "pass `n` more descriptors to the process, from 3 on")
	flags.Var((*list)(&e.options.Cgroups), "cgroup", "`path` of a cgroup below the container's, or with cgroup v1 CONTROLLER[,CONTROLLER…]:PATH, which may be repeated")
	flags.BoolVar(&e.options.IgnorePaused, "ignore-paused", false, "execute in a paused container")
	flags.Bool("no-subreaper", false, "accepted for runc's sake: this runtime is none")
	if err := parseFlags(flags, args); err != nil {
		return 1, err
	}
	if err := checkArguments(flags, flags.NArg(), 1, -1); err != nil {
		return 1, err
	}
	status, err := e.attempt(g, flags.Arg(0), flags.Args()[1:])
	if err != nil {
		return 255, err // which says that it is not the process's
	}
	return status, nil
}

func (e *execution) attempt(g *globals, id string, command []string) (int, error) {
	c, err := container.Load(g.root, id)
	if err != nil {
		return 0, err
	}
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	described := e.process == "" || isRegular(e.process)
	if !described {
		e.options.Process = container.AnyProcess() // a pipe can be read only once
	} else if err := e.describe(c, command); err != nil {
		return 0, err
	}
	traced, err := c.Traced(e.options.Process)
	if err != nil {
		return 0, err
	}
	return enter(traced, func() (int, error) {
		if !described {
			if err := e.describe(c, command); err != nil {
				return 0, err
			}
		}
		for _, field := range e.ignored {
			g.warn(fmt.Sprintf("process %q: field %s: there is no such field, it is ignored", e.process, field))
		}
		return e.perform(g, c)
	})
}

// isRegular tells whether a file can be read again.
func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// describe puts the process together: from a file, or from the container's own with what the flags change.
func (e *execution) describe(c *container.Container, command []string) error {
	if e.process != "" {
		var err error
		e.options.Process, e.ignored, err = config.LoadProcess(e.process)
		return err
	}
	if len(command) == 0 {
		return errors.New("exec needs a command to execute, or --process")
	}
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	process := spec.Process
	process.Args, process.Terminal, process.ConsoleSize = command, e.tty, nil
	process.Env = append(process.Env, e.env...)
	if e.nnp != nil {
		process.NoNewPrivileges = *e.nnp
	}
	if e.cwd != "" {
		process.Cwd = e.cwd
	}
	if e.apparmor != "" {
		process.ApparmorProfile = e.apparmor
	}
	if e.label != "" {
		process.SelinuxLabel = e.label
	}
	e.addCapabilities(process)
	e.options.Process = process
	return errors.Join(e.setUser(process), config.CheckProcess(process))
}

func (e *execution) addCapabilities(process *specs.Process) {
	if len(e.capabilities) == 0 {
		return
	}
	if process.Capabilities == nil {
		process.Capabilities = &specs.LinuxCapabilities{}
	}
	sets := process.Capabilities
	for _, name := range e.capabilities {
		sets.Bounding = append(sets.Bounding, name)
		sets.Effective = append(sets.Effective, name)
		sets.Permitted = append(sets.Permitted, name)
		if sets.Inheritable != nil { // without which there is no ambient one
			sets.Ambient = append(sets.Ambient, name)
		}
	}
}

func (e *execution) setUser(process *specs.Process) error {
	number := func(text, what string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("invalid %s %q: it must be a number", what, text)
		}
		return uint32(n), nil
	}
	for _, text := range e.gids {
		gid, err := number(text, "--additional-gids")
		if err != nil {
			return err
		}
		process.User.AdditionalGids = append(process.User.AdditionalGids, gid)
	}
	if e.user == "" {
		return nil
	}
	uid, gid, grouped := strings.Cut(e.user, ":")
	var err error
	if process.User.UID, err = number(uid, "--user"); err != nil {
		return err
	}
	if grouped {
		process.User.GID, err = number(gid, "--user")
	}
	return err
}

func (e *execution) perform(g *globals, c *container.Container) (_ int, err error) {
	if err := checkPreserved(e.options.PreserveFDs); err != nil {
		return 0, err
	}
	wanted := e.options.Process.Terminal && e.detach
	switch {
	case wanted && e.consoleSocket == "":
		return 0, errNoConsole
	case !wanted && e.consoleSocket != "":
		return 0, errUselessConsole
	case wanted:
		if e.options.Console, err = terminal.Connect(e.consoleSocket); err != nil {
			return 0, err
		}
	}
	front, err := newForeground(e.detach, e.consoleSocket)
	if err != nil {
		return 0, err
	}
	defer front.close()
	if front.terminal != nil {
		e.options.Console = front.terminal.Socket()
		if e.options.Process.Terminal && e.options.Process.ConsoleSize == nil {
			e.options.Process.ConsoleSize = terminal.Size()
		}
	}
	e.options.Connect = func() error { return front.connect(e.options.Process.Terminal) }
	ready := front.guard(g.giveUp(c.ID))
	defer ready()
	executed, err := c.Exec(e.options)
	if err != nil {
		return 0, err
	}
	ready()
	g.note("container %q has another process %d", c.ID, executed.Process().Pid)
	if e.detach {
		return 0, nil
	}
	return front.wait(g, executed)
}
