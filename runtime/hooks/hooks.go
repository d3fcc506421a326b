// Package hooks runs the programs that a configuration wants to be run at points of the container's life.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Run runs hooks, one after the other, in the runtime's namespaces, with the container's state on their input. It ends
// at the first that fails.
func Run(kind string, list []specs.Hook, state specs.State) error {
	for i, hook := range list {
		if err := run(hook, state); err != nil {
			return fmt.Errorf("cannot run hook %s[%d] %q: %w", kind, i, hook.Path, err)
		}
	}
	return nil
}

// RunAll runs hooks whose failure must not stop anything, and returns all errors.
func RunAll(kind string, list []specs.Hook, state specs.State) error {
	var errs []error
	for i, hook := range list {
		if err := run(hook, state); err != nil {
			errs = append(errs, fmt.Errorf("cannot run hook %s[%d] %q: %w", kind, i, hook.Path, err))
		}
	}
	return errors.Join(errs...)
}

func run(hook specs.Hook, state specs.State) error {
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if hook.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*hook.Timeout)*time.Second)
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	cmd.Args = Args(hook)
	cmd.Env = env(hook)
	cmd.Dir = state.Bundle
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &output, &output
	cmd.WaitDelay = time.Second // what the hook has left running may hold its output
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it took longer than its timeout of %d s", *hook.Timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	case err != nil && output.Len() > 0:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(output.String()))
	}
	return err
}

// env returns a hook's environment: the runtime's own if nothing is said of it, as hooks have come to expect.
func env(hook specs.Hook) []string {
	if hook.Env == nil {
		return os.Environ()
	}
	return hook.Env
}

// Args returns a hook's arguments, the first of which is its name.
func Args(hook specs.Hook) []string {
	if len(hook.Args) == 0 {
		return []string{hook.Path}
	}
	return hook.Args
}
