// Package container is the life of a container, told by what the runtime's commands do to it. Between two commands it
// is a directory below the runtime's --root:
//
//	ROOT/ID/            locked by whoever changes the container; closed to others, who could start it whatever the umask
//	  state             State as a line of JSON, and behind it the bundle's config.json as it was at create: one
//	                    file, because to make a file is what costs
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
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/kernelfile"
	"github.com/berthd/berth/runtime/resctrl"
)

const (
	stateFile   = "state"
	startSocket = "start"
	version     = 1
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

	SharedKeyring bool `json:"sharedKeyring,omitempty"` // the caller's, in place of one of the container's own
	TimeNamespace bool `json:"timeNamespace,omitempty"` // of a restore, whatever the configuration says
}

// Container is a container that is there.
type Container struct {
	State
	Warn   func(text string) // told of what is no failure; may be nil
	dir    string
	lock   *os.File
	config []byte
	spec   *specs.Spec // what it says, if that is known
	line   int         // length of the state in its file
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

// Lock is Load for those who change the container: it keeps others from it until Close.
func Lock(root, id string) (*Container, error) {
	c, err := at(root, id)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(); err != nil {
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

func (c *Container) acquire() error {
	for {
		fd, err := kernelfile.Open(c.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return c.absent(err)
		}
		dir := os.NewFile(uintptr(fd), c.dir)
		if err := flock(dir); err != nil {
			_ = dir.Close()
			return fmt.Errorf("cannot lock container %q: %w", c.ID, err)
		}
		// Who had the lock before may have deleted the container, and another may have made it again.
		var locked, there unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &locked); err == nil && unix.Stat(c.dir, &there) == nil && locked.Ino == there.Ino {
			c.lock = dir
			return nil
		}
		_ = dir.Close()
	}
}

func flock(dir *os.File) error {
	for {
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
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
	c.config = rest
	if c.Version != version {
		return fmt.Errorf("cannot use container %q: its state has version %d and this runtime knows %d", c.ID, c.Version, version)
	}
	return nil
}

// save writes the state: first when the container has a cgroup and no process yet, so that delete finds what a create
// that was killed has left, and again with the process. Then it never changes. The line keeps its length.
func (c *Container) save() error {
	const room = 64 // for what comes with the process
	content, err := c.encode()
	if err != nil {
		return err
	}
	first := c.line == 0
	if first {
		c.line = len(content) + room
	}
	for len(content) < c.line {
		content = append(content, ' ')
	}
	content = append(content, '\n')
	if first || len(content) > c.line+1 {
		content = append(content, c.config...)
	}
	fd, err := kernelfile.Open(filepath.Join(c.dir, stateFile), unix.O_WRONLY|unix.O_CREAT, 0o600)
	if err != nil {
		return fmt.Errorf("cannot save the state of container %q: %w", c.ID, err)
	}
	if err := errors.Join(write(fd, content), unix.Close(fd)); err != nil {
		return fmt.Errorf("cannot save the state of container %q: %w", c.ID, err)
	}
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

// Close lets others change the container.
func (c *Container) Close() {
	if c.lock != nil {
		// Not by closing alone: the process that waits for start has a copy of the descriptor.
		_ = unix.Flock(int(c.lock.Fd()), unix.LOCK_UN)
		_ = c.lock.Close()
		c.lock = nil
	}
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
