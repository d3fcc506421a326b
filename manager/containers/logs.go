package containers

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/logs"
)

// Logs calls send with what a container has logged, and with follow with what comes, until it ends.
func (s *Service) Logs(ctx context.Context, ref string, query logs.Query, send func(logs.Line) error) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	message := c.snapshot()
	if message.GetLogPath() == "" {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot read the log of container %q: its log driver %q keeps none",
			message.GetName(), message.GetSpec().GetLog().GetDriver()))
	}
	reader := logs.Open(filepath.Join(c.dir, filepath.Base(message.GetLogPath())), &s.logWatcher)
	defer reader.Close()
	if !query.Follow {
		return reader.Read(query, send)
	}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(ended)
		_ = c.await(ctx, func() bool { return c.current == nil && c.message.GetState().GetStatus() != statusRestarting })
	}()
	return reader.Follow(ctx, query, ended, send)
}
