package containers

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/berthd/berth/internal/tree"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/manager/filter"
	"github.com/berthd/berth/manager/networks"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// statusWord is a state as docker writes it.
func statusWord(s status) string {
	if s == statusUnknown {
		return "unknown"
	}
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
		message := s.view(c)
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
	message := s.view(c)
	if size {
		s.measure(ctx, message)
	}
	return message, nil
}

// view is what clients see of a container: what is kept of it, and where its parts are.
func (s *Service) view(c *container) *berthv1.Container {
	message := c.snapshot()
	message.Snapshotter = s.cfg.Snapshotter
	if mode, _, err := networks.ParseMode(message.GetSpec().GetNetwork()); err == nil && ownsNetns(mode) && isActive(message.GetState().GetStatus()) {
		message.NetworkNamespace = s.netnsPath(message.GetId())
	}
	return message
}

// measure fills in what the container's layers take. Sizes that can't be had stay away.
func (s *Service) measure(ctx context.Context, message *berthv1.Container) {
	total := int64(0)
	for key := message.GetSnapshotKey(); key != ""; {
		usage, err := s.cfg.Snapshots.Usage(blobs.WithNamespace(ctx), &snapshotsapi.UsageRequest{Snapshotter: s.cfg.Snapshotter, Key: key})
		if err != nil {
			return
		}
		size := usage.GetSize()
		if key == message.GetSnapshotKey() {
			size = s.written(ctx, key, size)
			message.SizeRw = &size
		}
		total += size
		stat, err := s.cfg.Snapshots.Stat(blobs.WithNamespace(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: s.cfg.Snapshotter, Key: key})
		if err != nil {
			return
		}
		key = stat.GetInfo().GetParent()
	}
	message.SizeRootfs = &total
}

// written is the size of the files in a container's writable layer, as Docker counts it: without the directories, which
// each container has for the files that are mounted there. Where the layer is no directory of this host it is the usage
// that the snapshotter answers.
func (s *Service) written(ctx context.Context, key string, usage int64) int64 {
	mounts, err := s.snapshotMounts(ctx, key)
	if err != nil || len(mounts) == 0 {
		return usage
	}
	for _, option := range mounts[len(mounts)-1].GetOptions() {
		if dir, found := strings.CutPrefix(option, "upperdir="); found {
			if size, err := tree.FileUsage(ctx, dir); err == nil {
				return size
			}
		}
	}
	return usage
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

type predicate = filter.Condition[*berthv1.Container]

// filter makes one predicate of all filters.
func (s *Service) filter(filters []*berthv1.Filter) (predicate, error) {
	type container = *berthv1.Container
	simple := map[string]filter.Key[container]{
		"id": filter.Prefix(container.GetId), "label": filter.Label(labels),
		"name": filter.Matches(func(m container) []string { return []string{m.GetName(), "/" + m.GetName()} }),
		"status": filter.Equals(func(m container) string { return statusWord(m.GetState().GetStatus()) },
			"created", "running", "paused", "restarting", "removing", "exited", "dead"),
		"health":   filter.Equals(healthWord, "none", "starting", "healthy", "unhealthy"),
		"is-task":  filter.Bool(func(container) bool { return false }), // tasks are those of a cluster
		"exited":   exitedWith,
		"before":   func(value string) (predicate, error) { return s.age(value, time.Time.Before) },
		"since":    func(value string) (predicate, error) { return s.age(value, time.Time.After) },
		"ancestor": s.fromImage,
		"network":  s.inNetwork,
		"volume":   usesVolume,
		"publish":  func(value string) (predicate, error) { return hasPort("publish", value) },
		"expose":   func(value string) (predicate, error) { return hasPort("expose", value) },
	}
	return filter.Parse("containers", filters, simple)
}

func labels(m *berthv1.Container) map[string]string { return m.GetSpec().GetLabels() }

func healthWord(m *berthv1.Container) string {
	if m.GetState().GetHealth() == nil {
		return "none"
	}
	return strings.ToLower(strings.TrimPrefix(m.GetState().GetHealth().GetStatus().String(), "HEALTH_STATUS_"))
}

func exitedWith(value string) (predicate, error) {
	code, err := strconv.Atoi(value)
	if err != nil {
		return nil, invalid("want an exit code")
	}
	return func(m *berthv1.Container) bool {
		return m.GetState().GetStatus() == statusExited && m.GetState().GetExitCode() == int32(code)
	}, nil
}

// age compares with when another container was created.
func (s *Service) age(ref string, compare func(time.Time, time.Time) bool) (predicate, error) {
	other, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return func(m *berthv1.Container) bool { return compare(m.GetCreatedAt().AsTime(), other.created) }, nil
}

func (s *Service) fromImage(value string) (predicate, error) {
	id := value
	if image, err := s.cfg.Images.Resolve(s.work, value); err == nil {
		id = image.ID
	}
	return func(m *berthv1.Container) bool { return m.GetImageId() == id || m.GetImage() == value }, nil
}

// inNetwork fits also a container that does not run and was made for the network.
func (s *Service) inNetwork(value string) (predicate, error) {
	return func(m *berthv1.Container) bool {
		asked := m.GetSpec().GetNetwork()
		mode := asked.GetMode()
		if mode == "" {
			mode = "bridge"
		}
		return mode == value ||
			slices.ContainsFunc(asked.GetEndpoints(), func(e *berthv1.Endpoint) bool { return e.GetNetwork() == value }) ||
			slices.ContainsFunc(m.GetEndpoints(), func(e *berthv1.EndpointState) bool {
				return e.GetConfig().GetNetwork() == value || value != "" && strings.HasPrefix(e.GetNetworkId(), value)
			})
	}, nil
}

func usesVolume(value string) (predicate, error) {
	return func(m *berthv1.Container) bool {
		return slices.ContainsFunc(m.GetMounts(), func(state *berthv1.MountState) bool {
			return state.GetVolume() == value || state.GetMount().GetSource() == value || state.GetMount().GetTarget() == value
		})
	}, nil
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

// hasPort fits containers that publish, or expose, one of the ports PORT or FIRST-LAST, with a protocol behind a slash.
func hasPort(key, value string) (predicate, error) {
	port, protocol, found := strings.Cut(value, "/")
	if !found {
		protocol = "tcp"
	}
	first, last, err := portRange(port)
	if err != nil {
		return nil, invalid("want PORT or FIRST-LAST, with /tcp or /udp")
	}
	inside := func(port uint64, own string) bool {
		return first <= port && port <= last && (own == protocol || own == "" && protocol == "tcp")
	}
	if key == "publish" {
		return func(m *berthv1.Container) bool {
			return slices.ContainsFunc(m.GetPorts(), func(p *berthv1.PortMapping) bool { return inside(uint64(p.GetHostPort()), p.GetProtocol()) })
		}, nil
	}
	return func(m *berthv1.Container) bool {
		return slices.ContainsFunc(m.GetExposedPorts(), func(exposed string) bool {
			text, own, _ := strings.Cut(exposed, "/")
			port, err := strconv.ParseUint(text, 10, 16)
			return err == nil && inside(port, own)
		})
	}, nil
}

// pruneFilter understands what prune does: label, label!, and until.
func pruneFilter(filters []*berthv1.Filter) (predicate, error) {
	return filter.Parse("pruning containers", filters, map[string]filter.Key[*berthv1.Container]{
		"label": filter.Label(labels), "label!": filter.NoLabel(labels),
		"until": filter.Until(func(m *berthv1.Container) time.Time { return m.GetCreatedAt().AsTime() }),
	})
}
