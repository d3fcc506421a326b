package launch

import "golang.org/x/sys/unix"

// Pending waits at most some milliseconds for the child to send something or to end, and tells whether it has.
func (p *Process) Pending(milliseconds int) bool { return Pending(p.channel, milliseconds) }

// Pending is that of a Process, for the end of a channel.
func Pending(channel, milliseconds int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(channel), Events: unix.POLLIN}}, milliseconds)
	return n > 0 && err == nil
}
