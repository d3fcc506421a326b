package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// portRange is first to last, both included.
type portRange struct{ first, last uint32 }

func (r portRange) size() uint32 { return r.last - r.first + 1 }

func parseRange(text string) (portRange, error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	if err != nil || first == 0 {
		return portRange{}, fmt.Errorf("%q is no port (1 to 65535)", text)
	}
	last, err := strconv.ParseUint(high, 10, 16)
	if err != nil || last < first {
		return portRange{}, fmt.Errorf("%q is no range of ports", text)
	}
	return portRange{uint32(first), uint32(last)}, nil
}

func parseProtocol(text string) (ports, protocol string, err error) {
	ports, protocol, given := strings.Cut(text, "/")
	if !given {
		return ports, "tcp", nil
	}
	switch protocol = strings.ToLower(protocol); protocol {
	case "tcp", "udp", "sctp":
		return ports, protocol, nil
	}
	return "", "", fmt.Errorf("unknown protocol %q: want tcp, udp or sctp", protocol)
}

// parsePublish reads the value of -p: [[ip:][hostPort]:]containerPort[/protocol], or its long syntax, where ports may be ranges of one
// size and an IPv6 address is in brackets.
func parsePublish(text string) ([]*berthv1.PortMapping, error) {
	fail := func(err error) ([]*berthv1.PortMapping, error) { return nil, invalid("publish", text, err.Error()) }
	rest, err := shortPublish(text)
	if err != nil {
		return fail(err)
	}
	rest, protocol, err := parseProtocol(rest)
	if err != nil {
		return fail(err)
	}
	hostIP, hostPort, containerPort, err := splitPublish(rest)
	if err != nil {
		return fail(err)
	}
	container, err := parseRange(containerPort)
	if err != nil {
		return fail(err)
	}
	var host portRange
	if hostPort != "" && hostPort != "0" {
		if host, err = parseRange(hostPort); err != nil {
			return fail(err)
		}
		if container.size() == 1 && host.size() > 1 {
			return fail(fmt.Errorf("choosing a free port of the range %s is not implemented", hostPort))
		}
		if host.size() != container.size() {
			return fail(fmt.Errorf("the ranges %s and %s differ in size", hostPort, containerPort))
		}
	}
	var mappings []*berthv1.PortMapping
	for offset := range container.size() {
		mapping := &berthv1.PortMapping{HostIp: hostIP, ContainerPort: container.first + offset, Protocol: protocol}
		if host.first != 0 {
			mapping.HostPort = host.first + offset
		}
		mappings = append(mappings, mapping)
	}
	return mappings, nil
}

// shortPublish turns docker's long syntax, published=8080,target=80,protocol=tcp, into the short one.
func shortPublish(text string) (string, error) {
	if !strings.Contains(text, "=") {
		return text, nil
	}
	values := map[string]string{"protocol": "tcp"}
	for part := range strings.SplitSeq(text, ",") {
		switch key, value, _ := strings.Cut(part, "="); key {
		case "published", "target", "protocol":
			values[key] = value
		default:
			return "", fmt.Errorf("unknown key %q: want published, target or protocol", key)
		}
	}
	return values["published"] + ":" + values["target"] + "/" + values["protocol"], nil
}

func splitPublish(text string) (hostIP, hostPort, containerPort string, err error) {
	if cut := strings.LastIndex(text, ":"); cut < 0 {
		return "", "", text, nil
	} else {
		hostPort, containerPort = text[:cut], text[cut+1:]
	}
	if cut := strings.LastIndex(hostPort, ":"); cut >= 0 {
		hostIP, hostPort = hostPort[:cut], hostPort[cut+1:]
		hostIP = strings.TrimSuffix(strings.TrimPrefix(hostIP, "["), "]")
		if _, err := netip.ParseAddr(hostIP); err != nil {
			return "", "", "", fmt.Errorf("%q is no IP address of the host", hostIP)
		}
	}
	return hostIP, hostPort, containerPort, nil
}

// parseExpose reads the value of --expose: a port or a range, with a protocol.
func parseExpose(text string) ([]string, error) {
	ports, protocol, err := parseProtocol(text)
	if err != nil {
		return nil, invalid("expose", text, err.Error())
	}
	exposed, err := parseRange(ports)
	if err != nil {
		return nil, invalid("expose", text, err.Error())
	}
	var names []string
	for port := exposed.first; port <= exposed.last; port++ {
		names = append(names, fmt.Sprintf("%d/%s", port, protocol))
	}
	return names, nil
}
