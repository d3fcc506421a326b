package containers

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/images"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMAX-1": 63, "RTMAX": 64, "64": 64,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMAX-31", "RTMIN+x", "RTMIN+-1", "RTMAX--1"} {
		if got, err := parseSignal(text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: got %d, %v; want an error", text, got, err)
		}
	}
}

func TestParseLogOptions(t *testing.T) {
	options, err := parseLogOptions(&berthv1.LogSpec{Options: map[string]string{"max-size": "10m", "max-file": "3"}})
	if err != nil || options != (logOptions{maxSize: 10_000_000, maxFile: 3}) {
		t.Errorf("got %+v, %v", options, err)
	}
	for text, log := range map[string]*berthv1.LogSpec{
		`"syslog"`:   {Driver: "syslog"},
		`"lots"`:     {Options: map[string]string{"max-size": "lots"}},
		`"0"`:        {Options: map[string]string{"max-size": "1m", "max-file": "0"}},
		"max-size":   {Options: map[string]string{"max-file": "3"}},
		`"compress"`: {Options: map[string]string{"compress": "true"}},
	} {
		if _, err := parseLogOptions(log); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: got %v, want an error that names %s", log, err, text)
		}
	}
}

func TestRestartPolicy(t *testing.T) {
	failed, fine := &berthv1.ContainerState{ExitCode: 1, RestartCount: 2}, &berthv1.ContainerState{RestartCount: 9}
	for _, c := range []struct {
		name      string
		condition berthv1.RestartCondition
		retries   uint32
		state     *berthv1.ContainerState
		want      bool
	}{
		{"unspecified", berthv1.RestartCondition_RESTART_CONDITION_UNSPECIFIED, 0, failed, false},
		{"no", berthv1.RestartCondition_RESTART_CONDITION_NO, 0, failed, false},
		{"always, succeeded", berthv1.RestartCondition_RESTART_CONDITION_ALWAYS, 0, fine, true},
		{"unless-stopped, failed", berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED, 0, failed, true},
		{"on-failure, succeeded", berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, 0, fine, false},
		{"on-failure, for ever", berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, 0, failed, true},
		{"on-failure, one left", berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, 3, failed, true},
		{"on-failure, given up", berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, 2, failed, false},
	} {
		if got := wantsRestart(&berthv1.RestartPolicy{Condition: c.condition, MaxRetries: c.retries}, c.state); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func TestBackoffGrowsAndStartsAnew(t *testing.T) {
	pause := nextBackoff(0, 0)
	if pause != 100*time.Millisecond {
		t.Errorf("the first pause is %v", pause)
	}
	for range 20 {
		longer := nextBackoff(pause, time.Second)
		if longer != min(2*pause, time.Minute) {
			t.Fatalf("after %v comes %v", pause, longer)
		}
		pause = longer
	}
	if again := nextBackoff(pause, 11*time.Second); again != 100*time.Millisecond {
		t.Errorf("after a run of 11 s the pause is %v", again)
	}
}

func TestSelectProcesses(t *testing.T) {
	table := "UID PID CMD\nroot 1 init\nroot 12 sh -c  sleep 5\nroot 123 other\n"
	got, err := selectProcesses(table, []uint32{12})
	if err != nil || len(got.GetProcesses()) != 1 || !slices.Equal(got.GetProcesses()[0].GetColumns(), []string{"root", "12", "sh -c sleep 5"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := selectProcesses("UID CMD\n", nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a table without PID: %v", err)
	}
}

// ps hangs where the kernel holds a process that it reads of.
func TestHangingPsIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/ps", []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	begun := time.Now()
	if output, err := ps(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "not ended") || time.Since(begun) > 6*psLimit {
		t.Errorf("after %v: %q, %v", time.Since(begun), output, err)
	}
}

func TestPortFilters(t *testing.T) {
	container := &berthv1.Container{
		Ports:        []*berthv1.PortMapping{{HostPort: 8080, ContainerPort: 80}, {HostPort: 53, Protocol: "udp"}},
		ExposedPorts: []string{"80", "53/udp"},
	}
	for _, c := range []struct {
		key, value string
		want       bool
	}{
		{"publish", "8080", true},
		{"publish", "8080/tcp", true},
		{"publish", "8080/udp", false},
		{"publish", "8000-9000", true},
		{"publish", "53/udp", true},
		{"publish", "80", false},
		{"expose", "80/tcp", true},
		{"expose", "53", false},
		{"expose", "53/udp", true},
	} {
		match, err := hasPort(c.key, c.value)
		if err != nil || match(container) != c.want {
			t.Errorf("%s=%s: want %v, %v", c.key, c.value, c.want, err)
		}
	}
	if _, err := hasPort("publish", "many"); err == nil {
		t.Error("publish=many was accepted")
	}
}

func TestExposedPorts(t *testing.T) {
	ports := portSet{}
	for _, text := range []string{"80", "8000-8002/TCP", "8001-8003/tcp", "53/udp", "65535/sctp", "080"} {
		if err := ports.add(text); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"", "0", "0-1", "2-1", "65536", "80/icmp", "80/", "-1"} {
		if err := ports.add(text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", text, err)
		}
	}
	want := []string{"53/udp", "65535/sctp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp", "8003/tcp"}
	if got := ports.list(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An image may name the same ports in as many ways as its configuration has room for.
func TestHostileExposedPorts(t *testing.T) {
	var image images.Image
	image.Config.Config.ExposedPorts = map[string]struct{}{}
	for zeros := range 100 {
		image.Config.Config.ExposedPorts[strings.Repeat("0", zeros)+"1-65535/tcp"] = struct{}{}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	list, _, err := exposedPorts(&berthv1.ContainerSpec{}, image)
	runtime.ReadMemStats(&after)
	if err != nil || len(list) != 65535 {
		t.Errorf("there are %d ports, %v", len(list), err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
		t.Errorf("that took %d MiB", took>>20)
	}
}

func TestUnreadableRecordIsAContainerInAnUnknownState(t *testing.T) {
	s := &Service{cfg: Config{Root: t.TempDir(), State: t.TempDir()}}
	c := s.newContainer(&berthv1.Container{Id: strings.Repeat("ab", 32), Name: "web"})
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.saveConfig(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.dir+"/state.json", []byte(`{"version": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := s.load(c.id)
	if err != nil || again.status() != statusUnknown || again.message.GetName() != "web" {
		t.Fatalf("got %v, %v", again, err)
	}
	_, err = again.running("stop")
	if err == nil || !strings.Contains(err.Error(), "newer berthd") || !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("stop: %v", err)
	}
}

func TestRefusalsNameContainerAndState(t *testing.T) {
	s := &Service{cfg: Config{Root: t.TempDir()}}
	for status, want := range map[status]string{
		statusCreated: "has not been started", statusExited: "is not running", statusPaused: "is paused", statusDead: "half removed",
	} {
		c := s.newContainer(&berthv1.Container{Id: "x", Name: "web", State: &berthv1.ContainerState{Status: status}})
		if _, err := c.running("poke"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `cannot poke container "web"`) {
			t.Errorf("%v: %v", status, err)
		}
	}
}
