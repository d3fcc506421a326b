package shim_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berthd/berth/test/testenv"
)

// collector is a manager's events service.
type collector struct {
	mu   sync.Mutex
	list []*types.Envelope
}

// Forward implements the service.
func (c *collector) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, r.Envelope)
	return &emptypb.Empty{}, nil
}

func (c *collector) topics() (topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, envelope := range c.list {
		topics = append(topics, envelope.Topic)
	}
	return topics
}

func (c *collector) listen(t testing.TB, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, c)
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func (c *collector) expect(t testing.TB, want ...string) {
	t.Helper()
	testenv.Until(t, usual, fmt.Sprintf("the events are %q", want), func() error {
		if got := c.topics(); !slices.Equal(got, want) {
			return fmt.Errorf("they are %q", got)
		}
		return nil
	})
}

func TestEvents(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	socket, _ := c.file("events.sock")
	var manager collector
	manager.listen(t, socket)
	c.Env = []string{"TTRPC_ADDRESS=" + socket}
	pid := c.create(streams{})
	c.run("")
	c.exec("x", streams{}, "sh", "-c", "exit 3")
	c.run("x")
	c.expectExit("x", 3)
	c.delete("x")
	if _, err := c.api.Pause(c.ctx(), &task.PauseRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.Resume(c.ctx(), &task.ResumeRequest{ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.kill("", 9)
	c.expectExit("", 137)
	c.delete("")
	manager.expect(t, "/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit",
		"/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete")
	last := manager.list[len(manager.list)-2]
	exit := &events.TaskExit{}
	if last.Namespace != namespace || last.Event.TypeUrl != "containerd.events.TaskExit" {
		t.Errorf("envelope %v", last)
	}
	if err := proto.Unmarshal(last.Event.Value, exit); err != nil {
		t.Fatal(err)
	}
	if exit.ContainerID != c.ID || exit.ID != c.ID || int(exit.Pid) != pid || exit.ExitStatus != 137 ||
		time.Since(exit.ExitedAt.AsTime()) > limit {
		t.Errorf("event %v", exit)
	}
}

func TestEventsWaitForAManagerThatIsAway(t *testing.T) {
	c := newContainer(t, "true")
	socket, _ := c.file("events.sock")
	c.Env = []string{"TTRPC_ADDRESS=" + socket}
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
	var manager collector
	manager.listen(t, socket)
	manager.expect(t, "/tasks/create", "/tasks/start", "/tasks/exit")
}

// A manager that takes events and never answers does not keep a shim that was told to shut down.
func TestEventsOfAManagerThatHangs(t *testing.T) {
	c := newContainer(t, "true")
	socket, _ := c.file("events.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	c.Env = []string{"TTRPC_ADDRESS=" + socket}
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
	c.delete("")
	c.shutdown()
	testenv.Until(t, 2*usual, "the shim has ended", func() error { return noneOf(t, c.Bundle) })
	said, err := os.ReadFile(filepath.Join(c.Bundle, "shim.log"))
	if err != nil || !strings.Contains(string(said), "the manager is away") {
		t.Errorf("the shim says %q, %v", said, err)
	}
}

func TestEventsThroughAProgram(t *testing.T) {
	c := newContainer(t, "true")
	log, _ := c.file("published")
	program, _ := c.file("publish")
	script := "#!/bin/sh\necho \"$@\" >> " + log + "\ncat > " + log + ".last\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c.Env = []string{"TTRPC_ADDRESS="}
	c.Flags = []string{"-publish-binary", program}
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
	want := ""
	for _, topic := range []string{"create", "start", "exit"} {
		want += "--address " + filepath.Join(c.Bundle, "none.sock") + " publish --topic /tasks/" + topic + " --namespace " + namespace + "\n"
	}
	testenv.Until(t, usual, "three events were published", func() error {
		data, err := os.ReadFile(log)
		if err == nil && string(data) != want {
			err = fmt.Errorf("it was called with %q", data)
		}
		return err
	})
	testenv.Until(t, usual, "the last is whole", func() error {
		data, err := os.ReadFile(log + ".last")
		if err == nil && !strings.Contains(string(data), "containerd.events.TaskExit") {
			err = fmt.Errorf("it is %q", data)
		}
		return err
	})
}
