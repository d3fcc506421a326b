// Package container is the life of a container, told by what the runtime's commands do to it. Between two commands it
// is a directory below the runtime's --root:
//
//	ROOT/ID/            locked by the command that changes the container, except while hooks run on the host: these may
//	                    call the runtime; mode 0700, as whoever reaches the start socket could start the container
//	  state             State as a line of JSON, the bundle's config.json as it was at create, and State again as a
//	                    line for each change since: one file, because making files is what takes time
//	  creating          there while the hooks of create run
//	  start             the socket at which the container's process waits for start; gone when it has started
//	  notify/           the container's end of NOTIFY_SOCKET, if its service manager waits for word
//	  tracer            there if exec has started a process with CAP_SYS_PTRACE
//
//	              create               start              the process ends
//	(nothing) ─► creating ─► created ───────────► running ──────────────► stopped ──► delete
//	                                               ▲   │ pause
//	                                        resume │   ▼
//	                                               paused
package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/kernelfile"
	"github.com/berthd/berth/runtime/resctrl"
)

const (
	stateFile    = "state"
	creatingFile = "creating"
	startSocket  = "start"
	version      = 2 // with 1 the state was overwritten in place, and systemd's scopes were recognized by their paths
)

// State is what is kept of a container.
type State struct {
	Version     int               `json:"version"`
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	StartTime   uint64            `json:"startTime"` // of the process in ticks, to know it from a later one with its pid
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       int               `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Cgroups     map[string]string `json:"cgroups,omitempty"`
	Class       *resctrl.Group    `json:"class,omitempty"`
	ConfigSize  int               `json:"configSize"` // bytes of config.json behind the first line

	Traits
}

// Traits are what later commands must know of how the container was made.
type Traits struct {
	Scope         bool `json:"scope,omitempty"`         // systemd has made the cgroup, as a scope
	SharedKeyring bool `json:"sharedKeyring,omitempty"` // the caller's, in place of one of the container's own
	TimeNamespace bool `json:"timeNamespace,omitempty"` // of a restore, whatever the configuration says
}

// Container is a container that is there.
type Container struct {
	State
	Warn     func(text string) // told of what is no failure; may be nil
	dir      string
	lock     *os.File // the directory, while it is locked
	yielded  *os.File // the directory, between Yield and relock
	untraced *os.File // the state file, locked, while this process must not be traced
	config   []byte
	spec     *specs.Spec // what it says, if that is known
	saved    bool        // the state file exists
	lost     bool        // another command deleted the container while hooks ran
}

var errNoContainer = errors.New("container does not exist")

// ErrUnreadable is the error of a container whose state is there, and makes no sense.
var ErrUnreadable = errors.New("cannot understand the state")

// Load finds the container with the ID.
func Load(root, id string) (*Container, error) {
	c, err := at(root, id)
	if err != nil {
		return nil, err
	}
	return c, c.load()
}

// Lock is Load for commands that change the container: it keeps others from it until Close.
func Lock(root, id string) (*Container, error) {
	c, err := at(root, id)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(lockPatience); err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func at(root, id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	return &Container{State: State{ID: id}, dir: filepath.Join(root, id)}, nil
}

// CheckID refuses what can't be the name of a directory.
func CheckID(id string) error {
	if id == "" {
		return errdefs.As(errdefs.ErrInvalidArgument, errors.New("the container's ID must not be empty"))
	}
	const longest = 255 // of a directory's name
	if id == "." || id == ".." || len(id) > longest || strings.ContainsFunc(id, unfit) {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid container ID %q: up to %d letters, digits, and _ + - . are allowed", id, longest))
	}
	return nil
}

func unfit(r rune) bool {
	fit := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_+-.", r)
	return !fit
}

func (c *Container) absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errdefs.As(errdefs.ErrNotFound, fmt.Errorf("cannot find container %q: %w", c.ID, errNoContainer))
	}
	return fmt.Errorf("cannot read the state of container %q: %w", c.ID, err)
}

func (c *Container) load() error {
	content, err := kernelfile.Read(filepath.Join(c.dir, stateFile))
	if err != nil {
		return c.absent(err)
	}
	line, rest, complete := bytes.Cut(content, []byte("\n"))
	if !complete {
		return c.absent(fs.ErrNotExist) // it is just being created
	}
	if err := json.Unmarshal(line, &c.State); err != nil {
		return fmt.Errorf("%w of container %q: %w", ErrUnreadable, c.ID, err)
	}
	switch c.Version {
	case version:
	case 1:
		c.config, c.Scope = rest, cgroup.IsScope(c.Cgroups)
		return nil
	default:
		return fmt.Errorf("cannot use container %q: its state has version %d and this runtime knows %d", c.ID, c.Version, version)
	}
	if len(rest) < c.ConfigSize {
		return c.absent(fs.ErrNotExist) // it is just being created
	}
	c.config = rest[:c.ConfigSize]
	return c.loadLast(rest[c.ConfigSize:])
}

// loadLast reads the newest of the lines behind the configuration. A line without its end is still being written.
func (c *Container) loadLast(changes []byte) error {
	end := bytes.LastIndexByte(changes, '\n')
	if end < 0 {
		return nil
	}
	changes = changes[:end]
	newest := State{}
	if err := json.Unmarshal(changes[bytes.LastIndexByte(changes, '\n')+1:], &newest); err != nil {
		return fmt.Errorf("%w of container %q: %w", ErrUnreadable, c.ID, err)
	}
	c.State = newest
	return nil
}

// save writes the state: first when the container has a cgroup and no process yet, so that delete finds what a create
// that was killed has left, and again with the process. The file only grows, so that commands which read it without the
// lock never see a part of the old state and a part of the new one.
func (c *Container) save() error {
	c.ConfigSize = len(c.config)
	content, err := c.encode()
	if err != nil {
		return err
	}
	content = append(content, '\n')
	flags := unix.O_WRONLY | unix.O_APPEND
	if !c.saved {
		content, flags = append(content, c.config...), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL
	}
	fd, err := kernelfile.Open(filepath.Join(c.dir, stateFile), flags, 0o600)
	if err != nil {
		return fmt.Errorf("cannot save the state of container %q: %w", c.ID, err)
	}
	if err := errors.Join(write(fd, content), unix.Close(fd)); err != nil {
		return fmt.Errorf("cannot save the state of container %q: %w", c.ID, err)
	}
	c.saved = true
	return nil
}

func write(fd int, content []byte) error {
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		content = content[max(0, n):]
	}
	return nil
}

// Spec returns the configuration that the container was created with.
func (c *Container) Spec() (*specs.Spec, error) {
	if c.spec != nil {
		return c.spec, nil
	}
	spec, err := config.Parse(c.config)
	if err != nil {
		return nil, fmt.Errorf("cannot understand the configuration of container %q: %w", c.ID, err)
	}
	if c.TimeNamespace && namespaceOf(spec, specs.TimeNamespace) == nil {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	}
	return spec, nil
}

// List returns all containers below root, by ID. It reports directories that have no readable state, as a container that
// is just being made or deleted has none.
func List(root string, report func(error)) ([]*Container, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	var all []*Container
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		c, err := Load(root, entry.Name())
		if err != nil {
			report(err)
			continue
		}
		all = append(all, c)
	}
	return all, nil
}

// Paused is a status that the specification leaves to the runtime.
const Paused specs.ContainerState = "paused"

// Status says where in its life the container is.
func (c *Container) Status() specs.ContainerState {
	if c.Pid == 0 {
		return specs.StateCreating // or its create has been killed
	}
	if !c.alive() {
		return specs.StateStopped
	}
	if _, err := os.Lstat(filepath.Join(c.dir, creatingFile)); err == nil {
		return specs.StateCreating
	}
	if group, err := c.loadCgroup(); err == nil {
		frozen, err := group.Frozen()
		_ = group.Close()
		if err == nil && frozen {
			return Paused
		}
	}
	if _, err := os.Lstat(filepath.Join(c.dir, startSocket)); err == nil {
		return specs.StateCreated
	}
	return specs.StateRunning
}

// alive tells whether the container's first process exists and is no zombie.
func (c *Container) alive() bool {
	if c.Pid <= 0 {
		return false
	}
	start, running, err := processTimes(c.Pid)
	return err == nil && running && start == c.StartTime
}

// processTimes reads when a process started, and whether it has not ended.
func processTimes(pid int) (start uint64, running bool, err error) {
	const state, startTime = 0, 19 // fields behind the name, which is in parentheses and may contain anything
	content, err := kernelfile.ReadOnce("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) <= startTime {
		return 0, false, fmt.Errorf("cannot understand /proc/%d/stat", pid)
	}
	start, err = strconv.ParseUint(string(fields[startTime]), 10, 64)
	dead := fields[state][0] == 'Z' || fields[state][0] == 'X'
	return start, !dead, err
}

var errNotRunning = errors.New("container not running")

// require refuses to act on a container that is in none of the states.
func (c *Container) require(verb string, states ...specs.ContainerState) error {
	status := c.Status()
	for _, state := range states {
		if status == state {
			return nil
		}
	}
	if status == specs.StateStopped {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot %s container %q: %w (it is %s)", verb, c.ID, errNotRunning, status))
	}
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot %s container %q: it is %s", verb, c.ID, status))
}

// OCIState is the state as the specification defines it.
func (c *Container) OCIState(status specs.ContainerState) specs.State {
	state := specs.State{Version: c.OCIVersion, ID: c.ID, Status: status, Pid: c.Pid, Bundle: c.Bundle, Annotations: c.Annotations}
	if status == specs.StateStopped {
		state.Pid = 0
	}
	return state
}
