package main

import (
	"fmt"
	"net"
	"os"
)

// readiness returns what tells systemd, if that has started berthd, that clients can connect: berthd.service is of
// Type=notify. The socket leaves the environment at once, or berth-runtime would give it to every container.
func readiness() (notify func() error) {
	address := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET") // fails for malformed names only
	return func() error {
		if address == "" {
			return nil
		}
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
		if err == nil {
			defer func() { _ = conn.Close() }()
			_, err = conn.Write([]byte("READY=1"))
		}
		if err != nil {
			return fmt.Errorf("cannot tell systemd that berthd is ready: %w", err)
		}
		return nil
	}
}
