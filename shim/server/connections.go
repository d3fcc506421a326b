package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/berthd/berth/shim/stdio"
)

// connections refuses those of other users, should the socket's mode have been changed, and counts the others.
type connections struct {
	open atomic.Int32
	left chan struct{} // gets one when the last connection is closed
	last func()        // called then, too
}

func newConnections(last func()) *connections {
	return &connections{left: make(chan struct{}, 1), last: last}
}

// Handshake implements ttrpc.Handshaker.
func (c *connections) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok || !stdio.SamePeer(u) {
		return nil, nil, fmt.Errorf("cannot accept a connection from a user other than %d", os.Geteuid())
	}
	c.open.Add(1)
	return &connection{Conn: conn, closed: sync.OnceFunc(c.closed)}, nil, nil
}

func (c *connections) closed() {
	if c.open.Add(-1) > 0 {
		return
	}
	c.last()
	select {
	case c.left <- struct{}{}:
	default:
	}
}

// await returns when there is no connection, or when ctx ends.
func (c *connections) await(ctx context.Context) {
	for c.open.Load() > 0 {
		select {
		case <-c.left:
		case <-ctx.Done():
			return
		}
	}
}

type connection struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
