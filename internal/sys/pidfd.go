package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// PidfdOpen returns a descriptor of a process, or ESRCH. A number can outlive its process as that of a process group or of a
// session, and it can be that of a thread: Linux says EINVAL then, and newer versions ENOENT.
func PidfdOpen(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = unix.ESRCH
	}
	return fd, err
}
