package launch

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func fork(t *testing.T, p *Program, birth Birth) *Process {
	t.Helper()
	birth.CgroupFD = -1
	process, err := Fork(p, birth)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Close)
	return process
}

func exitWith(p *Program, status int) { p.Call("exit", "", unix.SYS_EXIT_GROUP, Int(status)) }

func wantStatus(t *testing.T, process *Process, want int) {
	t.Helper()
	status, err := process.Reap()
	if err != nil || status.ExitStatus() != want {
		t.Errorf("exit status %d, %v; want %d", status.ExitStatus(), err, want)
	}
}

func TestExecute(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := New()
	p.Call("redirect", "output", unix.SYS_DUP3, Int(int(writer.Fd())), Int(1), Int(0))
	p.Call("execute", "sh", unix.SYS_EXECVE, p.String("/bin/sh"), p.Strings([]string{"sh", "-c", "echo $WORD; exit 7"}), p.Strings([]string{"WORD=hello"}))
	process := fork(t, p, Birth{})
	writer.Close()
	if err := process.Executed(); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := reader.Read(buffer)
	if err != nil || string(buffer[:n]) != "hello\n" {
		t.Errorf("read %q, %v", buffer[:n], err)
	}
	wantStatus(t, process, 7)
}

func TestFailureBecomesASentence(t *testing.T) {
	p := New()
	p.Call("close", "nothing", unix.SYS_CLOSE, Int(-1)).Tolerate(unix.EBADF)
	p.Call("open", `"/nowhere"`, unix.SYS_OPENAT, Cwd, p.String("/nowhere"), Int(unix.O_RDONLY), Int(0))
	process := fork(t, p, Birth{})
	err := process.Executed()
	if !errors.Is(err, unix.ENOENT) || err.Error() != `cannot open "/nowhere": no such file or directory` {
		t.Errorf("error %v", err)
	}
	wantStatus(t, process, exitSetupFailed)
}

func TestExplainedFailure(t *testing.T) {
	for file, want := range map[string]string{"/nowhere": "it is not there", "/etc/passwd/x": `cannot open "/etc/passwd/x": not a directory`} {
		p := New()
		p.Call("open", `"`+file+`"`, unix.SYS_OPENAT, Cwd, p.String(file), Int(unix.O_RDONLY), Int(0)).Explain(func(errno unix.Errno) error {
			if errno != unix.ENOENT {
				return nil
			}
			return errors.New("it is not there")
		})
		process := fork(t, p, Birth{})
		if err := process.Executed(); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %q", file, err, want)
		}
		wantStatus(t, process, exitSetupFailed)
	}
}

func TestSlotsAndJumps(t *testing.T) {
	p := New()
	status := p.NewSlot()
	p.Set(status, Int(1))
	missing, end := p.NewLabel(), p.NewLabel()
	p.Call("open", "a file", unix.SYS_OPENAT, Cwd, p.String("/nowhere"), Int(unix.O_RDONLY), Int(0)).OnError(missing, unix.ENOENT)
	p.Fail("go on", "after an error", unix.EINVAL)
	p.Place(missing)
	dir := p.Call("open", "a directory", unix.SYS_OPENAT, Cwd, p.String("/etc"), Int(unix.O_RDONLY|unix.O_CLOEXEC), Int(0)).Result()
	p.Call("open", "a file in it", unix.SYS_OPENAT, dir, p.String("passwd"), Int(unix.O_RDONLY|unix.O_CLOEXEC), Int(0)).Then(end)
	p.Fail("go on", "after success", unix.EINVAL)
	p.Place(end)
	p.Set(status, Int(42))
	p.Call("exit", "", unix.SYS_EXIT_GROUP, status)
	process := fork(t, p, Birth{})
	if err := process.Executed(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, process, 42)
}

func TestExpectAndStore(t *testing.T) {
	for want, wantErr := range map[uint64]bool{0x1234: false, 0x1235: true} {
		p := New()
		memory := new(uint64)
		at := Pin(p, memory)
		p.Store(at, Int(0x51234))
		p.Expect("find", "the value", at, Masked{Mask: 0xffff, Value: want, Errno: unix.ELOOP})
		exitWith(p, 0)
		process := fork(t, p, Birth{})
		if err := process.Executed(); wantErr != errors.Is(err, unix.ELOOP) {
			t.Errorf("want %#x: %v", want, err)
		}
		_, _ = process.Reap()
	}
}

func TestLoad(t *testing.T) {
	p := New()
	p.Call("exit", "", unix.SYS_EXIT_GROUP, p.Load(Pin(p, &[]uint64{0x1234567}[0]), 8, 0x3f))
	wantStatus(t, fork(t, p, Birth{}), 0x45&0x3f)
}

func TestWaitReportAndSecondFork(t *testing.T) {
	p := New()
	p.Wait()
	p.SecondFork(0)
	p.Report(Ready)
	p.Wait()
	exitWith(p, 5)
	process := fork(t, p, Birth{})
	first := process.Pid
	if err := process.Release(); err != nil {
		t.Fatal(err)
	}
	if err := process.Follow(); err != nil {
		t.Fatal(err)
	}
	if process.Pid == first {
		t.Error("the second fork has made no new process")
	}
	if _, err := process.Expect(Ready); err != nil {
		t.Fatal(err)
	}
	if err := process.Release(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, process, 5)
}

func TestChildEndsWithItsParent(t *testing.T) {
	p := New()
	p.Wait()
	exitWith(p, 9)
	process := fork(t, p, Birth{})
	if err := unix.Close(process.channel); err != nil { // which is all that death does
		t.Fatal(err)
	}
	process.channel = -1
	wantStatus(t, process, exitSetupFailed)
}

func TestForkReportsUnknownNamespace(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	_, err = Fork(New(), Birth{CgroupFD: -1, Within: []Namespace{{Type: unix.CLONE_NEWNET, FD: fd, OwnFD: fd, Path: "/dev/null"}}})
	if err == nil || !strings.Contains(err.Error(), `cannot join namespace "/dev/null"`) {
		t.Errorf("error %v", err)
	}
}

func TestLastLeg(t *testing.T) {
	for _, shared := range []bool{false, true} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := New()
		p.Call("redirect", "output", unix.SYS_DUP3, Int(int(writer.Fd())), Int(1), Int(0))
		last := p.NewLast()
		last.ReportAndWait()
		last.Call("close", "nothing", unix.SYS_CLOSE, Int(-1)).Tolerate(unix.EBADF)
		env := last.Strings([]string{"A=1", "WORD=replaced", "B=2"})
		last.Replaces(env, 1)
		last.Call("execute", "sh", unix.SYS_EXECVE, Int(0), last.Strings([]string{"sh", "-c", "echo $WORD$A$B; exit 7"}), env).TakesPath()
		path := p.NewSlot()
		p.Set(path, p.String("/bin/sh"))
		p.Enter(last, path, p.String("WORD=hello"))
		process := fork(t, p, Birth{Shared: shared})
		writer.Close()
		if _, err := process.Expect(Ready); err != nil {
			t.Fatal(err)
		}
		if err := process.Release(); err != nil {
			t.Fatal(err)
		}
		if err := process.Executed(); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 100)
		n, err := reader.Read(buffer)
		if err != nil || string(buffer[:n]) != "hello12\n" {
			t.Errorf("read %q, %v", buffer[:n], err)
		}
		wantStatus(t, process, 7)
		reader.Close()
	}
}

func TestLastLegFails(t *testing.T) {
	p := New()
	last := p.NewLast()
	last.Call("execute", `"/nowhere"`, unix.SYS_EXECVE, Int(0), last.Strings([]string{"x"}), last.Strings(nil)).TakesPath()
	p.Enter(last, p.String("/nowhere"), Int(0))
	process := fork(t, p, Birth{Shared: true})
	if err := process.Executed(); err == nil || err.Error() != `cannot execute "/nowhere": no such file or directory` {
		t.Errorf("error %v", err)
	}
	wantStatus(t, process, exitSetupFailed)
}
