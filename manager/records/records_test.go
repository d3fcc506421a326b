package records

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func newDir(t *testing.T) Dir {
	t.Helper()
	d := Dir{Path: filepath.Join(t.TempDir(), "id"), Spare: filepath.Join(t.TempDir(), "id.json")}
	if err := os.Mkdir(d.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func running(pid uint32) State {
	state := &berthv1.ContainerState{Status: berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING, Pid: pid}
	return State{Container: &berthv1.Container{State: state}, Step: "start", Stopped: true, Volumes: true}
}

func TestRecordsSurvive(t *testing.T) {
	d := newDir(t)
	config := Config{
		Container:  &berthv1.Container{Name: "kept", ImageId: "sha256:image", Spec: &berthv1.ContainerSpec{Image: "busybox"}},
		StopSignal: "SIGQUIT", ParentSnapshot: "sha256:parent",
	}
	if _, err := d.ReadConfig(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("without a record: %v", err)
	}
	if err := d.WriteConfig(config, true); err != nil {
		t.Fatal(err)
	}
	got, err := d.ReadConfig()
	if err != nil || got.StopSignal != config.StopSignal || got.ParentSnapshot != config.ParentSnapshot || got.Container.GetName() != "kept" {
		t.Errorf("read %+v, %v", got, err)
	}
	if state, spared, err := d.ReadState(); err != nil || spared || state.Container.GetState().GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_CREATED {
		t.Errorf("before its first start: %v, %v", state, err)
	}
	if spared, err := d.WriteState(running(7)); err != nil || spared {
		t.Fatalf("spared %v, %v", spared, err)
	}
	state, _, err := d.ReadState()
	if err != nil || state.Step != "start" || !state.Stopped || !state.Volumes || state.Container.GetState().GetPid() != 7 {
		t.Errorf("read %+v, %v", state, err)
	}
}

func TestStateGoesWhereThereIsRoom(t *testing.T) {
	d := newDir(t)
	if _, err := d.WriteState(running(1)); err != nil {
		t.Fatal(err)
	}
	// A directory can't be replaced by a file: what a full disk is to the writer.
	if err := errors.Join(os.Remove(filepath.Join(d.Path, stateFile)), os.MkdirAll(filepath.Join(d.Path, stateFile, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if spared, err := d.WriteState(running(2)); err != nil || !spared {
		t.Fatalf("spared %v, %v", spared, err)
	}
	if state, spared, err := d.ReadState(); err != nil || !spared || state.Container.GetState().GetPid() != 2 {
		t.Errorf("read %+v, spared %v, %v", state, spared, err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Spare); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spare record is left: %v", err)
	}
}

func TestDamagedAndNewerRecords(t *testing.T) {
	d := newDir(t)
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(d.Path, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(stateFile, "")
	if state, _, err := d.ReadState(); err != nil || state.Container.GetState().GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING {
		t.Errorf("an empty state: %v, %v", state, err)
	}
	write(stateFile, `{"version": 99}`)
	if _, _, err := d.ReadState(); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a state of a newer berthd: %v", err)
	}
	for name, content := range map[string]string{"empty": "", "cut off": `{"version":1,"container":{"name":"we`} {
		write(configFile, content)
		if config, err := d.ReadConfig(); err == nil || errors.Is(err, errdefs.ErrNotFound) || config.Container == nil {
			t.Errorf("%s: %v, %v", name, config, err)
		}
	}
	write(configFile, `{"version":99,"container":{"name":"web","imageId":"sha256:x","new":[1]}}`)
	config, err := d.ReadConfig()
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || config.Container.GetName() != "web" || config.Container.GetImageId() != "sha256:x" {
		t.Errorf("a newer record: %v, %v", config.Container, err)
	}
}
