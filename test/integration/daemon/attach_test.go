package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// A command that does not start is the client's concern, whether the runtime finds out when it makes the container or
// when it starts it, and whether a client is attached or not.
func TestExitCodesOfCommandsThatDoNotStart(t *testing.T) {
	w := newWorld(t)
	dir := testenv.ShortDir(t)
	for name, content := range map[string]string{"plain": "echo hi\n", "empty": "", "interpreter": "#!/no/such/shell\n", "elf": "\x7fELF rubbish"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		command string
		code    int32
		text    string
	}{
		{"nosuchcommand", 127, "nosuchcommand"},
		{"/bin/none", 127, "/bin/none"},
		{"/etc/passwd", 126, "permission denied"},
		{"/etc", 126, "/etc"},
		{"/x/plain", 126, "exec format error"},
		{"/x/empty", 126, "exec format error"},
		{"/x/elf", 126, "exec format error"},
		{"/x/interpreter", 127, "/x/interpreter"},
	} {
		for _, clients := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s with %d clients", c.command, clients), func(t *testing.T) {
				spec := w.spec(c.command)
				spec.Mounts = []*berthv1.Mount{bind(dir, "/x")}
				id := w.create("", spec)
				defer w.remove(id)
				var attached []*attached
				for range clients {
					attached = append(attached, w.attach(id))
				}
				_, err := w.containers.StartContainer(w.ctx(), &berthv1.StartContainerRequest{Container: id})
				wantCode(t, err, codes.FailedPrecondition, c.text)
				if code := exitCodeDetail(err); code != fmt.Sprint(c.code) {
					t.Errorf("the error's detail has exit code %q, want %d", code, c.code)
				}
				for _, client := range attached {
					_, err := client.stream.Recv()
					wantCode(t, err, codes.FailedPrecondition, c.text)
				}
				state := w.inspect(id).GetState()
				if state.GetExitCode() != c.code || state.GetError() == "" || state.GetStatus() != berthv1.ContainerStatus_CONTAINER_STATUS_CREATED {
					t.Errorf("state %v, want exit code %d and an error", state, c.code)
				}
				if entries, _ := os.ReadDir(w.State + "/bundles"); len(entries) > 0 {
					t.Errorf("left: %v", entries)
				}
			})
		}
	}
}

func TestExitCodesOfExecsThatDoNotStart(t *testing.T) {
	w := newWorld(t)
	id := w.run("host", w.sleeper())
	for command, code := range map[string]string{"nosuchcommand": "127", "/etc/passwd": "126"} {
		stream, err := w.containers.ExecContainer(w.ctx())
		if err != nil {
			t.Fatal(err)
		}
		start := &berthv1.ExecStart{Container: id, Process: &berthv1.ProcessSpec{Args: []string{command}}}
		if err := stream.Send(&berthv1.ExecContainerRequest{Message: &berthv1.ExecContainerRequest_Start{Start: start}}); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.FailedPrecondition, command)
		if got := exitCodeDetail(err); got != code {
			t.Errorf("exec of %s: exit code %q in the error's detail, want %s", command, got, code)
		}
	}
}

// A client that leaves while it is sent the log has streams of the process open, which nobody reads.
func TestClientThatLeavesWhileItReadsTheLogHoldsNothingUp(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "yes 0123456789abcdef | head -c 2000000; echo full; read line; yes | head -c 3000000; exit 6")
	spec.Process.Stdin = true
	id := w.run("writer", spec)
	w.untilLogged(id, "full")
	ctx, leave := context.WithCancel(w.ctx())
	stream, err := w.containers.AttachContainer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := &berthv1.AttachStart{Container: id, Stdout: true, Stderr: true, Logs: true}
	if err := stream.Send(&berthv1.AttachContainerRequest{Message: &berthv1.AttachContainerRequest_Start{Start: start}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // ready, and the first of the log
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	client := w.attach(id)
	client.write("go\n")
	begin := time.Now()
	if code := client.exit(); code != 6 {
		t.Errorf("exit code %d, want 6", code)
	}
	if took := time.Since(begin); took > testenv.Patience(20*time.Second) {
		t.Errorf("the container wrote 3 MB in %v", took)
	}
}

// wrapRuntime returns the path of an OCI runtime that runs script before it becomes berth-runtime. $dir in the script is
// the directory of the path, "$@" the arguments.
func wrapRuntime(t *testing.T, script string) (path string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	path = filepath.Join(dir, "runtime")
	text := fmt.Sprintf("#!/bin/sh\ndir=%s\n%s\nexec %s \"$@\"\n", dir, script, testenv.Binary(t, "berth-runtime"))
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func untilExists(t *testing.T, path string) {
	t.Helper()
	testenv.Until(t, 20*time.Second, path+" is there", func() error {
		_, err := os.Stat(path)
		return err
	})
}

// A client that attaches while the process is being started belongs to that process, not to the next.
func TestAttachWhileTheContainerIsStarted(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "echo hello; exit 5")
	spec.Runtime = wrapRuntime(t, `case " $* " in *" start "*) touch $dir/starting; until [ -e $dir/go ]; do sleep 0.02; done;; esac`)
	dir := filepath.Dir(spec.GetRuntime())
	id := w.create("slow", spec)
	started := make(chan error, 1)
	go func() {
		_, err := w.containers.StartContainer(w.ctx(), &berthv1.StartContainerRequest{Container: id})
		started <- err
	}()
	untilExists(t, filepath.Join(dir, "starting"))
	client := w.attach(id)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if code := client.exit(); code != 5 || !strings.Contains(client.output.String(), "hello\n") {
		t.Errorf("exit code %d, output %q", code, client.output.String())
	}
}
