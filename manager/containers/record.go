package containers

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/records"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// recordsDir below the root directory has a directory for each container. Package records tells what is in it.
const recordsDir = "containers"

// step is what is being done with a container: found in its record at start, it was interrupted.
type step string

const (
	stepNone     step = ""
	stepStart    step = "start"    // undone, unless the process runs
	stepCleanUp  step = "clean-up" // finished: the process has exited, its surroundings may still be there
	stepRemove   step = "remove"   // finished
	stepRestarts step = "restart"  // finished: it waits to be started again
)

func (s *Service) recordDir(id string) string { return filepath.Join(s.cfg.Root, recordsDir, id) }

func (s *Service) spareRecord(id string) string {
	return filepath.Join(s.stateDir("records"), id+".json")
}

func logPath(dir, id string) string { return filepath.Join(dir, id+"-json.log") }

// saveConfig writes what the container was made from. A container that removes itself need not survive a power failure,
// which ends it.
func (c *container) saveConfig() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	config := records.Config{Container: c.message, StopSignal: c.image.stopSignal, ParentSnapshot: c.image.parentSnapshot}
	if err := c.files.WriteConfig(config, !c.message.GetSpec().GetAutoRemove()); err != nil {
		return fmt.Errorf("cannot write the record of container %s: %w", short(c.id), err)
	}
	return nil
}

// saveState writes where the container is in its life. The caller holds c.mu.
func (c *container) saveState() error {
	spared, err := c.files.WriteState(records.State{
		Container: &berthv1.Container{State: c.message.GetState(), Endpoints: c.message.GetEndpoints(), Ports: c.message.GetPorts()},
		Step:      string(c.step), Stopped: c.history.stopped, Volumes: c.history.withVolumes,
	})
	if err != nil {
		return fmt.Errorf("cannot write the state of container %s: %w", short(c.id), err)
	}
	if c.history.spared && !spared {
		err = c.files.DropSpare()
	}
	c.history.spared = spared || err != nil
	return err
}

// load reads a container's records. ErrNotFound: its creation got nowhere. A container whose records can't be read, or were
// written by a newer berthd, is returned in an unknown state, with as much as could be read.
func (s *Service) load(id string) (*container, error) {
	config, err := records.Dir{Path: s.recordDir(id), Spare: s.spareRecord(id)}.ReadConfig()
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, err
	}
	config.Container.Id = id
	c := s.newContainer(config.Container)
	c.image = fromImage{stopSignal: config.StopSignal, parentSnapshot: config.ParentSnapshot}
	var state records.State
	if err == nil {
		state, c.history.spared, err = c.files.ReadState()
	}
	if err != nil {
		c.history.unreadable = err
		if c.message.GetName() == "" {
			c.message.Name = short(id)
		}
		c.message.Bundle, c.message.State = c.bundle, &berthv1.ContainerState{Status: statusUnknown, Error: err.Error()}
		return c, nil
	}
	c.step, c.history.stopped, c.history.withVolumes = step(state.Step), state.Stopped, state.Volumes
	c.message.State, c.message.Endpoints, c.message.Ports = state.Container.GetState(), state.Container.GetEndpoints(), state.Container.GetPorts()
	return c, nil
}

func (s *Service) newContainer(message *berthv1.Container) *container {
	id := message.GetId()
	created := time.Now()
	if message.GetCreatedAt() != nil {
		created = message.GetCreatedAt().AsTime()
	}
	return &container{
		id: id, created: created, dir: s.recordDir(id), bundle: filepath.Join(s.stateDir("bundles"), id), message: message,
		files: records.Dir{Path: s.recordDir(id), Spare: s.spareRecord(id)},
		life:  make(chan struct{}, 1), changed: make(chan struct{}), execs: map[string]*execution{},
	}
}
