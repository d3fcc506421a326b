package main

import "github.com/berthd/berth/runtime/container"

func (g *globals) pause(args []string) (int, error) {
	return g.change("pause", args, (*container.Container).Pause)
}

func (g *globals) resume(args []string) (int, error) {
	return g.change("resume", args, (*container.Container).Resume)
}

func (g *globals) change(name string, args []string, change func(*container.Container) error) (int, error) {
	id, err := parseID(newFlags(name, "ID"), args)
	if err != nil {
		return 1, err
	}
	c, err := container.Lock(g.root, id)
	if err != nil {
		return 1, err
	}
	defer c.Close()
	return 0, change(c)
}
