// Package records reads and writes what berthd keeps of each container. A container's directory is <root>/containers/<id>:
//
//	container.json   what it was made from: on disk before Create answers, changed by rename and update only. A
//	                 directory without it is a creation that was interrupted, and is undone
//	state.json       where it is in its life, from its first start on: replaced at each step, without waiting for the
//	                 disk, because a power failure ends the container as well
//	<id>-json.log    what it wrote, with its rotated predecessors beside it
//
// A container may fill the disk that its own record is on, and must be stopped and removed all the same. A state that
// can't be written there goes to the spare file below the state directory, and is the newer one while that exists.
package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	configFile = "container.json"
	stateFile  = "state.json"
	layout     = 1
)

// Dir is where the records of one container are.
type Dir struct {
	// Path is the container's directory.
	Path string
	// Spare takes the state where Path has no room for it.
	Spare string
}

// Config is what a container was made from.
type Config struct {
	Container *berthv1.Container // without what changes while it lives
	// StopSignal is the spec's or the image's.
	StopSignal string
	// ParentSnapshot holds the image's layers.
	ParentSnapshot string
}

// State is where a container is in its life.
type State struct {
	Container *berthv1.Container // with those fields alone that change
	// Step is what is being done with the container. One that is found at start was interrupted.
	Step string
	// Stopped says that a client stopped the container, so that its restart policy does not start it again.
	Stopped bool
	// Volumes says that the removal under way takes the container's anonymous volumes along.
	Volumes bool
}

type configLayout struct {
	Version        int             `json:"version"`
	Container      json.RawMessage `json:"container"`
	StopSignal     string          `json:"stopSignal,omitempty"`
	ParentSnapshot string          `json:"parentSnapshot,omitempty"`
}

type stateLayout struct {
	Version   int             `json:"version"`
	Step      string          `json:"step,omitempty"`
	Stopped   bool            `json:"stopped,omitempty"`
	Volumes   bool            `json:"volumes,omitempty"`
	Container json.RawMessage `json:"container"`
}

// WriteConfig writes container.json, and with durable has it, and the name of its directory, on disk before it returns.
func (d Dir) WriteConfig(config Config, durable bool) error {
	fixed := proto.CloneOf(config.Container)
	fixed.State, fixed.Endpoints, fixed.Ports, fixed.ExecIds = nil, nil, nil, nil
	encoded, err := protojson.Marshal(fixed)
	if err != nil {
		return fmt.Errorf("cannot encode a container: %w", err)
	}
	record, err := json.Marshal(configLayout{
		Version: layout, Container: encoded, StopSignal: config.StopSignal, ParentSnapshot: config.ParentSnapshot,
	})
	if err != nil {
		return fmt.Errorf("cannot encode a container: %w", err)
	}
	path := filepath.Join(d.Path, configFile)
	if !durable {
		return atomicfile.WriteVolatile(path, record, 0o600)
	}
	_, err = os.Lstat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	if err := atomicfile.Write(path, record, 0o600); err != nil || !isNew {
		return err
	}
	return syncDirectory(filepath.Dir(d.Path))
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WriteState writes state.json. Without room for it the spare file takes it: spared.
func (d Dir) WriteState(state State) (spared bool, err error) {
	encoded, err := protojson.Marshal(state.Container)
	if err != nil {
		return false, fmt.Errorf("cannot encode the state of a container: %w", err)
	}
	record, err := json.Marshal(stateLayout{
		Version: layout, Step: state.Step, Stopped: state.Stopped, Volumes: state.Volumes, Container: encoded,
	})
	if err != nil {
		return false, fmt.Errorf("cannot encode the state of a container: %w", err)
	}
	err = atomicfile.WriteVolatile(filepath.Join(d.Path, stateFile), record, 0o600)
	if err == nil {
		return false, nil
	}
	if spareErr := atomicfile.WriteVolatile(d.Spare, record, 0o600); spareErr != nil {
		return false, errors.Join(err, spareErr)
	}
	return true, nil
}

// DropSpare removes the spare file, whose state is older than state.json now.
func (d Dir) DropSpare() error {
	if err := os.Remove(d.Spare); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the spare record of a container: %w", err)
	}
	return nil
}

// Remove removes the container's directory. container.json goes first: a directory with it and without state.json would be
// read as a container that never started. Neither needs room on the disk.
func (d Dir) Remove() error {
	err := os.Remove(filepath.Join(d.Path, configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) { // a file of another's in place of the directory
		return fmt.Errorf("cannot remove the container's record: %w", err)
	}
	if err := os.RemoveAll(d.Path); err != nil {
		return fmt.Errorf("cannot remove the container's directory: %w", err)
	}
	return d.DropSpare()
}

// ReadConfig reads container.json. ErrNotFound: the creation of the container was interrupted before it. With any other error
// the configuration has as much of the name and the image as could be read.
func (d Dir) ReadConfig() (Config, error) {
	content, err := os.ReadFile(filepath.Join(d.Path, configFile))
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, errdefs.As(errdefs.ErrNotFound, err)
	}
	config := Config{Container: &berthv1.Container{}}
	if err != nil {
		return config, fmt.Errorf("cannot read the container's record: %w", err)
	}
	var frame configLayout
	err = decode(content, &frame, func() (int, []byte) { return frame.Version, frame.Container }, config.Container)
	if err != nil {
		config.Container = glimpse(frame.Container)
		return config, fmt.Errorf("cannot read the container's record: %w", err)
	}
	config.StopSignal, config.ParentSnapshot = frame.StopSignal, frame.ParentSnapshot
	return config, nil
}

// glimpse reads those fields by which people recognize a container, as far as they are there.
func glimpse(encoded []byte) *berthv1.Container {
	var seen struct{ Name, Image, ImageID string }
	_ = json.Unmarshal(encoded, &seen)
	return &berthv1.Container{Name: seen.Name, Image: seen.Image, ImageId: seen.ImageID}
}

// errDamaged says that a record is cut off or overwritten.
var errDamaged = errors.New("it is damaged")

// ReadState reads the newest state. Without one the container was never started. A state that a power failure has damaged
// stands for a container that ran until then.
func (d Dir) ReadState() (state State, spared bool, err error) {
	content, err := os.ReadFile(d.Spare)
	if spared = err == nil; !spared {
		content, err = os.ReadFile(filepath.Join(d.Path, stateFile))
	}
	state.Container = &berthv1.Container{State: &berthv1.ContainerState{Status: berthv1.ContainerStatus_CONTAINER_STATUS_CREATED}}
	if errors.Is(err, os.ErrNotExist) {
		return state, false, nil
	}
	if err != nil {
		return state, false, fmt.Errorf("cannot read the container's state: %w", err)
	}
	var frame stateLayout
	changing := &berthv1.Container{}
	err = decode(content, &frame, func() (int, []byte) { return frame.Version, frame.Container }, changing)
	if errors.Is(err, errDamaged) {
		state.Container.State.Status = berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING
		return state, spared, nil
	}
	if err != nil {
		return state, spared, fmt.Errorf("cannot read the container's state: %w", err)
	}
	if changing.State == nil {
		changing.State = state.Container.GetState()
	}
	return State{Container: changing, Step: frame.Step, Stopped: frame.Stopped, Volumes: frame.Volumes}, spared, nil
}

// decode decodes the frame of a record, and from it the message, whose layout must not be newer than ours.
func decode(content []byte, frame any, parts func() (version int, message []byte), message proto.Message) error {
	if err := json.Unmarshal(content, frame); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	version, encoded := parts()
	if version > layout {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("written by a newer berthd (layout %d, this one knows %d)", version, layout))
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(encoded, message); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}
