package rootfs

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// placed is a mount point of the container, behind which later ones may lie.
type placed struct {
	at     string // relative to the root
	source string // what is bound there, as a path of the host, or nothing if it is another file system
}

// place returns where a mount point is to be made whose name leads over links to nothing, as /etc/resolv.conf does in
// many images: at the end of the links. What it finds is no more than a name: the child resolves it anew, in the root.
func (b *Builder) place(name string) string {
	at := b.findPlace(name)
	b.placed = append(b.placed, placed{at: relative(at)})
	return at
}

func (b *Builder) findPlace(name string) string {
	rel := relative(name)
	name = "/" + rel
	cover, _ := b.coverOf(rel)
	if isKernels(rel) || cover != nil && cover.source == "" {
		return name // a new file system has no links
	}
	root, err := openRoot(b.config.Root)
	if err != nil {
		return name // the child says what is wrong with it
	}
	defer func() { _ = unix.Close(root) }()
	if cover == nil {
		fd, err := openIn(root, rel, unix.O_PATH)
		if err == nil {
			_ = unix.Close(fd)
		}
		if !errors.Is(err, unix.ENOENT) {
			return name
		}
	}
	return follow(name, func(rel string) (string, bool) { return b.linkAt(root, rel) })
}

// coverOf returns the last mount that a path is in, and the rest of the path there, or nil if it is in the image.
func (b *Builder) coverOf(rel string) (cover *placed, rest string) {
	for i := len(b.placed) - 1; i >= 0; i-- {
		if rest, inside := strings.CutPrefix(rel, b.placed[i].at); inside && (rest == "" || rest[0] == '/') {
			return &b.placed[i], strings.TrimPrefix(rest, "/")
		}
	}
	return nil, ""
}

// linkAt returns what a link contains that is in the image or in what is bound over it.
func (b *Builder) linkAt(root int, rel string) (string, bool) {
	cover, rest := b.coverOf(rel)
	switch {
	case cover == nil:
		return readLink(root, rel)
	case cover.source == "" || rest == "":
		return "", false
	}
	source, err := openRoot(cover.source)
	if err != nil {
		return "", false // it is a file
	}
	defer func() { _ = unix.Close(source) }()
	return readLink(source, rest)
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
