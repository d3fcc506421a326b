package containers

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/stats"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// sampleInterval is how often Stats tells what a container uses.
const sampleInterval = time.Second

// sampleLimit is how long a round waits for answers. A shim that takes longer is left out of the round and, until it has
// answered, of those that follow.
const sampleLimit = time.Second

// Stats calls send with a sample of each container, every second until ctx ends, or a single time with once. Without
// references the samples are of all that run, also of those that start meanwhile.
func (s *Service) Stats(ctx context.Context, refs []string, once bool, send func(*berthv1.StatsContainersResponse) error) error {
	var chosen []*container
	for _, ref := range refs {
		c, err := s.find(ref)
		if err != nil {
			return err
		}
		chosen = append(chosen, c)
	}
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	asked := sampler{service: s, pending: map[string]chan *berthv1.StatsContainersResponse{}}
	previous := map[string]*berthv1.CPUStats{}
	for {
		list := chosen
		if len(refs) == 0 {
			list = s.all()
		}
		samples := asked.round(ctx, list)
		for i, c := range list {
			sample := samples[i]
			if sample == nil && len(refs) == 0 {
				continue
			}
			if sample == nil { // a container that was asked for and does not run uses nothing
				sample = &berthv1.StatsContainersResponse{ReadAt: timestamppb.Now()}
			}
			sample.ContainerId, sample.Name, sample.PreviousCpu = c.id, c.snapshot().GetName(), previous[c.id]
			previous[c.id] = sample.GetCpu()
			if err := send(sample); err != nil {
				return err
			}
		}
		if once {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sampler asks the shims of containers at the same time. Each has one question to answer at a time.
type sampler struct {
	service *Service
	pending map[string]chan *berthv1.StatsContainersResponse // by container
}

// round returns what each container uses: nil for one that does not run, or whose shim does not answer.
func (a *sampler) round(ctx context.Context, list []*container) []*berthv1.StatsContainersResponse {
	for _, c := range list {
		if a.pending[c.id] != nil {
			continue
		}
		answer := make(chan *berthv1.StatsContainersResponse, 1)
		a.pending[c.id] = answer
		go func() {
			var sample *berthv1.StatsContainersResponse
			defer func() { answer <- sample }()
			defer panics.Recover(a.service.cfg.Logger, "the statistics of a container", nil)
			sample = a.service.sample(ctx, c)
		}()
	}
	limit := time.NewTimer(sampleLimit)
	defer limit.Stop()
	samples := make([]*berthv1.StatsContainersResponse, len(list))
	late := false
	for i, c := range list {
		answer := a.pending[c.id]
		if !late {
			select {
			case samples[i] = <-answer:
				delete(a.pending, c.id)
				continue
			case <-limit.C:
				late = true
			}
		}
		select {
		case samples[i] = <-answer:
			delete(a.pending, c.id)
		default:
		}
	}
	return samples
}

// sample asks the shim what a container uses. It is nil if the container does not run.
func (s *Service) sample(ctx context.Context, c *container) *berthv1.StatsContainersResponse {
	current, err := c.running("measure")
	if err != nil {
		return nil
	}
	metrics, err := current.task().Stats(ctx)
	if err != nil {
		return nil // it has just ended, or its shim hangs
	}
	sample, err := stats.Sample(metrics, c.snapshot().GetState().GetPid())
	if err != nil {
		s.cfg.Logger.Warn("cannot tell what a container uses", "container", c.id, "error", err)
		return nil
	}
	return sample
}
