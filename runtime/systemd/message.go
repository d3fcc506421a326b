package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A message of D-Bus, in the byte order of all machines that we run on:
//
//	byte    'l' little endian · type · flags · version 1
//	uint32  length of the body · serial
//	array   of struct(byte code, variant): path, interface, member, …
//	        padding to 8 bytes
//	body    values of the header's signature, each aligned to its size
const (
	methodCall, methodReturn, errorReply, signal = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldError, fieldReplySerial, fieldDestination, fieldSignature = 1, 2, 3, 4, 5, 6, 8

	maxMessage = 1 << 20 // far above what a service manager says to us
)

// writer lays out values.
type writer struct{ data []byte }

func (w *writer) align(n int) {
	for len(w.data)%n != 0 {
		w.data = append(w.data, 0)
	}
}

func (w *writer) uint32(n uint32) {
	w.align(4)
	w.data = binary.LittleEndian.AppendUint32(w.data, n)
}

func (w *writer) uint64(n uint64) {
	w.align(8)
	w.data = binary.LittleEndian.AppendUint64(w.data, n)
}

func (w *writer) string(s string) {
	w.uint32(uint32(len(s)))
	w.data = append(append(w.data, s...), 0)
}

func (w *writer) signature(s string) {
	w.data = append(append(append(w.data, byte(len(s))), s...), 0)
}

// array writes elements that are aligned to n. The length in front leaves out the padding before the first one.
func (w *writer) array(n int, elements func()) {
	w.uint32(0)
	length := len(w.data) - 4
	w.align(n)
	start := len(w.data)
	elements()
	binary.LittleEndian.PutUint32(w.data[length:], uint32(len(w.data)-start))
}

// variant writes a value with its type in front.
func (w *writer) variant(value any) {
	switch v := value.(type) {
	case string:
		w.signature("s")
		w.string(v)
	case bool:
		w.signature("b")
		n := uint32(0)
		if v {
			n = 1
		}
		w.uint32(n)
	case int32:
		w.signature("i")
		w.uint32(uint32(v))
	case uint32:
		w.signature("u")
		w.uint32(v)
	case int64:
		w.signature("x")
		w.uint64(uint64(v))
	case uint64:
		w.signature("t")
		w.uint64(v)
	default:
		w.list(value)
	}
}

// list writes an array with its type in front.
func (w *writer) list(value any) {
	switch v := value.(type) {
	case []uint32:
		w.signature("au")
		w.array(4, func() {
			for _, n := range v {
				w.uint32(n)
			}
		})
	case []byte:
		w.signature("ay")
		w.array(1, func() { w.data = append(w.data, v...) })
	case []string:
		w.signature("as")
		w.array(4, func() {
			for _, s := range v {
				w.string(s)
			}
		})
	case []DeviceAllow:
		w.signature("a(ss)")
		w.array(8, func() {
			for _, d := range v {
				w.align(8)
				w.string(d.Device)
				w.string(d.Access)
			}
		})
	default:
		panic(fmt.Sprintf("systemd: no property has the type %T", value))
	}
}

// properties writes a list of names with their values.
func (w *writer) properties(list []Property) {
	w.array(8, func() {
		for _, p := range list {
			w.align(8)
			w.string(p.Name)
			w.variant(p.Value)
		}
	})
}

// call is a method call to be sent.
type call struct {
	path, iface, member, signature string
	body                           func(w *writer)
}

func (c call) encode(serial uint32) []byte {
	body := &writer{}
	if c.body != nil {
		c.body(body)
	}
	w := &writer{data: []byte{'l', methodCall, 0, 1}}
	w.uint32(uint32(len(body.data)))
	w.uint32(serial)
	w.array(8, func() {
		field := func(code byte, kind, value string) {
			w.align(8)
			w.data = append(w.data, code)
			w.signature(kind)
			if kind == "g" {
				w.signature(value)
			} else {
				w.string(value)
			}
		}
		field(fieldPath, "o", c.path)
		field(fieldInterface, "s", c.iface)
		field(fieldMember, "s", c.member)
		field(fieldDestination, "s", "org.freedesktop.systemd1")
		if c.signature != "" {
			field(fieldSignature, "g", c.signature)
		}
	})
	w.align(8)
	return append(w.data, body.data...)
}

// reader takes values apart, until one doesn't fit.
type reader struct {
	data []byte
	at   int
	err  error
}

var errMalformed = errors.New("malformed message")

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || len(r.data)-r.at < n {
		r.err = errMalformed
		return make([]byte, max(n, 0)&0xf)
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *reader) align(n int) {
	if rest := r.at % n; rest != 0 {
		r.take(n - rest)
	}
}

func (r *reader) uint32() uint32 {
	r.align(4)
	if part := r.take(4); r.err == nil {
		return binary.LittleEndian.Uint32(part)
	}
	return 0
}

func (r *reader) string() string {
	n := int(r.uint32())
	if r.err != nil || n > len(r.data) {
		r.err = errMalformed
		return ""
	}
	s := string(r.take(n))
	r.take(1)
	return s
}

func (r *reader) signature() string {
	n := r.take(1)
	if r.err != nil {
		return ""
	}
	s := string(r.take(int(n[0])))
	r.take(1)
	return s
}

// message is one that was received.
type message struct {
	kind                     byte
	replyTo                  uint32
	errorName, member, types string
	body                     reader
}

// decode understands the fields of a header, and what follows.
func decode(kind byte, fields, body []byte) (message, error) {
	m := message{kind: kind, body: reader{data: body}}
	r := reader{data: fields}
	for r.at < len(r.data) && r.err == nil {
		r.align(8)
		if r.at == len(r.data) {
			break
		}
		code := r.take(1)[0]
		switch kind := r.signature(); kind {
		case "u":
			if n := r.uint32(); code == fieldReplySerial {
				m.replyTo = n
			}
		case "s", "o":
			s := r.string()
			switch code {
			case fieldMember:
				m.member = s
			case fieldError:
				m.errorName = s
			}
		case "g":
			if s := r.signature(); code == fieldSignature {
				m.types = s
			}
		default:
			r.err = errMalformed
		}
	}
	return m, r.err
}
