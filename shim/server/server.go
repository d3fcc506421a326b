// Package server offers the container over ttrpc, as containerd's Task service in its versions 2 and 3: they have the
// same messages and differ only in the service's name.
package server

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/grpcstatus"
	"github.com/berthd/berth/shim/events"
	"github.com/berthd/berth/shim/memory"
	"github.com/berthd/berth/shim/process"
	"github.com/berthd/berth/shim/reaper"
)

// Config says which container the service is for.
type Config struct {
	ID        string
	Namespace string
	Bundle    string
	Scratch   string // prefix of short paths, for sockets
	Reaper    *reaper.Reaper
	Events    *events.Publisher
	Memory    *memory.Saver
	Sockets   []string    // where the shim may listen
	Ended     func()      // called once Shutdown is accepted, before it is answered
	Report    func(error) // is told what no client is
}

// Service is the Task service of one container. Grouping the containers of a pod in one shim needs a map from the
// requests' ids in place of the field container, and nothing else here.
type Service struct {
	config   Config
	shutdown chan struct{}
	once     sync.Once
	orphan   *time.Timer // looks whether there is anything left to serve

	mu        sync.Mutex
	container *process.Container // nil before Create and after the init process was deleted
	creating  bool
}

// New returns the service.
func New(config Config) *Service {
	return &Service{config: config, shutdown: make(chan struct{})}
}

// methods is the whole API.
func (s *Service) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"Create":     method(s, s.create),
		"Start":      method(s, s.start),
		"Exec":       method(s, s.exec),
		"State":      method(s, s.state),
		"Wait":       method(s, s.wait),
		"Kill":       method(s, s.kill),
		"Pids":       method(s, s.pids),
		"ResizePty":  method(s, s.resizePty),
		"CloseIO":    method(s, s.closeIO),
		"Pause":      method(s, s.pause),
		"Resume":     method(s, s.resume),
		"Update":     method(s, s.update),
		"Delete":     method(s, s.delete),
		"Connect":    method(s, s.connect),
		"Shutdown":   method(s, s.shutDown),
		"Stats":      method(s, s.stats),
		"Checkpoint": method(s, s.checkpoint),
	}
}

// method adapts one of the service's methods to ttrpc, with its error as a status.
func method[Request, Response any](s *Service, call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		s.config.Memory.Busy()
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		if _, waits := any(request).(*task.WaitRequest); !waits {
			var cancel context.CancelFunc
			ctx, cancel = detach(ctx)
			defer cancel()
		}
		response, err := safely(s.config.Report, func() (*Response, error) { return call(ctx, request) })
		if err != nil {
			return nil, status.Error(grpcstatus.Code(err), err.Error())
		}
		return response, nil
	}
}

// safely turns a panic of a method into its error, and reports the stack: the container's streams and its status must not be
// lost with the shim.
func safely[Response any](report func(error), call func() (*Response, error)) (response *Response, err error) {
	defer func() {
		if value := recover(); value != nil {
			report(fmt.Errorf("panic: %v\n%s", value, debug.Stack()))
			err = fmt.Errorf("the call failed because of a fault in the shim (%v): its log has the details", value)
		}
	}()
	return call()
}

const (
	// answerTime is what is left of a client's time when the runtime is given up, for the error to arrive in.
	answerTime = 2 * time.Second
	// workTime is what a call has at least, however short its client's time is.
	workTime = 5 * time.Second
)

// detach returns a context that a client's death does not end: it must not have the runtime killed half-way. What keeps to the
// client's time is that it learns of a runtime that does not end. Only Wait, which changes nothing, ends with its client.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(detached)
	}
	return context.WithTimeout(detached, max(time.Until(deadline)-answerTime, workTime))
}

// orphanTime is how long a shim without a container waits for a client. Managers connect at once; one that was killed
// before, and its successor, may know nothing of this shim, or of its bundle.
const orphanTime = 15 * time.Second

// endOrphan ends the shim if it has neither a container nor a client.
func (s *Service) endOrphan(clients *connections) {
	if clients.open.Load() == 0 {
		_, _ = s.shutDown(context.Background(), nil)
	}
}

// Serve answers requests until Shutdown was called or ctx ends.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	clients := newConnections(func() { s.orphan.Reset(orphanTime) })
	s.orphan = time.AfterFunc(orphanTime, func() { s.endOrphan(clients) })
	defer s.orphan.Stop()
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(clients))
	if err != nil {
		return fmt.Errorf("cannot make the ttrpc server: %w", err)
	}
	for _, name := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: s.methods()})
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ctx, listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("cannot serve the task service: %w", err)
	case <-ctx.Done():
	case <-s.shutdown:
	}
	// The answer to Shutdown is still to be sent. ttrpc's own Shutdown may cut it off: it takes a connection for idle that
	// had no request before this one. Clients close their connections when they have the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	clients.await(ctx)
	_ = server.Close()
	return nil
}
