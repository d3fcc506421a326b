// Package stores connects the manager with what keeps content, leases and snapshots: the stores in this process, or
// others behind a socket (ours as programs of their own, or a containerd's). Either way they are gRPC clients. Several
// daemons can share stores.
package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthd/berth/contentstore"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/blobs"
	"github.com/berthd/berth/snapshotter"
)

// Config says where the stores are.
type Config struct {
	// Root is the manager's directory; stores in this process live below it.
	Root string
	// ContentAddress and SnapshotterAddress are sockets of stores in other processes. Empty: in this one.
	ContentAddress, SnapshotterAddress string
	// Snapshotter is the name of the snapshotter to ask for. In this process it is the layout, and empty chooses one.
	Snapshotter string
	Logger      *slog.Logger
}

// Clients of the stores.
type Clients struct {
	Content   contentapi.ContentClient
	Leases    leasesapi.LeasesClient
	Snapshots snapshotsapi.SnapshotsClient
	// Snapshotter is the name that each snapshots request carries.
	Snapshotter string
	closers     []func() error
}

// Connect opens the stores of this process, or connects to others and checks that they answer.
func Connect(ctx context.Context, config Config) (_ *Clients, err error) {
	clients := &Clients{Snapshotter: cmp.Or(config.Snapshotter, snapshotter.Overlay)}
	defer func() {
		if err != nil {
			err = errors.Join(err, clients.Close())
		}
	}()
	if err := clients.connectContent(ctx, config); err != nil {
		return nil, err
	}
	return clients, clients.connectSnapshotter(ctx, config)
}

func (c *Clients) connectContent(ctx context.Context, config Config) error {
	var connection grpc.ClientConnInterface
	if config.ContentAddress == "" {
		store, err := contentstore.Open(filepath.Join(config.Root, "content"), contentstore.Options{Logger: config.Logger})
		if err != nil {
			return err
		}
		c.closers = append(c.closers, store.Close)
		channel := newChannel()
		contentstore.Register(channel, store)
		connection = channel
	} else {
		remote, err := c.dial("content store", config.ContentAddress)
		if err != nil {
			return err
		}
		connection = remote
	}
	c.Content = contentapi.NewContentClient(connection)
	c.Leases = leasesapi.NewLeasesClient(connection)
	if _, err := c.Leases.List(checkContext(ctx), &leasesapi.ListRequest{}); err != nil {
		return unreachable("content store", config.ContentAddress, err)
	}
	return nil
}

func (c *Clients) connectSnapshotter(ctx context.Context, config Config) error {
	var connection grpc.ClientConnInterface
	if config.SnapshotterAddress == "" {
		store, err := snapshotter.Open(filepath.Join(config.Root, "snapshots"), snapshotter.Options{Layout: config.Snapshotter, Logger: config.Logger})
		if err != nil {
			return err
		}
		c.Snapshotter = store.Name()
		c.closers = append(c.closers, store.Close)
		channel := newChannel()
		snapshotter.Register(channel, store)
		connection = channel
	} else {
		remote, err := c.dial("snapshotter", config.SnapshotterAddress)
		if err != nil {
			return err
		}
		connection = remote
	}
	c.Snapshots = snapshotsapi.NewSnapshotsClient(connection)
	stream, err := c.Snapshots.List(checkContext(ctx), &snapshotsapi.ListSnapshotsRequest{Snapshotter: c.Snapshotter})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil
	}
	return unreachable("snapshotter", config.SnapshotterAddress, err)
}

// maxMessage is more than the content API's chunks and any list of ours need.
const maxMessage = 16 << 20

func (c *Clients) dial(what, address string) (grpc.ClientConnInterface, error) {
	if !strings.Contains(address, ":") {
		address = "unix://" + address
	}
	if !strings.HasPrefix(address, "unix:") {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid address %q: want unix:///path/of/socket", address))
	}
	// A store that is back is to be found soon, and trying costs little on a socket of this host.
	reconnect := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: checkTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %q: %w", address, err)
	}
	c.closers = append(c.closers, connection.Close)
	return &watch{connection, what, address}, nil
}

const checkTimeout = 10 * time.Second

func checkContext(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	context.AfterFunc(ctx, cancel)
	return blobs.WithNamespace(ctx)
}

func unreachable(what, address string, err error) error {
	if address == "" {
		return fmt.Errorf("cannot use the %s: %w", what, err)
	}
	return fmt.Errorf("cannot use the %s at %q: %w", what, address, err)
}

// Close closes what Connect opened, the last first.
func (c *Clients) Close() error {
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	c.closers = nil
	return errors.Join(errs...)
}
