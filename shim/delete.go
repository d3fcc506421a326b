package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/cgroup"
	"github.com/berthd/berth/shim/process"
	"github.com/berthd/berth/shim/reaper"
	"github.com/berthd/berth/shim/runtimecmd"
)

// remove cleans up behind a shim that died, or that never came as far as a container, and prints how the container
// ended as a DeleteResponse. It may be repeated, and succeeds when there is nothing left to do.
func remove(ctx context.Context, inv invocation, out io.Writer) error {
	lock, err := inv.lock(true)
	switch {
	case err == nil:
		defer func() { _ = lock.Close() }()
	case !errors.Is(err, os.ErrNotExist): // nothing can be started in a bundle that is gone
		return err
	}
	if err := stop(inv); err != nil {
		return err
	}
	if err := runtimecmd.AwaitCalls(inv.bundle, filePrefix, inv.isShim); err != nil {
		return err
	}
	// The status first: removing the container kills it.
	exit, err := process.ReadExit(inv.bundle)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		exit = process.ExitRecord{
			Pid: process.InitPid(inv.bundle), ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now(),
		}
	}
	runtime, err := process.LoadRuntime(inv.bundle)
	if err == nil {
		err = removeContainer(ctx, inv, runtime)
	} else if !errors.Is(err, os.ErrNotExist) {
		report(err)
		err = inv.killContainer()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errdefs.ErrNotFound) {
		return errors.Join(err, inv.killContainer())
	}
	if err := process.Unmount(filepath.Join(inv.bundle, "rootfs")); err != nil {
		return err
	}
	if err := inv.removeScratch(); err != nil {
		return err
	}
	response, err := proto.Marshal(&task.DeleteResponse{
		Pid: uint32(exit.Pid), ExitStatus: uint32(exit.ExitStatus), ExitedAt: timestamppb.New(exit.ExitedAt),
	})
	if err != nil {
		return fmt.Errorf("cannot encode the answer: %w", err)
	}
	_, err = out.Write(response)
	return err
}

// killContainer kills the processes of a container that its runtime does not remove: they must not run on unseen. What is
// left is removed when delete is repeated.
func (inv *invocation) killContainer() error {
	group, err := cgroup.Of(process.InitPid(inv.bundle))
	if err != nil || !group.IsNamed(inv.id) { // it is gone, or its pid is another's by now
		return nil
	}
	return group.Kill()
}

func removeContainer(ctx context.Context, inv invocation, runtime runtimecmd.Runtime) error {
	reap, err := reaper.New()
	if err != nil {
		return err
	}
	defer reap.Close()
	return runtime.Run(ctx, reap, runtimecmd.Call{
		Args: []string{"delete", "--force", inv.id}, Dir: inv.bundle, LogFile: inv.prefix() + ".delete.log",
	})
}

// removeScratch removes the socket and the passing files of the dead shim.
func (inv *invocation) removeScratch() error {
	inv.removeSockets()
	entries, err := os.ReadDir(inv.bundle)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot find the files of the shim: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), filePrefix+".") {
			continue
		}
		if err := os.Remove(filepath.Join(inv.bundle, entry.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove a file of the shim: %w", err)
		}
	}
	return nil
}
