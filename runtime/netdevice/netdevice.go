// Package netdevice moves network devices of the host into a container's network namespace, with their addresses, which
// the kernel drops when a device moves.
package netdevice

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Move moves devices, by their names on the host, into the network namespace of a process, and brings them up there.
func Move(devices map[string]specs.LinuxNetDevice, pid int) error {
	if len(devices) == 0 {
		return nil
	}
	host, err := open()
	if err != nil {
		return fmt.Errorf("cannot move linux.netDevices: %w", err)
	}
	defer host.close()
	inside, err := openIn(pid)
	if err != nil {
		return fmt.Errorf("cannot move linux.netDevices: %w", err)
	}
	defer inside.close()
	var passages []passage
	for name, device := range devices {
		p := passage{from: name, to: device.Name, pid: pid}
		if p.to == "" {
			p.to = name
		}
		if err := p.check(host, inside); err != nil {
			return fmt.Errorf("cannot move linux.netDevices %q: %w", name, err)
		}
		passages = append(passages, p)
	}
	for _, p := range passages {
		if err := p.move(host, inside); err != nil {
			return fmt.Errorf("cannot move linux.netDevices %q: %w", p.from, err)
		}
	}
	return nil
}

// passage is the way of a device.
type passage struct {
	from, to string
	pid      int
	index    int32 // on the host
}

// check refuses what can't be before anything has moved: many devices don't come back from a namespace that goes away.
// The kernel itself would move a device first and find its new name taken then.
func (p *passage) check(host, inside *conn) (err error) {
	if p.index, err = host.index(p.from); err != nil {
		return err
	}
	_, err = inside.index(p.to)
	switch {
	case err == nil:
		return fmt.Errorf("the container has a device %q already", p.to)
	case errors.Is(err, errNoDevice):
		return nil
	}
	return err
}

func (p *passage) move(host, inside *conn) error {
	addresses, err := host.addresses(p.index)
	if err != nil {
		return fmt.Errorf("cannot read its addresses: %w", err)
	}
	if err := host.setLink(p.index, 0, attribute(unix.IFLA_NET_NS_PID, number(uint32(p.pid))), attribute(unix.IFLA_IFNAME, append([]byte(p.to), 0))); err != nil {
		return err
	}
	index, err := inside.index(p.to)
	if err != nil {
		return fmt.Errorf("cannot find it as %q: %w", p.to, err)
	}
	for _, address := range addresses {
		if err := inside.addAddress(index, address); err != nil {
			return fmt.Errorf("cannot give it its address again: %w", err)
		}
	}
	if err := inside.setLink(index, unix.IFF_UP); err != nil {
		return fmt.Errorf("cannot bring it up: %w", err)
	}
	return nil
}

// openIn opens a connection in the network namespace of a process. The thread is there only for the moment.
func openIn(pid int) (*conn, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer func() { _ = own.Close() }()
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	c, err := open()
	if backErr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); backErr != nil {
		return nil, backErr // and this thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return c, err
}
