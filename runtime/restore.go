package main

import (
	"errors"

	"github.com/berthd/berth/runtime/container"
	"github.com/berthd/berth/runtime/criu"
	"github.com/berthd/berth/runtime/terminal"
)

func (g *globals) restore(args []string) (int, error) {
	flags := newFlags("restore", "[options] ID")
	var images checkpointing
	var detach bool
	var console, context string
	dir := "."
	images.define(g, flags)
	o := container.CreateOptions{Root: g.root, Systemd: g.systemd, Console: -1, Tolerant: g.tolerant, Warn: g.warn}
	both(flags.StringVar, &dir, "bundle,b", "`directory` with config.json")
	flags.StringVar(&console, "console-socket", "", "`path` of a unix socket to send the terminal's master to")
	flags.StringVar(&o.PidFile, "pid-file", "", "`file` to write the process's pid to")
	images.pass(flags, criu.TCPClose, "tcp-close", "restore established TCP connections closed")
	both(flags.BoolVar, &detach, "detach,d", "don't wait for the process to end")
	flags.Bool("no-subreaper", false, "accepted for runc's sake: this runtime is none")
	flags.Bool("no-pivot", false, "accepted for runc's sake: criu decides how to change the root")
	flags.StringVar(&images.options.Profile, "lsm-profile", "", "`TYPE:NAME` of the security profile to restore with")
	flags.StringVar(&context, "lsm-mount-context", "", "`context` of the mounts to restore with")
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	o.ID, images.options.Warn = id, g.warn
	if images.options.Profile != "" {
		images.options.Passed.Text(criu.LSMProfile, images.options.Profile)
	}
	if context != "" {
		images.options.Passed.Text(criu.LSMMountContext, context)
	}
	if o.Bundle, err = container.ReadBundle(dir); err != nil {
		return 1, err
	}
	if console != "" {
		if o.Console, err = terminal.Connect(container.SocketOf(dir, console)); err != nil {
			return 1, err
		}
	}
	front, err := newForeground(detach, console)
	if err != nil {
		return 1, err
	}
	defer front.close()
	if front.terminal != nil {
		o.Console = front.terminal.Socket()
	}
	restored, err := container.Restore(o, images.options)
	if err != nil {
		return 1, err
	}
	if err := front.connect(restored.Spec.Process.Terminal); err != nil {
		return 1, errors.Join(err, restored.Delete(true))
	}
	restored.Yield()
	defer restored.Close()
	if detach {
		return 0, nil
	}
	status, err := front.wait(g, restored)
	return status, errors.Join(err, restored.Remove())
}
