package plugin

import "net/netip"

// NeedPrev fails unless the plugin runs behind another one of a chain.
func (r *Request) NeedPrev() error {
	if r.Prev == nil {
		return InvalidConfig("plugin %q of network %q needs a prevResult: it must come behind another plugin", r.Common.Type, r.Common.Name)
	}
	return nil
}

// Addresses returns the addresses that the result so far gives to the request's interface in the container.
func (r *Request) Addresses() []netip.Addr {
	var list []netip.Addr
	for _, ip := range r.Prev.IPs {
		if at := ip.Interface; at != nil && *at >= 0 && *at < len(r.Prev.Interfaces) {
			if described := r.Prev.Interfaces[*at]; described.Sandbox == "" || described.Name != r.IfName {
				continue
			}
		}
		if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			list = append(list, address.Unmap())
		}
	}
	return list
}
