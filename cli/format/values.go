package format

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// shortID is how many digits of an ID people get to see.
const shortID = 12

// ID returns an ID as people see it, or all of it.
func ID(id string, whole bool) string {
	if whole {
		return id
	}
	_, digits, isDigest := strings.Cut(id, ":")
	if !isDigest {
		digits = id
	}
	if len(digits) > shortID {
		digits = digits[:shortID]
	}
	return digits
}

// Name returns the name of an image as people write it, without what Docker's rules add.
func Name(reference string) string {
	name := strings.TrimPrefix(reference, "docker.io/")
	return strings.TrimPrefix(name, "library/")
}

// SplitName cuts a name into repository and tag or digest.
func SplitName(reference string) (repository, tag, digest string) {
	repository, digest, _ = strings.Cut(reference, "@")
	if colon := strings.LastIndex(repository, ":"); colon > strings.LastIndex(repository, "/") {
		repository, tag = repository[:colon], repository[colon+1:]
	}
	return repository, tag, digest
}

// Size returns bytes as "1.23MB".
func Size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// Age returns how long ago a time was, as "3 minutes ago"; nothing for no time.
func Age(since *timestamppb.Timestamp, now time.Time) string {
	if !since.IsValid() || since.AsTime().Unix() <= 0 {
		return "N/A"
	}
	return units.HumanDuration(now.Sub(since.AsTime())) + " ago"
}

// Time returns a time as docker's CreatedAt columns show it.
func Time(t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// Ellipsis cuts text to a number of characters, the last being an ellipsis.
func Ellipsis(text string, length int) string {
	runes := []rune(text)
	if len(runes) <= length {
		return text
	}
	return string(runes[:length-1]) + "…"
}

// Labels returns labels as "a=1,b=2", sorted.
func Labels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for name, value := range labels {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// Status returns the state of a container in words, as "Up 3 minutes (healthy)" or "Exited (0) 2 hours ago".
func Status(state *berthv1.ContainerState, now time.Time) string {
	up := func() string { return "Up " + units.HumanDuration(now.Sub(state.GetStartedAt().AsTime())) }
	switch state.GetStatus() {
	case berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING:
		if health := Health(state.GetHealth()); health == "starting" {
			return up() + " (health: starting)"
		} else if health != "" {
			return up() + " (" + health + ")"
		}
		return up()
	case berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED:
		return up() + " (Paused)"
	case berthv1.ContainerStatus_CONTAINER_STATUS_RESTARTING:
		return fmt.Sprintf("Restarting (%d) %s", state.GetExitCode(), Age(state.GetFinishedAt(), now))
	case berthv1.ContainerStatus_CONTAINER_STATUS_EXITED:
		return fmt.Sprintf("Exited (%d) %s", state.GetExitCode(), Age(state.GetFinishedAt(), now))
	case berthv1.ContainerStatus_CONTAINER_STATUS_REMOVING:
		return "Removal In Progress"
	case berthv1.ContainerStatus_CONTAINER_STATUS_DEAD:
		return "Dead"
	case berthv1.ContainerStatus_CONTAINER_STATUS_UNSPECIFIED:
		return "Unknown"
	}
	return "Created"
}

// State returns docker's word for the status of a container. Docker has none for a container whose record can't be read.
func State(status berthv1.ContainerStatus) string {
	if status == berthv1.ContainerStatus_CONTAINER_STATUS_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(strings.TrimPrefix(status.String(), "CONTAINER_STATUS_"))
}

// Health returns docker's word for the health of a container; empty if nobody looks at it.
func Health(health *berthv1.Health) string {
	if health.GetStatus() == berthv1.HealthStatus_HEALTH_STATUS_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(health.GetStatus().String(), "HEALTH_STATUS_"))
}

// portRange is a published port and those that follow it, on the host and in the container alike.
type portRange struct {
	port  *berthv1.PortMapping
	count uint32
}

// String returns the range as docker does: "127.0.0.1:8080->80/tcp", or "0.0.0.0:8080-8082->80-82/tcp" for several ports.
func (r portRange) String() string {
	host, container := HostAddress(r.port), fmt.Sprint(r.port.GetContainerPort())
	if r.count > 1 {
		host += fmt.Sprintf("-%d", r.port.GetHostPort()+r.count-1)
		container += fmt.Sprintf("-%d", r.port.GetContainerPort()+r.count-1)
	}
	return fmt.Sprintf("%s->%s/%s", host, container, Protocol(r.port))
}

// continues tells whether a port follows the last one of the range.
func (r portRange) continues(next *berthv1.PortMapping) bool {
	return next.GetHostIp() == r.port.GetHostIp() && Protocol(next) == Protocol(r.port) &&
		next.GetContainerPort() == r.port.GetContainerPort()+r.count && next.GetHostPort() == r.port.GetHostPort()+r.count
}

// publishedRanges joins ports that follow each other.
func publishedRanges(ports []*berthv1.PortMapping) []string {
	sorted := slices.SortedStableFunc(slices.Values(ports), func(a, b *berthv1.PortMapping) int {
		return cmp.Or(cmp.Compare(a.GetHostIp(), b.GetHostIp()), cmp.Compare(Protocol(a), Protocol(b)),
			cmp.Compare(a.GetContainerPort(), b.GetContainerPort()), cmp.Compare(a.GetHostPort(), b.GetHostPort()))
	})
	var ranges []portRange
	for _, port := range sorted {
		if last := len(ranges) - 1; last >= 0 && ranges[last].continues(port) {
			ranges[last].count++
			continue
		}
		ranges = append(ranges, portRange{port: port, count: 1})
	}
	var names []string
	for _, r := range ranges {
		names = append(names, r.String())
	}
	return names
}

// exposedRanges joins ports, as "80/tcp", that follow each other.
func exposedRanges(ports []string) []string {
	type exposed struct {
		first, last uint64
		protocol    string
	}
	var parsed []exposed
	var names []string
	for _, text := range ports {
		number, protocol, _ := strings.Cut(text, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			names = append(names, text)
			continue
		}
		parsed = append(parsed, exposed{port, port, protocol})
	}
	slices.SortFunc(parsed, func(a, b exposed) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.first, b.first))
	})
	var joined []exposed
	for _, port := range parsed {
		if last := len(joined) - 1; last >= 0 && joined[last].protocol == port.protocol && joined[last].last+1 == port.first {
			joined[last].last = port.first
			continue
		}
		joined = append(joined, port)
	}
	for _, r := range joined {
		name := strconv.FormatUint(r.first, 10)
		if r.last > r.first {
			name += "-" + strconv.FormatUint(r.last, 10)
		}
		names = append(names, name+"/"+r.protocol)
	}
	return names
}

// HostAddress returns the address of the host that a port is published on.
func HostAddress(port *berthv1.PortMapping) string {
	ip := port.GetHostIp()
	if ip == "" {
		ip = "0.0.0.0"
	}
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%d", ip, port.GetHostPort())
}

// Protocol returns the protocol of a port, tcp if none was given.
func Protocol(port *berthv1.PortMapping) string {
	if port.GetProtocol() == "" {
		return "tcp"
	}
	return port.GetProtocol()
}

// Ports returns published ports, then those that are only exposed. Ports that follow each other are one range.
func Ports(container *berthv1.Container) string {
	published := map[string]bool{}
	for _, port := range container.GetPorts() {
		published[fmt.Sprintf("%d/%s", port.GetContainerPort(), Protocol(port))] = true
	}
	var exposed []string
	for _, name := range container.GetExposedPorts() {
		if !published[name] {
			exposed = append(exposed, name)
		}
	}
	return strings.Join(append(publishedRanges(container.GetPorts()), exposedRanges(exposed)...), ", ")
}
