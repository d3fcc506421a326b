package bridge

import (
	"context"
	"net"

	"github.com/berthd/berth/cni-plugins/internal/link"
	"github.com/berthd/berth/cni-plugins/plugin"
)

// repair makes the bridge again as it was, with the same hardware address, which the containers remember, and puts the container's veth
// end back on it.
func repair(_ context.Context, r *plugin.Request) error {
	conf, err := parse(r)
	if err != nil {
		return err
	}
	if r.Prev == nil {
		return plugin.InvalidConfig("to repair network %q a prevResult is needed", r.Common.Name)
	}
	a := &attachment{config: conf, request: r, hostName: link.HostName(r.Owner()), result: ownPart(r)}
	if mac, err := net.ParseMAC(a.describedMAC(conf.Bridge)); err == nil {
		a.bridgeMAC = mac
	}
	if err := a.ensureBridge(); err != nil {
		return err
	}
	if conf.IsGateway {
		if err := a.addGateways(); err != nil {
			return err
		}
	}
	port := link.Port{Alias: r.Owner(), Hairpin: conf.HairpinMode, Isolated: conf.PortIsolation}
	if err := link.Replug(a.hostName, a.bridge.Attrs().Index, port); err != nil {
		return err
	}
	return conf.table.Restore(a.masquerading())
}
