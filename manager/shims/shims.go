// Package shims starts the shim of each container and speaks with it: containerd's shim v2 protocol, and the stream
// socket that carries standard input and output. A shim outlives berthd; it is found again by the address that is
// kept in the container's bundle.
package shims

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/unixsocket"
)

// addressFile in the bundle says how to reach the shim, as the shim said it.
const addressFile = "bootstrap.json"

// Config says how shims are started.
type Config struct {
	// Shim is the path of the shim.
	Shim string
	// Runtime is the path of the OCI runtime to use where a container names none.
	Runtime string
	// RuntimeRoot is where the OCI runtime keeps its state.
	RuntimeRoot string
	// Namespace and Address tell the shim whom it works for.
	Namespace, Address string
}

// Launcher starts shims and finds running ones.
type Launcher struct {
	config Config
}

// New returns a launcher.
func New(config Config) *Launcher { return &Launcher{config: config} }

// bootstrap is what a shim prints when it is ready; older ones print the bare address.
type bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// Start starts the shim of the container id. The bundle exists.
func (l *Launcher) Start(ctx context.Context, id, bundle string) (*Task, error) {
	output, err := l.run(ctx, id, bundle, "start")
	if err != nil {
		return nil, fmt.Errorf("cannot start the shim: %w", err)
	}
	params, err := parseBootstrap(output)
	if err != nil {
		return nil, fmt.Errorf("cannot start the shim: %w", err)
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.WriteVolatile(filepath.Join(bundle, addressFile), encoded, 0o600); err != nil {
		return nil, err
	}
	return connect(id, params)
}

// Connect reaches a shim that was started earlier. ErrUnavailable: it is not there any more.
func (l *Launcher) Connect(id, bundle string) (*Task, error) {
	encoded, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if err != nil {
		return nil, errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("cannot find the shim: %w", err))
	}
	params, err := parseBootstrap(encoded)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("cannot find the shim: %w", err))
	}
	return connect(id, params)
}

// Exited tells how a process ended.
type Exited struct {
	Code int32
	At   time.Time
}

// Delete cleans up behind a shim that died, or never came up: it kills what runs of the container and takes away what
// the runtime left. It tells the exit status as far as the shim left it.
func (l *Launcher) Delete(ctx context.Context, id, bundle string) (Exited, error) {
	output, err := l.run(ctx, id, bundle, "delete")
	if err != nil {
		return Exited{}, fmt.Errorf("cannot clean up behind the shim: %w", err)
	}
	response := &task.DeleteResponse{}
	if err := proto.Unmarshal(output, response); err != nil {
		return Exited{}, fmt.Errorf("cannot clean up behind the shim: unexpected answer: %w", err)
	}
	return exited(response), nil
}

// RuntimeState is the directory with an entry for each container that the OCI runtime knows.
func (l *Launcher) RuntimeState() string {
	return filepath.Join(l.config.RuntimeRoot, l.config.Namespace)
}

// DeleteRuntimeState has the OCI runtime delete a container, whose process it kills, where there is no shim and no bundle.
func (l *Launcher) DeleteRuntimeState(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeLimit)
	defer cancel()
	command := exec.CommandContext(ctx, l.config.Runtime, "--root", l.RuntimeState(), "delete", "--force", id)
	command.WaitDelay = pipeLimit
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot have the runtime delete container %.12s: %w: %s", id, err, bytes.TrimSpace(output))
	}
	return nil
}

// ending is what those responses have in common that tell how a process ended.
type ending interface {
	GetExitStatus() uint32
	GetExitedAt() *timestamp
}

func exited(response ending) Exited {
	result := Exited{Code: int32(response.GetExitStatus()), At: time.Now()}
	if at := response.GetExitedAt(); at != nil && at.GetSeconds() > 0 {
		result.At = at.AsTime()
	}
	return result
}

// exitFile in the bundle is where the shim keeps how the container ended.
const exitFile = "exit.json"

// OOMKilled tells whether the kernel has killed a process of the container because memory was short, as far as the shim
// has left word of it.
func OOMKilled(bundle string) bool {
	var record struct {
		OOMKilled bool `json:"oom_killed"`
	}
	content, err := os.ReadFile(filepath.Join(bundle, exitFile))
	return err == nil && json.Unmarshal(content, &record) == nil && record.OOMKilled
}

// Options are the runtime's options for CreateTaskRequest, with a runtime of the container's choice if it has one.
func (l *Launcher) options(runtime string) (*anypb.Any, error) {
	if runtime == "" {
		runtime = l.config.Runtime
	}
	return anypb.New(&options.Options{BinaryName: runtime, Root: l.config.RuntimeRoot})
}

// The limits of the shim's commands, which take milliseconds unless the kernel, the runtime or a process in the bundle hangs.
const (
	commandLimit = 45 * time.Second
	// pipeLimit is how long output is awaited from what a command that has ended, or was killed, has left running.
	pipeLimit = time.Second
)

func (l *Launcher) run(caller context.Context, id, bundle, verb string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(caller, commandLimit)
	defer cancel()
	// The socket goes with the bundle. Its path may be longer than other managers can use.
	socket := filepath.Join(bundle, "shim.sock")
	arguments := []string{"-namespace", l.config.Namespace, "-id", id, "-address", l.config.Address, "-bundle", bundle, "-socket", socket, verb}
	command := exec.CommandContext(ctx, l.config.Shim, arguments...)
	command.Dir = bundle
	// The shim that serves sets its own number of processors; for its short commands two are enough.
	command.Env = append(os.Environ(), "MAX_SHIM_VERSION=3", "GOMAXPROCS=2")
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) } // with the runtime that it waits for
	command.WaitDelay = pipeLimit
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		switch {
		case caller.Err() != nil:
			return nil, fmt.Errorf("%s %s was given up: %w", filepath.Base(l.config.Shim), verb, caller.Err())
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s %s did not end within %v", filepath.Base(l.config.Shim), verb, commandLimit)
		}
		if message := strings.TrimSpace(stderr.String()); message != "" {
			return nil, errors.New(message)
		}
		return nil, fmt.Errorf("%s %s: %w", l.config.Shim, verb, err)
	}
	return stdout.Bytes(), nil
}

func parseBootstrap(output []byte) (bootstrap, error) {
	text := strings.TrimSpace(string(output))
	if !strings.HasPrefix(text, "{") {
		if text == "" {
			return bootstrap{}, errors.New("it printed no address")
		}
		return bootstrap{Version: 2, Address: text, Protocol: "ttrpc"}, nil
	}
	var params bootstrap
	if err := json.Unmarshal([]byte(text), &params); err != nil {
		return bootstrap{}, fmt.Errorf("it printed no address: %w", err)
	}
	if params.Protocol != "ttrpc" || params.Version < 3 {
		return bootstrap{}, errdefs.As(errdefs.ErrUnimplemented,
			fmt.Errorf("it speaks version %d of the task API over %q: not implemented, want 3 over ttrpc", params.Version, params.Protocol))
	}
	return params, nil
}

func connect(id string, params bootstrap) (*Task, error) {
	path := strings.TrimPrefix(params.Address, "unix://")
	connection, err := unixsocket.Dial(path)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("cannot connect to the shim: %w", err))
	}
	client := ttrpc.NewClient(connection)
	return &Task{ID: id, client: client, api: task.NewTTRPCTaskClient(client)}, nil
}
