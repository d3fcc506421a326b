package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const adminChain = "admin"

func chainNames() []string {
	return []string{"raw", "prerouting", "output", "postrouting", "forward", "ports", adminChain}
}

func setNames() []string {
	return []string{
		SetMasquerade, SetHairpin, SetSelf, SetMasqueradeAll, SetInternal, SetBridged, SetIsolated, SetPort, SetAnyPort,
	}
}

// layout writes the fixed part of the table into one transaction.
type layout struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func (l layout) addSets() error {
	var number uint32 // within the transaction: the library's own count is not safe for two at once
	for _, family := range []family{ipv4(), ipv6()} {
		byPair := nftables.MustConcatSetType(family.address, family.address)
		byLink := nftables.MustConcatSetType(family.address, nftables.TypeIFName)
		byPort := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
		byAddressPort := nftables.MustConcatSetType(family.address, nftables.TypeInetProto, nftables.TypeInetService)
		target := nftables.MustConcatSetType(family.address, nftables.TypeInetService)
		for _, set := range []*nftables.Set{
			{Name: SetMasquerade, KeyType: byLink},
			{Name: SetHairpin, KeyType: byLink},
			{Name: SetSelf, KeyType: byPair},
			{Name: SetMasqueradeAll, KeyType: family.address},
			{Name: SetInternal, KeyType: byLink},
			{Name: SetBridged, KeyType: byLink},
			{Name: SetIsolated, KeyType: byLink},
			{Name: SetPort, KeyType: byAddressPort, IsMap: true, DataType: target},
			{Name: SetAnyPort, KeyType: byPort, IsMap: true, DataType: target},
		} {
			number++
			set.ID, set.Table, set.Name, set.KeyByteOrder = number, l.table, set.Name+family.suffix, binaryutil.BigEndian
			if err := l.conn.AddSet(set, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l layout) addChains() {
	raw := l.hook("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	prerouting := l.hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	output := l.hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	postrouting := l.hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	forward := l.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	ports := l.conn.AddChain(&nftables.Chain{Name: "ports", Table: l.table})
	admin := l.conn.AddChain(&nftables.Chain{Name: adminChain, Table: l.table})
	for _, chain := range []*nftables.Chain{raw, prerouting, output, postrouting, forward, ports} {
		l.conn.FlushChain(chain)
	}
	l.loopbackRules(raw)
	l.rule(prerouting, localDestination(), jump(ports))
	l.rule(output, localDestination(), jump(ports))
	for _, f := range []family{ipv4(), ipv6()} {
		l.rule(ports, f.is(), f.load(f.destination, 1), l4Port(f.next), f.dnat(SetPort))
		l.rule(ports, f.is(), l4Port(1), f.dnat(SetAnyPort))
		l.masqueradeRules(postrouting, f)
	}
	l.rule(forward, connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	l.rule(forward, jump(admin))
	for _, f := range []family{ipv4(), ipv6()} {
		l.forwardRules(forward, f)
	}
}

// loopbackRules keep up what the kernel does by itself until route_localnet is set, as portmap has to: 127.0.0.0/8 is
// reached from this host only. So are ports that are published there, and the host's own services.
func (l layout) loopbackRules(raw *nftables.Chain) {
	f := ipv4()
	notLo := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: linkName("lo")}}
	for _, side := range []uint32{f.source, f.destination} {
		loopback := []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: side, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
		}
		l.rule(raw, f.is(), notLo, loopback, verdict(expr.VerdictDrop))
	}
}

func (l layout) masqueradeRules(chain *nftables.Chain, f family) {
	l.rule(chain, f.is(), f.onLink(f.source, expr.MetaKeyIIFNAME, SetMasquerade, false), f.multicast(verdict(expr.VerdictReturn)))
	l.rule(chain, f.is(), f.onLink(f.source, expr.MetaKeyIIFNAME, SetMasquerade, false),
		f.onLink(f.source, expr.MetaKeyOIFNAME, SetMasquerade, true), masquerade())
	// The container would answer its neighbour, or itself, directly, and from an address that was never asked.
	l.rule(chain, f.is(), published(), f.onLink(f.destination, expr.MetaKeyIIFNAME, SetHairpin, false), masquerade())
	// With br_netfilter such a packet never leaves the bridge: then it has no interface here, and only the container itself is in trouble.
	l.rule(chain, f.is(), published(), f.load(f.source, 1), f.load(f.destination, f.next), f.lookup(SetSelf, false), masquerade())
	if f.suffix == "4" {
		fromLoopback := []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
		}
		l.rule(chain, f.is(), fromLoopback, f.onLink(f.destination, expr.MetaKeyOIFNAME, SetHairpin, false), masquerade())
	}
	l.rule(chain, f.is(), published(), f.load(f.destination, 1), f.lookup(SetMasqueradeAll, false), masquerade())
}

func (l layout) forwardRules(chain *nftables.Chain, f family) {
	drop := verdict(expr.VerdictDrop)
	// An internal network forwards nothing but within its bridge.
	l.rule(chain, f.is(), f.onLink(f.source, expr.MetaKeyIIFNAME, SetInternal, false), f.onLink(f.source, expr.MetaKeyOIFNAME, SetInternal, true), drop)
	l.rule(chain, f.is(), f.onLink(f.destination, expr.MetaKeyOIFNAME, SetInternal, false), f.onLink(f.destination, expr.MetaKeyIIFNAME, SetInternal, true), drop)
	// A published port is open to everybody, containers of other bridges too.
	l.rule(chain, f.is(), published(), verdict(expr.VerdictReturn))
	// Ports that are not published are for the container's own bridge: neither containers of other bridges nor neighbours of the
	// host, who may route to the container's address through this host, reach them.
	l.rule(chain, f.is(), f.onLink(f.destination, expr.MetaKeyOIFNAME, SetBridged, false),
		f.onLink(f.destination, expr.MetaKeyIIFNAME, SetBridged, true), drop)
	// From any container to one that is isolated.
	l.rule(chain, f.is(), f.onLink(f.source, expr.MetaKeyIIFNAME, SetBridged, false), f.onLink(f.destination, expr.MetaKeyOIFNAME, SetIsolated, false), drop)
}

func (l layout) hook(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return l.conn.AddChain(&nftables.Chain{Name: name, Table: l.table, Type: kind, Hooknum: hook, Priority: priority})
}

func (l layout) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	l.conn.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: all})
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func jump(to *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// localDestination is `fib daddr type local`: without it a published port would also catch what only passes through this host.
func localDestination() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// dnatBit is IPS_DST_NAT of the kernel's connection status.
const dnatBit = 1 << 5

// published matches connections whose destination was translated.
func published() []expr.Any { return connection(expr.CtKeySTATUS, dnatBit) }

// connection matches if one of bits is set in a key of the connection.
func connection(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}
