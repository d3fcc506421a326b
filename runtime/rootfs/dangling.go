package rootfs

import (
	"errors"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// place returns where a mount point is to be made whose name leads over links to nothing, as /etc/resolv.conf does in
// many images: at the end of the links. What it finds is no more than a name: the child resolves it anew, in the root.
func (b *Builder) place(name string) string {
	rel := relative(name)
	covered := func(earlier string) bool { return strings.HasPrefix(rel, earlier+"/") }
	if isKernels(rel) || slices.ContainsFunc(b.placed, covered) {
		return name // and what lies below a mount of the container is not in the image
	}
	b.placed = append(b.placed, rel)
	root, err := openRoot(b.config.Root)
	if err != nil {
		return name // the child says what is wrong with it
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openIn(root, rel, unix.O_PATH)
	if err == nil {
		_ = unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		return name
	}
	return follow(name, func(rel string) (string, bool) { return readLink(root, rel) })
}

// follow returns a path without links. One that has too many of them is returned as it is.
func follow(name string, link func(rel string) (target string, ok bool)) string {
	const enough = 40 // as the kernel has it
	done, todo := "/", name
	for links := 0; todo != ""; {
		var part string
		part, todo, _ = strings.Cut(strings.TrimLeft(todo, "/"), "/")
		next := path.Join(done, part)
		target, ok := link(relative(next))
		if !ok {
			done = next
			continue
		}
		if links++; links > enough {
			return name
		}
		if path.IsAbs(target) {
			done = "/"
		}
		todo = target + "/" + todo
	}
	return done
}

// readLink returns what a link in the root contains. It is false if there is none.
func readLink(root int, rel string) (string, bool) {
	fd, err := openIn(root, rel, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer func() { _ = unix.Close(fd) }()
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	return string(target[:max(n, 0)]), err == nil
}
