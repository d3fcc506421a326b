package netdevice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// conn is a route netlink socket: a few messages, for which a library would cost more at every start of the runtime.
type conn struct{ fd int }

func open() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// attribute is struct rtattr with its value, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (unix.RTA_ALIGNTO-len(b)%unix.RTA_ALIGNTO)%unix.RTA_ALIGNTO)...)
}

func structure[T any](value T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&value)), unsafe.Sizeof(value))...)
}

// request sends a message and hands the answers to each, until the kernel says that it was all.
func (c *conn) request(kind, flags uint16, body []byte, each func(kind uint16, body []byte) error) error {
	header := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: kind, Flags: flags | unix.NLM_F_REQUEST | unix.NLM_F_ACK}
	if err := unix.Sendto(c.fd, append(structure(header), body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		done, err := parse(buffer[:n], each)
		if done || err != nil {
			return err
		}
	}
}

func parse(messages []byte, each func(kind uint16, body []byte) error) (done bool, err error) {
	for len(messages) >= unix.SizeofNlMsghdr {
		header := (*unix.NlMsghdr)(unsafe.Pointer(&messages[0]))
		if int(header.Len) < unix.SizeofNlMsghdr || int(header.Len) > len(messages) {
			return true, errors.New("the kernel's answer is cut off")
		}
		body := messages[unix.SizeofNlMsghdr:header.Len]
		switch header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		}
		if err := each(header.Type, body); err != nil {
			return true, err
		}
		messages = messages[min(len(messages), (int(header.Len)+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return false, nil
}

func nothing(uint16, []byte) error { return nil }

var errNoDevice = errors.New("there is no such device")

// index finds a device by its name.
func (c *conn) index(name string) (int32, error) {
	var found int32
	body := append(structure(unix.IfInfomsg{}), attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	err := c.request(unix.RTM_GETLINK, 0, body, func(_ uint16, body []byte) error {
		found = (*unix.IfInfomsg)(unsafe.Pointer(&body[0])).Index
		return nil
	})
	if errors.Is(err, unix.ENODEV) {
		return 0, errNoDevice
	}
	return found, err
}

// setLink changes a device. Flags are set, and none cleared.
func (c *conn) setLink(index int32, flags uint32, attributes ...[]byte) error {
	body := structure(unix.IfInfomsg{Index: index, Flags: flags, Change: flags})
	for _, a := range attributes {
		body = append(body, a...)
	}
	return c.request(unix.RTM_NEWLINK, 0, body, nothing)
}

// addresses returns the messages about a device's permanent addresses, but for those that the kernel gives by itself.
func (c *conn) addresses(index int32) ([][]byte, error) {
	var found [][]byte
	err := c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, structure(unix.IfAddrmsg{}), func(kind uint16, body []byte) error {
		header := (*unix.IfAddrmsg)(unsafe.Pointer(&body[0]))
		if kind == unix.RTM_NEWADDR && header.Index == uint32(index) && header.Scope == unix.RT_SCOPE_UNIVERSE && header.Flags&unix.IFA_F_PERMANENT != 0 {
			found = append(found, append([]byte(nil), body...))
		}
		return nil
	})
	return found, err
}

// addAddress gives a device an address that another message was about.
func (c *conn) addAddress(index int32, address []byte) error {
	header := *(*unix.IfAddrmsg)(unsafe.Pointer(&address[0]))
	header.Index, header.Flags = uint32(index), 0
	body := structure(header)
	for rest := address[unix.SizeofIfAddrmsg:]; len(rest) >= unix.SizeofRtAttr; {
		length, kind := binary.NativeEndian.Uint16(rest), binary.NativeEndian.Uint16(rest[2:])
		if int(length) < unix.SizeofRtAttr || int(length) > len(rest) {
			break
		}
		if kind == unix.IFA_ADDRESS || kind == unix.IFA_LOCAL || kind == unix.IFA_BROADCAST {
			body = append(body, attribute(kind, rest[unix.SizeofRtAttr:length])...)
		}
		rest = rest[min(len(rest), (int(length)+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return c.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, nothing)
}
