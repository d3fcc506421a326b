package failure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

const (
	created = berthv1.ContainerStatus_CONTAINER_STATUS_CREATED
	running = berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING
	paused  = berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED
	exited  = berthv1.ContainerStatus_CONTAINER_STATUS_EXITED
)

// shell is the specification of a container that runs a shell script.
func shell(image, script string) *berthv1.ContainerSpec {
	return &berthv1.ContainerSpec{Image: image, Process: &berthv1.ProcessSpec{Args: []string{"sh", "-c", script}}}
}

// run creates and starts a container.
func (d *daemon) run(name string, spec *berthv1.ContainerSpec) *berthv1.Container {
	d.t.Helper()
	response, err := d.containers().CreateContainer(d.t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: spec})
	if err != nil {
		d.t.Fatalf("create %q: %v", name, err)
	}
	if _, err := d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: response.Id}); err != nil {
		d.t.Fatalf("start %q: %v", name, err)
	}
	return d.inspect(response.Id)
}

func (d *daemon) inspect(ref string) *berthv1.Container {
	d.t.Helper()
	response, err := d.containers().InspectContainer(d.t.Context(), &berthv1.InspectContainerRequest{Container: ref})
	if err != nil {
		d.t.Fatalf("inspect %q: %v", ref, err)
	}
	return response.Container
}

// awaitExit waits until a container has exited and returns its state.
func (d *daemon) awaitExit(ref string) *berthv1.ContainerState {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), testenv.Patience(limit))
	defer cancel()
	if _, err := d.containers().WaitContainer(ctx, &berthv1.WaitContainerRequest{Container: ref}); err != nil {
		d.t.Fatalf("wait for %q: %v", ref, err)
	}
	return d.inspect(ref).State
}

// exec runs a shell script in a container and returns its output and status.
func (d *daemon) exec(ref, script string) (output string, code int32) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), testenv.Patience(limit))
	defer cancel()
	stream, err := d.containers().ExecContainer(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	err = stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: &berthv1.ExecStart{
		Container: ref, Stdout: true, Stderr: true, Process: &berthv1.ProcessSpec{Args: []string{"sh", "-c", script}},
	}}})
	if err != nil {
		d.t.Fatal(err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			d.t.Fatalf("exec in %q: %v", ref, err)
		}
		output += string(response.GetOutput().GetData())
		if exit := response.GetExit(); exit != nil {
			return output, exit.GetCode()
		}
	}
}

// logs returns what a container wrote, as it was logged.
func (d *daemon) logs(ref string) string {
	d.t.Helper()
	stream, err := d.containers().StreamLogs(d.t.Context(), &berthv1.StreamLogsRequest{Container: ref, Stdout: true, Stderr: true})
	var text strings.Builder
	for err == nil {
		var response *berthv1.StreamLogsResponse
		if response, err = stream.Recv(); err == nil {
			text.Write(response.Line)
		}
	}
	if !errors.Is(err, io.EOF) {
		d.t.Fatalf("logs of %q: %v", ref, err)
	}
	return text.String()
}

// site is a container that serves HTTP on a port of the host.
type site struct {
	*berthv1.Container
	address string
}

// serve runs a web server behind a published port and waits until it answers.
func (d *daemon) serve(name, image string) site {
	d.t.Helper()
	address := testenv.FreeAddress(d.t)
	_, number, _ := strings.Cut(address, ":")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		d.t.Fatal(err)
	}
	spec := shell(image, "echo hello >/var/www/index.html; exec httpd -f -h /var/www")
	spec.Network = &berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{{HostIp: "127.0.0.1", HostPort: uint32(port), ContainerPort: 80}}}
	s := site{d.run(name, spec), address}
	testenv.Until(d.t, limit, name+" answers", s.get)
	return s
}

// get asks for the page.
func (s site) get() error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testenv.Patience(5 * time.Second)}
	response, err := client.Get("http://" + s.address + "/")
	if err != nil {
		return err
	}
	content, err := io.ReadAll(response.Body)
	if err == nil && string(content) != "hello\n" {
		err = fmt.Errorf("the page is %q", content)
	}
	return errors.Join(err, response.Body.Close())
}

// untilLogged waits until a container has written something.
func (d *daemon) untilLogged(ref, text string) {
	d.t.Helper()
	testenv.Until(d.t, limit, fmt.Sprintf("%s writes %q", ref, text), func() error {
		if log := d.logs(ref); !strings.Contains(log, text) {
			return fmt.Errorf("the log is %q", log)
		}
		return nil
	})
}
