package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/container"
	"github.com/berthd/berth/runtime/terminal"
)

// notifySocket is the variable with a service manager's socket for word that the service is ready.
const notifySocket = "NOTIFY_SOCKET"

// creation holds the flags that create and run share.
type creation struct {
	options               container.CreateOptions
	bundle, consoleSocket string
}

func (c *creation) define(g *globals, flags *flag.FlagSet) {
	c.options = container.CreateOptions{Root: g.root, Systemd: g.systemd, Console: -1, Tolerant: g.tolerant, Warn: g.warn}
	c.bundle = "."
	both(flags.StringVar, &c.bundle, "bundle,b", "`directory` with config.json")
	flags.StringVar(&c.consoleSocket, "console-socket", "", "`path` of a unix socket to send the terminal's master to")
	flags.StringVar(&c.options.PidFile, "pid-file", "", "`file` to write the process's pid to")
	flags.StringVar(&c.options.PidfdSocket, "pidfd-socket", "", "`path` of a unix socket to send a pidfd of the process to")
	flags.IntVar(&c.options.PreserveFDs, "preserve-fds", 0, "pass `n` more descriptors to the container, from 3 on")
	flags.BoolVar(&c.options.NoPivot, "no-pivot", false, "move the root instead of pivot_root, for a host on a ramdisk")
	flags.BoolVar(&c.options.NoNewKeyring, "no-new-keyring", false, "let the container use the caller's session keyring")
}

// enter reads the bundle and begins what is done with it.
func (c *creation) enter(begin func() (int, error)) (int, error) {
	var err error
	if c.options.Bundle, err = container.ReadBundle(c.bundle); err != nil {
		return 1, err
	}
	return enter(c.options.Bundle.Traced(), begin)
}

// connect opens the console socket, if there is one, and looks at what else the caller hands over.
func (c *creation) connect() error {
	// A service manager's sockets, as sd_listen_fds(3) has them: of another process they may be meant for.
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && n > 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		c.options.PreserveFDs += n
		c.options.Env = []string{"LISTEN_FDS=" + strconv.Itoa(n), "LISTEN_PID=1"}
	}
	c.options.PidfdSocket = container.SocketOf(c.bundle, c.options.PidfdSocket)
	c.options.Notify = os.Getenv(notifySocket) != ""
	if err := checkPreserved(c.options.PreserveFDs); err != nil {
		return err
	}
	if c.consoleSocket == "" {
		return nil
	}
	fd, err := terminal.Connect(container.SocketOf(c.bundle, c.consoleSocket))
	c.options.Console = fd
	return err
}

// checkPreserved refuses descriptors that the caller has not handed over: they may be the runtime's own by now.
func checkPreserved(count int) error {
	for fd := 3; fd < 3+count; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return fmt.Errorf("cannot pass --preserve-fds %d: descriptor %d is not open", count, fd)
		}
	}
	return nil
}

func (g *globals) create(args []string) (int, error) {
	flags := newFlags("create", "[options] ID")
	var c creation
	c.define(g, flags)
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	c.options.ID = id
	return c.enter(func() (int, error) { return c.create(g) })
}

func (c *creation) create(g *globals) (int, error) {
	if err := c.connect(); err != nil {
		return 1, err
	}
	created, err := container.Create(c.options)
	if err != nil {
		return 1, err
	}
	defer created.Close()
	g.note("container %q has process %d", created.ID, created.Pid)
	return 0, c.checkConsole(created, true)
}

// checkConsole undoes the creation of a container for which a console socket was given in vain.
func (c *creation) checkConsole(created *container.Created, detach bool) error {
	if c.consoleSocket == "" || detach && created.Spec.Process.Terminal {
		return nil
	}
	return errors.Join(errUselessConsole, created.Delete(true))
}

func (g *globals) start(args []string) (int, error) {
	id, err := parseID(newFlags("start", "ID"), args)
	if err != nil {
		return 1, err
	}
	c, err := container.Lock(g.root, id)
	if err != nil {
		return 1, err
	}
	defer c.Close()
	// The lock is the only thing that is taken before, as the state must not change while it is read. A second execution
	// of the runtime releases it and takes it again.
	traced, err := c.TracedAtStart()
	if err != nil {
		return 1, err
	}
	return enter(traced, func() (int, error) { return g.startLocked(c) })
}

func (g *globals) startLocked(c *container.Container) (int, error) {
	c.Warn = g.warn
	ready, err := c.ListenReady(os.Getenv(notifySocket))
	if err != nil {
		return 1, err
	}
	defer ready.Close()
	if err := c.Start(); err != nil {
		return 1, err
	}
	c.Close()
	return 0, ready.Wait(c.Pid)
}

func (g *globals) run(args []string) (int, error) {
	flags := newFlags("run", "[options] ID")
	var c creation
	var detach, keep bool
	c.define(g, flags)
	both(flags.BoolVar, &detach, "detach,d", "don't wait for the process to end")
	flags.BoolVar(&keep, "keep", false, "don't delete the container after its process has ended")
	flags.Bool("no-subreaper", false, "accepted for runc's sake: this runtime is none")
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	c.options.ID, c.options.Attached = id, true
	return c.enter(func() (int, error) { return c.run(g, detach, keep) })
}

func (c *creation) run(g *globals, detach, keep bool) (_ int, err error) {
	if err := c.connect(); err != nil {
		return 1, err
	}
	front, err := newForeground(detach, c.consoleSocket)
	if err != nil {
		return 1, err
	}
	defer front.close()
	if front.terminal != nil {
		c.options.Console = front.terminal.Socket()
	}
	ready := front.guard(g.giveUp(c.options.ID))
	defer ready()
	created, err := container.Create(c.options)
	if err != nil {
		return 1, err
	}
	g.note("container %q has process %d", created.ID, created.Pid)
	if err := c.checkConsole(created, detach); err != nil {
		return 1, err
	}
	service, err := created.ListenReady(os.Getenv(notifySocket))
	if err != nil {
		g.warn(err.Error()) // the variable may be left from a service that has ended
	}
	defer service.Close()
	if err := errors.Join(front.connect(created.Spec.Process.Terminal), created.Start()); err != nil {
		return 1, errors.Join(err, created.Delete(true))
	}
	created.Yield()
	defer created.Close()
	ready()
	if detach {
		return 0, service.Wait(created.Pid)
	}
	if service != nil {
		go service.Relay()
	}
	status, err := front.wait(g, created)
	if !keep {
		err = errors.Join(err, created.Remove())
	}
	return status, err
}

// exitStatus is a process's status as a shell has it.
func exitStatus(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
