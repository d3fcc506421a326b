// Package catalog lists berth's plugins.
package catalog

import (
	"github.com/berthd/berth/cni-plugins/bridge"
	"github.com/berthd/berth/cni-plugins/firewall"
	"github.com/berthd/berth/cni-plugins/hostlocal"
	"github.com/berthd/berth/cni-plugins/loopback"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/cni-plugins/portmap"
)

// All returns every plugin.
func All() []plugin.Plugin {
	return []plugin.Plugin{bridge.Plugin(), firewall.Plugin(), hostlocal.Plugin(), loopback.Plugin(), portmap.Plugin()}
}

// Named returns the plugin of a type.
func Named(name string) (plugin.Plugin, bool) {
	for _, p := range All() {
		if p.Name == name {
			return p, true
		}
	}
	return plugin.Plugin{}, false
}
