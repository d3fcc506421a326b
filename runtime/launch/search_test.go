package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// found lets a child search the content, of which it reads pieces.
func found(t *testing.T, content, wanted string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	s := NewSearch(Columns{Key: 2, Value: 5, Fields: 7, Wanted: wanted}, "HOME=", "/")
	p := New()
	file := p.Call("open", path, unix.SYS_OPENAT, Cwd, p.String(path), Int(unix.O_RDONLY), Int(0)).Result()
	p.Search(file, s)
	exitWith(p, 0)
	process := fork(t, p, Birth{Shared: true})
	if err := process.Executed(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, process, 0)
	value, _, _ := strings.Cut(string(s.result[:]), "\x00")
	return value
}

func TestSearch(t *testing.T) {
	const root, user = "root:x:0:0:root:/root:/bin/sh\n", "u:x:1000:1000::/home/u:/bin/sh\n"
	filler := strings.Repeat("# a comment that goes on for some time, as they do\n", 200)
	long := strings.Repeat("x", 4089)
	for _, test := range []struct{ content, want string }{
		{root + user, "/home/u"},
		{user + root, "/home/u"},
		{root + strings.TrimSuffix(user, "\n"), "/home/u"},
		{filler + user + filler, "/home/u"},
		{"", "/"},
		{root, "/"},
		{"u:x:1000:1000::/home/u\n" + root, "/"},        // too few fields
		{"u:x:1000:1000:::/bin/sh\n" + user, "/home/u"}, // an empty one is none
		{"v:x:10000:1::/v:/\nv:x:100:1::/v:/\nv:x::1::/v:/\n" + user, "/home/u"},
		{"v:x:1001:1::/v:/\n1000:1000:1:1000:1000:/v:1000\n" + user, "/home/u"},
		{user + "w:x:1000:1000::/home/w:/bin/sh\n", "/home/u"},        // the first holds
		{"u:x:1000:1000::/" + long + ":/bin/sh\n" + user, "/" + long}, // just not too long
		{"u:x:1000:1000::/" + long + "x:/bin/sh\n" + user, "/home/u"}, // too long for a path
		{"u:x:1000:1000::/" + long + long + long + ":/bin/sh\n", "/"},
		{strings.Repeat(root, 40000) + user, "/"}, // more than a megabyte in
	} {
		if got := found(t, test.content, "1000"); got != "HOME="+test.want {
			t.Errorf("%.60q…: %.60q, want %.60q", test.content, got, test.want)
		}
	}
}
