// Package client connects to berthd and turns what goes wrong on the way into sentences that say what to do next.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// DefaultHost is where berthd listens unless told otherwise.
const DefaultHost = "unix:///run/berth/berthd.sock"

// maxMessage bounds one answer: an inspect of thousands of containers passes gRPC's default of 4 MiB.
const maxMessage = 64 << 20

// window is the flow-control window of a stream. A fixed one spares the pings with which gRPC would measure it.
const window = 1 << 20

// Client is one connection to berthd with the services that the command line uses.
type Client struct {
	Containers berthv1.ContainersServiceClient
	Images     berthv1.ImagesServiceClient
	Volumes    berthv1.VolumesServiceClient
	Networks   berthv1.NetworksServiceClient
	Events     berthv1.EventsServiceClient
	System     berthv1.SystemServiceClient

	host string
	conn *grpc.ClientConn
}

// Dial connects to host, a unix:// address or the path of a socket. It connects at once, not with the first call, so
// that a daemon which is not there is told apart from one that fails.
func Dial(ctx context.Context, host string, log *slog.Logger) (*Client, error) {
	path, err := socketPath(host)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}
	first, err := dial(ctx)
	if err != nil {
		return nil, dialError(host, path, err)
	}
	var once sync.Once
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		var conn net.Conn
		once.Do(func() { conn = first })
		if conn != nil {
			return conn, nil
		}
		return dial(ctx)
	}
	conn, err := grpc.NewClient("passthrough:///berthd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithUnaryInterceptor(logCalls(log)))
	if err != nil {
		_ = first.Close()
		return nil, fmt.Errorf("cannot connect to berthd at %s: %w", host, err)
	}
	return &Client{
		Containers: berthv1.NewContainersServiceClient(conn),
		Images:     berthv1.NewImagesServiceClient(conn),
		Volumes:    berthv1.NewVolumesServiceClient(conn),
		Networks:   berthv1.NewNetworksServiceClient(conn),
		Events:     berthv1.NewEventsServiceClient(conn),
		System:     berthv1.NewSystemServiceClient(conn),
		host:       host, conn: conn,
	}, nil
}

// Close ends the connection. Calls that are under way fail.
func (c *Client) Close() error { return c.conn.Close() }

func socketPath(host string) (string, error) {
	scheme, rest, found := strings.Cut(host, "://")
	switch {
	case !found && filepath.IsAbs(host):
		return host, nil
	case scheme == "unix" && filepath.IsAbs(rest):
		return rest, nil
	case scheme == "unix":
		return "", fmt.Errorf("invalid host %q: the path of the socket must be absolute, as in %s", host, DefaultHost)
	case found:
		return "", fmt.Errorf("invalid host %q: connecting over %s is not implemented, only unix:// is", host, scheme)
	}
	return "", fmt.Errorf("invalid host %q: want the address of a socket, as %s", host, DefaultHost)
}

func dialError(host, path string, err error) error {
	if !strings.Contains(host, "://") {
		host = "unix://" + path
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot connect to berthd at %s: is it running? Start it with \"systemctl start berthd\" or \"berthd\"", host)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot connect to berthd at %s: permission denied; run as root, or as a member of the group that owns the socket (\"usermod -aG berth USER\", then log in again)", host)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("cannot connect to berthd at %s: %w", host, err)
}

func logCalls(log *slog.Logger) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoke(ctx, method, req, reply, conn, opts...)
		log.Debug("called berthd", "method", method, "took", time.Since(start), "error", err)
		return err
	}
}
