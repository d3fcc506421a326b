package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// get reads one element by its key.
func (t Table) get(s socket, element Element) (Element, bool, error) {
	question := elementMessages(getElement, 0, t.Name, element.Set, []Element{element})[0]
	found, err := s.elements(question, element.Set)
	if errors.Is(err, unix.ENOENT) {
		return Element{}, false, nil
	}
	if err != nil || len(found) == 0 {
		return Element{}, false, err
	}
	return found[0], true, nil
}

// Check fails with errdefs.ErrFailedPrecondition unless every element is there and belongs to its owner.
func (t Table) Check(elements []Element) error {
	return t.sockets.do(func(s socket) error {
		for _, element := range elements {
			present, found, err := t.get(s, element)
			if err != nil {
				return fmt.Errorf("cannot read nftables table %q: %w", t.Name, err)
			}
			if !found || present.Owner != element.Owner || string(present.Data) != string(element.Data) {
				return errdefs.As(errdefs.ErrFailedPrecondition,
					fmt.Errorf("an entry of set %q in nftables table %q is missing", element.Set, t.Name))
			}
		}
		return nil
	})
}

// Find lists the elements of some sets, both families, whose owner is wanted.
func (t Table) Find(wanted func(owner string) bool, sets ...string) (found []Element, err error) {
	err = t.sockets.do(func(s socket) error {
		for _, set := range sets {
			for _, family := range []string{"4", "6"} {
				listed, err := t.list(s, set+family)
				if err != nil {
					return err
				}
				for _, element := range listed {
					if wanted(element.Owner) {
						found = append(found, element)
					}
				}
			}
		}
		return nil
	})
	return found, err
}

// list reads a whole set. One that does not exist is empty.
func (t Table) list(s socket, set string) ([]Element, error) {
	var body []byte
	body = attribute(body, unix.NFTA_SET_ELEM_LIST_TABLE, text(t.Name))
	body = attribute(body, unix.NFTA_SET_ELEM_LIST_SET, text(set))
	question := message{kind: getElement, flags: unix.NLM_F_DUMP, body: body}
	for try := 0; ; try++ {
		found, err := s.elements(question, set)
		if errors.Is(err, errInterrupted) && try < 100 {
			continue
		}
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list set %q of nftables table %q: %w", set, t.Name, err)
		}
		return found, nil
	}
}

// elements asks a question that is answered by elements of a set.
func (s socket) elements(question message, set string) (found []Element, err error) {
	err = s.ask(question, newElement, func(payload []byte) error {
		return attributes(payload, func(kind uint16, value []byte) error {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return nil
			}
			return attributes(value, func(_ uint16, value []byte) error {
				element, err := decode(set, value)
				found = append(found, element)
				return err
			})
		})
	})
	return found, err
}

func decode(set string, data []byte) (Element, error) {
	element := Element{Set: set}
	err := attributes(data, func(kind uint16, value []byte) error {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			element.Key = dataValue(value)
		case unix.NFTA_SET_ELEM_DATA:
			element.Data = dataValue(value)
		case unix.NFTA_SET_ELEM_USERDATA:
			element.Owner = parseComment(value)
		}
		return nil
	})
	return element, err
}

// dataValue unpacks NFTA_DATA_VALUE.
func dataValue(data []byte) (out []byte) {
	_ = attributes(data, func(kind uint16, value []byte) error { // what cannot be read matches nothing
		if kind == unix.NFTA_DATA_VALUE {
			out = append([]byte(nil), value...)
		}
		return nil
	})
	return out
}

// attributes calls handle for each netlink attribute in data.
func attributes(data []byte, handle func(kind uint16, value []byte) error) error {
	for len(data) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(data))
		kind := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if size < unix.SizeofNlAttr || size > len(data) {
			return errors.New("the kernel sent a malformed netlink attribute")
		}
		if err := handle(kind, data[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		data = data[min(len(data), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}
