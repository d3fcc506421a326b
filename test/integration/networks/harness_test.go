// Package networks_test connects real containers through berthd: published ports, networks, and volumes beside them.
package networks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

const limit = 30 * time.Second

// host is a berthd with an image of busybox.
type host struct {
	*testenv.Daemon
	t          testing.TB
	image      string
	containers berthv1.ContainersServiceClient
	images     berthv1.ImagesServiceClient
	networks   berthv1.NetworksServiceClient
	volumes    berthv1.VolumesServiceClient
}

func newHost(t testing.TB, flags ...string) *host {
	t.Helper()
	d := testenv.StartDaemon(t, flags...)
	conn := d.Dial()
	h := &host{
		Daemon: d, t: t, image: testenv.BusyboxImage(t, testenv.Registry(t)),
		containers: berthv1.NewContainersServiceClient(conn), images: berthv1.NewImagesServiceClient(conn),
		networks: berthv1.NewNetworksServiceClient(conn), volumes: berthv1.NewVolumesServiceClient(conn),
	}
	stream, err := h.images.PullImage(t.Context(), &berthv1.PullImageRequest{Reference: h.image})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("cannot pull %s: %v", h.image, err)
	}
	return h
}

// serve is a command that answers HTTP with the host name.
const serve = `mkdir -p /www && hostname >/www/index.html && exec httpd -f -p 80 -h /www`

// create makes a container that runs a script.
func (h *host) create(name, script string, spec *berthv1.ContainerSpec) string {
	h.t.Helper()
	spec.Image = h.image
	spec.Process = &berthv1.ProcessSpec{Entrypoint: &berthv1.StringList{Values: []string{"sh", "-c", script}}}
	if spec.Hostname == "" && !strings.HasPrefix(spec.GetNetwork().GetMode(), "container:") {
		spec.Hostname = name
	}
	made, err := h.containers.CreateContainer(h.t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: spec})
	if err != nil {
		h.t.Fatalf("cannot create %s: %v", name, err)
	}
	return made.GetId()
}

func (h *host) start(name string) error {
	_, err := h.containers.StartContainer(h.t.Context(), &berthv1.StartContainerRequest{Container: name})
	return err
}

// run starts a container and returns how it is connected.
func (h *host) run(name, script string, network *berthv1.NetworkSpec) *berthv1.Container {
	h.t.Helper()
	h.create(name, script, &berthv1.ContainerSpec{Network: network})
	if err := h.start(name); err != nil {
		h.t.Fatalf("cannot start %s: %v", name, err)
	}
	return h.inspect(name)
}

func (h *host) inspect(name string) *berthv1.Container {
	h.t.Helper()
	response, err := h.containers.InspectContainer(h.t.Context(), &berthv1.InspectContainerRequest{Container: name})
	if err != nil {
		h.t.Fatal(err)
	}
	return response.GetContainer()
}

func (h *host) remove(name string) {
	h.t.Helper()
	_, err := h.containers.RemoveContainer(h.t.Context(), &berthv1.RemoveContainerRequest{Container: name, Force: true, Volumes: true})
	if err != nil {
		h.t.Fatalf("cannot remove %s: %v", name, err)
	}
}

// exec runs a command in a container and returns what it wrote.
func (h *host) exec(name string, command ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), testenv.Patience(limit))
	defer cancel()
	stream, err := h.containers.ExecContainer(ctx)
	if err != nil {
		return "", err
	}
	err = stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: &berthv1.ExecStart{
		Container: name, Process: &berthv1.ProcessSpec{Args: command}, Stdout: true, Stderr: true,
	}}})
	if err != nil {
		return "", err
	}
	var output bytes.Buffer
	for {
		message, err := stream.Recv()
		if err != nil {
			return output.String(), err
		}
		output.Write(message.GetOutput().GetData())
		if exit := message.GetExit(); exit != nil {
			if exit.GetCode() != 0 {
				return output.String(), fmt.Errorf("%q in %s ended with %d: %s", command, name, exit.GetCode(), output.String())
			}
			return output.String(), nil
		}
	}
}

func (h *host) mustExec(name string, command ...string) string {
	h.t.Helper()
	output, err := h.exec(name, command...)
	if err != nil {
		h.t.Fatal(err)
	}
	return output
}

// output runs a container to its end and returns what it logged.
func (h *host) output(name, script string, spec *berthv1.ContainerSpec) string {
	h.t.Helper()
	h.create(name, script, spec)
	if err := h.start(name); err != nil {
		h.t.Fatalf("cannot start %s: %v", name, err)
	}
	ended, err := h.containers.WaitContainer(h.t.Context(), &berthv1.WaitContainerRequest{Container: name})
	if err != nil {
		h.t.Fatal(err)
	}
	stream, err := h.containers.StreamLogs(h.t.Context(), &berthv1.StreamLogsRequest{Container: name, Stdout: true, Stderr: true})
	if err != nil {
		h.t.Fatal(err)
	}
	var output bytes.Buffer
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			h.t.Fatal(err)
		}
		output.Write(message.GetLine())
	}
	if ended.GetExitCode() != 0 {
		h.t.Fatalf("%s ended with %d: %s", name, ended.GetExitCode(), output.String())
	}
	return output.String()
}

// get waits for an HTTP server and returns what it says.
func get(t testing.TB, address string) string {
	t.Helper()
	client := &http.Client{Timeout: testenv.Patience(time.Second), Transport: &http.Transport{DisableKeepAlives: true}}
	var content []byte
	testenv.Until(t, limit, "http://"+address+" answers", func() error {
		response, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		content, err = io.ReadAll(response.Body)
		return err
	})
	return strings.TrimSpace(string(content))
}

func address(c *berthv1.Container) string {
	host, _, _ := strings.Cut(c.GetEndpoints()[0].GetAddresses()[0], "/")
	return host
}

func published(port *berthv1.PortMapping) string {
	return fmt.Sprintf("127.0.0.1:%d", port.GetHostPort())
}

func wantCode(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want the code %s", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}
