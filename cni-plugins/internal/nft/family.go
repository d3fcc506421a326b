package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6 in the rules.
//
// Registers: 1 is the first of 16 bytes and at the same place as the four of 4 bytes 8 to 11; 2 is that of 12 to 15. The parts of a
// concatenated key lie one behind the other, each rounded up to 4 bytes.
type family struct {
	suffix      string
	protocol    byte
	address     nftables.SetDatatype
	source      uint32 // offset in the header
	destination uint32
	next        uint32 // the register behind an address in register 1
	multicastAt byte   // first byte of multicast addresses under multicastMask
	mask        byte
}

func ipv4() family {
	return family{suffix: "4", protocol: unix.NFPROTO_IPV4, address: nftables.TypeIPAddr, source: 12, destination: 16, next: 9, multicastAt: 0xe0, mask: 0xf0}
}

func ipv6() family {
	return family{suffix: "6", protocol: unix.NFPROTO_IPV6, address: nftables.TypeIP6Addr, source: 8, destination: 24, next: 12, multicastAt: 0xff, mask: 0xff}
}

// is matches packets of the family.
func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
	}
}

// load puts an address of the packet into a register.
func (f family) load(offset, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.address.Bytes}}
}

// lookup matches if the key in register 1 is in the set, or if it is not.
func (f family) lookup(set string, invert bool) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set + f.suffix, Invert: invert}}
}

// onLink looks up an address of the packet together with the name of one of its interfaces.
func (f family) onLink(offset uint32, interfaceName expr.MetaKey, set string, invert bool) []expr.Any {
	return append(append(f.load(offset, 1), &expr.Meta{Key: interfaceName, Register: f.next}), f.lookup(set, invert)...)
}

// multicast runs then for packets to many.
func (f family) multicast(then []expr.Any) []expr.Any {
	return append([]expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{f.mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.multicastAt}},
	}, then...)
}

// dnat translates to what the map has for the key in register 1.
func (f family) dnat(set string) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: set + f.suffix},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.protocol), RegAddrMin: 1, RegProtoMin: f.next},
	}
}

// l4Port puts protocol and destination port into a register and the one behind it.
func l4Port(register uint32) []expr.Any {
	behind := register + 1
	if register == 1 {
		behind = 9
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: behind, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}
