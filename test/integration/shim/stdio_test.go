package shim_test

import (
	"bufio"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/grpc/codes"

	"github.com/berthd/berth/test/testenv"
)

// fifo makes a fifo beside the bundle and opens this end of it as containerd's clients do, without waiting.
func (c *container) fifo(name string, flag int) (path string, file *os.File) {
	c.t.Helper()
	path, _ = c.file(name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if flag == os.O_WRONLY {
		flag = os.O_RDWR // a fifo can't be opened for writing only before it has a reader, without waiting
	}
	file, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = file.Close() })
	if err := file.SetDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	return path, file
}

// readFifo returns everything up to the end. A fifo nobody has opened for writing yet reads as ended: call it when
// something is there or will not come any more.
func readFifo(t testing.TB, file *os.File) string {
	t.Helper()
	data, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFifos(t *testing.T) {
	c := newContainer(t, "sh", "-c", "cat; echo oops >&2; exit 2")
	inPath, in := c.fifo("stdin", os.O_WRONLY)
	outPath, out := c.fifo("stdout", os.O_RDONLY)
	errPath, stderr := c.fifo("stderr", os.O_RDONLY)
	c.create(streams{stdin: inPath, stdout: outPath, stderr: errPath})
	c.run("")
	if _, err := io.WriteString(in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil { // the only writer: the end of input
		t.Fatal(err)
	}
	c.expectExit("", 2)
	c.delete("") // the shim's ends are closed now
	if got := readFifo(t, out); got != "hello\n" {
		t.Errorf("stdout %q", got)
	}
	if got := readFifo(t, stderr); got != "oops\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestFifoReaderMayComeBack(t *testing.T) {
	c := newContainer(t, "sh", "-c", "echo one; read x; echo two; exit 3")
	inPath, in := c.fifo("stdin", os.O_WRONLY)
	outPath, out := c.fifo("stdout", os.O_RDONLY)
	c.create(streams{stdin: inPath, stdout: outPath})
	c.run("")
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if err := out.Close(); err != nil { // the manager restarts
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "go on\n"); err != nil {
		t.Fatal(err)
	}
	c.expectExit("", 3) // not 141, SIGPIPE
	again, err := os.OpenFile(outPath, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	c.delete("")
	if got := readFifo(t, again); got != "two\n" {
		t.Errorf("read %q", got)
	}
}

func TestCloseIO(t *testing.T) {
	c := newContainer(t, "cat")
	inPath, in := c.fifo("stdin", os.O_WRONLY)
	out, outURI := c.file("out")
	c.create(streams{stdin: inPath, stdout: outURI})
	c.run("")
	if _, err := io.WriteString(in, "text\n"); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, usual, "the process has the input", func() error {
		if data, err := os.ReadFile(out); err != nil || string(data) != "text\n" {
			return errors.New("the output is " + string(data))
		}
		return nil
	})
	if _, err := c.api.CloseIO(c.ctx(), &task.CloseIORequest{ID: c.ID, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	c.expectExit("", 0) // though the fifo is still open
}

func TestNoStreamsAreDevNull(t *testing.T) {
	c := newContainer(t, "sh", "-c", `read x || ls -l /proc/self/fd/0 > /fds; echo lost; echo lost >&2`)
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
	data, err := os.ReadFile(filepath.Join(c.Spec.Root.Path, "fds"))
	if err != nil || !strings.HasSuffix(string(data), "-> /dev/null\n") {
		t.Errorf("stdin is %q, %v", data, err)
	}
}

func TestFileOutputIsAppended(t *testing.T) {
	c := newContainer(t, "echo", "new")
	out, uri := c.file("out")
	if err := os.WriteFile(out, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.create(streams{stdout: uri, stderr: uri})
	c.run("")
	c.expectExit("", 0)
	expectFile(t, out, "old\nnew\n")
}

func TestNoDescriptorOfTheShimReachesTheContainer(t *testing.T) {
	c := newContainer(t, "ls", "/proc/self/fd")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: uri, stderr: uri})
	a := attach(t, path)
	c.run("")
	if got := a.rest()[1]; got != "0\n1\n2\n3\n" { // 3 is the folder that ls reads
		t.Errorf("ls sees %q", got)
	}
	c.expectExit("", 0)
}

func TestNoSignalIsBlockedOrIgnoredInTheContainer(t *testing.T) {
	c := newContainer(t, "grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
	out, uri := c.file("out")
	c.create(streams{stdout: uri})
	c.run("")
	c.expectExit("", 0)
	expectFile(t, out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n")
}

func TestOutputOfSurvivingChildrenDoesNotDelayWait(t *testing.T) {
	for name, child := range map[string]string{"silent": "sleep 1000", "writing": "yes said"} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sleep", "1000")
			c.create(streams{})
			c.run("")
			log, _ := c.file("json.log")
			path, uri := c.streamURI("exec.sock", url.Values{"log": {log}, "max-size": {"1000000"}})
			c.exec("x", streams{stdout: uri}, "sh", "-c", "echo said; "+child+" & echo $! > /survivor; exit 8")
			a := attach(t, path)
			c.run("x")
			got := a.rest() // which ends while the child lives
			if strings.Trim(got[1], "said\n") != "" || !strings.HasPrefix(got[1], "said\n") {
				t.Errorf("output %.30q", got)
			}
			c.expectExit("x", 8)
			if name == "writing" {
				c.expectDropped(log)
			}
			c.delete("x")
		})
	}
}

// expectDropped waits until a surviving child has written more, of which the log must have nothing.
func (c *container) expectDropped(log string) {
	c.t.Helper()
	survivors := testenv.Processes(c.t, "yes", "said")
	logged, err := os.Stat(log)
	if err != nil || len(survivors) != 1 {
		c.t.Fatalf("survivors %v, %v", survivors, err)
	}
	written := writtenBy(c.t, survivors[0].Pid)
	testenv.Until(c.t, usual, "the child has written more", func() error {
		if writtenBy(c.t, survivors[0].Pid) < written+1000000 {
			return errors.New("it has not")
		}
		return nil
	})
	if now, err := os.Stat(log); err != nil || now.Size() != logged.Size() {
		c.t.Errorf("the log has grown from %d bytes to %d, %v", logged.Size(), now.Size(), err)
	}
}

func TestTerminal(t *testing.T) {
	c := newContainer(t, "sh")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: uri, terminal: true})
	a := attach(t, path)
	c.run("")
	c.resize("", 123, 45)
	a.send("stty size; tty\n")
	if output := a.until("\n/dev/"); !strings.Contains(output, "\n45 123\r\n") {
		t.Errorf("output %q", output)
	}
	c.resize("", 80, 25)
	a.send("stty size\n")
	a.until("\n25 80\r\n")
	a.send("exit 11\n")
	a.rest()
	c.expectExit("", 11)
}

func TestEndOfInputOfATerminal(t *testing.T) {
	for once, want := range map[string]int{"1": 5, "0": 137} {
		c := newContainer(t, "sh", "-c", "cat; exit 5")
		path, uri := c.streamURI("io.sock", url.Values{"stdin-once": {once}})
		c.create(streams{stdin: uri, stdout: uri, terminal: true})
		a := attach(t, path)
		c.run("")
		a.send("text\n")
		a.until("text\r\ntext\r\n")
		a.send("")
		if want == 137 { // cat goes on, for the next client
			a.send("more\n")
			a.until("more\r\nmore\r\n")
			c.kill("", syscall.SIGKILL)
		}
		a.rest()
		c.expectExit("", want)
	}
}

func (c *container) resize(execID string, width, height uint32) {
	c.t.Helper()
	_, err := c.api.ResizePty(c.ctx(), &task.ResizePtyRequest{ID: c.ID, ExecID: execID, Width: width, Height: height})
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestTerminalOutputIsComplete(t *testing.T) {
	c := newContainer(t, "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
	log, _ := c.file("json.log")
	path, _ := c.streamURI("io.sock", nil)
	uri := "stream://" + path + "?log=" + log
	c.create(streams{stdout: uri, terminal: true})
	a := attach(t, path)
	c.run("")
	output := a.rest()
	c.expectExit("", 0)
	if lines := strings.Count(output[1], "\r\n"); lines != 2000 || !strings.HasSuffix(output[1], "line 1999\r\n") {
		t.Errorf("%d lines, the last bytes are %.20q", lines, output[1][max(0, len(output[1])-20):])
	}
	if lines := readLog(t, log); len(lines) != 2000 || lines[1999].Log != "line 1999\r\n" {
		t.Errorf("%d lines logged", len(lines))
	}
}

func TestExecWithATerminalOverFifos(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.create(streams{})
	c.run("")
	inPath, in := c.fifo("stdin", os.O_WRONLY)
	outPath, out := c.fifo("stdout", os.O_RDWR)
	c.exec("shell", streams{stdin: inPath, stdout: outPath, terminal: true}, "sh")
	c.run("shell")
	c.resize("shell", 99, 33)
	if _, err := io.WriteString(in, "stty size; exit 4\n"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	for found := false; !found; {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		found = line == "33 99\r\n"
	}
	c.expectExit("shell", 4)
	_, err := c.api.ResizePty(c.ctx(), &task.ResizePtyRequest{ID: c.ID, Width: 1, Height: 1})
	expectError(t, err, codes.FailedPrecondition, "terminal")
	if left, err := filepath.Glob(c.Bundle + "/*tty"); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

// TestFileOutputToAFifoIsRefused: a fifo without a reader would keep the shim from answering anything.
func TestFileOutputToAFifoIsRefused(t *testing.T) {
	c := newContainer(t, "true")
	fifo, uri := c.file("fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	_, err := c.api.Create(c.ctx(), c.request(streams{stdout: uri}))
	expectError(t, err, codes.Unknown, fifo)
}
