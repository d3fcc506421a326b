package nft

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// portKeySize is the length of protocol . port, which ends the key of either map.
const portKeySize = 8

// HostPort returns the protocol and port that an entry of a port map is for.
func (e Element) HostPort() (protocol byte, port uint16, ok bool) {
	if len(e.Data) == 0 || len(e.Key) < portKeySize {
		return 0, 0, false
	}
	key := e.Key[len(e.Key)-portKeySize:]
	return key[0], binary.BigEndian.Uint16(key[4:]), true
}

// Shadows returns the owners of entries that overlap with an entry of a port map: the same port on all addresses, if it is
// for one, or on any single one, if it is for all.
func (t Table) Shadows(e Element) (owners []string, err error) {
	if len(e.Key) < portKeySize {
		return nil, nil
	}
	portKey := e.Key[len(e.Key)-portKeySize:]
	family := e.Set[len(e.Set)-1:]
	err = t.sockets.do(func(s socket) error {
		if strings.HasPrefix(e.Set, SetPort) {
			found, ok, err := t.get(s, Element{Set: SetAnyPort + family, Key: portKey})
			if ok {
				owners = append(owners, found.Owner)
			}
			return err
		}
		listed, err := t.list(s, SetPort+family)
		for _, other := range listed {
			if len(other.Key) > portKeySize && string(other.Key[len(other.Key)-portKeySize:]) == string(portKey) {
				owners = append(owners, other.Owner)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read nftables table %q: %w", t.Name, err)
	}
	return owners, nil
}
