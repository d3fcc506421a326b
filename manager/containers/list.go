package containers

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/manager/blobs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// statusWord is a state as docker writes it.
func statusWord(s status) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "CONTAINER_STATUS_"))
}

// Query says which containers List answers.
type Query struct {
	All     bool // those that do not run too
	Filters []*berthv1.Filter
	Limit   int // the newest so many, whatever their state; 0: no limit
	Size    bool
}

// List answers the containers that fit, newest first.
func (s *Service) List(ctx context.Context, query Query) ([]*berthv1.Container, error) {
	match, err := s.filter(query.Filters)
	if err != nil {
		return nil, err
	}
	everyState := query.All || query.Limit > 0 || slices.ContainsFunc(query.Filters, func(f *berthv1.Filter) bool {
		return f.GetKey() == "status" || f.GetKey() == "exited"
	})
	var list []*berthv1.Container
	for _, c := range s.all() {
		message := c.snapshot()
		state := message.GetState().GetStatus()
		if !everyState && !isActive(state) && state != statusRestarting || !match(message) {
			continue
		}
		if query.Limit > 0 && len(list) == query.Limit {
			break
		}
		if query.Size {
			s.measure(ctx, message)
		}
		list = append(list, message)
	}
	return list, nil
}

// Inspect tells all of one container.
func (s *Service) Inspect(ctx context.Context, ref string, size bool) (*berthv1.Container, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	message := c.snapshot()
	if size {
		s.measure(ctx, message)
	}
	return message, nil
}

// measure fills in what the container's layers take. Sizes that can't be had stay away.
func (s *Service) measure(ctx context.Context, message *berthv1.Container) {
	total := int64(0)
	for key := message.GetSnapshotKey(); key != ""; {
		usage, err := s.cfg.Snapshots.Usage(blobs.WithNamespace(ctx), &snapshotsapi.UsageRequest{Snapshotter: s.cfg.Snapshotter, Key: key})
		if err != nil {
			return
		}
		if key == message.GetSnapshotKey() {
			own := usage.GetSize()
			message.SizeRw = &own
		}
		total += usage.GetSize()
		stat, err := s.cfg.Snapshots.Stat(blobs.WithNamespace(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: s.cfg.Snapshotter, Key: key})
		if err != nil {
			return
		}
		key = stat.GetInfo().GetParent()
	}
	message.SizeRootfs = &total
}

// Usage is what containers take: how many there are, how many of them run, and the bytes of their layers.
type Usage struct {
	Total, Active     int
	Size, Reclaimable int64
}

// Usage computes what containers take.
func (s *Service) Usage(ctx context.Context) Usage {
	var usage Usage
	for _, c := range s.all() {
		message := c.snapshot()
		s.measure(ctx, message)
		usage.Total++
		usage.Size += message.GetSizeRw()
		if isActive(message.GetState().GetStatus()) {
			usage.Active++
		} else {
			usage.Reclaimable += message.GetSizeRw()
		}
	}
	return usage
}

type predicate func(*berthv1.Container) bool

// filter makes one predicate of all filters: values of one key are alternatives, keys must all match.
func (s *Service) filter(filters []*berthv1.Filter) (predicate, error) {
	var all []predicate
	for _, filter := range filters {
		var any []predicate
		for _, value := range filter.GetValues() {
			p, err := s.condition(filter.GetKey(), value)
			if err != nil {
				return nil, err
			}
			any = append(any, p)
		}
		all = append(all, func(m *berthv1.Container) bool {
			return slices.ContainsFunc(any, func(p predicate) bool { return p(m) })
		})
	}
	return func(m *berthv1.Container) bool {
		return !slices.ContainsFunc(all, func(p predicate) bool { return !p(m) })
	}, nil
}

// condition is one value of a filter.
func (s *Service) condition(key, value string) (predicate, error) {
	switch key {
	case "id":
		return func(m *berthv1.Container) bool { return strings.HasPrefix(m.GetId(), value) }, nil
	case "name":
		pattern, err := regexp.Compile(strings.TrimPrefix(value, "/"))
		if err != nil {
			return nil, invalid("invalid filter name=%q: %v", value, err)
		}
		return func(m *berthv1.Container) bool { return pattern.MatchString(m.GetName()) }, nil
	case "label":
		name, want, has := strings.Cut(value, "=")
		return func(m *berthv1.Container) bool {
			got, ok := m.GetSpec().GetLabels()[name]
			return ok && (!has || got == want)
		}, nil
	case "status":
		if _, known := berthv1.ContainerStatus_value["CONTAINER_STATUS_"+strings.ToUpper(value)]; !known {
			return nil, invalid("invalid filter status=%q: want created, running, paused, restarting, removing, exited or dead", value)
		}
		return func(m *berthv1.Container) bool { return statusWord(m.GetState().GetStatus()) == value }, nil
	case "exited":
		code, err := strconv.Atoi(value)
		if err != nil {
			return nil, invalid("invalid filter exited=%q: want an exit code", value)
		}
		return func(m *berthv1.Container) bool {
			return m.GetState().GetStatus() == statusExited && m.GetState().GetExitCode() == int32(code)
		}, nil
	case "health":
		return func(m *berthv1.Container) bool {
			return value == "none" && m.GetState().GetHealth() == nil ||
				m.GetState().GetHealth().GetStatus() == berthv1.HealthStatus(berthv1.HealthStatus_value["HEALTH_STATUS_"+strings.ToUpper(value)])
		}, nil
	case "before", "since":
		return s.age(key, value)
	}
	return s.belongings(key, value)
}

// age compares with when another container was created.
func (s *Service) age(key, ref string) (predicate, error) {
	other, err := s.find(ref)
	if err != nil {
		return nil, fmt.Errorf("cannot filter by %s: %w", key, err)
	}
	return func(m *berthv1.Container) bool {
		if key == "before" {
			return m.GetCreatedAt().AsTime().Before(other.created)
		}
		return m.GetCreatedAt().AsTime().After(other.created)
	}, nil
}

// belongings are conditions on the image, networks, ports and volumes of a container.
func (s *Service) belongings(key, value string) (predicate, error) {
	switch key {
	case "ancestor":
		id := value
		if image, err := s.cfg.Images.Resolve(s.work, value); err == nil {
			id = image.ID
		}
		return func(m *berthv1.Container) bool { return m.GetImageId() == id || m.GetImage() == value }, nil
	case "network":
		return func(m *berthv1.Container) bool {
			return m.GetSpec().GetNetwork().GetMode() == value || slices.ContainsFunc(m.GetEndpoints(), func(e *berthv1.EndpointState) bool {
				return e.GetNetworkId() == value || e.GetConfig().GetNetwork() == value
			})
		}, nil
	case "volume":
		return func(m *berthv1.Container) bool {
			return slices.ContainsFunc(m.GetMounts(), func(state *berthv1.MountState) bool {
				return state.GetVolume() == value || state.GetMount().GetSource() == value || state.GetMount().GetTarget() == value
			})
		}, nil
	case "publish", "expose":
		port, protocol, found := strings.Cut(value, "/")
		if !found {
			protocol = "tcp"
		}
		first, last, err := portRange(port)
		if err != nil {
			return nil, invalid("invalid filter %s=%q: want PORT or FIRST-LAST, with /tcp or /udp", key, value)
		}
		return func(m *berthv1.Container) bool { return hasPort(m, key, protocol, first, last) }, nil
	}
	return nil, invalid("unknown filter %q for containers", key)
}

func portRange(text string) (first, last uint64, err error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	if first, err = strconv.ParseUint(from, 10, 16); err != nil {
		return 0, 0, err
	}
	last, err = strconv.ParseUint(to, 10, 16)
	return first, last, err
}

func hasPort(m *berthv1.Container, key, protocol string, first, last uint64) bool {
	inside := func(port uint64) bool { return first <= port && port <= last }
	if key == "publish" {
		return slices.ContainsFunc(m.GetPorts(), func(p *berthv1.PortMapping) bool {
			own := p.GetProtocol()
			if own == "" {
				own = "tcp"
			}
			return own == protocol && inside(uint64(p.GetHostPort()))
		})
	}
	return slices.ContainsFunc(m.GetExposedPorts(), func(exposed string) bool {
		text, own, found := strings.Cut(exposed, "/")
		if !found {
			own = "tcp"
		}
		port, err := strconv.ParseUint(text, 10, 16)
		return err == nil && own == protocol && inside(port)
	})
}

// pruneFilter understands what prune does: label, label!, and until.
func pruneFilter(filters []*berthv1.Filter) (predicate, error) {
	var all []predicate
	for _, filter := range filters {
		for _, value := range filter.GetValues() {
			name, want, has := strings.Cut(value, "=")
			switch filter.GetKey() {
			case "label", "label!":
				wanted := filter.GetKey() == "label"
				all = append(all, func(m *berthv1.Container) bool {
					got, ok := m.GetSpec().GetLabels()[name]
					return (ok && (!has || got == want)) == wanted
				})
			case "until":
				limit, err := parseUntil(value, time.Now())
				if err != nil {
					return nil, err
				}
				all = append(all, func(m *berthv1.Container) bool { return m.GetCreatedAt().AsTime().Before(limit) })
			default:
				return nil, invalid("unknown filter %q for pruning containers", filter.GetKey())
			}
		}
	}
	return func(m *berthv1.Container) bool {
		return !slices.ContainsFunc(all, func(p predicate) bool { return !p(m) })
	}, nil
}

func parseUntil(value string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(value); err == nil {
		return now.Add(-ago), nil
	}
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		return at, nil
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	return time.Time{}, invalid("invalid filter until=%q: want a duration as 24h, or a time as 2006-01-02T15:04:05Z", value)
}
