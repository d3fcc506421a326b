package stdio

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func TestAppendStringIsWhatJSONReads(t *testing.T) {
	for _, text := range []string{
		"", "plain", "tab\tnewline\nreturn\r", `quote " backslash \`, "\x00\x01\x1f\x7f", "<html>&", "äöü €", "\u2028\u2029",
		"bad \xff\xfe bytes", "cut \xe2\x82", "emoji \U0001f6a2",
	} {
		var got string
		encoded := appendString(nil, []byte(text))
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Errorf("%q became %s: %v", text, encoded, err)
		}
		if want := strings.ToValidUTF8(text, "\ufffd"); utf8.ValidString(text) && got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add([]byte("a\"\\\n\xff\u2028"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got string
		if err := json.Unmarshal(appendString(nil, text), &got); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder // every bad byte becomes one replacement character, as encoding/json does it
		for _, r := range string(text) {
			want.WriteRune(r)
		}
		if got != want.String() {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func newLog(t *testing.T, query string) *jsonLog {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLog(filepath.Join(t.TempDir(), "json.log"), values)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	return l
}

func logged(t *testing.T, path string) (texts []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var entry struct{ Log, Stream, Time string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, entry.Stream+" "+entry.Log)
	}
	return texts
}

func TestLinesAreJoinedAndSplit(t *testing.T) {
	l := newLog(t, "")
	l.write(1, []byte("be"))
	l.write(2, []byte("another\n"))
	l.write(1, []byte("gin\nwhole\n"))
	l.write(1, []byte(strings.Repeat("x", maxLine-1)))
	l.write(1, []byte("yz\n"))
	l.write(1, []byte("end"))
	l.flush()
	want := []string{
		"stderr another\n", "stdout begin\n", "stdout whole\n",
		"stdout " + strings.Repeat("x", maxLine-1) + "y", "stdout z\n", "stdout end",
	}
	if got := logged(t, l.path); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("logged %.300q", got)
	}
}

func TestLogContinuesAnExistingFile(t *testing.T) {
	l := newLog(t, "max-size=200")
	l.write(1, []byte("first\n"))
	size := l.size
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openLog(l.path, url.Values{"max-size": {"200"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.close() }()
	if again.size != size {
		t.Errorf("size %d, want %d", again.size, size)
	}
	again.write(1, []byte("second\n"))
	if got := logged(t, l.path); len(got) != 2 {
		t.Errorf("logged %q", got)
	}
}

func TestASingleFileStartsAnew(t *testing.T) {
	l := newLog(t, "max-size=150")
	for range 10 {
		l.write(1, []byte("twenty bytes of text\n"))
	}
	if got := logged(t, l.path); len(got) != 1 {
		t.Errorf("%d lines in a file for one", len(got))
	}
}

func TestLogSurvivesAnUnwritableDirectory(t *testing.T) {
	l := newLog(t, "max-size=100&max-file=2")
	l.write(1, []byte("one\n"))
	dir := filepath.Dir(l.path)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte("lost\n")) // rotation fails: its target is gone
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte("found\n"))
	if got := logged(t, l.path); len(got) == 0 || got[len(got)-1] != "stdout found\n" {
		t.Errorf("logged %q", got)
	}
}

// TestLogAfterAFullDisk: an entry that does not fit costs no other that does.
func TestLogAfterAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it mounts a small file system: run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l, err := openLog(filepath.Join(dir, "json.log"), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	l.write(1, []byte("first\n"))
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte(strings.Repeat("x", 9000)+"\n"))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte("second\n"))
	if got := strings.Join(logged(t, l.path), "|"); got != "stdout first\n|stdout second\n" {
		t.Errorf("logged %.100q", got)
	}
}

// TestLogAfterHalfAnEntry: a shim that was killed while it wrote costs the next one no line.
func TestLogAfterHalfAnEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "json.log")
	if err := os.WriteFile(path, []byte(`{"log":"ha`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(path, url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte("whole\n"))
	l.write(1, []byte("more\n"))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	lines := strings.Split(string(data), "\n")
	if err != nil || len(lines) != 4 || !strings.HasPrefix(lines[1], `{"log":"whole\n"`) || !strings.HasPrefix(lines[2], `{"log":"more\n"`) {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

// TestLogsAreRotatedThoughManyAreAllowed: the work of a rotation is that of the files that exist.
func TestLogsAreRotatedThoughManyAreAllowed(t *testing.T) {
	l := newLog(t, "max-size=100&max-file=9000000000000000000")
	for i := range 5 {
		l.write(1, fmt.Appendf(nil, "line %d\n", i))
	}
	for i, want := range map[int]string{1: "stdout line 3\n", 4: "stdout line 0\n"} {
		if got := logged(t, l.numbered(int64(i))); len(got) != 1 || got[0] != want {
			t.Errorf("file %d has %q", i, got)
		}
	}
}
