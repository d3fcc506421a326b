package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

const (
	// executionLimit is how long a plugin of others may take. One that waits for a DHCP server needs most of a minute.
	executionLimit = time.Minute
	// pipePatience is how long its output may stay open after its end.
	pipePatience = 2 * time.Second
	// busyPatience is how long a plugin may be written while it should be executed.
	busyPatience = 5 * time.Second
)

// Executor executes plugins of others. It implements invoke.Exec, as libcni's own does, but a plugin that hangs is killed, with all
// that it has started.
type Executor struct {
	version.PluginDecoder
	// Stderr is where plugins write their logs.
	Stderr io.Writer
}

var _ invoke.Exec = (*Executor)(nil)

// FindInPath returns the executable of a plugin.
func (e *Executor) FindInPath(name string, paths []string) (string, error) {
	return invoke.FindInPath(name, paths)
}

// ExecPlugin makes one call of a plugin.
func (e *Executor) ExecPlugin(ctx context.Context, path string, config []byte, environ []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, executionLimit)
	defer cancel()
	for deadline := time.Now().Add(busyPatience); ; {
		output, err := e.run(ctx, path, config, environ)
		if !errors.Is(err, unix.ETXTBSY) || time.Now().After(deadline) {
			return output, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (e *Executor) run(ctx context.Context, path string, config []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, path)
	command.Env, command.Stdin, command.Stdout, command.Stderr = environ, bytes.NewReader(config), &stdout, &stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return unix.Kill(-command.Process.Pid, unix.SIGKILL) }
	command.WaitDelay = pipePatience
	err := command.Run()
	switch {
	case ctx.Err() != nil:
		return nil, types.NewError(types.ErrInternal, fmt.Sprintf("plugin %q was killed: it had not ended: %v", path, ctx.Err()), "")
	case errors.Is(err, unix.ETXTBSY):
		return nil, err
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // its pipes may be open in a process that it left behind
		return nil, explainExit(err, stdout.Bytes(), stderr.String())
	}
	if e.Stderr != nil {
		_, _ = stderr.WriteTo(e.Stderr) // for people only
	}
	return stdout.Bytes(), nil
}

// explainExit is the error that the plugin wrote to its output, or what else is known of its failure.
func explainExit(err error, stdout []byte, stderr string) error {
	failure := &types.Error{}
	if len(stdout) > 0 && json.Unmarshal(stdout, failure) == nil {
		return failure
	}
	message := strings.TrimSpace(stderr + " " + string(stdout))
	return types.NewError(types.ErrInternal, fmt.Sprintf("the plugin failed: %v: %q", err, message), "")
}

// executor is what plugins of ours execute others with.
func executor() *Executor { return &Executor{Stderr: os.Stderr} }
