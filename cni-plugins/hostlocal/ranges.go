package hostlocal

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/berthd/berth/internal/errdefs"
)

// addressRange is a part of a subnet, from RangeStart to RangeEnd, both included.
type addressRange struct {
	Subnet     netip.Prefix `json:"subnet"`
	RangeStart netip.Addr   `json:"rangeStart"`
	RangeEnd   netip.Addr   `json:"rangeEnd"`
	Gateway    netip.Addr   `json:"gateway"`
}

func (a addressRange) String() string { return fmt.Sprintf("%s-%s", a.RangeStart, a.RangeEnd) }

func (a addressRange) contains(address netip.Addr) bool {
	return address.BitLen() == a.RangeStart.BitLen() && !address.Less(a.RangeStart) && !a.RangeEnd.Less(address)
}

// complete checks the range and fills in what the configuration leaves out: the whole subnet, and its first address as gateway.
func (a addressRange) complete() (addressRange, error) {
	if !a.Subnet.IsValid() {
		return a, errors.New("a range has no subnet")
	}
	if masked := a.Subnet.Masked(); masked != a.Subnet {
		return a, fmt.Errorf("subnet %s has host bits set: the network is %s", a.Subnet, masked)
	}
	if a.Subnet.Addr().BitLen()-a.Subnet.Bits() < 2 {
		return a, fmt.Errorf("subnet %s is too small to hand out addresses from", a.Subnet)
	}
	first, last := a.Subnet.Addr().Next(), lastOf(a.Subnet)
	for _, bound := range []struct {
		name  string
		value *netip.Addr
		other netip.Addr
	}{{"rangeStart", &a.RangeStart, first}, {"rangeEnd", &a.RangeEnd, last}, {"gateway", &a.Gateway, first}} {
		if !bound.value.IsValid() {
			*bound.value = bound.other
		}
		if bound.name != "gateway" && !a.Subnet.Contains(*bound.value) {
			return a, fmt.Errorf("%s %s is not in subnet %s", bound.name, *bound.value, a.Subnet)
		}
	}
	// Nobody can have the subnet's own address, nor its broadcast address.
	if a.RangeStart.Less(first) {
		a.RangeStart = first
	}
	if last.Less(a.RangeEnd) {
		a.RangeEnd = last
	}
	if a.Gateway.BitLen() != first.BitLen() {
		return a, fmt.Errorf("gateway %s is of another family than subnet %s", a.Gateway, a.Subnet)
	}
	if a.RangeEnd.Less(a.RangeStart) {
		return a, fmt.Errorf("rangeStart %s is behind rangeEnd %s", a.RangeStart, a.RangeEnd)
	}
	return a, nil
}

// lastOf returns the last address that a host of the subnet can have: IPv4 keeps one more for broadcast.
func lastOf(subnet netip.Prefix) netip.Addr {
	bytes := subnet.Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	if subnet.Addr().Is4() {
		bytes[3]--
	}
	last, _ := netip.AddrFromSlice(bytes) // of 4 or 16 bytes, as it came
	return last
}

// rangeSet is a list of ranges of one family, of which a container gets one address.
type rangeSet []addressRange

func newRangeSet(ranges []addressRange) (rangeSet, error) {
	if len(ranges) == 0 {
		return nil, errors.New("a set of ranges is empty")
	}
	var set rangeSet
	for _, one := range ranges {
		whole, err := one.complete()
		if err != nil {
			return nil, err
		}
		if len(set) > 0 && whole.Subnet.Addr().BitLen() != set[0].Subnet.Addr().BitLen() {
			return nil, fmt.Errorf("subnets %s and %s are of different families but in one set of ranges", set[0].Subnet, whole.Subnet)
		}
		if a, b, overlap := (rangeSet{whole}).overlaps(set); overlap {
			return nil, fmt.Errorf("range %s overlaps with range %s", a, b)
		}
		set = append(set, whole)
	}
	return set, nil
}

func (s rangeSet) overlaps(other rangeSet) (a, b addressRange, overlap bool) {
	for _, a := range s {
		for _, b := range other {
			if a.contains(b.RangeStart) || b.contains(a.RangeStart) {
				return a, b, true
			}
		}
	}
	return a, b, false
}

// find returns the range that has the address.
func (s rangeSet) find(address netip.Addr) (addressRange, bool) {
	for _, one := range s {
		if one.contains(address) {
			return one, true
		}
	}
	return addressRange{}, false
}

// pick chooses an address: the first of wanted that the set has, which it then takes from wanted, or else the next free one
// behind the last that was given. An address is so reused as late as possible, as neighbours may remember who had it.
func (s rangeSet) pick(wanted *[]netip.Addr, taken leases, last func() netip.Addr) (netip.Addr, addressRange, error) {
	if wanted != nil {
		for i, address := range *wanted {
			if in, found := s.find(address); found {
				*wanted = slices.Delete(slices.Clone(*wanted), i, i+1)
				return address, in, s.checkWanted(address, in, taken)
			}
		}
	}
	for address, in := range s.after(last()) {
		if _, used := taken[address]; !used && address != in.Gateway {
			return address, in, nil
		}
	}
	return netip.Addr{}, addressRange{}, errdefs.As(errdefs.ErrResourceExhausted, fmt.Errorf("no address is left in %s", s))
}

func (s rangeSet) checkWanted(address netip.Addr, in addressRange, taken leases) error {
	if address == in.Gateway {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot give the requested address %s: it is the gateway", address))
	}
	if _, used := taken[address]; used {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("cannot give the requested address %s: it is in use", address))
	}
	return nil
}

// after walks once over all addresses of the set, starting behind last, or with the first if last is none of them.
func (s rangeSet) after(last netip.Addr) iter.Seq2[netip.Addr, addressRange] {
	turns := slices.Clone(s)
	for i, one := range s {
		if !one.contains(last) {
			continue
		}
		// Its end, the other ranges, and its beginning.
		end, beginning := one, one
		end.RangeStart, beginning.RangeEnd = last.Next(), last
		turns = slices.Concat(rangeSet{end}, s[i+1:], s[:i], rangeSet{beginning})
		break
	}
	return func(yield func(netip.Addr, addressRange) bool) {
		for _, one := range turns {
			for address := one.RangeStart; one.contains(address); address = address.Next() {
				if !yield(address, one) {
					return
				}
			}
		}
	}
}

func (s rangeSet) String() string {
	text := ""
	for i, one := range s {
		if i > 0 {
			text += ", "
		}
		text += one.String()
	}
	return text
}
