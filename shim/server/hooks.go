package server

import (
	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/shim/process"
	"github.com/berthd/berth/shim/reaper"
)

// hooks publish what happens to the container that r creates.
func (s *Service) hooks(r *task.CreateTaskRequest) process.Hooks {
	publish := s.config.Events.Publish
	return process.Hooks{
		Created: func(pid int) {
			publish("/tasks/create", &events.TaskCreate{
				ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: uint32(pid), Checkpoint: r.Checkpoint,
				IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
			})
		},
		OOM: func() { publish("/tasks/oom", &events.TaskOOM{ContainerID: r.ID}) },
		Started: func(execID string, pid int) {
			if execID == "" {
				publish("/tasks/start", &events.TaskStart{ContainerID: r.ID, Pid: uint32(pid)})
				return
			}
			publish("/tasks/exec-started", &events.TaskExecStarted{ContainerID: r.ID, ExecID: execID, Pid: uint32(pid)})
		},
		Exited: func(execID string, pid int, exit reaper.Exit) {
			id := execID
			if id == "" {
				id = r.ID
			}
			publish("/tasks/exit", &events.TaskExit{
				ContainerID: r.ID, ID: id, Pid: uint32(pid), ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At),
			})
		},
	}
}
