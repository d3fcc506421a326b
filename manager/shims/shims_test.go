package shims

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/internal/errdefs"
)

func TestParseBootstrap(t *testing.T) {
	for output, want := range map[string]bootstrap{
		"unix:///run/s\n": {Version: 2, Address: "unix:///run/s", Protocol: "ttrpc"},
		`{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}`: {Version: 3, Address: "unix:///run/s", Protocol: "ttrpc"},
	} {
		if got, err := parseBootstrap([]byte(output)); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", output, got, err)
		}
	}
	for _, output := range []string{"", "{", `{"version":3,"protocol":"grpc"}`, `{"version":1,"protocol":"ttrpc"}`} {
		if got, err := parseBootstrap([]byte(output)); err == nil {
			t.Errorf("%q: got %+v, want an error", output, got)
		}
	}
}

func TestCommandErrorGivesTheCodeOfAShell(t *testing.T) {
	for text, want := range map[string]int32{
		`cannot start the process: exec: "x": executable file not found in $PATH`: 127,
		`exec: "/x": stat /x: no such file or directory`:                          127,
		`exec: "/x": permission denied`:                                           126,
		`exec /x: exec format error`:                                              126,
		`cannot mount "/x": no such file or directory`:                            128,
		`out of memory`: 128,
	} {
		err := commandError(status.Error(codes.Unknown, text))
		var command *CommandError
		if !errors.As(err, &command) || command.Code != want || err.Error() != text || !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%q: got %v, want code %d", text, err, want)
		}
	}
	if err := commandError(status.Error(codes.Unavailable, "gone")); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a shim that is gone: %v", err)
	}
}

func TestStreamURI(t *testing.T) {
	uri := StreamURI{Path: "/run/s p", Log: "/log&x", MaxSize: 10, MaxFile: 3, StdinOnce: true}
	if got, want := uri.String(), "stream:///run/s%20p?log=%2Flog%26x&max-file=3&max-size=10&stdin-once=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if streams := uri.IO(false, true); streams.Stdin != "" || streams.Stdout != uri.String() || !streams.Terminal {
		t.Errorf("got %+v", streams)
	}
}

// shimEnd is the other end of a Stream.
func shimEnd(t *testing.T) (*Stream, net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	stream, err := OpenStream(path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stream.Close(), conn.Close() })
	return stream, conn
}

func TestStreamFrames(t *testing.T) {
	stream, shim := shimEnd(t)
	if _, err := shim.Write([]byte("\x01\x00\x00\x00\x00\x00\x00\x03out\x02\x00\x00\x00\x00\x00\x00\x01e\x01\x00\x00\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		stream byte
		data   string
	}{{Stdout, "out"}, {Stderr, "e"}, {Stdout, ""}} {
		if number, data, err := stream.Read(); err != nil || number != want.stream || string(data) != want.data {
			t.Errorf("got %d %q %v, want %v", number, data, err, want)
		}
	}
	sent := strings.Repeat("x", maxFrame+5)
	go func() {
		_, _ = stream.Write([]byte(sent))
		_ = stream.EndInput()
	}()
	for _, want := range []int{maxFrame, 5, 0} {
		header := make([]byte, headerSize)
		if _, err := io.ReadFull(shim, header); err != nil {
			t.Fatal(err)
		}
		length := int(header[4])<<24 | int(header[5])<<16 | int(header[6])<<8 | int(header[7])
		if header[0] != Stdin || length != want {
			t.Fatalf("a frame of stream %d with %d bytes, want %d", header[0], length, want)
		}
		if _, err := io.CopyN(io.Discard, shim, int64(length)); err != nil {
			t.Fatal(err)
		}
	}
	if err := shim.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stream.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestStreamRefusesHugeFrames(t *testing.T) {
	stream, shim := shimEnd(t)
	if _, err := shim.Write([]byte("\x01\x00\x00\x00\xff\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stream.Read(); err == nil || !strings.Contains(err.Error(), "4294967295") {
		t.Errorf("got %v", err)
	}
}

func TestConnectToAShimThatIsGone(t *testing.T) {
	bundle := t.TempDir()
	launcher := New(Config{})
	if _, err := launcher.Connect("x", bundle); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("without an address: %v", err)
	}
	address := `{"version":3,"address":"unix:///nowhere/s","protocol":"ttrpc"}`
	if err := os.WriteFile(filepath.Join(bundle, addressFile), []byte(address), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := launcher.Connect("x", bundle); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("with a dead address: %v", err)
	}
}

// A shim that is stopped accepts connections and answers nothing: each call ends by itself.
func TestCallsOfAShimThatDoesNotAnswerEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	task, err := connect("x", bootstrap{Address: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = task.Close() }()
	begin := time.Now()
	_, err = task.State(t.Context(), "")
	if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, errdefs.ErrUnavailable) || time.Since(begin) < queryLimit {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := task.Pause(ctx); errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was taken back: %v", err)
	}
}

// A call whose connection breaks is no call that the shim has left without an answer.
func TestBrokenConnectionIsNoSilence(t *testing.T) {
	method := func(context.Context, int) (int, error) { return 0, ttrpc.ErrClosed }
	for range 1000 {
		if _, err := call(t.Context(), time.Minute, method, 0); errors.Is(err, ErrNoAnswer) || !errors.Is(err, errdefs.ErrUnavailable) {
			t.Fatalf("a connection that was closed at once: %v", err)
		}
	}
}

// A caller that goes ends the shim's command, and the error does not blame the command for it.
func TestCommandEndsWithItsCaller(t *testing.T) {
	dir := t.TempDir()
	shim, began := filepath.Join(dir, "shim"), filepath.Join(dir, "began")
	if err := os.WriteFile(shim, []byte("#!/bin/sh\n: >"+began+"\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(began); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := New(Config{Shim: shim}).Start(ctx, "id", dir)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "did not end") {
		t.Errorf("got %v", err)
	}
}
