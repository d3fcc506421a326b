// Package inprocess runs berth's plugins inside the process that calls libcni, and everybody else's by executing them. A
// plugin that needs not be executed attaches a container in a third of the time.
//
//	cni := libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, cacheDir, inprocess.New())
//	result, err := cni.AddNetworkList(ctx, list, runtimeConf)
//
// Every call runs on a thread of its own choosing that is locked meanwhile, so that no other goroutine ever sees a
// container's network namespace.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berthd/berth/cni-plugins/internal/catalog"
	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/internal/netns"
	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/internal/passage"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/errdefs"
)

// Exec implements invoke.Exec. It is safe for concurrent use.
type Exec struct {
	version.PluginDecoder
	others  plugin.Executor
	netns   string
	sockets nft.Sockets
}

var _ invoke.Exec = (*Exec)(nil)

// Option changes an Exec.
type Option func(*Exec)

// New returns an Exec for libcni.
func New(options ...Option) *Exec {
	e := &Exec{others: plugin.Executor{Stderr: os.Stderr}}
	for _, option := range options {
		option(e)
	}
	return e
}

// WithNetns sets the network namespace that plugins take for the host's. Without it that is the one of the process.
func WithNetns(path string) Option { return func(e *Exec) { e.netns = path } }

// Close releases the sockets that are kept for the next call.
func (e *Exec) Close() { e.sockets.Close() }

// here marks the "path" of a plugin that runs in this process. No file can have it, as it ends in no path of a name.
const here = "in-process:"

// FindInPath returns what ExecPlugin takes for a plugin: ours first, or else an executable in paths.
func (e *Exec) FindInPath(name string, paths []string) (string, error) {
	if _, ours := catalog.Named(name); ours {
		return here + name, nil
	}
	return e.others.FindInPath(name, paths)
}

// ExecPlugin makes one call of a plugin. An error of our plugins is of CNI (types.Error) and of a class of errdefs.
func (e *Exec) ExecPlugin(ctx context.Context, path string, config []byte, environ []string) ([]byte, error) {
	return e.call(ctx, path, plugin.Call{Getenv: lookup(environ), Config: config}, environ)
}

// Repairing returns an Exec for a libcni that puts back, in place of each CHECK, what a network's attachment has lost on the host. For
// plugins of others a CHECK stays one.
func (e *Exec) Repairing() invoke.Exec { return repairing{e} }

type repairing struct{ *Exec }

func (e repairing) ExecPlugin(ctx context.Context, path string, config []byte, environ []string) ([]byte, error) {
	return e.call(ctx, path, plugin.Call{Getenv: lookup(environ), Config: config, Repair: true}, environ)
}

func (e *Exec) call(ctx context.Context, path string, call plugin.Call, environ []string) (output []byte, err error) {
	entered := e.onHost(func() {
		name, ours := strings.CutPrefix(path, here)
		if !ours {
			output, err = e.others.ExecPlugin(ctx, path, call.Config, environ)
			return
		}
		p, _ := catalog.Named(name)
		var failure *types.Error
		call.Sockets = &e.sockets
		if output, failure = p.Run(ctx, call); failure != nil {
			err = classify(failure)
		}
	})
	return output, errors.Join(entered, err)
}

// CheckTable fails if the nftables table `inet TABLE` can't be used: it is somebody else's.
func (e *Exec) CheckTable(_ context.Context, table string) error {
	return e.withTable(table, nft.Table.Claimable)
}

// RenewTable writes the rules of the nftables table again, if there is the table.
func (e *Exec) RenewTable(_ context.Context, table string) error {
	return e.withTable(table, nft.Table.Renew)
}

// DeleteTable removes the nftables table `inet TABLE` if berth made it and nothing of anybody is in it.
func (e *Exec) DeleteTable(_ context.Context, table string) error {
	return e.withTable(table, nft.Table.DeleteIfUnused)
}

func (e *Exec) withTable(name string, do func(nft.Table) error) (err error) {
	entered := e.onHost(func() {
		var table nft.Table
		if table, err = nft.Named(name, &e.sockets); err == nil {
			err = do(table)
		}
	})
	return errors.Join(entered, err)
}

// CheckBridge fails if the daemon with that ID can't have the bridge: there is a link of the name that is none, or another daemon's.
func (e *Exec) CheckBridge(_ context.Context, name, owner string) (err error) {
	entered := e.onHost(func() { err = link.CheckOwner(link.Bridge{Name: name, Owner: owner}) })
	return errors.Join(entered, err)
}

// ForeignBridge returns the first IPv4 address of a bridge that berth did not make; it is not valid if there is none.
func (e *Exec) ForeignBridge(_ context.Context, name string) (address netip.Prefix, err error) {
	entered := e.onHost(func() { address, err = link.ForeignBridge(name) })
	return address, errors.Join(entered, err)
}

// DeleteBridge removes a bridge that berth made, with its way through other firewalls. A link that somebody else made is left alone,
// and so is a bridge that has ports.
func (e *Exec) DeleteBridge(_ context.Context, name string) (err error) {
	// The passage first: berthd may be killed in between, and then the bridge still says that there is something to remove.
	entered := e.onHost(func() {
		err = link.DeleteBridge(name, func() {
			if err := passage.Close(name); err != nil { // no reason to keep the bridge
				fmt.Fprintf(e.others.Stderr, "the rules of bridge %q are left in the host's firewall: %v\n", name, err)
			}
		})
	})
	return errors.Join(entered, err)
}

// OpenPassage lets what is forwarded from and to a bridge pass the host's other firewalls, again if it was let before. An error
// names what is in the way.
func (e *Exec) OpenPassage(_ context.Context, bridge string) (err error) {
	entered := e.onHost(func() {
		if link.Exists(bridge) {
			err = passage.Open(bridge)
		}
	})
	return errors.Join(entered, err)
}

// Prefix is a network that the host knows a way to.
type Prefix = link.Prefix

// UsedPrefixes lists the networks that the host has addresses in, and those that its routes lead to, each with the link.
func (e *Exec) UsedPrefixes(_ context.Context) (used []Prefix, err error) {
	entered := e.onHost(func() { used, err = link.UsedPrefixes() })
	return used, errors.Join(entered, err)
}

// onHost runs f on a locked thread in the host's network namespace and waits for it.
func (e *Exec) onHost(f func()) error {
	if e.netns == "" {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		f()
		return nil
	}
	return netns.Spend(e.netns, f)
}

// lookup returns os.Getenv for a list of NAME=VALUE.
func lookup(environ []string) func(string) string {
	return func(name string) string {
		for i := len(environ) - 1; i >= 0; i-- {
			if value, found := strings.CutPrefix(environ[i], name+"="); found {
				return value
			}
		}
		return ""
	}
}

func classify(failure *types.Error) error {
	switch failure.Code {
	case plugin.ErrAlreadyAllocated:
		return errdefs.As(errdefs.ErrAlreadyExists, failure)
	case plugin.ErrExhausted:
		return errdefs.As(errdefs.ErrResourceExhausted, failure)
	case types.ErrInvalidNetworkConfig, types.ErrInvalidEnvironmentVariables, types.ErrDecodingFailure:
		return errdefs.As(errdefs.ErrInvalidArgument, failure)
	case types.ErrUnsupportedField:
		return errdefs.As(errdefs.ErrUnimplemented, failure)
	case types.ErrTryAgainLater:
		return errdefs.As(errdefs.ErrUnavailable, failure)
	}
	return failure
}
