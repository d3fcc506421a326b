package grpcserve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

// MaxMessage is the largest message that our servers take. It is containerd's limit, so its clients stay below it.
const MaxMessage = 16 << 20

// window is how much of a stream may be under way unread. gRPC's own 64 KiB make a client wait for each bit of a blob.
const window = 4 << 20

// shutdownLimit is how long requests under way may take to end after a shutdown has begun.
const shutdownLimit = 10 * time.Second

// Options returns what every gRPC server of ours is made with.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Serve serves what register registers, health and reflection on a unix socket at address until ctx ends. Then it lets
// requests under way end, but not for ever, and removes the socket.
func Serve(ctx context.Context, address string, log *slog.Logger, register func(grpc.ServiceRegistrar)) error {
	listener, err := Listen(address, Group)
	if err != nil {
		return err
	}
	return ServeListeners(ctx, []net.Listener{listener}, log, register)
}

// ServeListeners is Serve on sockets that are open.
func ServeListeners(ctx context.Context, listeners []net.Listener, log *slog.Logger, register func(grpc.ServiceRegistrar)) error {
	server := grpc.NewServer(Options()...)
	register(server)
	healthy := registerHealth(server)
	reflection.Register(server)

	served := make(chan error, len(listeners))
	for _, listener := range listeners {
		go func() { served <- server.Serve(listener) }()
		log.Info("serving", "address", listener.Addr().String())
	}
	var failed error
	select {
	case failed = <-served:
		server.Stop() // the other sockets make no server either
	case <-ctx.Done():
		log.Info("shutting down")
		healthy.end()
		stop(server)
		failed = <-served
	}
	errs := []error{failed}
	for range len(listeners) - 1 {
		errs = append(errs, <-served)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot serve: %w", err)
	}
	return nil
}

// stop lets requests under way end for shutdownLimit, and then leaves them: a handler that hangs must not keep the program
// from ending. GracefulStop alone waits for each handler, even after Stop has closed the connections.
func stop(server *grpc.Server) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.GracefulStop()
	}()
	select {
	case <-ended:
	case <-time.After(shutdownLimit):
		server.Stop()
	}
}

// Group owns the sockets, if it exists: its members may use them.
const Group = "berth"

// Listen opens a unix socket that root and the members of group may use. A group that does not exist is nobody.
func Listen(address, group string) (net.Listener, error) {
	listener, err := listen(address, group)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %q: %w", address, err)
	}
	return listener, nil
}

func listen(address, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(address), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(address); err != nil {
		return nil, err
	}
	// With the umask that Main sets, only root may connect before the socket has its group and mode.
	listener, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	if err := share(address, group); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes a socket that a killed process has left. One that answers is in use.
func removeStale(address string) error {
	info, err := os.Lstat(address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("it exists and is not a socket")
	}
	conn, err := net.Dial("unix", address)
	if err == nil {
		return errors.Join(errors.New("another process serves it"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(address)
}

func share(address, group string) error {
	if g, err := user.LookupGroup(group); err == nil && os.Geteuid() == 0 {
		gid, err := strconv.Atoi(g.Gid)
		if err != nil {
			return err
		}
		if err := os.Chown(address, 0, gid); err != nil {
			return err
		}
	}
	return os.Chmod(address, 0o660)
}
