package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/errdefs"
)

// service answers some methods of the content API in ways that show what the channel does.
type service struct {
	contentapi.UnimplementedContentServer
	kept *contentapi.InfoRequest
	// waiting and ended are closed when a Read with a negative offset has sent all, and when it returns.
	waiting, ended chan struct{}
}

func (s *service) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	s.kept = r
	if r.GetDigest() == "missing" {
		return nil, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("no %s", r.GetDigest()))
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return &contentapi.InfoResponse{Info: &contentapi.Info{Digest: fmt.Sprint(md.Get("key"))}}, nil
}

func (s *service) Read(r *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	for i := range r.GetSize() {
		if err := stream.Send(&contentapi.ReadContentResponse{Offset: i}); err != nil {
			return err
		}
	}
	if r.GetOffset() < 0 {
		defer close(s.ended)
		close(s.waiting)
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

func (s *service) Write(stream contentapi.Content_WriteServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errdefs.As(errdefs.ErrFailedPrecondition, errors.New("not committed"))
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&contentapi.WriteContentResponse{Offset: r.GetOffset()}); err != nil {
			return err
		}
	}
}

func client() (contentapi.ContentClient, *service) {
	s := &service{waiting: make(chan struct{}), ended: make(chan struct{})}
	c := newChannel()
	contentapi.RegisterContentServer(c, s)
	return contentapi.NewContentClient(c), s
}

func TestUnary(t *testing.T) {
	c, s := client()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "key", "value")
	request := &contentapi.InfoRequest{Digest: "here"}
	answer, err := c.Info(ctx, request)
	if err != nil || answer.GetInfo().GetDigest() != "[value]" {
		t.Errorf("got %v, %v", answer, err)
	}
	if s.kept == request {
		t.Error("the service got the client's own message")
	}
	if _, err := c.Info(ctx, &contentapi.InfoRequest{Digest: "missing"}); status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no missing" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Delete(ctx, &contentapi.DeleteContentRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestServerStream(t *testing.T) {
	c, _ := client()
	stream, err := c.Read(t.Context(), &contentapi.ReadContentRequest{Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(100) {
		if piece, err := stream.Recv(); err != nil || piece.GetOffset() != i {
			t.Fatalf("piece %d: %v, %v", i, piece, err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestCancelEndsBothSides(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(context.Context) (context.Context, context.CancelFunc)
		want codes.Code
	}{
		"cancelled": {context.WithCancel, codes.Canceled},
		"deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		}, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := client()
			ctx, cancel := test.end(t.Context())
			defer cancel()
			stream, err := c.Read(ctx, &contentapi.ReadContentRequest{Offset: -1})
			if err != nil {
				t.Fatal(err)
			}
			<-s.waiting
			if test.want == codes.Canceled {
				cancel()
			}
			if _, err := stream.Recv(); status.Code(err) != test.want {
				t.Errorf("the client got %v", err)
			}
			select {
			case <-s.ended:
			case <-time.After(10 * time.Second):
				t.Error("the service's end of the stream goes on")
			}
		})
	}
}

func TestBidirectionalStream(t *testing.T) {
	c, _ := client()
	stream, err := c.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(10) {
		if err := stream.Send(&contentapi.WriteContentRequest{Offset: i}); err != nil {
			t.Fatal(err)
		}
		if answer, err := stream.Recv(); err != nil || answer.GetOffset() != i {
			t.Fatalf("got %v, %v", answer, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("at the end: %v", err)
	}
	if err := stream.Send(&contentapi.WriteContentRequest{}); !errors.Is(err, io.EOF) {
		t.Errorf("sending after the end: %v", err)
	}
}
