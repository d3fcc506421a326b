// Package netdevice moves network devices of the host into a container's network namespace, with their addresses, which
// the kernel drops when a device moves.
package netdevice

import (
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
	for name, device := range devices {
		wanted := device.Name
		if wanted == "" {
			wanted = name
		}
		if err := move(host, inside, passage{name, wanted, pid}); err != nil {
			return fmt.Errorf("cannot move linux.netDevices %q: %w", name, err)
		}
	}
	return nil
}

type passage struct {
	from, to string
	pid      int
}

func move(host, inside *conn, p passage) error {
	index, err := host.index(p.from)
	if err != nil {
		return err
	}
	addresses, err := host.addresses(index)
	if err != nil {
		return fmt.Errorf("cannot read its addresses: %w", err)
	}
	if err := host.setLink(index, 0, attribute(unix.IFLA_NET_NS_PID, number(uint32(p.pid))), attribute(unix.IFLA_IFNAME, append([]byte(p.to), 0))); err != nil {
		return err
	}
	if index, err = inside.index(p.to); err != nil {
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
