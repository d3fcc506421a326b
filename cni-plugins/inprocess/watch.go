package inprocess

import (
	"context"
	"errors"

	"github.com/berthd/berth/cni-plugins/internal/passage"
	"github.com/berthd/berth/cni-plugins/internal/watch"
)

// Change is something that another process did to the host's network.
type Change = watch.Change

// The kinds of changes.
const (
	// ChangedRules: berth's nftables table lost something.
	ChangedRules = watch.Rules
	// ChangedFirewall: another firewall's rules for what is forwarded changed.
	ChangedFirewall = watch.Firewall
	// ChangedLink: a link is gone.
	ChangedLink = watch.Link
)

// Watch calls changed for each change until ctx ends. Changes that this process makes in nftables are left out.
func (e *Exec) Watch(ctx context.Context, table string, changed func(Change)) (err error) {
	var watcher *watch.Watcher
	entered := e.onHost(func() { watcher, err = watch.Open(table) })
	if err := errors.Join(entered, err); err != nil {
		return err
	}
	return watcher.Run(ctx, changed)
}

// MustPoll tells whether the host has a firewall that tells nobody when it changes.
func (e *Exec) MustPoll() (must bool) {
	_ = e.onHost(func() { must = passage.IsSilent() })
	return must
}
