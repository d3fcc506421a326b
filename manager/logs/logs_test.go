package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func entry(text, stream string, second int) string {
	return fmt.Sprintf("{\"log\":%q,\"stream\":%q,\"time\":%q}\n", text, stream, epoch.Add(time.Duration(second)*time.Second).Format(time.RFC3339Nano))
}

func write(t *testing.T, path string, entries ...string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(strings.Join(entries, "")); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, query Query) string {
	t.Helper()
	var text strings.Builder
	reader := Open(path, &Watcher{})
	defer reader.Close()
	if err := reader.Read(query, func(line Line) error { text.Write(line.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := read(t, path, Query{Tail: -1}); got != "" {
		t.Errorf("a log that is not there gave %q", got)
	}
	write(t, path+".2", entry("1\n", "stdout", 1))
	write(t, path+".1", entry("2\n", "stderr", 2), "\x00\x00not a record\n", entry("3 ", "stdout", 3))
	write(t, path, entry("long\n", "stdout", 4), entry("4\n", "stderr", 5), `{"log":"unfin`)
	for _, c := range []struct {
		name  string
		query Query
		want  string
	}{
		{"all", Query{Tail: -1}, "1\n2\n3 long\n4\n"},
		{"stdout", Query{Tail: -1, Stdout: true}, "1\n3 long\n"},
		{"stderr", Query{Tail: -1, Stderr: true}, "2\n4\n"},
		{"since", Query{Tail: -1, Since: epoch.Add(4 * time.Second)}, "long\n4\n"},
		{"until", Query{Tail: -1, Until: epoch.Add(2 * time.Second)}, "1\n2\n"},
		{"tail 0", Query{Tail: 0}, ""},
		{"tail 2 keeps the parts of a line together", Query{Tail: 2}, "3 long\n4\n"},
		{"tail 99", Query{Tail: 99}, "1\n2\n3 long\n4\n"},
	} {
		if got := read(t, path, c.query); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// follower reads a log in the background; what it got is complete when done has an element.
type follower struct {
	lines chan string
	done  chan error
}

func follow(ctx context.Context, path string, query Query, ended <-chan struct{}) *follower {
	f := &follower{lines: make(chan string, 100), done: make(chan error, 1)}
	reader := Open(path, &Watcher{})
	go func() {
		defer reader.Close()
		defer close(f.lines)
		f.done <- reader.Follow(ctx, query, ended, func(line Line) error { f.lines <- string(line.Text); return nil })
	}()
	return f
}

func (f *follower) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, line := range want {
		select {
		case got := <-f.lines:
			if got != line {
				t.Fatalf("got %q, want %q", got, line)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q did not come", line)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ended := make(chan struct{})
	f := follow(t.Context(), path, Query{Tail: -1}, ended)
	write(t, path, entry("a\n", "stdout", 1))
	f.expect(t, "a\n")
	half := entry("b\n", "stdout", 2)
	write(t, path, half[:20])
	write(t, path, half[20:])
	f.expect(t, "b\n")
	for i := range 3 { // rotated more often than anybody looks
		for n := 2; n >= 0; n-- {
			from := path
			if n > 0 {
				from = fmt.Sprintf("%s.%d", path, n)
			}
			if err := os.Rename(from, fmt.Sprintf("%s.%d", path, n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		write(t, path, entry(fmt.Sprintf("r%d\n", i), "stdout", 3))
	}
	f.expect(t, "r0\n", "r1\n", "r2\n")
	write(t, path, entry("last\n", "stdout", 4))
	close(ended)
	f.expect(t, "last\n")
	if err := <-f.done; err != nil {
		t.Error(err)
	}
	if _, more := <-f.lines; more {
		t.Error("there is more after the end")
	}
}

// A rotation moves one file after the other. Who looks just then misses nothing.
func TestReadWhileRotating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for name, text := range map[string]string{".4": "a\n", ".3": "b\n", ".1": "c\n", "": "d\n"} { // 2 is not there yet
		write(t, path+name, entry(text, "stdout", 1))
	}
	if got, want := read(t, path, Query{Tail: -1}), "a\nb\nc\nd\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r := Open(path, &Watcher{})
	defer r.Close()
	for _, want := range []string{".4", ".3", ".1", ""} {
		next, err := r.next()
		if err != nil || next == nil {
			t.Fatalf("no file comes before %q: %v", want, err)
		}
		if wanted, err := os.Stat(path + want); err != nil || !os.SameFile(wanted, stat(t, next)) {
			t.Errorf("the next file is not %q: %v", want, err)
		}
		r.Close()
		r.current = next
	}
}

// However often a log is rotated while its files are opened, each that was there is among them.
func TestOpenMissesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const rotations = 60
	write(t, path, entry("0\n", "stdout", 1))
	rotated := make(chan struct{})
	go func() {
		defer close(rotated)
		for i := range rotations {
			for n := i; n > 0; n-- {
				rename(t, fmt.Sprintf("%s.%d", path, n), fmt.Sprintf("%s.%d", path, n+1))
			}
			rename(t, path, path+".1")
			write(t, path, entry(fmt.Sprintf("%d\n", i+1), "stdout", 1))
		}
	}()
	for more := true; more; {
		select {
		case <-rotated:
			more = false
		default:
		}
		text := read(t, path, Query{Tail: -1})
		for i, line := range strings.Fields(text) {
			if line != fmt.Sprint(i) {
				<-rotated
				t.Fatalf("there is %q where %d should be, of %q", line, i, text)
			}
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Error(err)
	}
}

func stat(t *testing.T, file *os.File) os.FileInfo {
	t.Helper()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A program that writes more than anybody reads has a log whose end can't be reached.
func TestReadingEndsThoughTheLogGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, entry("1\n", "stdout", 1), entry("2\n", "stdout", 2))
	ctx, cancel := context.WithCancel(t.Context())
	sent := 0
	send := func(Line) error {
		if sent++; sent > 1000 {
			return errors.New("there is no end")
		}
		write(t, path, entry("more\n", "stdout", 3))
		cancel()
		return nil
	}
	reader := Open(path, &Watcher{})
	defer reader.Close()
	if err := reader.Read(Query{Tail: -1}, send); err != nil || sent != 2 {
		t.Errorf("read: %d lines, %v", sent, err)
	}
	if err := reader.Follow(ctx, Query{Tail: -1}, nil, send); !errors.Is(err, context.Canceled) {
		t.Errorf("follow: %d lines, %v", sent, err)
	}
}

func TestFollowEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, entry("old\n", "stdout", 1))
	f := follow(t.Context(), path, Query{Tail: 0, Until: time.Now().Add(50 * time.Millisecond)}, nil)
	if err := <-f.done; err != nil {
		t.Errorf("until: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f = follow(ctx, path, Query{Tail: -1}, nil)
	f.expect(t, "old\n")
	cancel()
	if err := <-f.done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestParseKnowsTheStreams(t *testing.T) {
	var streams []berthv1.Stream
	for _, name := range []string{"stdout", "stderr"} {
		line, ok := parse([]byte(entry("x\n", name, 0)))
		if !ok || !line.Time.Equal(epoch) {
			t.Errorf("%s: %+v, %v", name, line, ok)
		}
		streams = append(streams, line.Stream)
	}
	if !slices.Equal(streams, []berthv1.Stream{berthv1.Stream_STREAM_STDOUT, berthv1.Stream_STREAM_STDERR}) {
		t.Errorf("streams %v", streams)
	}
}

// The end of a long log is found without reading, or keeping, what lies before.
func TestTailOfALongLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var entries []string
	for i := range 20000 {
		entries = append(entries, entry(fmt.Sprintf("%d\n", i), []string{"stdout", "stderr"}[i%2], i))
	}
	write(t, path+".1", entries[:9000]...)
	write(t, path, entries[9000:]...)
	write(t, path, entry(strings.Repeat("x", 300<<10)+"\n", "stdout", 20000))
	for _, c := range []struct {
		query       Query
		count       int
		first, last string
	}{
		{Query{Tail: 3}, 3, "19998\n", ""},
		{Query{Tail: 3, Stderr: true}, 3, "19995\n", "19999\n"},
		{Query{Tail: 12000}, 12000, "8001\n", ""},
		{Query{Tail: 1 << 62}, 20001, "0\n", ""},
		{Query{Tail: 2, Until: epoch.Add(5 * time.Second)}, 2, "4\n", "5\n"},
	} {
		var lines []string
		reader := Open(path, &Watcher{})
		err := reader.Read(c.query, func(line Line) error { lines = append(lines, string(line.Text)); return nil })
		reader.Close()
		if err != nil || len(lines) != c.count || lines[0] != c.first || c.last != "" && lines[len(lines)-1] != c.last {
			t.Errorf("%+v: %d lines, %v", c.query, len(lines), err)
		}
	}
}

// Followers share one inotify instance, of which the kernel gives each user 128, and let go of it when all have ended.
func TestFollowersShareOneInstance(t *testing.T) {
	watcher := &Watcher{}
	const followers = 200
	var stops []func()
	var channels []<-chan struct{}
	dirs := []string{t.TempDir(), t.TempDir()}
	for i := range followers {
		changes, stop := watcher.Watch(dirs[i%2])
		channels, stops = append(channels, changes), append(stops, stop)
	}
	if got := len(watcher.current.listeners); got != 2 {
		t.Errorf("%d watches, want one for each directory", got)
	}
	write(t, filepath.Join(dirs[0], "log"), "x")
	for i := 0; i < followers; i += 2 {
		select {
		case <-channels[i]:
		case <-time.After(10 * time.Second):
			t.Fatal("a follower was not told of a change")
		}
	}
	for _, stop := range stops {
		stop()
	}
	if watcher.current != nil {
		t.Error("the instance outlives its followers")
	}
}

// Where the kernel gives no watch, a follower looks from time to time.
func TestFollowWithoutInotify(t *testing.T) {
	changes, stop := (&Watcher{}).Watch(filepath.Join(t.TempDir(), "nosuch"))
	defer stop()
	select {
	case <-changes:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
}
