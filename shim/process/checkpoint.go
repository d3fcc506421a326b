package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/reaper"
)

// Images are the files of a checkpoint that a container is made from when it starts.
type Images struct {
	Path   string // "" is a container that is made from its configuration
	Parent string // of the checkpoint that the memory in Path rests on, unless it says so itself
	Work   string // for the log of a restore, or a checkpoint that gives no other; "" is in the bundle
}

// Checkpoint says what is written where.
type Checkpoint struct {
	Path, Parent, Work string
	Exit               bool // the container ends with it
	OpenTCP            bool // connections may be open
	ExternalSockets    bool // to sockets outside
	Terminal           bool // that is not the container's own
	FileLocks          bool // may be held
	EmptyNamespaces    []string
	CgroupsMode        string // of the runtime's --manage-cgroups-mode
}

// prepare looks whether there are images, and makes them rest on their parent as criu finds it. Images that were made so
// have the link already.
func (i Images) prepare() error {
	if _, err := os.ReadDir(i.Path); err != nil {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("cannot use the checkpoint: %w", err))
	}
	if i.Parent == "" {
		return nil
	}
	parent, err := relative(i.Path, i.Parent)
	if err == nil {
		err = os.Symlink(parent, filepath.Join(i.Path, "parent"))
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot use the parent %q of checkpoint %q: %w", i.Parent, i.Path, err)
	}
	return nil
}

func relative(images, parent string) (string, error) {
	if !filepath.IsAbs(parent) {
		return parent, nil
	}
	return filepath.Rel(images, parent)
}

// work is where the runtime lets criu write, and what removes it when nothing in it is of interest any more.
func (c *Container) work(given string) (dir string, remove func()) {
	if given == "" {
		given = c.Images.Work
	}
	if given != "" {
		return given, func() {}
	}
	dir = filepath.Join(c.Bundle, "criu-work")
	return dir, func() { _ = os.RemoveAll(dir) }
}

// Checkpoint has the runtime write the container to files. It goes on unless it is to end.
func (c *Container) Checkpoint(ctx context.Context, o Checkpoint) error {
	c.Init.mu.Lock()
	err := c.Init.require("checkpoint", Running, Paused)
	c.Init.mu.Unlock()
	if err != nil {
		return err
	}
	work, remove := c.work(o.Work)
	args := []string{"checkpoint", "--image-path", o.Path, "--work-path", work}
	if o.Parent != "" {
		parent, err := relative(o.Path, o.Parent)
		if err != nil {
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use the parent of the checkpoint: %w", err))
		}
		args = append(args, "--parent-path", parent)
	}
	for _, flag := range []struct {
		name string
		on   bool
	}{
		{"--leave-running", !o.Exit},
		{"--tcp-established", o.OpenTCP},
		{"--ext-unix-sk", o.ExternalSockets},
		{"--shell-job", o.Terminal},
		{"--file-locks", o.FileLocks},
	} {
		if flag.on {
			args = append(args, flag.name)
		}
	}
	for _, kind := range o.EmptyNamespaces {
		args = append(args, "--empty-ns", kind)
	}
	if o.CgroupsMode != "" {
		args = append(args, "--manage-cgroups-mode", o.CgroupsMode)
	}
	if err := c.runtime(ctx, append(args, c.ID)...); err != nil {
		return err
	}
	remove()
	return nil
}

// restore makes the container from its images. p.op of the init process is held.
func (c *Container) restore(ctx context.Context) error {
	work, remove := c.work("")
	// What may be in the images was decided when they were made.
	flags := []string{
		"--detach", "--no-subreaper", "--image-path", c.Images.Path, "--work-path", work,
		"--tcp-established", "--ext-unix-sk", "--file-locks",
	}
	if err := c.bring(ctx, "restore", flags...); err != nil {
		if c.Init.child != nil {
			go c.Init.watch() // for its end
		}
		return err
	}
	remove()
	return nil
}

// abandon ends a container that was never restored, for a client that waits for the end of what it has killed. p.mu is
// held.
func (p *Process) abandon() {
	if p.state != Created {
		return
	}
	const status = 128 + int(unix.SIGKILL)
	exit := reaper.Exit{Status: status, At: time.Now()}
	p.state, p.exit = Stopped, exit
	p.container.recordExit(p, exit)
	p.container.Hooks.Exited(p.ExecID, 0, exit)
	close(p.exited)
}
