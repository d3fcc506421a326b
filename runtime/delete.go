package main

import (
	"errors"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/container"
)

func (g *globals) delete(args []string) (int, error) {
	flags := newFlags("delete", "[options] ID")
	var force bool
	both(flags.BoolVar, &force, "force,f", "kill the container if it runs, and don't mind if it is gone")
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	lock := container.Lock
	if force {
		lock = container.Seize
	}
	c, err := lock(g.root, id)
	switch {
	case force && (errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, container.ErrUnreadable)):
		if errors.Is(err, container.ErrUnreadable) {
			g.warn(err.Error() + ": only its directory is deleted, processes and cgroups of it may be left")
		}
		if err := container.Purge(g.root, id); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return 1, err
		}
		return 0, nil
	case err != nil:
		return 1, err
	}
	defer c.Close()
	c.Warn = g.warn
	return 0, c.Delete(force)
}
