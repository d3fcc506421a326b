package containers

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/manager/stats"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// sampleInterval is how often Stats tells what a container uses.
const sampleInterval = time.Second

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
	previous := map[string]*berthv1.CPUStats{}
	for {
		list := chosen
		if len(refs) == 0 {
			list = s.all()
		}
		for _, c := range list {
			sample := s.sample(ctx, c)
			if sample == nil && len(refs) == 0 {
				continue
			}
			if sample == nil { // one that was asked for and does not run uses nothing
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

// sample asks the shim what a container uses. It is nil if the container does not run.
func (s *Service) sample(ctx context.Context, c *container) *berthv1.StatsContainersResponse {
	current, err := c.running("measure")
	if err != nil {
		return nil
	}
	metrics, err := current.task().Stats(ctx)
	if err != nil {
		return nil // it has just ended
	}
	sample, err := stats.Sample(metrics, c.snapshot().GetState().GetPid())
	if err != nil {
		s.cfg.Logger.Warn("cannot tell what a container uses", "container", c.id, "error", err)
		return nil
	}
	return sample
}
