package containers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// psLimit is how long ps may take: it reads of each process of the host, also of those that the kernel holds.
const psLimit = 5 * time.Second

// Top lists the processes of a container as the host's ps(1) shows them.
func (s *Service) Top(ctx context.Context, ref string, args []string) (*berthv1.TopContainerResponse, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	current, err := c.running("list the processes of")
	if err != nil {
		return nil, err
	}
	pids, err := current.task().Pids(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of container %q: %w", c.snapshot().GetName(), err)
	}
	s.publish(c, "top")
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	output, err := ps(ctx, args)
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, invalid("ps %s: %s", strings.Join(args, " "), strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot run ps: %w", err))
	}
	return selectProcesses(string(output), pids)
}

func ps(ctx context.Context, args []string) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, psLimit)
	defer cancel()
	command := exec.CommandContext(limited, "ps", args...)
	command.WaitDelay = time.Second
	output, err := command.Output()
	if limited.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("it has not ended after %v", psLimit)
	}
	return output, err
}

// selectProcesses keeps those lines of ps's table that are about the given processes. The last column may have blanks.
func selectProcesses(table string, pids []uint32) (*berthv1.TopContainerResponse, error) {
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	response := &berthv1.TopContainerResponse{Titles: strings.Fields(lines[0])}
	column := slices.Index(response.GetTitles(), "PID")
	if column < 0 {
		return nil, invalid("cannot tell the container's processes from others: ps shows no PID column")
	}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.ParseUint(fields[column], 10, 32)
		if err != nil || !slices.Contains(pids, uint32(pid)) {
			continue
		}
		if last := len(response.GetTitles()) - 1; len(fields) > last {
			fields = append(fields[:last:last], strings.Join(fields[last:], " "))
		}
		response.Processes = append(response.Processes, &berthv1.TopProcess{Columns: fields})
	}
	return response, nil
}
