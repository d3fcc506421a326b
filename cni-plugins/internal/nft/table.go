// Package nft keeps one nftables table of berth's own, of family inet. Its chains and rules never change: all that a container
// needs are elements of sets and maps, so that a packet costs the same with one container and with thousands, and each
// change of a container is one small transaction.
//
//	raw          hook prerouting -300   what is to or from 127.0.0.0/8 and not on lo: drop
//	prerouting   hook prerouting -100   to an address of this host: ports
//	output       hook output -100       to an address of this host: ports
//	ports                               address . protocol . port in port4, port6: dnat; protocol . port in anyport4, anyport6: dnat
//	postrouting  hook postrouting 100   from a container in masq4, masq6 to elsewhere than its bridge: masquerade
//	                                    published, and back to the bridge where it came from (hairpin4, hairpin6): masquerade
//	                                    published, and back to the container where it came from (self4, self6): masquerade
//	                                    published, of a container in masqall4, masqall6: masquerade
//	forward      hook forward 0         established: accept; admin; internal*, bridged*, isolated*: drop (see the firewall plugin)
//	admin                               empty: rules of the host's administrator
//
// The table has a comment that marks it as berth's (see mark.go). Other tables are refused. Whoever uses it removes his elements; the
// table itself goes when nothing is in it, neither elements nor an administrator's rules or chains.
//
// Every element has its attachment as comment (plugin.Request.Owner). That is how Del and GC find what to remove.
package nft

import (
	"crypto/rand"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// The sets of the layout; each has a variant for either family (see Family).
const (
	SetMasquerade    = "masq"
	SetHairpin       = "hairpin"
	SetSelf          = "self"
	SetMasqueradeAll = "masqall"
	SetPort          = "port"
	SetAnyPort       = "anyport"
	SetInternal      = "internal"
	SetBridged       = "bridged"
	SetIsolated      = "isolated"
)

// DefaultTable is the table that is used if the configuration names none.
const DefaultTable = "berth"

// Table is berth's table `inet NAME` in the network namespace of the calling thread.
type Table struct {
	Name    string
	sockets *Sockets
}

// Named returns the table of a configuration, whose key nftTable may be empty.
func Named(name string, sockets *Sockets) (Table, error) {
	if name == "" {
		name = DefaultTable
	}
	if len(name) > 64 {
		return Table{}, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("nftTable %q is longer than 64 bytes", name))
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return Table{}, errdefs.As(errdefs.ErrInvalidArgument,
				fmt.Errorf("nftTable %q has a %q in it: letters, digits, -, _ and . are allowed", name, c))
		}
	}
	return Table{Name: name, sockets: sockets}, nil
}

// connect opens google/nftables with room for a whole layout: its own buffers overflow at some 200 messages, and a connection that is
// kept hangs for ever after an error, so each transaction gets a new one.
func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := c.SetReadBuffer(socketBuffer); err != nil {
			return err
		}
		return c.SetWriteBuffer(socketBuffer)
	}))
}

// create makes the table with its layout. It can be repeated, also by two processes at once: chains and sets stay, rules are
// replaced in the same transaction.
func (t Table) create() error {
	if err := t.claim(); err != nil {
		return fmt.Errorf("cannot create nftables table %q: %w", t.Name, err)
	}
	conn, err := connect()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	table := conn.AddTable(t.kernel())
	l := layout{conn: conn, table: table}
	if err := l.addSets(); err != nil {
		return fmt.Errorf("cannot describe nftables table %q: %w", t.Name, err)
	}
	l.addChains()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot create nftables table %q: %w", t.Name, err)
	}
	return nil
}

// Usable fails if the kernel does not let us change nftables, or if the table is not berth's.
func (t Table) Usable() error {
	err := t.sockets.do(func(s socket) error {
		if _, err := t.mine(s); err != nil {
			return err
		}
		trial := attribute(nil, unix.NFTA_TABLE_NAME, text("berth-trial-"+rand.Text()))
		return s.batch([]message{{kind: newTable, flags: unix.NLM_F_CREATE, body: trial}, {kind: deleteTable, body: trial}})
	})
	if err != nil {
		return fmt.Errorf("cannot use nftables table %q: %w", t.Name, err)
	}
	return nil
}

// Renew writes the layout again if there is a table: it may be that of another release of berth.
func (t Table) Renew() error {
	var present bool
	err := t.sockets.do(func(s socket) (err error) {
		present, err = t.mine(s)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot read nftables table %q: %w", t.Name, err)
	}
	if !present {
		return nil
	}
	return t.create()
}

func (t Table) kernel() *nftables.Table {
	return &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
}
