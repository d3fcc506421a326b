package attack_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// bystander is a process of the host's that no container has to do with.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	return process
}

// lives fails the test unless the process runs.
func lives(t *testing.T, process *exec.Cmd, after string) {
	t.Helper()
	var status unix.WaitStatus
	if pid, err := unix.Wait4(process.Process.Pid, &status, unix.WNOHANG, nil); pid != 0 || err != nil {
		t.Fatalf("%s has ended a process of the host's: %v, %v", after, status, err)
	}
}

// TestPidOfAnother: the container's process has ended, and another has its pid, as the state says now.
func TestPidOfAnother(t *testing.T) {
	other := bystander(t)
	c := newContainer(t, "sleep", "1000").start()
	state := filepath.Join(c.Root, c.ID, "state")
	content, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	line := content[bytes.LastIndex(content, []byte(`{"version":`)):] // the newest state is the last one
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		t.Fatal(err)
	}
	c.must("kill", c.ID, "KILL")
	for _, pid := range []int{other.Process.Pid, -other.Process.Pid} {
		fields["pid"] = pid
		changed, err := json.Marshal(fields)
		if err == nil {
			content = append(append(content, changed...), '\n')
			err = os.WriteFile(state, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range [][]string{{"kill", c.ID, "KILL"}, {"kill", "--all", c.ID, "KILL"}, {"exec", c.ID, "true"}, {"start", c.ID}, {"pause", c.ID}, {"ps", c.ID}} {
			// What asks the cgroup finds nobody there; all else is refused, as the container has stopped.
			empty := verb[0] == "ps" || slices.Contains(verb, "--all")
			if r := c.verb(verb...); (r.Status == 0) != empty || strings.Contains(r.Stdout, strconv.Itoa(other.Process.Pid)) {
				t.Errorf("%v with pid %d: %+v", verb, pid, r)
			}
			lives(t, other, strings.Join(verb, " "))
		}
	}
	c.must("delete", "--force", c.ID)
	lives(t, other, "delete")
}

// TestCgroupOfAnother: whoever deletes the container kills all that is in its cgroup, and takes its limits for his own.
func TestCgroupOfAnother(t *testing.T) {
	other := bystander(t)
	own := newContainer(t, "sleep", "1000").start()
	c := newContainer(t, "true")
	for _, path := range []string{own.Cgroup, own.Cgroup + "/../" + own.Cgroup[1:], "/.." + own.Cgroup} {
		c.Spec.Linux.CgroupsPath = path
		if r := c.run(); r.Status == 0 {
			t.Errorf("cgroup %q: %+v", path, r)
		}
		c.verb("delete", "--force", c.ID)
		lives(t, other, "a container in cgroup "+path)
		if r := own.must("state", own.ID); !strings.Contains(r.Stdout, `"running"`) {
			t.Errorf("cgroup %q has ended another container: %+v", path, r)
		}
	}
}

// TestNamesOfContainers: a name becomes that of a directory, which delete removes.
func TestNamesOfContainers(t *testing.T) {
	c := newContainer(t, "true")
	c.writeConfig()
	kept := filepath.Join(c.Root, "..", "kept")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../kept", "/" + kept, "a/b", "a\x01", "a b", "..//kept", strings.Repeat("a", 300)} {
		for _, verb := range [][]string{{"create", "--bundle", c.Bundle}, {"run", "--bundle", c.Bundle}, {"delete"}, {"delete", "--force"}, {"kill"}, {"state"}} {
			force := len(verb) == 2 && verb[0] == "delete"
			if r := c.verb(append(verb[:len(verb):len(verb)], id)...); r.Status == 0 && !force {
				t.Errorf("%v %q: %+v", verb, id, r)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Fatalf("%v %q: %v", verb, id, err)
			}
		}
	}
}

// TestStartByAnother: between create and start the container belongs to who has made it, whatever his umask.
func TestStartByAnother(t *testing.T) {
	c := newContainer(t, "true")
	c.writeConfig()
	create := c.command("create", "--bundle", c.Bundle, c.ID)
	create.Args = append([]string{"sh", "-c", `umask 0; exec "$@"`, "sh"}, create.Args...)
	create.Path = "/bin/sh"
	if err := os.Chmod(c.Bundle, 0o755); err != nil { // as /run is
		t.Fatal(err)
	}
	if r := c.execute(create); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends as the user that it is
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			failed <- nil
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(c.Root, c.ID, "start")})
			_ = unix.Close(fd)
		}
		failed <- err
	}()
	if err := <-failed; !errors.Is(err, unix.EACCES) {
		t.Errorf("another user is let in: %v", err)
	}
}
