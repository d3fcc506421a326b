package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthd/berth/runtime/container"
	"github.com/berthd/berth/runtime/criu"
)

// checkpointing holds the flags that checkpoint and restore share.
type checkpointing struct{ options container.CheckpointOptions }

func (c *checkpointing) define(g *globals, flags *flag.FlagSet) {
	c.options = container.CheckpointOptions{Program: g.criu, Images: "checkpoint", StatusFD: -1}
	flags.StringVar(&c.options.Images, "image-path", c.options.Images, "`directory` of criu's image files")
	flags.StringVar(&c.options.Work, "work-path", "", "`directory` of criu's log and other files; the one of the images if not given")
	c.pass(flags, criu.TCPEstablished, "tcp-established", "allow open TCP connections")
	c.pass(flags, criu.ExternalSockets, "ext-unix-sk", "allow connections to unix sockets outside of the container")
	c.note(flags, criu.ShellJob, &c.options.ShellJob, "shell-job", "allow a terminal from outside of the container")
	c.pass(flags, criu.FileLocks, "file-locks", "allow file locks")
	c.pass(flags, criu.AutoDedup, "auto-dedup", "remove pages from the images that are in others too, or in memory again")
	c.note(flags, criu.LazyPages, &c.options.LazyPages, "lazy-pages", "fetch memory only when it is used, by userfaultfd")
	flags.Func("manage-cgroups-mode", "`mode` of handling cgroups: soft, full, strict or ignore (default soft)", c.setCgroupsMode)
	flags.Func("empty-ns", "`type` of namespace whose content is left out: network, as it always is", func(value string) error {
		if value != "network" {
			return errors.New("only network is implemented")
		}
		return nil
	})
}

// pass defines a flag that is criu's alone.
func (c *checkpointing) pass(flags *flag.FlagSet, field criu.Field, name, usage string) {
	c.note(flags, field, new(bool), name, usage)
}

// note is pass for a flag that matters here too.
func (c *checkpointing) note(flags *flag.FlagSet, field criu.Field, at *bool, name, usage string) {
	flags.BoolFunc(name, usage, func(value string) (err error) {
		*at, err = strconv.ParseBool(value)
		c.options.Passed.Flag(field, *at)
		return err
	})
}

func (c *checkpointing) setCgroupsMode(name string) error {
	modes := map[string]criu.CgroupMode{
		"": criu.CgroupsDefault, "soft": criu.CgroupsSoft, "full": criu.CgroupsFull, "strict": criu.CgroupsStrict, "ignore": criu.CgroupsIgnore,
	}
	mode, ok := modes[name]
	if !ok {
		return errors.New("it is soft, full, strict or ignore")
	}
	c.options.Passed.Number(criu.CgroupsMode, int(mode))
	return nil
}

func (g *globals) checkpoint(args []string) (int, error) {
	flags := newFlags("checkpoint", "[options] ID")
	var c checkpointing
	var parent string
	c.define(g, flags)
	c.pass(flags, criu.TCPSkipInFlight, "tcp-skip-in-flight", "leave out TCP connections that are being made")
	c.pass(flags, criu.LinkRemap, "link-remap", "give deleted files that are open a name again")
	flags.BoolVar(&c.options.LeaveRunning, "leave-running", false, "let the container go on after the checkpoint")
	flags.BoolVar(&c.options.PreDump, "pre-dump", false, "write only the memory, and let the container go on")
	flags.StringVar(&parent, "parent-path", "", "`directory` of an earlier pre-dump, relative to that of the images")
	flags.IntVar(&c.options.StatusFD, "status-fd", -1, "`descriptor` to write a zero byte to when the server of lazy pages is ready")
	flags.Func("page-server", "`ADDRESS:PORT` of the server that gets the memory", c.setPageServer)
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	if err := c.prepareImages(parent); err != nil {
		return 1, err
	}
	locked, err := container.Lock(g.root, id)
	if err != nil {
		return 1, err
	}
	defer locked.Close()
	c.options.Warn, locked.Warn = g.warn, g.warn
	return 0, locked.Checkpoint(c.options)
}

func (c *checkpointing) setPageServer(value string) error {
	colon := strings.LastIndexByte(value, ':') // and not by package net, which every start of the runtime would pay for
	if colon <= 0 {
		return errors.New("it is not of the form ADDRESS:PORT")
	}
	port, err := strconv.ParseUint(value[colon+1:], 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no port", value[colon+1:])
	}
	c.options.Passed.PageServer(strings.Trim(value[:colon], "[]"), int(port))
	return nil
}

// prepareImages makes the directory of the images, and looks for the one of the pre-dump that they rest on.
func (c *checkpointing) prepareImages(parent string) error {
	if err := os.MkdirAll(c.options.Images, 0o700); err != nil {
		return fmt.Errorf("cannot create --image-path: %w", err)
	}
	if parent == "" {
		return nil
	}
	if filepath.IsAbs(parent) {
		return fmt.Errorf("--parent-path %q must be relative to --image-path", parent)
	}
	info, err := os.Stat(filepath.Join(c.options.Images, parent))
	if err != nil {
		return fmt.Errorf("cannot use --parent-path: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("cannot use --parent-path %q: it is no directory", parent)
	}
	c.options.Passed.Text(criu.ParentImages, parent)
	c.options.Passed.Flag(criu.TrackMemory, true)
	return nil
}
