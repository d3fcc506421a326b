// Package watch tells what other processes do to the network namespace: rules that they flush, and links that they delete.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/panics"
)

// Kind is what has changed.
type Kind int

// The kinds of changes.
const (
	Rules    Kind = iota // our table lost something
	Firewall             // another firewall's table has changed
	Link                 // a link is gone
)

// Change is one change.
type Change struct {
	Kind Kind
	Name string // of the link
}

// Watcher listens to the kernel.
type Watcher struct {
	table       string
	rules, link *netlink.Conn
}

// Open listens in the network namespace of the calling thread.
func Open(table string) (*Watcher, error) {
	rules, err := listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("cannot watch nftables: %w", err)
	}
	links, err := listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		_ = rules.Close()
		return nil, fmt.Errorf("cannot watch links: %w", err)
	}
	return &Watcher{table: table, rules: rules, link: links}, nil
}

func listen(family int, group uint32) (*netlink.Conn, error) {
	conn, err := netlink.Dial(family, nil)
	if err != nil {
		return nil, err
	}
	if err := conn.JoinGroup(group); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// Run calls changed, by one goroutine at a time, until ctx ends or the kernel can't be heard any more.
func (w *Watcher) Run(ctx context.Context, changed func(Change)) error {
	changes, ended := make(chan Change), make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	emit := func(c Change) {
		select {
		case changes <- c:
		case <-ctx.Done():
		}
	}
	batch := &batch{table: w.table, rules: map[string]int{}}
	go func() { ended <- receive(w.rules, emit, batch.handle, Change{Kind: Rules}, Change{Kind: Firewall}) }()
	go func() { ended <- receive(w.link, emit, handleLink, Change{Kind: Link}) }()
	running := 2
	defer func() {
		cancel()
		err := errors.Join(w.rules.Close(), w.link.Close())
		for ; running > 0; running-- {
			err = errors.Join(err, <-ended)
		}
		_ = err // of connections that are given up
	}()
	for {
		select {
		case c := <-changes:
			changed(c)
		case err := <-ended:
			running--
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// receive reads messages for ever. If some were lost, anything may have changed.
func receive(conn *netlink.Conn, emit func(Change), handle func(netlink.Message, func(Change)), anything ...Change) (err error) {
	defer panics.Recover(slog.Default(), "the watch of the host's network", &err)
	for {
		messages, err := conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			for _, change := range anything {
				emit(change)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot hear what changes in the host's network: %w", err)
		}
		for _, message := range messages {
			handle(message, emit)
		}
	}
}

// batch is one transaction of nftables: the kernel tells all its changes, and at its end who made it.
type batch struct {
	table          string
	lost, firewall bool
	// rules is how many rules the transaction has taken from each chain of the table. One that replaces them takes none: another
	// berthd that puts its table right must not make this one do the same, and so on for ever.
	rules map[string]int
}

func (b *batch) handle(m netlink.Message, emit func(Change)) {
	if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return
	}
	attributes, err := netlink.UnmarshalAttributes(m.Data[4:])
	if err != nil {
		return
	}
	kind := uint16(m.Header.Type) & 0xff
	if kind == unix.NFT_MSG_NEWGEN {
		if !own(attributes) {
			if b.lost || slices.ContainsFunc(slices.Collect(maps.Values(b.rules)), func(taken int) bool { return taken > 0 }) {
				emit(Change{Kind: Rules})
			}
			if b.firewall {
				emit(Change{Kind: Firewall})
			}
		}
		b.lost, b.firewall = false, false
		clear(b.rules)
		return
	}
	switch table := textOf(attributes, unix.NFTA_TABLE_NAME); {
	case kind == unix.NFT_MSG_NEWSETELEM:
	case table == b.table && kind == unix.NFT_MSG_NEWRULE:
		b.rules[textOf(attributes, unix.NFTA_RULE_CHAIN)]--
	case table == b.table && kind == unix.NFT_MSG_DELRULE:
		b.rules[textOf(attributes, unix.NFTA_RULE_CHAIN)]++
	case table == b.table:
		b.lost = b.lost || removes(kind)
	case table == "filter" || table == "firewalld":
		b.firewall = b.firewall || kind != unix.NFT_MSG_DELSETELEM
	}
}

func removes(kind uint16) bool {
	switch kind {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return true
	}
	return false
}

// textOf is the text in an attribute of a message. The table's name is the first attribute of each kind of message, a rule's chain the
// second.
func textOf(attributes []netlink.Attribute, kind uint16) string {
	for _, a := range attributes {
		if a.Type == kind {
			return strings.TrimRight(string(a.Data), "\x00")
		}
	}
	return ""
}

// own tells whether a thread of this process made a transaction.
func own(attributes []netlink.Attribute) bool {
	for _, a := range attributes {
		if a.Type != unix.NFTA_GEN_PROC_PID || len(a.Data) < 4 {
			continue
		}
		_, err := os.Stat("/proc/self/task/" + strconv.Itoa(int(binary.BigEndian.Uint32(a.Data))))
		return err == nil
	}
	return false
}

func handleLink(m netlink.Message, emit func(Change)) {
	if m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	attributes, err := netlink.UnmarshalAttributes(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return
	}
	for _, a := range attributes {
		if a.Type == unix.IFLA_IFNAME {
			emit(Change{Kind: Link, Name: strings.TrimRight(string(a.Data), "\x00")})
		}
	}
}
