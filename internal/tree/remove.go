package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove removes path and all below it. A path that is not there is no error.
//
// What is mounted inside the tree is detached, never entered. The immutable and append-only flags are cleared where they
// are in the way. What can't be removed is skipped: Remove goes on with the rest and returns the first failures. A
// directory that is deeper than the window is moved up, to the top of the tree, under a random name, and removed from
// there; so a tree that Remove was interrupted in does not look as it did before.
func Remove(ctx context.Context, path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove %q: cannot open the directory it is in: %w", path, err)
	}
	defer func() { _ = unix.Close(parent) }()
	r := &removal{ctx: ctx, parent: parent, base: filepath.Base(path), prefix: ".moved-" + rand.Text() + "-"}
	if err := r.run(); err != nil {
		return fmt.Errorf("cannot remove %q: %w", path, err)
	}
	return nil
}

// maxPasses bounds how often a tree is read in which a process keeps making files.
const maxPasses = 8

// maxReported bounds how many failures an error tells.
const maxReported = 4

// removal is one call of Remove.
type removal struct {
	ctx    context.Context //nolint:containedctx // it lives as long as one call
	parent int             // the directory that the tree is in
	base   string          // the tree's name in it
	stack  []*dir          // the open directories from the top of the tree down
	names  []string        // their names

	// prefix and a number name a directory that was moved to the top. From first up to last they are still to be removed.
	prefix      string
	first, last uint64

	removed  uint64 // entries so far
	failures []error
	failed   int
}

func (r *removal) run() error {
	for pass := 0; ; pass++ {
		before := r.removed
		r.failures, r.failed = nil, 0
		err := r.pass()
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		// Not empty although nothing failed: entries that the directory did not list while others were being removed, or
		// that came meanwhile.
		if again := errors.Is(err, unix.ENOTEMPTY) && r.failed == 0 && r.removed > before && pass < maxPasses; again {
			continue
		}
		if r.failed == 0 {
			return err
		}
		if r.failed > len(r.failures) {
			return fmt.Errorf("%w (and %d more)", errors.Join(r.failures...), r.failed-len(r.failures))
		}
		return errors.Join(r.failures...)
	}
}

// pass reads the tree once, removes what it finds and then the top.
func (r *removal) pass() error {
	defer r.closeAll()
	top, err := r.open(r.parent, r.base)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return r.unlink(r.parent, nil, r.base, 0)
	}
	if err != nil {
		return err
	}
	r.push(top, r.base)
	if err := r.empty(); err != nil {
		return err
	}
	for ; r.first < r.last; r.first++ {
		if err := r.entry(entry{name: r.moved(r.first), kind: unix.DT_DIR}); err != nil {
			return err
		}
		if err := r.empty(); err != nil {
			return err
		}
	}
	return r.unlink(r.parent, nil, r.base, unix.AT_REMOVEDIR)
}

func (r *removal) moved(n uint64) string { return r.prefix + strconv.FormatUint(n, 10) }

// empty removes what is in the directories of the stack, the deepest first, and leaves only the top on it.
func (r *removal) empty() error {
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		d := r.stack[len(r.stack)-1]
		e, more, err := d.next()
		switch {
		case err != nil:
			r.fail(err, "")
		case more:
			if err := r.entry(e); err != nil {
				return err
			}
			continue
		}
		if len(r.stack) == 1 {
			return nil
		}
		name := r.names[len(r.names)-1]
		r.pop()
		above := r.stack[len(r.stack)-1]
		// Not empty: something in it failed, or came meanwhile, and then the top is not empty either.
		err = r.unlink(above.fd, above, name, unix.AT_REMOVEDIR)
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
			r.fail(err, name)
		}
	}
}

// entry removes one entry of the deepest directory, or goes into it. The error ends the removal.
func (r *removal) entry(e entry) error {
	d := r.stack[len(r.stack)-1]
	if e.kind != unix.DT_DIR {
		err := r.unlink(d.fd, d, e.name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EISDIR) {
			r.fail(err, e.name)
			return nil
		}
	}
	if len(r.stack) >= window && r.move(d, e.name) == nil {
		return nil
	}
	child, err := r.open(d.fd, e.name)
	if (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) && len(r.stack) > 1 && r.move(d, e.name) == nil {
		return nil
	}
	switch {
	case errors.Is(err, unix.ENOENT):
	case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP): // replaced meanwhile
		if err := r.unlink(d.fd, d, e.name, 0); err != nil {
			r.fail(err, e.name)
		}
	case err != nil:
		r.fail(err, e.name)
	case len(r.stack) >= maxStack:
		child.close()
		r.fail(errors.New("it is too deep, and its directories can't be moved"), e.name)
	default:
		r.push(child, e.name)
	}
	return nil
}

// maxStack bounds the open directories where they can't be moved to the top: quotas of projects can forbid it.
const maxStack = 8 * window

// move takes a directory out of the deepest one to the top of the tree.
func (r *removal) move(from *dir, name string) error {
	top := r.stack[0]
	to := r.moved(r.last)
	err := unix.Renameat2(from.fd, name, top.fd, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EPERM) && r.unlock(from, from.fd, name) {
		err = unix.Renameat2(from.fd, name, top.fd, to, unix.RENAME_NOREPLACE)
	}
	if err == nil || errors.Is(err, unix.EEXIST) {
		r.last++
	}
	return err
}

// open opens a directory to empty it. What is mounted on it is detached first.
func (r *removal) open(parent int, name string) (*dir, error) {
	d, err := openAt(parent, name)
	if errors.Is(err, unix.EXDEV) {
		if err := detach(parent, name); err != nil {
			return nil, err
		}
		d, err = openAt(parent, name)
	}
	return d, err
}

// unlink removes a file or an empty directory. above is the directory it is in, if that is part of the tree.
func (r *removal) unlink(parent int, above *dir, name string, flags int) error {
	err := unix.Unlinkat(parent, name, flags)
	switch err {
	case unix.EPERM:
		if r.unlock(above, parent, name) {
			err = unix.Unlinkat(parent, name, flags)
		}
	case unix.EBUSY:
		if detach(parent, name) == nil {
			err = unix.Unlinkat(parent, name, flags)
		}
	}
	if err == nil {
		r.removed++
	}
	return err
}

// detach unmounts all that is mounted on an entry. Its users keep what they have open of it.
func detach(parent int, name string) error {
	path := procPath(parent) + "/" + name
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	for err == nil { // mounts can lie on each other
		err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if errors.Is(err, unix.EINVAL) { // no mount is left
		return nil
	}
	return fmt.Errorf("cannot detach what is mounted on it: %w", err)
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (r *removal) fail(err error, name string) {
	r.failed++
	if len(r.failures) < maxReported {
		r.failures = append(r.failures, fmt.Errorf("%q, %d deep: %w", name, len(r.stack), err))
	}
}

func (r *removal) push(d *dir, name string) {
	r.stack = append(r.stack, d)
	r.names = append(r.names, name)
}

func (r *removal) pop() {
	last := len(r.stack) - 1
	r.stack[last].close()
	r.stack, r.names = r.stack[:last], r.names[:last]
}

func (r *removal) closeAll() {
	for len(r.stack) > 0 {
		r.pop()
	}
}
