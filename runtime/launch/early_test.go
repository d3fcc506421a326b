package launch

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func begin(t *testing.T) *Early {
	t.Helper()
	early, err := Begin(Birth{Shared: true, CgroupFD: -1})
	if err != nil {
		t.Fatal(err)
	}
	return early
}

func finish(early *Early, p *Program) (*Process, error) {
	if err := early.Start(p); err != nil {
		return nil, err
	}
	return early.Finish()
}

// The child gets descriptors that were opened after its birth, while Go goes on with all that it does.
func TestEarly(t *testing.T) {
	for range 50 {
		early := begin(t)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := New()
		p.Call("redirect", "output", unix.SYS_DUP3, Int(int(writer.Fd())), Int(1), Int(0))
		p.Call("execute", "sh", unix.SYS_EXECVE, p.String("/bin/sh"), p.Strings([]string{"sh", "-c", "echo $WORD; exit 7"}), p.Strings([]string{"WORD=hello"}))
		runtime.GC()
		process, err := finish(early, p)
		if err != nil {
			t.Fatal(err)
		}
		early.Abandon() // of no effect any more
		if err := process.Executed(); err != nil {
			t.Fatal(err)
		}
		_ = writer.Close()
		buffer := make([]byte, 100)
		n, err := reader.Read(buffer)
		if err != nil || string(buffer[:n]) != "hello\n" {
			t.Errorf("read %q, %v", buffer[:n], err)
		}
		_ = reader.Close()
		wantStatus(t, process, 7)
		process.Close()
	}
}

func TestEarlyFailure(t *testing.T) {
	p := New()
	p.Call("open", `"/nowhere"`, unix.SYS_OPENAT, Cwd, p.String("/nowhere"), Int(unix.O_RDONLY), Int(0))
	process, err := finish(begin(t), p)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	if err := process.Executed(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v", err)
	}
	wantStatus(t, process, exitSetupFailed)
}

// A child that is not needed leaves no process and no descriptor.
func TestAbandonedEarly(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 20 {
		early := begin(t)
		early.Abandon()
		early.Abandon()
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %v", err)
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

// A child that waits for its release ends when it is abandoned.
func TestAbandonedEarlyAtWork(t *testing.T) {
	early := begin(t)
	p := New()
	p.Wait()
	exitWith(p, 0)
	if err := early.Start(p); err != nil {
		t.Fatal(err)
	}
	for early.Pid() == 0 {
		runtime.Gosched()
	}
	pid := early.Pid()
	early.Abandon()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

func TestEarlyThatCannotBeBorn(t *testing.T) {
	early, err := Begin(Birth{Shared: true, CgroupFD: -1, Flags: unix.CLONE_NEWNS | unix.CLONE_FS})
	if err != nil {
		t.Fatal(err)
	}
	p := New()
	exitWith(p, 0)
	if _, err := finish(early, p); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v, want EINVAL", err)
	}
}

// TestEarlyIsWatched kills a child that waits, of which Finish hears, and gives up on another one.
func TestEarlyIsWatched(t *testing.T) {
	patience, late := errors.New("no patience"), func() error { return nil }
	for name, test := range map[string]struct {
		watch func() error
		kill  bool
		want  error
	}{
		"killed":   {watch: late, kill: true},
		"given up": {watch: func() error { return patience }, want: patience},
	} {
		t.Run(name, func(t *testing.T) {
			early, err := Begin(Birth{Shared: true, CgroupFD: -1, Watch: test.watch})
			if err != nil {
				t.Fatal(err)
			}
			p := New()
			p.Wait()
			exitWith(p, 0)
			if err := early.Start(p); err != nil {
				t.Fatal(err)
			}
			for early.Pid() == 0 {
				runtime.Gosched()
			}
			if test.kill {
				if err := unix.Kill(early.Pid(), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			process, err := early.Finish()
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err != nil {
				early.Abandon()
				return
			}
			if err := early.Release(); err != nil {
				t.Errorf("the release of a dead child: %v", err)
			}
			if _, err := process.Expect(Ready); !errors.Is(err, ErrEnded) {
				t.Errorf("error %v, want ErrEnded", err)
			}
			process.Kill()
			process.Close()
		})
	}
}
