package containers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"

	"github.com/berthd/berth/manager/shims"
)

// lastWords answers Wait, and nothing else.
type lastWords struct{ task.TTRPCTaskService }

func (lastWords) Wait(context.Context, *task.WaitRequest) (*task.WaitResponse, error) {
	return &task.WaitResponse{ExitStatus: 7}, nil
}

// A connection to a shim that breaks is made anew, for the container and for each of its execs, while the shim is there.
func TestWaitOutlivesItsConnection(t *testing.T) {
	bundle := t.TempDir()
	socket := filepath.Join(bundle, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf(`{"version":3,"address":"unix://%s","protocol":"ttrpc"}`, socket)
	if err := os.WriteFile(filepath.Join(bundle, "bootstrap.json"), []byte(address), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Service{cfg: Config{Shims: shims.New(shims.Config{}), Logger: slog.New(slog.DiscardHandler)}, work: t.Context()}
	c := &container{id: "x", bundle: bundle}
	link, err := s.cfg.Shims.Connect(c.id, c.bundle)
	if err != nil {
		t.Fatal(err)
	}
	current := newRun(link, nil)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	task.RegisterTTRPCTaskService(server, lastWords{})
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // a call has come
			_ = conn.Close()
		}
		if err == nil {
			err = server.Serve(t.Context(), listener)
		}
		served <- err
	}()
	codes := make(chan int32, 2)
	for _, execID := range []string{"", "exec"} {
		go func() {
			exited, err := s.waitProcess(c, current, execID)
			if err != nil {
				t.Errorf("%q: %v", execID, err)
			}
			codes <- exited.Code
		}()
	}
	for range 2 {
		if code := <-codes; code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
	}
	_ = current.task().Close()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("the server ended: %v", <-served)
	if _, err := s.waitProcess(c, current, ""); err == nil {
		t.Error("a shim that is gone is waited for")
	}
}
