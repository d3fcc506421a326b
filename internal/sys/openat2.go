// Package sys makes system calls in the ways that busy hosts, older kernels and their settings ask for.
package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxAgain bounds how often openat2 is tried. One try takes about a microsecond, and a busy host spoils a few in a hundred.
const maxAgain = 1 << 14

// Openat2 opens a path by openat2(2). A path with ".." in it, or in a link on its way, fails with EAGAIN if anything is
// renamed or mounted on the host meanwhile, wherever that is: with RESOLVE_IN_ROOT or RESOLVE_BENEATH the kernel can't tell
// then whether it has left the directory. The next try gets through.
func Openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for again := 0; ; {
		fd, err := unix.Openat2(dir, path, how)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && again < maxAgain:
			again++
		default:
			return fd, err
		}
	}
}
