package main

import (
	"os"

	"github.com/berthd/berth/runtime/container"
)

// notifySocket is the variable with a service manager's socket for word that the service is ready.
const notifySocket = "NOTIFY_SOCKET"

// readiness passes a container's word on. It does nothing without a service manager that waits for it.
type readiness struct{ *container.Readiness }

// listenReady listens for a container's word, if a service manager waits for it.
func listenReady(c *container.Container) (readiness, error) {
	manager := os.Getenv(notifySocket)
	if manager == "" {
		return readiness{}, nil
	}
	listening, err := c.ListenReady(manager)
	return readiness{listening}, err
}

// wait waits until the container is ready: after it this process is gone, and the container's the service's main one.
func (r readiness) wait(mainPid int) error {
	if r.Readiness == nil {
		return nil
	}
	return r.Wait(mainPid)
}

// relay passes on what the container says while this process waits for it.
func (r readiness) relay() {
	if r.Readiness == nil {
		return
	}
	go func() {
		if r.Wait(os.Getpid()) == nil {
			r.Relay()
		}
	}()
}

func (r readiness) close() {
	if r.Readiness != nil {
		r.Close()
	}
}
