package nft

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// The nfnetlink messages for set elements, written here because google/nftables can neither ask for "only if absent" (NLM_F_EXCL), which
// decides between two containers that want one port, nor read a single element. A batch on the wire:
//
//	BATCH_BEGIN | NEWSETELEM or DELSETELEM … | BATCH_END     each: nlmsghdr, nfgenmsg, attributes
//
// The kernel handles a batch, or a question, before sendto returns, so that all its answers wait in the socket then.

const (
	headerSize = unix.NLMSG_HDRLEN + 4
	// chunk is how many elements go into one message: an attribute cannot pass 64 KiB.
	chunk = 100
	// socketBuffer is room for the answers to a batch, and for a batch of some ten thousand elements.
	socketBuffer = 8 << 20
)

// attribute appends one netlink attribute made of parts.
func attribute(to []byte, kind uint16, parts ...[]byte) []byte {
	size := unix.SizeofNlAttr
	for _, part := range parts {
		size += len(part)
	}
	to = binary.NativeEndian.AppendUint16(to, uint16(size))
	to = binary.NativeEndian.AppendUint16(to, kind)
	for _, part := range parts {
		to = append(to, part...)
	}
	for len(to)%unix.NLA_ALIGNTO != 0 {
		to = append(to, 0)
	}
	return to
}

func nested(to []byte, kind uint16, parts ...[]byte) []byte {
	return attribute(to, kind|unix.NLA_F_NESTED, parts...)
}

func text(s string) []byte { return append([]byte(s), 0) }

// message is one nfnetlink message without its sequence number.
type message struct {
	kind  uint16
	flags uint16
	group uint16 // nfgenmsg.res_id
	body  []byte
}

func (m message) append(to []byte, sequence uint32) []byte {
	to = binary.NativeEndian.AppendUint32(to, uint32(headerSize+len(m.body)))
	to = binary.NativeEndian.AppendUint16(to, m.kind)
	to = binary.NativeEndian.AppendUint16(to, m.flags|unix.NLM_F_REQUEST)
	to = binary.NativeEndian.AppendUint32(to, sequence)
	to = binary.NativeEndian.AppendUint32(to, 0)
	family := byte(unix.NFPROTO_INET)
	if m.kind == unix.NFNL_MSG_BATCH_BEGIN || m.kind == unix.NFNL_MSG_BATCH_END {
		family = unix.AF_UNSPEC
	}
	to = append(to, family, unix.NFNETLINK_V0)
	to = binary.BigEndian.AppendUint16(to, m.group)
	return append(to, m.body...)
}

// elementMessages packs elements of one set into as few messages as may be.
func elementMessages(kind, flags uint16, table, set string, elements []Element) []message {
	var messages []message
	for len(elements) > 0 {
		n := min(chunk, len(elements))
		var list []byte
		for _, element := range elements[:n] {
			list = nested(list, unix.NFTA_LIST_ELEM, element.encode(kind == newElement))
		}
		var body []byte
		body = attribute(body, unix.NFTA_SET_ELEM_LIST_TABLE, text(table))
		body = attribute(body, unix.NFTA_SET_ELEM_LIST_SET, text(set))
		body = nested(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
		messages = append(messages, message{kind: kind, flags: flags, body: body})
		elements = elements[n:]
	}
	return messages
}

const (
	subsystem     = unix.NFNL_SUBSYS_NFTABLES << 8
	newElement    = subsystem | unix.NFT_MSG_NEWSETELEM
	getElement    = subsystem | unix.NFT_MSG_GETSETELEM
	deleteElement = subsystem | unix.NFT_MSG_DELSETELEM
	newTable      = subsystem | unix.NFT_MSG_NEWTABLE
	getTable      = subsystem | unix.NFT_MSG_GETTABLE
	deleteTable   = subsystem | unix.NFT_MSG_DELTABLE
	newGeneration = subsystem | unix.NFT_MSG_NEWGEN
	getGeneration = subsystem | unix.NFT_MSG_GETGEN
)

// tableUserdata is NFTA_TABLE_USERDATA, which golang.org/x/sys/unix lacks.
const tableUserdata = 6

// commentKind is NFTNL_UDATA_SET_ELEM_COMMENT and NFTNL_UDATA_TABLE_COMMENT: what nft(8) shows as a comment.
const commentKind = 0

// comment packs a comment as user data of a kernel object.
func comment(s string) []byte {
	value := text(s)
	return append([]byte{commentKind, byte(len(value))}, value...)
}

// parseComment is the reverse of comment. Other user data has none.
func parseComment(data []byte) string {
	if len(data) > 2 && data[0] == commentKind && len(data) >= 2+int(data[1]) {
		return strings.TrimSuffix(string(data[2:2+int(data[1])]), "\x00")
	}
	return ""
}

func (e Element) encode(whole bool) []byte {
	var out []byte
	out = nested(out, unix.NFTA_SET_ELEM_KEY, attribute(nil, unix.NFTA_DATA_VALUE, e.Key))
	if !whole {
		return out
	}
	if len(e.Data) > 0 {
		out = nested(out, unix.NFTA_SET_ELEM_DATA, attribute(nil, unix.NFTA_DATA_VALUE, e.Data))
	}
	return attribute(out, unix.NFTA_SET_ELEM_USERDATA, comment(e.Owner))
}

// batch sends messages as one transaction: all of them happen, or none.
func (s socket) batch(messages []message) error { return s.batchAt(0, messages) }

// batchAt is batch for a ruleset of a certain generation: after any change since then the kernel answers ERESTART.
func (s socket) batchAt(generation uint32, messages []message) error {
	begin := message{kind: unix.NFNL_MSG_BATCH_BEGIN, group: unix.NFNL_SUBSYS_NFTABLES}
	if generation != 0 {
		begin.body = attribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation))
	}
	out := begin.append(nil, 1)
	for i, m := range messages {
		if i == len(messages)-1 {
			m.flags |= unix.NLM_F_ACK
		}
		out = m.append(out, uint32(i)+2)
	}
	out = message{kind: unix.NFNL_MSG_BATCH_END, group: unix.NFNL_SUBSYS_NFTABLES}.append(out, uint32(len(messages))+2)
	if err := s.send(out); err != nil {
		return err
	}
	acknowledged := false
	err := s.receive(func(kind uint16, payload []byte) error {
		acknowledged = acknowledged || kind == unix.NLMSG_ERROR
		return nil
	})
	if err == nil && !acknowledged {
		err = errors.New("the kernel did not acknowledge the transaction")
	}
	return err
}

// ask sends one question and calls answer for each message of that kind in the reply.
func (s socket) ask(question message, answerKind uint16, answer func(payload []byte) error) error {
	if err := s.send(question.append(nil, 1)); err != nil {
		return err
	}
	return s.receive(func(kind uint16, payload []byte) error {
		if kind != answerKind || len(payload) < 4 {
			return nil
		}
		return answer(payload[4:]) // behind nfgenmsg
	})
}

func (s socket) send(data []byte) error {
	return unix.Sendto(int(s), data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive hands on every message that waits. It returns the first error among them, after reading all.
func (s socket) receive(handle func(kind uint16, payload []byte) error) error {
	buffer := make([]byte, 64<<10)
	var first error
	for {
		n, _, err := unix.Recvfrom(int(s), buffer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return first
		}
		if err != nil {
			return err
		}
		for rest := buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return errors.New("the kernel sent a malformed netlink message")
			}
			if err := dispatch(rest[:size], handle); err != nil && first == nil {
				first = err
			}
			rest = rest[min(len(rest), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

func dispatch(m []byte, handle func(uint16, []byte) error) error {
	kind := binary.NativeEndian.Uint16(m[4:])
	flags := binary.NativeEndian.Uint16(m[6:])
	payload := m[unix.NLMSG_HDRLEN:]
	if flags&unix.NLM_F_DUMP_INTR != 0 {
		return errInterrupted
	}
	if kind == unix.NLMSG_ERROR && len(payload) >= 4 {
		if errno := -int32(binary.NativeEndian.Uint32(payload)); errno != 0 {
			return unix.Errno(errno)
		}
	}
	return handle(kind, payload)
}

// errInterrupted says that a list changed while it was read.
var errInterrupted = errors.New("the set changed while it was listed")
