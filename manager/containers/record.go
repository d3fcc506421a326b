package containers

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// A container's directory is <root>/containers/<id>:
//
//	container.json   what it was made from: on disk before Create answers, changed by rename and update only. A
//	                 directory without it is a creation that was interrupted, and is undone
//	state.json       where it is in its life, from its first start on: replaced at each step, without waiting for the
//	                 disk, because a power failure ends the container as well
//	<id>-json.log    what it wrote, with its rotated predecessors beside it
const (
	recordsDir = "containers"
	configFile = "container.json"
	stateFile  = "state.json"
	layout     = 1
)

// step is what is being done with a container: found in state.json at start, it was interrupted.
type step string

const (
	stepNone     step = ""
	stepStart    step = "start"    // undone, unless the process runs
	stepCleanUp  step = "clean-up" // finished: the process has exited, its surroundings may still be there
	stepRemove   step = "remove"   // finished
	stepRestarts step = "restart"  // finished: it waits to be started again
)

// configRecord is the layout of container.json.
type configRecord struct {
	Version   int             `json:"version"`
	Container json.RawMessage `json:"container"`
	// StopSignal is the spec's or the image's.
	StopSignal string `json:"stopSignal,omitempty"`
	// ParentSnapshot holds the image's layers.
	ParentSnapshot string `json:"parentSnapshot,omitempty"`
}

// stateRecord is the layout of state.json.
type stateRecord struct {
	Version int  `json:"version"`
	Step    step `json:"step,omitempty"`
	// Stopped says that a client stopped the container, so that its restart policy does not start it again.
	Stopped bool `json:"stopped,omitempty"`
	// Container has those fields that change.
	Container json.RawMessage `json:"container"`
}

func (s *Service) recordDir(id string) string { return filepath.Join(s.cfg.Root, recordsDir, id) }

func logPath(dir, id string) string { return filepath.Join(dir, id+"-json.log") }

// saveConfig writes container.json. One that removes itself need not survive a power failure, which ends it.
func (c *container) saveConfig() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fixed := proto.CloneOf(c.message)
	fixed.State, fixed.Endpoints, fixed.Ports, fixed.ExecIds = nil, nil, nil, nil
	encoded, err := protojson.Marshal(fixed)
	if err != nil {
		return fmt.Errorf("cannot encode container %s: %w", short(c.id), err)
	}
	record, err := json.Marshal(configRecord{Version: layout, Container: encoded, StopSignal: c.image.stopSignal, ParentSnapshot: c.image.parentSnapshot})
	if err != nil {
		return fmt.Errorf("cannot encode container %s: %w", short(c.id), err)
	}
	path := filepath.Join(c.dir, configFile)
	if c.message.GetSpec().GetAutoRemove() {
		return atomicfile.WriteVolatile(path, record, 0o600)
	}
	return atomicfile.Write(path, record, 0o600)
}

// saveState writes state.json. The caller holds c.mu.
func (c *container) saveState() error {
	changing := &berthv1.Container{State: c.message.GetState(), Endpoints: c.message.GetEndpoints(), Ports: c.message.GetPorts()}
	encoded, err := protojson.Marshal(changing)
	if err != nil {
		return fmt.Errorf("cannot encode the state of container %s: %w", short(c.id), err)
	}
	record, err := json.Marshal(stateRecord{Version: layout, Step: c.step, Stopped: c.stopped, Container: encoded})
	if err != nil {
		return fmt.Errorf("cannot encode the state of container %s: %w", short(c.id), err)
	}
	return atomicfile.WriteVolatile(filepath.Join(c.dir, stateFile), record, 0o600)
}

// load reads a container's directory. ErrNotFound: its creation got nowhere.
func (s *Service) load(id string) (*container, error) {
	dir := s.recordDir(id)
	content, err := os.ReadFile(filepath.Join(dir, configFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errdefs.As(errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read container %s: %w", short(id), err)
	}
	var config configRecord
	message := &berthv1.Container{}
	if err := decodeRecord(content, &config, func() (int, []byte) { return config.Version, config.Container }, message); err != nil {
		return nil, fmt.Errorf("cannot read container %s: %w", short(id), err)
	}
	c := s.newContainer(message)
	c.image = fromImage{stopSignal: config.StopSignal, parentSnapshot: config.ParentSnapshot}
	return c, c.loadState()
}

// loadState reads state.json. Without one the container was never started; one that a power failure has damaged stands
// for a container that ran until then.
func (c *container) loadState() error {
	content, err := os.ReadFile(filepath.Join(c.dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		c.message.State = &berthv1.ContainerState{Status: statusCreated}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the state of container %s: %w", short(c.id), err)
	}
	var record stateRecord
	changing := &berthv1.Container{}
	err = decodeRecord(content, &record, func() (int, []byte) { return record.Version, record.Container }, changing)
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return fmt.Errorf("cannot read the state of container %s: %w", short(c.id), err)
	}
	if err != nil {
		c.message.State = &berthv1.ContainerState{Status: statusRunning}
		return nil
	}
	c.step, c.stopped = record.Step, record.Stopped
	c.message.State, c.message.Endpoints, c.message.Ports = changing.GetState(), changing.GetEndpoints(), changing.GetPorts()
	return nil
}

// decodeRecord decodes the frame, and from it the message, whose layout must not be newer than ours.
func decodeRecord(content []byte, frame any, parts func() (version int, message []byte), message proto.Message) error {
	if err := json.Unmarshal(content, frame); err != nil {
		return fmt.Errorf("not a record: %w", err)
	}
	version, encoded := parts()
	if version > layout {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("written by a newer berthd (layout %d, this one knows %d)", version, layout))
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(encoded, message); err != nil {
		return fmt.Errorf("not a record: %w", err)
	}
	return nil
}

func (s *Service) newContainer(message *berthv1.Container) *container {
	id := message.GetId()
	created := time.Now()
	if message.GetCreatedAt() != nil {
		created = message.GetCreatedAt().AsTime()
	}
	return &container{
		id: id, created: created, dir: s.recordDir(id), bundle: filepath.Join(s.stateDir("bundles"), id), message: message,
		life: make(chan struct{}, 1), changed: make(chan struct{}), execs: map[string]*execution{},
	}
}
