package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/shim/events"
	"github.com/berthd/berth/shim/memory"
	"github.com/berthd/berth/shim/reaper"
	"github.com/berthd/berth/shim/server"
)

// serveVerb is the command of the process that start leaves behind.
const serveVerb = "serve"

// The descriptors that start passes on.
const (
	listenerFd = 3
	lockFd     = 4
)

func serve(ctx context.Context, inv invocation) error {
	if err := inv.writePid(); err != nil {
		return err
	}
	if err := leaveFrugality(); err != nil {
		return err
	}
	saver := memory.New()
	// The shim ends with its container, not with the session or service it was started in. The signals are caught and
	// dropped: ignored ones would stay ignored in the processes of the container.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	file := os.NewFile(listenerFd, "socket")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("cannot serve on the inherited socket: %w", err)
	}
	_ = file.Close()
	reap, err := reaper.New()
	if err != nil {
		return err
	}
	defer reap.Close()
	publisher := events.New(events.Config{
		Namespace: inv.namespace, TTRPC: inv.ttrpc, Binary: inv.publisher, Address: inv.address,
		Reaper: reap, Report: report,
	})
	defer publisher.Close()
	service := server.New(server.Config{
		ID: inv.id, Namespace: inv.namespace, Bundle: inv.bundle, Scratch: inv.prefix(),
		Reaper: reap, Events: publisher, Memory: saver, Sockets: inv.sockets(),
		Ended: inv.withdraw, Report: report,
	})
	return service.Serve(ctx, listener)
}

// writePid makes the shim known to delete, which waits for the lock until then.
func (inv *invocation) writePid() error {
	lock := os.NewFile(lockFd, inv.bundle)
	if err := atomicfile.WriteVolatile(inv.pidFile(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	return lock.Close()
}

// withdraw takes away what leads to this shim. It happens before Shutdown is answered: afterwards the bundle may be
// that of the container's next shim already.
func (inv *invocation) withdraw() {
	inv.removeSockets()
	_ = os.Remove(inv.pidFile())
}

// report says on stderr, which is the manager's log or a file in the bundle, what could not be returned to anyone.
func report(err error) { fmt.Fprintf(os.Stderr, "%s: %v\n", program, err) }
