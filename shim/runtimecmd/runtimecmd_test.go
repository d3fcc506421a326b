package runtimecmd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/shim/reaper"
)

// script makes a runtime of a shell script.
func script(t *testing.T, text string) *Runtime {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Runtime{Binary: path, Root: "/the/root"}
}

func TestRun(t *testing.T) {
	reap, err := reaper.New()
	if err != nil {
		t.Fatal(err)
	}
	defer reap.Close()
	dir := t.TempDir()
	call := Call{Args: []string{"kill", "x"}, LogFile: filepath.Join(dir, "log"), PidFile: filepath.Join(dir, "pid")}

	t.Run("command line", func(t *testing.T) { testCommandLine(t, reap, call) })
	t.Run("failure", func(t *testing.T) { testFailure(t, reap, call) })
	t.Run("a process left behind", func(t *testing.T) { testStart(t, reap, call) })
	t.Run("a runtime that sleeps", func(t *testing.T) { testLimit(t, reap, call) })
	t.Run("a full disk", func(t *testing.T) { testNoLog(t, reap, call) })
}

func testCommandLine(t *testing.T, reap *reaper.Reaper, call Call) {
	dir := filepath.Dir(call.LogFile)
	r := script(t, `echo "$@" > `+dir+`/args`)
	r.SystemdCgroup = true
	if err := r.Run(t.Context(), reap, call); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dir + "/args")
	want := "--root /the/root --log " + call.LogFile + " --log-format json --systemd-cgroup kill x\n"
	if err != nil || string(data) != want {
		t.Errorf("called with %q, %v", data, err)
	}
}

func testFailure(t *testing.T, reap *reaper.Reaper, call Call) {
	for _, test := range []struct {
		says  string
		class error
		want  string
	}{
		{`{"level":"warning","msg":"careful"}\n{"level":"error","msg":"it broke"}`, nil, "it broke"},
		{`{"level":"error","msg":"container does not exist"}`, errdefs.ErrNotFound, "does not exist"},
		{`{"level":"error","msg":"cannot kill: No such process"}`, errdefs.ErrNotFound, "cannot kill"},
		{`{"level":"error","msg":"\"update\" is not implemented"}`, errdefs.ErrUnimplemented, "update"},
		{`no json`, nil, "status 5"},
		{``, nil, "status 5"},
	} {
		t.Run("failure "+test.want, func(t *testing.T) {
			r := script(t, `printf '`+strings.ReplaceAll(test.says, `\"`, `\\"`)+`\n' > `+call.LogFile+"\nexit 5\n")
			err := r.Run(t.Context(), reap, call)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.class != nil && !errors.Is(err, test.class) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(call.LogFile); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the log was left: %v", err)
			}
		})
	}
}

func testStart(t *testing.T, reap *reaper.Reaper, call Call) {
	r := script(t, `sh -c 'echo $$ > `+call.PidFile+`; exec sleep 1; ' & while [ ! -s `+call.PidFile+` ]; do sleep 0.01; done`)
	child, err := r.Start(t.Context(), reap, call)
	if err != nil {
		t.Fatal(err)
	}
	<-child.Exited
	if child.Exit().Status != 0 {
		t.Errorf("status %d", child.Exit().Status)
	}
	for _, text := range []string{"exit 0", "echo 1 > " + call.PidFile, "echo x > " + call.PidFile} {
		if _, err := script(t, text).Start(t.Context(), reap, call); err == nil || !strings.Contains(err.Error(), "pid") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// testLimit: a runtime that does not end is killed with what it has started, stopped or not, and the error says which.
func testLimit(t *testing.T, reap *reaper.Reaper, call Call) {
	call.Limit = 100 * time.Millisecond
	pids := filepath.Join(t.TempDir(), "pids")
	for _, text := range []string{"sleep 1000 & echo $$ $! > " + pids + "; wait", "sleep 1000 & echo $$ $! > " + pids + "; kill -STOP $$"} {
		r := script(t, text)
		err := r.Run(t.Context(), reap, call)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cannot kill the container") || !strings.Contains(err.Error(), r.Binary) {
			t.Errorf("error %v", err)
		}
		data, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("process %d is there still", pid)
				}
			}
		}
	}
}

// testNoLog: where the log can't be made, what ends a container is done all the same.
func testNoLog(t *testing.T, reap *reaper.Reaper, call Call) {
	call.LogFile = "/no/such/directory/log"
	if err := script(t, "exit 0").Run(t.Context(), reap, Call{Args: call.Args, LogFile: call.LogFile}); err != nil {
		t.Error(err)
	}
	if _, err := script(t, "exit 0").Start(t.Context(), reap, call); err == nil || !strings.Contains(err.Error(), "log") {
		t.Errorf("error %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "some-runtime")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "relative:"+dir)
	if got, err := Find("some-runtime"); err != nil || got != path {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Find(path); err != nil || got != path {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"none-such", "/none/such"} {
		if _, err := Find(name); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The runtime is started also while other calls open and close descriptors all the time.
func TestSpawnAmongOtherCalls(t *testing.T) {
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var open []*os.File
				for range 3 {
					if f, err := os.Open(os.DevNull); err == nil {
						open = append(open, f)
					}
				}
				for _, f := range open {
					_ = f.Close()
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	for i := range 200 {
		pid, err := spawn("/bin/true", []string{"true"}, Call{})
		if err != nil {
			t.Fatalf("start %d failed: %v", i, err)
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
}
