// Package stores_test drives berth-contentstore and berth-snapshotter, the stand-alone programs, as their users do:
// over their sockets, from containerd, and with kill -9.
package stores_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/berthd/berth/test/testenv"
)

const startLimit = 20 * time.Second

// service is a running stand-alone program.
type service struct {
	t       testing.TB
	program string
	args    []string
	Root    string
	Address string
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
}

// start starts a program on directories of its own below dir and waits until it is healthy.
func start(t testing.TB, program, dir string, args ...string) *service {
	t.Helper()
	return startProgram(t, testenv.Binary(t, program), program, dir, args...)
}

// startOn starts a program on a directory that is there.
func startOn(t testing.TB, program, root string) *service {
	t.Helper()
	return startService(t, &service{t: t, program: testenv.Binary(t, program), Root: root, Address: root + ".sock"})
}

func startProgram(t testing.TB, path, name, dir string, args ...string) *service {
	t.Helper()
	return startService(t, &service{
		t: t, program: path, args: args, Root: filepath.Join(dir, name), Address: filepath.Join(dir, name+".sock"),
	})
}

func startService(t testing.TB, s *service) *service {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() {
		_ = conn.Close()
		s.kill()
	})
	s.start()
	return s
}

// command returns the program's command line on the service's directories. More arguments override the earlier ones.
func (s *service) command(more ...string) *exec.Cmd {
	args := append([]string{"--root", s.Root, "--address", s.Address}, s.args...)
	return exec.Command(s.program, append(args, more...)...)
}

func (s *service) start() {
	s.t.Helper()
	s.cmd = s.command()
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	testenv.Until(s.t, startLimit, s.program+" is healthy", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.conn.ResetConnectBackoff()
		response, err := healthapi.NewHealthClient(s.conn).Check(ctx, &healthapi.HealthCheckRequest{})
		if err == nil && response.Status != healthapi.HealthCheckResponse_SERVING {
			err = errors.New(response.Status.String())
		}
		return err
	})
}

// kill is kill -9. It is harmless if the program has ended.
func (s *service) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// stop ends the program as an init system does and returns what it says to that.
func (s *service) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := s.cmd.Wait()
	s.cmd = nil
	return err
}

func (s *service) content() contentapi.ContentClient { return contentapi.NewContentClient(s.conn) }

func (s *service) leases() leasesapi.LeasesClient { return leasesapi.NewLeasesClient(s.conn) }

func (s *service) snapshots() snapshotsapi.SnapshotsClient {
	return snapshotsapi.NewSnapshotsClient(s.conn)
}

func containsAll(text string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func namespace(t testing.TB, name string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", name)
}
