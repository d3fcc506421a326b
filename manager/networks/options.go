package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
)

// options are the driver options of a network, which have docker's names.
type options struct {
	bridge      string // name of the interface; empty: of berth's choice
	talk        bool   // containers of the network reach each other
	masquerade  bool   // what containers send elsewhere comes from the host's address
	unprotected bool   // neighbours of the host reach all ports, also those that are not published
	mtu         int    // 0: the kernel's
	hostBinding string // where ports are published that name no address of the host; empty: on all
}

const (
	optionBridge = "com.docker.network.bridge."
	optionMTU    = "com.docker.network.driver.mtu"
)

// policy is the firewall plugin's ingressPolicy.
func (o options) policy() string {
	switch {
	case !o.talk:
		return "isolated"
	case o.unprotected:
		return "open"
	}
	return "same-bridge"
}

// options are the network's, which were checked when it was created.
func (d *definition) options() options {
	parsed, _ := parseOptions(d.Options)
	return parsed
}

// parseOptions reads driver options. One that would have no effect is refused by its name.
func parseOptions(given map[string]string) (options, error) {
	o := options{talk: true, masquerade: true}
	keys := make([]string, 0, len(given))
	for key := range given {
		keys = append(keys, key)
	}
	slices.Sort(keys) // so that of several errors it is always the same one
	for _, key := range keys {
		if err := o.set(key, given[key]); err != nil {
			return o, err
		}
	}
	if !o.talk && o.unprotected {
		return o, invalid("the network options %senable_icc=false and %sgateway_mode_ipv4=nat-unprotected exclude each other", optionBridge, optionBridge)
	}
	return o, nil
}

func (o *options) set(key, value string) (err error) {
	bad := func(want string) error {
		return invalid("the value %q of the network option %q is not valid: want %s", value, key, want)
	}
	switch key {
	case optionBridge + "name":
		if o.bridge = value; !validLink(value) {
			return bad("the name of an interface, of 1 to 15 bytes")
		}
	case optionBridge + "enable_icc":
		if o.talk, err = strconv.ParseBool(value); err != nil {
			return bad("true or false")
		}
	case optionBridge + "enable_ip_masquerade":
		if o.masquerade, err = strconv.ParseBool(value); err != nil {
			return bad("true or false")
		}
	case optionBridge + "gateway_mode_ipv4":
		switch value {
		case "nat":
		case "nat-unprotected":
			o.unprotected = true
		default:
			return bad("nat or nat-unprotected; others are not implemented")
		}
	case optionBridge + "host_binding_ipv4":
		address, err := netip.ParseAddr(value)
		if err != nil || !address.Is4() {
			return bad("an IPv4 address")
		}
		o.hostBinding = value
	case optionMTU, "com.docker.network.mtu":
		if o.mtu, err = strconv.Atoi(value); err != nil || o.mtu < 68 || o.mtu > 65535 {
			return bad("68 to 65535")
		}
	default:
		return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("the network option %q is not implemented", key))
	}
	return nil
}

// validLink tells whether the kernel takes the name for an interface.
func validLink(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00%")
}
