package failure_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// failingShim is a shim whose delete command fails while the file that it returns exists.
func failingShim(t testing.TB) (shim, broken string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	shim, broken = filepath.Join(dir, "containerd-shim-wrapped"), filepath.Join(dir, "broken")
	script := fmt.Sprintf("#!/bin/sh\nfor last; do :; done\n[ $last = delete ] && [ -e %s ] && kill -9 $$\nexec %s \"$@\"\n",
		broken, testenv.Binary(t, "containerd-shim-berth-v2"))
	if err := os.WriteFile(shim, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return shim, broken
}

// runtimeState lists what the OCI runtime knows.
func (d *daemon) runtimeState() []string {
	return globs(d.t, filepath.Join(d.State, "runtime/*/*"))
}

// A process does not outlive its container, whatever becomes of the helper that ends it, and what that helper leaves is
// removed when it works again.
func TestNoProcessOutlivesItsContainer(t *testing.T) {
	testenv.NeedRoot(t)
	shim, broken := failingShim(t)
	image := pushBusybox(t, testenv.Registry(t))
	d := startDaemon(t, "--shim", shim)
	if err := d.pull(image); err != nil {
		t.Fatal(err)
	}
	removed, kept, killed := d.run("removed", shell(image, "exec sleep 4321")), d.run("kept", shell(image, "exec sleep 4321")), d.run("killed", shell(image, "exec sleep 4321"))
	touch(t, broken)
	// While berthd runs.
	if err := syscall.Kill(shimOf(t, killed), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if state := d.awaitExit("killed"); state.Status != exited {
		t.Errorf("the container whose shim was killed is %v", state)
	}
	if alive(killed.State.Pid) {
		t.Errorf("process %d outlives its shim", killed.State.Pid)
	}
	// While it is away.
	shims := []int{shimOf(t, removed), shimOf(t, kept)}
	d.Kill()
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	d.start()
	for _, c := range []*berthv1.Container{removed, kept} {
		if state := d.awaitExit(c.Name); state.Status != exited {
			t.Errorf("%s is %v", c.Name, state)
		}
		if alive(c.State.Pid) {
			t.Errorf("process %d of %s is there", c.State.Pid, c.Name)
		}
	}
	if _, err := d.containers().RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: "removed"}); err != nil {
		t.Errorf("what can't be cleaned up keeps a container from being removed: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := d.containers().StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: "kept"}); err != nil {
		t.Errorf("start: %v", err)
	}
	testenv.Until(t, 90*time.Second, "the clean-up was done", func() error {
		if bundles, states := entries(t, filepath.Join(d.State, "bundles")), d.runtimeState(); len(bundles) != 1 || len(states) != 1 {
			return fmt.Errorf("bundles %v, state of the runtime %v; want those of one container", bundles, states)
		}
		return nil
	})
}

// What belongs to no container is removed at the next start, be it only the OCI runtime that knows of it.
func TestStateOfTheRuntimeWithoutABundleIsRemoved(t *testing.T) {
	d, image := startWithImage(t)
	c := d.run("lost", shell(image, "exec sleep 4321"))
	shim := shimOf(t, c)
	d.Kill()
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(d.State, "bundles", c.Id)
	if err := syscall.Unmount(filepath.Join(bundle, "rootfs"), syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{bundle, filepath.Join(d.Root, "containers", c.Id)} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	d.start()
	testenv.Until(t, limit, "nothing is left of the container", func() error {
		if alive(c.State.Pid) {
			return fmt.Errorf("process %d is there", c.State.Pid)
		}
		if states := d.runtimeState(); len(states) > 0 {
			return fmt.Errorf("state of the runtime: %v", states)
		}
		return nil
	})
	d.noneOf(d.inUse)
}

// A record that can't be read, as one of a newer berthd, makes no stray of a container that runs.
func TestUnreadableRecordLeavesTheContainerAlone(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"a newer state": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"version":99,"container":{}}`), 0o600)
		},
		"a newer configuration": func(dir string) error {
			path := filepath.Join(dir, "container.json")
			content, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, []byte(strings.Replace(string(content), `"version":1`, `"version":99`, 1)), 0o600)
			}
			return err
		},
		"a configuration that was cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, "container.json"), 20) },
	} {
		t.Run(name, func(t *testing.T) {
			d, image := startWithImage(t)
			served := d.serve("web", image)
			d.Kill()
			path := filepath.Join(d.Root, "containers", served.Id)
			saved := map[string][]byte{}
			for _, file := range []string{"container.json", "state.json"} {
				content, err := os.ReadFile(filepath.Join(path, file))
				if err != nil {
					t.Fatal(err)
				}
				saved[file] = content
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			d.start()
			if !alive(served.State.Pid) {
				t.Fatal("the process was ended")
			}
			if err := served.get(); err != nil {
				t.Errorf("the container is not reached any more: %v", err)
			}
			now := d.inspect(served.Id)
			if now.State.Status != berthv1.ContainerStatus_CONTAINER_STATUS_UNSPECIFIED || now.State.Error == "" {
				t.Errorf("its state is %v", now.State)
			}
			for what, call := range map[string]func() error{
				"start": func() error {
					_, err := d.containers().StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: served.Id})
					return err
				},
				"stop": func() error { return d.stop(t.Context(), served.Id) },
				"rename": func() error {
					_, err := d.containers().RenameContainer(t.Context(), &berthv1.RenameContainerRequest{Container: served.Id, Name: "other"})
					return err
				},
				"rm": func() error {
					_, err := d.containers().RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: served.Id})
					return err
				},
				"exec": func() error {
					_, err := d.containers().TopContainer(t.Context(), &berthv1.TopContainerRequest{Container: served.Id})
					return err
				},
			} {
				if err := call(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "can't be read") {
					t.Errorf("%s: %v", what, err)
				}
			}
			// The berthd that can read it goes on where it was.
			d.Kill()
			for file, content := range saved {
				if err := os.WriteFile(filepath.Join(path, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d.start()
			if now := d.inspect("web"); now.State.Status != running || now.State.Pid != served.State.Pid {
				t.Errorf("with its record again it is %v", now.State)
			}
			d.Kill()
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			d.start()
			if err := within(t, limit, "rm -f", func(ctx context.Context) error { return d.rm(ctx, served.Id) }); err != nil {
				t.Error(err)
			}
			if alive(served.State.Pid) {
				t.Error("the process outlives its container")
			}
			d.noneOf(d.inUse)
		})
	}
}

// A container that removes itself does not stay because berthd ended before it ran.
func TestContainersThatRemoveThemselvesDoNotStay(t *testing.T) {
	d, image := startWithImage(t)
	spec := shell(image, "exec sleep 1000")
	spec.AutoRemove = true
	spec.Runtime, _ = hangingRuntime(t, "start")
	touch(t, filepath.Join(filepath.Dir(spec.Runtime), "hang"))
	for _, name := range []string{"created", "starting"} {
		if _, err := d.containers().CreateContainer(t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_, _ = d.containers().StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: "starting"})
	}()
	testenv.Until(t, limit, "the runtime starts the container", func() error {
		if len(testenv.Processes(t, spec.Runtime, "\x00start\x00")) == 0 {
			return fmt.Errorf("it does not yet")
		}
		return nil
	})
	d.Kill() // the runtime goes on hanging: otherwise the container may run by the time the next berthd looks
	d.start()
	testenv.Until(t, limit, "both are removed", func() error {
		if list := d.list(); len(list) > 0 {
			return fmt.Errorf("there are %v", list)
		}
		return nil
	})
	d.noneOf(d.inUse)
}

// A file that somebody else has put among the directories of containers can be removed like one of them.
func TestFileAmongTheContainersCanBeRemoved(t *testing.T) {
	d, _ := startWithImage(t)
	d.Kill()
	id := strings.Repeat("f0", 32)
	path := filepath.Join(d.Root, "containers", id)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	if err := within(t, 20*time.Second, "rm -f", func(ctx context.Context) error { return d.rm(ctx, id) }); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file is there")
	}
}
