package contentstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// client is a store as a gRPC client sees it, in a namespace of its own.
type client struct {
	t      testing.TB
	store  *Store
	blobs  contentapi.ContentClient
	leases leasesapi.LeasesClient
	ctx    context.Context
}

func openClient(t testing.TB, dir string) *client {
	t.Helper()
	store, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	Register(server, store)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///store", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		if err := errors.Join(conn.Close(), <-served, store.Close()); err != nil {
			t.Error(err)
		}
	})
	c := &client{t: t, store: store, blobs: contentapi.NewContentClient(conn), leases: leasesapi.NewLeasesClient(conn), ctx: t.Context()}
	return c.in("test")
}

// in returns the client with another namespace, or with none for "".
func (c *client) in(namespace string) *client {
	other := *c
	other.ctx = c.t.Context()
	if namespace != "" {
		other.ctx = metadata.AppendToOutgoingContext(other.ctx, headerNamespace, namespace)
	}
	return &other
}

// under returns the client with a lease.
func (c *client) under(lease string) *client {
	other := *c
	other.ctx = metadata.AppendToOutgoingContext(c.ctx, headerLease, lease)
	return &other
}

// send sends one request on a stream of its own and returns the answer.
func (c *client) send(r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	stream := c.stream()
	if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	response, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return nil, err
	}
	return response, nil
}

func (c *client) stream() contentapi.Content_WriteClient {
	c.t.Helper()
	stream, err := c.blobs.Write(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return stream
}

// put commits a blob and returns its digest.
func (c *client) put(content string, labels map[string]string) string {
	c.t.Helper()
	response, err := c.send(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Ref: "put-" + content, Data: []byte(content), Labels: labels,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return response.Digest
}

func (c *client) get(d string) (string, error) {
	stream, err := c.blobs.Read(c.ctx, &contentapi.ReadContentRequest{Digest: d})
	if err != nil {
		return "", err
	}
	var content bytes.Buffer
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return content.String(), nil
		}
		if err != nil {
			return "", err
		}
		content.Write(response.Data)
	}
}

func (c *client) has(d string) bool {
	c.t.Helper()
	_, err := c.blobs.Info(c.ctx, &contentapi.InfoRequest{Digest: d})
	if err != nil && status.Code(err) != codes.NotFound {
		c.t.Fatal(err)
	}
	return err == nil
}

// wantCode fails the test unless err is a status with the code.
func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want code %v", err, want)
	}
}

func TestBlobComesBackAsItWasWritten(t *testing.T) {
	c := openClient(t, t.TempDir())
	d := c.put("hello", map[string]string{"a": "b"})
	if want := digest.FromString("hello").String(); d != want {
		t.Errorf("digest %s, want %s", d, want)
	}
	if got, err := c.get(d); err != nil || got != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	response, err := c.blobs.Info(c.ctx, &contentapi.InfoRequest{Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	if info := response.Info; info.Size != 5 || info.Labels["a"] != "b" || info.CreatedAt == nil {
		t.Errorf("info %v", info)
	}
}
