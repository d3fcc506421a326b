package link

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Towards returns the name of the link by which the calling thread's namespace reaches an address.
func Towards(address netip.Addr) (string, error) {
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return "", fmt.Errorf("cannot find the link towards %s: %w", address, err)
	}
	found, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("cannot find the link towards %s: %w", address, err)
	}
	return found.Attrs().Name, nil
}
