package criu

import (
	"encoding/binary"
	"errors"
)

// message is a protocol buffer being written. Of the same field the last one counts, or all if it is a list.
type message []byte

// The kinds of fields that criu's messages have.
const (
	varint = 0
	text   = 2
)

func (m *message) number(field Field, value uint64) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|varint)
	*m = binary.AppendUvarint(*m, value)
}

func (m *message) truth(field Field, value bool) {
	if value {
		m.number(field, 1)
	} else {
		m.number(field, 0)
	}
}

func (m *message) text(field Field, value string) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|text)
	*m = binary.AppendUvarint(*m, uint64(len(value)))
	*m = append(*m, value...)
}

var errGarbled = errors.New("criu's answer is no message")

// read calls visit with each field of a message: with its number, or with its content.
func read(m []byte, visit func(field Field, number uint64, content []byte) error) error {
	for len(m) > 0 {
		key, n := binary.Uvarint(m)
		if n <= 0 {
			return errGarbled
		}
		m = m[n:]
		value, n := binary.Uvarint(m)
		if n <= 0 {
			return errGarbled
		}
		m = m[n:]
		var content []byte
		switch key & 7 {
		case varint:
		case text:
			if value > uint64(len(m)) {
				return errGarbled
			}
			content, m = m[:value], m[value:]
		default:
			return errGarbled
		}
		if err := visit(Field(key>>3), value, content); err != nil {
			return err
		}
	}
	return nil
}
