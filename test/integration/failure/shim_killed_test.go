package failure_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// shimOf finds the shim of a container: the process that names its bundle.
func shimOf(t testing.TB, c *berthv1.Container) int {
	t.Helper()
	for _, p := range testenv.Processes(t, c.Id) {
		if strings.HasPrefix(p.Args, "containerd-shim-berth-v2") {
			return p.Pid
		}
	}
	t.Fatalf("no shim for container %s", c.Name)
	return 0
}

// Without its shim a container has nobody who knows how it ends: it is ended.
func TestKilledShimEndsItsContainerOnly(t *testing.T) {
	d, image := startWithImage(t)
	victim, other := d.run("victim", shell(image, "exec sleep 1000")), d.run("other", shell(image, "exec sleep 1000"))
	if err := syscall.Kill(shimOf(t, victim), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	state := d.awaitExit("victim")
	if state.Status != exited || state.ExitCode != 137 {
		t.Errorf("the container is %v", state)
	}
	testenv.Until(t, limit, "the process is gone", func() error {
		if alive(victim.State.Pid) {
			return fmt.Errorf("process %d is there", victim.State.Pid)
		}
		return nil
	})
	if now := d.inspect("other"); now.State.Status != running || !alive(other.State.Pid) {
		t.Errorf("the other container is %v", now.State)
	}
	if _, err := d.containers().StartContainer(d.t.Context(), &berthv1.StartContainerRequest{Container: "victim"}); err != nil {
		t.Errorf("starting it again: %v", err)
	}
	if output, code := d.exec("victim", "echo again"); output != "again\n" || code != 0 {
		t.Errorf("exec: %q, %d", output, code)
	}
}

func TestShimKilledWhileTheDaemonIsDead(t *testing.T) {
	d, image := startWithImage(t)
	c := d.run("victim", shell(image, "exec sleep 1000"))
	shim := shimOf(t, c)
	d.Kill()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.start()
	if state := d.awaitExit("victim"); state.Status != exited || state.ExitCode != 137 {
		t.Errorf("the container is %v", state)
	}
	if alive(c.State.Pid) {
		t.Errorf("process %d is there", c.State.Pid)
	}
}
