package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/panics"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/netns"
	"github.com/berthd/berth/manager/networks"
	"github.com/berthd/berth/manager/sharing"
	"github.com/berthd/berth/manager/shims"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Start runs a container's process and answers its process ID. It does nothing if the container runs.
func (s *Service) Start(ctx context.Context, ref string, size *berthv1.TerminalSize) (pid uint32, err error) {
	c, release, err := s.hold(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer release()
	return s.startHeld(context.WithoutCancel(ctx), c, byClient, size)
}

// starter tells apart why a container is started.
type starter int

const (
	byClient starter = iota // or because berthd has started: the restart policy counts anew
	byPolicy                // after an exit
)

// startHeld starts a container whose life the caller holds.
func (s *Service) startHeld(ctx context.Context, c *container, by starter, size *berthv1.TerminalSize) (uint32, error) {
	if current := c.active(); current != nil && c.isEnding() && !s.exitsWithin(ctx, current, endPatience) {
		return 0, errdefs.As(errdefs.ErrUnavailable,
			fmt.Errorf("cannot start container %q: its last run has ended, and is still being cleaned up behind", c.snapshot().GetName()))
	}
	before := c.snapshot()
	switch before.GetState().GetStatus() {
	case statusRunning:
		return before.GetState().GetPid(), nil
	case statusCreated, statusExited, statusRestarting:
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		return 0, c.refuse("start")
	}
	c.keepAfterExit(false)
	if size == nil {
		size = before.GetProcess().GetTtySize()
	}
	if err := s.prepareStart(ctx, c, by); err != nil {
		return 0, fmt.Errorf("cannot start container %q: %w", before.GetName(), err)
	}
	c.beginStart()
	pid, err := s.launch(ctx, c, size)
	if err != nil {
		s.recordFailedStart(c, before.GetState().GetStatus(), err)
		return 0, fmt.Errorf("cannot start container %q: %w", before.GetName(), err)
	}
	return pid, nil
}

// prepareStart finishes what the last run has left to do, and writes down that the container is started.
func (s *Service) prepareStart(ctx context.Context, c *container, by starter) error {
	if err := s.cleanLeftovers(ctx, c); err != nil {
		return err
	}
	c.mu.Lock()
	c.history.stopped = false
	if by == byClient {
		c.history.backoff = 0
	}
	c.mu.Unlock()
	return c.transition(stepStart, func(m *berthv1.Container) {
		if by == byClient {
			m.State.RestartCount = 0
		}
	})
}

// recordFailedStart keeps why a container did not start. Its state is what it was, but for one that waited to be
// restarted: that has exited.
func (s *Service) recordFailedStart(c *container, before status, cause error) {
	code := int32(128)
	var command *shims.CommandError
	if errors.As(cause, &command) {
		code = command.Code
	}
	if before == statusRestarting {
		before = statusExited
	}
	s.record(c, stepNone, func(m *berthv1.Container) {
		m.State.Status, m.State.ExitCode, m.State.Error, m.State.Pid = before, code, cause.Error(), 0
		m.Endpoints, m.Ports = nil, nil
	})
	c.failAttachments(cause)
	if c.snapshot().GetSpec().GetAutoRemove() {
		s.removeLater(c)
	}
}

// launch sets up what surrounds a process, all at once where one thing does not need another, and starts it.
//
//	mount the root file system, write config.json ─┐
//	start the shim ────────────────────────────────┼─ shim: create ─┬─ connect attached clients ─ shim: start
//	make the network namespace ────────────────────┴─ plug it in ───┘
func (s *Service) launch(ctx context.Context, c *container, size *berthv1.TerminalSize) (pid uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	var undo cleanup.Stack
	defer func() { err = undo.Run(ctx, err) }()
	var shared sharing.Handles
	defer shared.Close()
	request, err := s.bundleRequest(ctx, c, size, &shared)
	if err != nil {
		return 0, err
	}
	runtime, err := runtimePath(request.Spec.GetRuntime())
	if err != nil {
		return 0, err
	}
	var task *shims.Task
	shimStarted := false
	undo.Add(func(ctx context.Context) error { return s.undoLaunch(ctx, c, task, shimStarted) })
	if err := errors.Join(makeBundle(c.bundle), shared.MountSharedMemory(filepath.Join(c.bundle, bundle.ShmDir))); err != nil {
		return 0, err
	}
	if err := s.makeNetns(c); err != nil {
		return 0, err
	}
	shimStarted = true // or half started, if that fails
	var env []string
	streams := s.streams(c.id, "", request.Spec)
	err = together(
		func() error { return s.plugIn(ctx, c) },
		func() error {
			err := together(
				func() (err error) { env, err = s.writeBundle(ctx, c, request); return err },
				func() (err error) { task, err = s.cfg.Shims.Start(ctx, c.id, c.bundle); return err },
			)
			if err != nil {
				return err
			}
			streamIO := streams.IO(request.Process.GetStdin(), request.Process.GetTty())
			pid, err = s.cfg.Shims.Create(ctx, task, c.bundle, runtime, streamIO)
			return err
		},
	)
	if err != nil {
		return 0, err
	}
	c.takeAttachments(streams.Path)
	started := timestamppb.Now() // a short process may have ended before Start answers
	if _, err := task.Start(ctx, ""); err != nil {
		return 0, err
	}
	s.begin(c, newRun(task, env), "start", func(m *berthv1.Container) {
		m.State.Status, m.State.Pid, m.State.StartedAt = statusRunning, pid, started
		m.State.ExitCode, m.State.Error, m.State.OomKilled, m.State.FinishedAt = 0, "", false, nil
	})
	return pid, nil
}

// makeBundle makes the bundle's directory, and in it the file that plugIn fills when the runtime may have mounted it.
func makeBundle(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("cannot make the bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.HostsFile), nil, 0o644); err != nil {
		return fmt.Errorf("cannot make the bundle: %w", err)
	}
	return nil
}

// launchLimit bounds what should take milliseconds: a runtime that hangs must not keep its container for ever.
const launchLimit = 2 * time.Minute

// together runs the steps at the same time, waits for all, and returns what failed.
func together(steps ...func() error) error {
	results := make(chan error, len(steps))
	for _, step := range steps {
		go func() { results <- recovered(step) }()
	}
	var errs []error
	for range steps {
		if err := <-results; err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// recovered is the error of a step, also of one that panics: in a goroutine of its own that would end berthd.
func recovered(step func() error) (err error) {
	defer panics.Recover(slog.Default(), "a step of a container's start or end", &err)
	return step()
}

// streamPath is the socket of a process's streams. It is in the bundle, and gone with that, whatever has become of the
// process and its shim.
func (s *Service) streamPath(id, execID string) string {
	name := "streams"
	if execID != "" {
		name += "." + execID[:8]
	}
	return filepath.Join(s.bundleDir(id), name)
}

// streams tells the shim how to serve the streams of a process.
func (s *Service) streams(id, execID string, spec *berthv1.ContainerSpec) shims.StreamURI {
	uri := shims.StreamURI{Path: s.streamPath(id, execID)}
	if execID != "" {
		return uri
	}
	uri.StdinOnce = spec.GetProcess().GetStdinOnce()
	if keepsLog(spec) {
		options, _ := parseLogOptions(spec.GetLog()) // checked when the container was created
		uri.Log, uri.MaxSize, uri.MaxFile = logPath(s.recordDir(id), id), options.maxSize, options.maxFile
	}
	return uri
}

// makeNetns makes the container's network namespace, if it gets one of its own.
func (s *Service) makeNetns(c *container) error {
	mode, _, err := networks.ParseMode(c.snapshot().GetSpec().GetNetwork())
	if err != nil || !ownsNetns(mode) {
		return err
	}
	return netns.Create(s.netnsPath(c.id))
}

// plugIn connects the network namespace to the container's networks, and writes its /etc/hosts.
func (s *Service) plugIn(ctx context.Context, c *container) error {
	message := c.snapshot()
	spec := message.GetSpec()
	mode, _, err := networks.ParseMode(spec.GetNetwork())
	if err != nil {
		return err
	}
	if mode == networks.ModeContainer {
		return nil // shareFiles gives it the other container's /etc/hosts
	}
	var connected networks.Result
	if mode == networks.ModeNetworks {
		connected, err = s.cfg.Networks.Attach(ctx, networks.Request{
			ContainerID: c.id, NetnsPath: s.netnsPath(c.id), Spec: spec.GetNetwork(), ExposedPorts: message.GetExposedPorts(),
		})
		if err != nil {
			return err
		}
	}
	hosts, err := s.cfg.Networks.Hosts(networks.HostsRequest{
		Hostname: s.hostname(message), Domainname: spec.GetDomainname(), Spec: spec.GetNetwork(), Endpoints: connected.Endpoints,
	})
	if err != nil {
		return err
	}
	// In place: the container may have the file mounted already.
	if err := os.WriteFile(filepath.Join(c.bundle, bundle.HostsFile), hosts, 0o644); err != nil {
		return fmt.Errorf("cannot write the container's /etc/hosts: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.message.Endpoints, c.message.Ports = connected.Endpoints, connected.Ports
	return nil
}

func ownsNetns(mode networks.Mode) bool {
	return mode == networks.ModeNetworks || mode == networks.ModeNone
}

func (s *Service) netnsPath(id string) string { return filepath.Join(s.stateDir("netns"), id) }

// disconnect undoes connect, also if that got half-way only. The namespace goes first: with its last reference the
// kernel removes the interfaces by itself, behind our back, which is many times faster than asking it to.
func (s *Service) disconnect(ctx context.Context, c *container) error {
	mode, _, err := networks.ParseMode(c.snapshot().GetSpec().GetNetwork())
	if err != nil || !ownsNetns(mode) {
		return err
	}
	err = netns.Remove(s.netnsPath(c.id))
	if mode == networks.ModeNetworks {
		err = errors.Join(err, s.cfg.Networks.Detach(ctx, c.id))
	}
	return err
}

// undoLaunch takes away what a launch that failed has made. If the shim can't be ended, the bundle stays for another attempt.
func (s *Service) undoLaunch(ctx context.Context, c *container, task *shims.Task, shimStarted bool) error {
	var shimErr error
	if shimStarted {
		shimErr = s.dropShim(ctx, c, task)
	}
	err := errors.Join(shimErr, s.disconnect(ctx, c))
	if shimErr == nil {
		err = errors.Join(err, s.removeBundle(c))
	}
	if err != nil {
		s.cfg.Logger.Error("cannot clean up behind a container that did not start; it is tried again", "container", c.id, "error", err)
		s.cleanLater(c.id)
	}
	return nil // the client is told why the container did not start, and nothing else
}

// dropShim ends a shim whose container did not start.
func (s *Service) dropShim(ctx context.Context, c *container, task *shims.Task) error {
	if task != nil {
		_, err := task.Delete(ctx, "")
		if err = ignoreNotFound(err); err == nil {
			err = task.Shutdown(ctx)
		}
		if err == nil {
			return nil
		}
		_ = task.Close()
	}
	_, err := s.deleteShim(ctx, c.id)
	return err
}

// errRunsNoMore is for containers whose namespaces others want to join.
func errRunsNoMore(name string) error {
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot join the namespaces of container %q: it is not running", name))
}
