// Package events tells the manager what happens to the container, as containerd wants it of a shim: over the
// manager's ttrpc socket, or by running a program of the manager's.
package events

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/shim/reaper"
)

// Config says where events go. Without TTRPC and Binary they go nowhere.
type Config struct {
	Namespace string
	TTRPC     string // the manager's ttrpc socket
	Binary    string // run as: Binary --address Address publish --topic TOPIC --namespace NAMESPACE, the event on stdin
	Address   string
	Reaper    *reaper.Reaper
	Report    func(error) // is told of events that were lost
}

// Publisher sends events in the order in which they were published, and never makes its caller wait.
type Publisher struct {
	config Config
	group  sync.WaitGroup

	closing chan struct{} // closed by Close

	mu      sync.Mutex
	queue   []*types.Envelope
	sending bool // a goroutine works on the queue
}

// New returns a publisher.
func New(config Config) *Publisher {
	return &Publisher{config: config, closing: make(chan struct{})}
}

const (
	// maxQueue bounds what is kept for a manager that is away; then the newest are lost.
	maxQueue = 2048
	// attempts and pause give a manager that restarts some seconds.
	attempts = 5
	pause    = time.Second
	// patience bounds one attempt.
	patience = 5 * time.Second
	// closeTime bounds the sending that a shim without a container goes on with.
	closeTime = 15 * time.Second
)

// Publish queues an event.
func (p *Publisher) Publish(topic string, event proto.Message) {
	if p.config.TTRPC == "" && p.config.Binary == "" {
		return
	}
	value, err := proto.Marshal(event)
	if err != nil {
		p.config.Report(fmt.Errorf("cannot encode event %q: %w", topic, err))
		return
	}
	envelope := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.config.Namespace,
		Topic:     topic,
		Event:     &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: value},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) >= maxQueue {
		p.config.Report(fmt.Errorf("cannot publish event %q: %d others are waiting", topic, len(p.queue)))
		return
	}
	p.queue = append(p.queue, envelope)
	if !p.sending {
		p.sending = true
		p.group.Go(p.send)
	}
}

// Close waits until the queue is empty, or its events were given up: the shim does not outlast its container for a manager
// that does not come back.
func (p *Publisher) Close() {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p.group.Wait()
	}()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-sent:
		return
	case <-timer.C:
	}
	close(p.closing)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		p.config.Report(fmt.Errorf("cannot publish %d events: the manager is away", len(p.queue)))
	}
}

// send works the queue off and ends: between events the publisher holds neither a connection nor a goroutine.
func (p *Publisher) send() {
	var client *ttrpc.Client
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	for {
		envelope := p.next()
		if envelope == nil {
			return
		}
		var err error
		for attempt := range attempts {
			if attempt > 0 {
				select {
				case <-time.After(pause): // nothing announces that the manager is back
				case <-p.closing:
					return
				}
			}
			if p.config.TTRPC == "" {
				err = p.execute(envelope)
			} else {
				client, err = p.forward(client, envelope)
			}
			if err == nil {
				break
			}
		}
		if err != nil {
			p.config.Report(fmt.Errorf("cannot publish event %q: %w", envelope.Topic, err))
		}
	}
}

func (p *Publisher) next() *types.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue, p.sending = nil, false
		return nil
	}
	envelope := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	return envelope
}

// forward sends an event over ttrpc. It returns the client for the next one, nil if that has to connect anew.
func (p *Publisher) forward(client *ttrpc.Client, envelope *types.Envelope) (*ttrpc.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if client == nil {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", strings.TrimPrefix(p.config.TTRPC, "unix://"))
		if err != nil {
			return nil, err
		}
		client = ttrpc.NewClient(conn)
	}
	_, err := events.NewTTRPCEventsClient(client).Forward(ctx, &events.ForwardRequest{Envelope: envelope})
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	return client, nil
}

// execute publishes an event through the manager's program.
func (p *Publisher) execute(envelope *types.Envelope) error {
	event, err := proto.Marshal(envelope.Event)
	if err != nil {
		return err
	}
	input, err := inputFile(event)
	if err != nil {
		return err
	}
	defer func() { _ = input.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	window := p.config.Reaper.Open()
	defer window.Close()
	args := []string{
		p.config.Binary, "--address", p.config.Address, "publish", "--topic", envelope.Topic, "--namespace", envelope.Namespace,
	}
	pid, err := syscall.ForkExec(p.config.Binary, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{input.Fd(), null.Fd(), null.Fd()},
	})
	if err != nil {
		return fmt.Errorf("cannot run %q: %w", p.config.Binary, err)
	}
	child, err := window.Claim(pid)
	if err != nil {
		return err
	}
	select {
	case <-child.Exited:
	case <-time.After(patience):
		_ = child.Signal(unix.SIGKILL)
		return fmt.Errorf("%q did not end within %v and was killed", p.config.Binary, patience)
	}
	if status := child.Exit().Status; status != 0 {
		return fmt.Errorf("%q ended with status %d", p.config.Binary, status)
	}
	return nil
}

// inputFile returns a file of memory to read data from, however much that is.
func inputFile(data []byte) (*os.File, error) {
	fd, err := sys.DataFile("event")
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "event")
	if _, err := bytes.NewReader(data).WriteTo(file); err != nil {
		_ = file.Close()
		return nil, err
	}
	if _, err := file.Seek(0, 0); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
