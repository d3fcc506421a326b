package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// Element is one entry of a set or map of the table's layout.
type Element struct {
	Set   string
	Key   []byte
	Data  []byte // of a map
	Owner string // the attachment that it belongs to
}

// Family returns the name of the variant of a set for the address's family: "masq" becomes "masq4" or "masq6".
func Family(set string, address netip.Addr) string {
	if address.Is4() {
		return set + "4"
	}
	return set + "6"
}

// OnLink is the entry of a set of addresses with the interface that they are behind.
func OnLink(set string, address netip.Addr, link, owner string) Element {
	return Element{Set: Family(set, address), Key: append(address.AsSlice(), linkName(link)...), Owner: owner}
}

// Address is the entry of a set of addresses.
func Address(set string, address netip.Addr, owner string) Element {
	return Element{Set: Family(set, address), Key: address.AsSlice(), Owner: owner}
}

// Self is the entry of a set of pairs of addresses, for the pair of an address with itself.
func Self(set string, address netip.Addr, owner string) Element {
	return Element{Set: Family(set, address), Key: append(address.AsSlice(), address.AsSlice()...), Owner: owner}
}

// Port is the entry of a port map: what arrives at host (at any address of the host, if it is unspecified) goes to target.
func Port(host netip.AddrPort, protocol byte, target netip.AddrPort, owner string) Element {
	var key []byte
	set := SetAnyPort
	if !host.Addr().IsUnspecified() {
		set = SetPort
		key = append(key, host.Addr().AsSlice()...)
	}
	key = append(key, protocol, 0, 0, 0)
	key = append(binary.BigEndian.AppendUint16(key, host.Port()), 0, 0)
	data := append(binary.BigEndian.AppendUint16(target.Addr().AsSlice(), target.Port()), 0, 0)
	return Element{Set: Family(set, target.Addr()), Key: key, Data: data, Owner: owner}
}

// linkName pads an interface name as the kernel keeps it.
func linkName(name string) []byte {
	out := make([]byte, unix.IFNAMSIZ)
	copy(out[:unix.IFNAMSIZ-1], name)
	return out
}

// sameTarget tells whether two map entries lead to one address.
func (e Element) sameTarget(other Element) bool {
	if len(e.Data) != len(other.Data) {
		return false
	}
	return string(e.Data[:max(0, len(e.Data)-4)]) == string(other.Data[:max(0, len(e.Data)-4)])
}

// Add adds the elements in one transaction, and first makes the table if there is none. An element that an earlier attachment
// left behind is replaced: that is one of the same owner, or one that leads to the same container address, since the
// address belongs to the new owner now. A port that leads elsewhere is taken: errdefs.ErrAlreadyExists.
func (t Table) Add(elements []Element) error {
	if len(elements) == 0 {
		return nil
	}
	err := t.sockets.do(func(s socket) error {
		for try := 0; ; try++ {
			err := t.change(s, nil, elements)
			if errors.Is(err, unix.EEXIST) {
				err = t.replace(s, elements)
			}
			if !errors.Is(err, unix.ENOENT) || try == 3 {
				return err
			}
			// No such table yet, or a stale element went away meanwhile.
			if err := t.create(); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("cannot add elements to nftables table %q: %w", t.Name, err)
	}
	return nil
}

// Restore adds what is missing of the elements. In the usual case, that all are there, it only reads.
func (t Table) Restore(elements []Element) error {
	err := t.Check(elements)
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return t.Add(elements)
	}
	return err
}

// replace adds elements of which some are there already.
func (t Table) replace(s socket, elements []Element) error {
	var stale []Element
	for _, element := range elements {
		present, found, err := t.get(s, element)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if len(element.Data) > 0 && present.Owner != element.Owner && !present.sameTarget(element) {
			return &Taken{Element: element, Holder: present.Owner}
		}
		stale = append(stale, present)
	}
	return t.change(s, stale, elements)
}

// Taken says that another attachment holds an element.
type Taken struct {
	Element Element
	Holder  string
}

func (e *Taken) Error() string { return fmt.Sprintf("taken by attachment %q", e.Holder) }

// Unwrap makes it an errdefs.ErrAlreadyExists.
func (e *Taken) Unwrap() error { return errdefs.ErrAlreadyExists }

// Remove removes those of the elements that still belong to their owner, in one transaction. Others are left alone.
func (t Table) Remove(elements []Element) error {
	if len(elements) == 0 {
		return nil
	}
	err := t.sockets.do(func(s socket) error {
		for try := 0; ; try++ {
			var present []Element
			for _, element := range elements {
				found, ok, err := t.get(s, element)
				if err != nil {
					return err
				}
				if ok && found.Owner == element.Owner {
					present = append(present, element)
				}
			}
			err := t.change(s, present, nil)
			if !errors.Is(err, unix.ENOENT) || try == 3 {
				return err
			}
			// Another process removed one first.
		}
	})
	if err != nil {
		return fmt.Errorf("cannot remove elements from nftables table %q: %w", t.Name, err)
	}
	return nil
}

// RemoveOwned removes the elements of some sets, both families, whose owner is wanted.
func (t Table) RemoveOwned(wanted func(owner string) bool, sets ...string) error {
	found, err := t.Find(wanted, sets...)
	if err != nil {
		return err
	}
	return t.Remove(found)
}

// change removes and adds elements in one transaction.
func (t Table) change(s socket, remove, add []Element) error {
	var messages []message
	for _, group := range bySet(remove) {
		messages = append(messages, elementMessages(deleteElement, 0, t.Name, group[0].Set, group)...)
	}
	for _, group := range bySet(add) {
		messages = append(messages, elementMessages(newElement, unix.NLM_F_CREATE|unix.NLM_F_EXCL, t.Name, group[0].Set, group)...)
	}
	if len(messages) == 0 {
		return nil
	}
	return s.batch(messages)
}

func bySet(elements []Element) [][]Element {
	var groups [][]Element
	index := map[string]int{}
	for _, element := range elements {
		i, seen := index[element.Set]
		if !seen {
			i = len(groups)
			index[element.Set] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], element)
	}
	return groups
}
