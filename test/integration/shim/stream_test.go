package shim_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// client is one end of a stream socket.
type client struct {
	t    testing.TB
	conn *net.UnixConn
}

// streamURI returns a stream URI beside the bundle, and the path of its socket.
func (c *container) streamURI(name string, query url.Values) (path, uri string) {
	path = filepath.Join(filepath.Dir(c.Bundle), name)
	return path, (&url.URL{Scheme: "stream", Path: path, RawQuery: query.Encode()}).String()
}

func attach(t testing.TB, path string) *client {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return &client{t: t, conn: conn}
}

// send sends input; nothing is the end of input.
func (c *client) send(text string) {
	c.t.Helper()
	frame := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(text)))
	if _, err := c.conn.Write(append(frame, text...)); err != nil {
		c.t.Fatalf("cannot send input: %v", err)
	}
}

// next returns one frame of output.
func (c *client) next() (stream byte, data string, err error) {
	var header [8]byte
	if _, err := io.ReadFull(c.conn, header[:]); err != nil {
		return 0, "", err
	}
	if header[1] != 0 || header[2] != 0 || header[3] != 0 {
		c.t.Fatalf("frame header %v", header)
	}
	payload := make([]byte, binary.BigEndian.Uint32(header[4:]))
	_, err = io.ReadFull(c.conn, payload)
	return header[0], string(payload), err
}

// rest returns all output until its end, by stream.
func (c *client) rest() (output [3]string) {
	c.t.Helper()
	for {
		stream, data, err := c.next()
		if errors.Is(err, io.EOF) {
			return output
		}
		if err != nil {
			c.t.Fatalf("cannot read output, after %d and %d bytes: %v", len(output[1]), len(output[2]), err)
		}
		if stream != 1 && stream != 2 {
			c.t.Fatalf("frame of stream %d", stream)
		}
		output[stream] += data
	}
}

// until reads output until it contains the text, and returns it.
func (c *client) until(text string) string {
	c.t.Helper()
	output := ""
	for !strings.Contains(output, text) {
		_, data, err := c.next()
		if err != nil {
			c.t.Fatalf("no %q in the output %q: %v", text, output, err)
		}
		output += data
	}
	return output
}

func TestStreamCarriesEveryStream(t *testing.T) {
	c := newContainer(t, "sh", "-c", "cat; echo oops >&2; exit 3")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: uri, stderr: uri})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("stream socket: %v, %v", info, err)
	}
	a := attach(t, path)
	c.run("")
	a.send("hello ")
	a.send("world\n")
	a.send("")
	got := a.rest()
	if got != [3]string{"", "hello world\n", "oops\n"} {
		t.Errorf("output %q", got)
	}
	c.expectExit("", 3)
	if late := attach(t, path).rest(); late != [3]string{} {
		t.Errorf("a client that came after the end got %q", late)
	}
	c.delete("")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stream socket is still there: %v", err)
	}
}

func TestStreamHasSeveralClients(t *testing.T) {
	c := newContainer(t, "sh", "-c", "while read line; do echo got $line; done")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: uri, stderr: uri})
	a, b := attach(t, path), attach(t, path)
	c.run("")
	a.send("one\n")
	a.until("got one\n")
	b.until("got one\n")
	if err := a.conn.Close(); err != nil { // without a word of goodbye
		t.Fatal(err)
	}
	b.send("two\n")
	b.until("got two\n")
	late := attach(t, path)
	b.send("three\n")
	if got := late.until("three\n"); got != "got three\n" {
		t.Errorf("the late client got %q", got)
	}
	b.send("")
	b.rest()
	c.expectExit("", 0)
}

func TestStreamStdinOnce(t *testing.T) {
	c := newContainer(t, "cat")
	path, uri := c.streamURI("io.sock", url.Values{"stdin-once": {"1"}})
	c.create(streams{stdin: uri, stdout: uri, stderr: uri})
	a := attach(t, path)
	c.run("")
	a.send("x\n")
	if err := a.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := a.rest(); got[1] != "x\n" {
		t.Errorf("output %q", got)
	}
	c.expectExit("", 0)
}

func TestStreamSlowClientHoldsTheProcess(t *testing.T) {
	c := newContainer(t, "head", "-c", "3000000", "/dev/zero")
	path, uri := c.streamURI("io.sock", nil)
	pid := c.create(streams{stdout: uri, stderr: uri})
	slow := attach(t, path)
	c.run("")
	if _, _, err := slow.next(); err != nil {
		t.Fatal(err)
	}
	// The process can't be ahead by more than the buffers between it and the client: it comes to wait for its pipe.
	written := -1
	testenv.Until(t, usual, "the process waits for its client", func() error {
		before := written
		if written = writtenBy(t, pid); written != before || !waitsForPipe(t, pid) {
			return fmt.Errorf("it has written %d bytes, and %d before", written, before)
		}
		return nil
	})
	if written >= 3000000 {
		t.Error("the process ran ahead of its client")
	}
	total := 0
	for {
		_, data, err := slow.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		total += len(data)
	}
	if total > 3000000 || total < 2900000 {
		t.Errorf("%d bytes after the first frame", total)
	}
	c.expectExit("", 0)
}

// writtenBy returns how many bytes a process has written.
func writtenBy(t testing.TB, pid int) (count int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		_, _ = fmt.Sscanf(line, "wchar: %d", &count)
	}
	return count
}

// waitsForPipe reports whether a process sleeps because a pipe is full.
func waitsForPipe(t testing.TB, pid int) bool {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(data), "pipe_write") || strings.Contains(string(data), "pipe_wait")
}

func TestStreamClientThatVanishesFreesTheProcess(t *testing.T) {
	c := newContainer(t, "sh", "-c", "head -c 3000000 /dev/zero; exit 4")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdout: uri, stderr: uri})
	slow := attach(t, path)
	c.run("")
	if _, _, err := slow.next(); err != nil {
		t.Fatal(err)
	}
	if err := slow.conn.Close(); err != nil {
		t.Fatal(err)
	}
	c.expectExit("", 4)
}

func TestStreamDropsClientsThatBreakTheProtocol(t *testing.T) {
	c := newContainer(t, "cat")
	path, uri := c.streamURI("io.sock", nil)
	c.create(streams{stdin: uri, stdout: uri, stderr: uri})
	c.run("")
	bad := attach(t, path)
	if _, err := bad.conn.Write([]byte{7, 0, 0, 0, 0, 0, 0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := bad.next(); err == nil {
		t.Error("a frame of stream 7 was answered")
	}
	good := attach(t, path)
	good.send("still here\n")
	good.until("still here\n")
	good.send("")
	c.expectExit("", 0)
}

// logLine is one line of a json-file log.
type logLine struct {
	Log, Stream string
	Time        time.Time
}

func readLog(t testing.TB, path string) (lines []logLine) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%s has the line %q: %v", filepath.Base(path), text, err)
		}
		if time.Since(line.Time) > limit {
			t.Errorf("line %q is of %v", line.Log, line.Time)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestStreamLog(t *testing.T) {
	long := strings.Repeat("x", 20000)
	c := newContainer(t, "sh", "-c", `printf 'a "quoted"\tline\n'; echo err >&2; printf '\377\n'; cat /long; printf end`)
	if err := os.WriteFile(filepath.Join(c.Spec.Root.Path, "long"), []byte(long+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, _ := c.file("json.log")
	_, uri := c.streamURI("io.sock", url.Values{"log": {log}})
	c.create(streams{stdout: uri, stderr: uri})
	c.run("")
	c.expectExit("", 0)
	var out, err []string
	for _, line := range readLog(t, log) { // complete when Wait has answered
		if line.Stream == "stderr" {
			err = append(err, line.Log)
		} else {
			out = append(out, line.Log)
		}
	}
	want := []string{"a \"quoted\"\tline\n", "\ufffd\n", long[:16384], long[16384:] + "\n", "end"}
	if strings.Join(out, "|") != strings.Join(want, "|") {
		t.Errorf("stdout logged as %.200q", out)
	}
	if strings.Join(err, "|") != "err\n" {
		t.Errorf("stderr logged as %q", err)
	}
}

func TestStreamLogRotates(t *testing.T) {
	c := newContainer(t, "sh", "-c", "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done")
	log, _ := c.file("json.log")
	_, uri := c.streamURI("io.sock", url.Values{"log": {log}, "max-size": {"1000"}, "max-file": {"3"}})
	c.create(streams{stdout: uri, stderr: uri})
	c.run("")
	c.expectExit("", 0)
	next := -1
	for _, name := range []string{log + ".2", log + ".1", log} {
		if info, err := os.Stat(name); err != nil || info.Size() > 1000 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		for _, line := range readLog(t, name) {
			var number int
			if _, err := sscan(line.Log, &number); err != nil {
				t.Fatal(err)
			}
			if next >= 0 && number != next {
				t.Errorf("line %d follows line %d", number, next-1)
			}
			next = number + 1
		}
	}
	if next != 100 {
		t.Errorf("the last line is %d", next-1)
	}
	if _, err := os.Stat(log + ".3"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a fourth file: %v", err)
	}
}
