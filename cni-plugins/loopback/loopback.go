// Package loopback is the CNI plugin of that name: it sets the interface lo of a container up.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/internal/netns"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/errdefs"
)

// Plugin returns the plugin.
func Plugin() plugin.Plugin {
	return plugin.Plugin{Name: "loopback", Add: add, Del: del, Check: check}
}

// name is the interface whatever CNI_IFNAME says: there is one per namespace.
const name = "lo"

func add(_ context.Context, r *plugin.Request) (*types100.Result, error) {
	ns, err := r.OpenNetns()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("cannot find link %q: %w", name, err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("cannot set link %q up: %w", name, err)
		}
		return describe(result, lo, r.Netns)
	})
	if err != nil {
		return nil, err
	}
	if r.Prev != nil {
		return r.Prev, nil
	}
	return result, nil
}

func describe(result *types100.Result, lo netlink.Link, sandbox string) error {
	mac := make(net.HardwareAddr, 6).String()
	result.Interfaces = []*types100.Interface{{Name: name, Mac: mac, Mtu: lo.Attrs().MTU, Sandbox: sandbox}}
	addresses, err := link.Addresses(lo)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of link %q: %w", name, err)
	}
	for _, address := range addresses {
		if address.IP.IsLoopback() {
			result.IPs = append(result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: *address.IPNet})
		}
	}
	return nil
}

func del(_ context.Context, r *plugin.Request) error {
	if r.Netns == "" {
		return nil
	}
	ns, err := netns.Open(r.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // and lo with it
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		lo, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetDown(lo)
		}
		if err != nil {
			return fmt.Errorf("cannot set link %q down: %w", name, err)
		}
		return nil
	})
}

func check(_ context.Context, r *plugin.Request) error {
	ns, err := r.OpenNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		lo, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("cannot find link %q: %w", name, err)
		}
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("link %q is down in network namespace %q", name, r.Netns))
		}
		return nil
	})
}
