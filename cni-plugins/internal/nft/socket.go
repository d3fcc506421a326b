package nft

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Sockets keeps netfilter sockets of one network namespace open for the next use. To close one takes some 15 ms if anything was
// deleted just before: the kernel first waits until nobody can see it any more, and keeps others from changing anything meanwhile.
// The zero value is ready to use.
type Sockets struct {
	mu   sync.Mutex
	idle []socket
}

// Close closes the sockets. Whatever uses one at this moment puts it back for the next Close.
func (p *Sockets) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		s.close()
	}
	p.idle = nil
}

// do runs f with a socket, which is not used again if f fails: it may hold half an answer.
func (p *Sockets) do(f func(socket) error) error {
	s, err := p.take()
	if err != nil {
		return err
	}
	err = f(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		s.close()
		return err
	}
	p.idle = append(p.idle, s)
	return nil
}

func (p *Sockets) take() (socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return s, nil
	}
	return dial()
}

// socket is a netlink socket in the network namespace of the thread that dialled.
type socket int

func dial() (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("cannot open a netfilter socket: %w", err)
	}
	for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer); err != nil {
			// Without CAP_NET_ADMIN in the first user namespace the kernel's default has to do, which holds 500 elements.
			break
		}
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // smaller error messages, if the kernel can
	return socket(fd), nil
}

func (s socket) close() { _ = unix.Close(int(s)) }
