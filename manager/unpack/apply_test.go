package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// archive makes a tar archive of entries. A content makes a regular file of an entry without a type.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range entries {
		content := header.PAXRecords["content"]
		if content != "" {
			delete(header.PAXRecords, "content")
			header.Size = int64(len(content))
		}
		if header.Mode == 0 {
			header.Mode = 0o755
		}
		if header.ModTime.IsZero() {
			header.ModTime = time.Unix(1_000_000_000, 0)
		}
		header.Format = tar.FormatPAX
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"content": content}}
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }

func symlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

const testLimit = 1 << 20

func apply(t *testing.T, root string, layer []byte) error {
	t.Helper()
	return applyWithin(t, root, layer, Limits{Size: testLimit, Ratio: 200, Entries: 1000})
}

func applyWithin(t *testing.T, root string, layer []byte, limits Limits) error {
	t.Helper()
	top, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = top.Close() }()
	return Apply(t.Context(), top, bytes.NewReader(layer), limits, int64(len(layer)))
}

// listing lists what is below root: directories with a slash, files with their content, links with their target.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		switch {
		case entry.IsDir():
			name += "/"
		case entry.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			name += " -> " + target
		case entry.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += " = " + string(content)
		default:
			name += " " + entry.Type().String()
		}
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers have owners and devices")
	}
}

func TestApplyMakesWhatLayersSay(t *testing.T) {
	needRoot(t)
	cases := []struct {
		name   string
		layers [][]tar.Header
		want   []string
	}{
		{
			"parents that no entry names",
			[][]tar.Header{{file("a/b/c", "x")}},
			[]string{"a/", "a/b/", "a/b/c = x"},
		},
		{
			"names with a leading slash and dots",
			[][]tar.Header{{file("/a", "1"), file("./b", "2")}},
			[]string{"a = 1", "b = 2"},
		},
		{
			"the last of two entries of one name",
			[][]tar.Header{{file("a", "1"), file("a", "2"), dir("d/e"), file("d", "3")}},
			[]string{"a = 2", "d = 3"},
		},
		{
			"a whiteout",
			[][]tar.Header{{file("a", "1"), file("d/b", "2")}, {file(".wh.a", ""), file("d/.wh.b", "")}},
			[]string{"d/"},
		},
		{
			"a whiteout of a folder",
			[][]tar.Header{{file("d/e/f", "1"), file("x", "2")}, {file(".wh.d", "")}},
			[]string{"x = 2"},
		},
		{
			"a whiteout of what is not there", [][]tar.Header{{file("no/.wh.such", ""), file(".wh.file", "")}}, nil,
		},
		{
			"a whiteout does not hide its own layer's",
			[][]tar.Header{{file("a", "old")}, {file("a", "new"), file(".wh.a", "")}},
			[]string{"a = new"},
		},
		{
			"an opaque folder",
			[][]tar.Header{{file("d/old", "1"), file("d/sub/old", "2")}, {dir("d"), file("d/new", "3"), file("d/.wh..wh..opq", "")}},
			[]string{"d/", "d/new = 3"},
		},
		{
			"an opaque root",
			[][]tar.Header{{file("old", "1")}, {file(".wh..wh..opq", ""), file("new", "2")}},
			[]string{"new = 2"},
		},
		{
			"names of aufs's own",
			[][]tar.Header{{file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", "")}},
			[]string{".wh..wh.plnk/", ".wh..wh.plnk/1.2 = "},
		},
		{
			"a folder stays where one comes",
			[][]tar.Header{{file("d/a", "1")}, {dir("d"), file("d/b", "2")}},
			[]string{"d/", "d/a = 1", "d/b = 2"},
		},
		{
			"a link in the place of a folder",
			[][]tar.Header{{file("d/a", "1")}, {symlink("d", "e")}},
			[]string{"d -> e"},
		},
		{
			"files below a link to a folder",
			[][]tar.Header{{dir("usr/bin"), symlink("bin", "usr/bin")}, {file("bin/sh", "1")}},
			[]string{"bin -> usr/bin", "usr/", "usr/bin/", "usr/bin/sh = 1"},
		},
		{
			"a hard link, also to a link",
			[][]tar.Header{{file("a", "1"), hardlink("b", "a"), symlink("l", "gone"), hardlink("m", "/l")}},
			[]string{"a = 1", "b = 1", "l -> gone", "m -> gone"},
		},
		{
			"devices and pipes",
			[][]tar.Header{{
				{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, {Name: "pipe", Typeflag: tar.TypeFifo},
			}},
			[]string{"null Dc---------", "pipe p---------"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { applyAll(t, c.layers, c.want) })
	}
}

// Other tools take these, too, and images have them.
func TestApplyTakesOddEntries(t *testing.T) {
	needRoot(t)
	cases := []struct {
		name   string
		layers [][]tar.Header
		want   []string
	}{
		{
			"names with .. that lead nowhere else",
			[][]tar.Header{{file("a/../b", "1"), file("/../c", "2"), hardlink("d", "x/../b")}},
			[]string{"b = 1", "c = 2", "d = 1"},
		},
		{
			"whiteouts of overlayfs, and hard links to them",
			[][]tar.Header{
				{file("a", "1"), file("d/b", "2"), file("c", "3")},
				{{Name: "a", Typeflag: tar.TypeChar}, hardlink("d/b", "a"), {Name: "e", Typeflag: tar.TypeChar}, file("e", "4"), hardlink("f", "e")},
			},
			[]string{"c = 3", "d/", "e = 4", "f = 4"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { applyAll(t, c.layers, c.want) })
	}
}

// applyAll applies layers to one root, and compares what is there then.
func applyAll(t *testing.T, layers [][]tar.Header, want []string) {
	t.Helper()
	root := t.TempDir()
	for _, layer := range layers {
		if err := apply(t, root, archive(t, layer...)); err != nil {
			t.Fatal(err)
		}
	}
	if got := listing(t, root); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever a layer says, nothing outside its root may change. The root lies in a folder with a secret beside it.
func TestApplyStaysInside(t *testing.T) {
	needRoot(t)
	cases := []struct {
		name  string
		layer []tar.Header
		// refused: the layer can't be meant well. Else what it means lies inside the root.
		refused bool
		want    []string
	}{
		{"a name with ..", []tar.Header{file("../secret", "evil")}, true, nil},
		{"a name with .. further in", []tar.Header{file("a/../../secret", "evil")}, true, nil},
		{"a whiteout of ..", []tar.Header{file("a/.wh...", "")}, true, nil},
		{"a whiteout of .", []tar.Header{file("a/.wh..", "")}, true, nil},
		{
			"through an absolute link",
			[]tar.Header{symlink("out", "OUTSIDE"), file("out/secret", "evil")},
			false,
			[]string{"out -> OUTSIDE"},
		},
		{
			"through a link with ..",
			[]tar.Header{symlink("out", "../../.."), file("out/x", "1")},
			false,
			[]string{"out -> ../../..", "x = 1"},
		},
		{
			"over a link to a file", []tar.Header{symlink("out", "../secret"), file("out", "mine")}, false, []string{"out = mine"},
		},
		{
			"whiteout through a link", []tar.Header{symlink("out", ".."), file("out/.wh.secret", "")}, false, []string{"out -> .."},
		},
		{"a hard link with ..", []tar.Header{hardlink("a", "../secret")}, true, nil},
		{"a hard link to an absolute path", []tar.Header{hardlink("a", "OUTSIDE/secret")}, true, nil},
		{"a hard link through a link", []tar.Header{symlink("out", ".."), hardlink("a", "out/secret")}, true, []string{"out -> .."}},
		{"a hard link to the root", []tar.Header{hardlink("a", "/")}, true, nil},
		{
			"chmod through a link",
			[]tar.Header{symlink("out", "../secret"), {Name: "out", Typeflag: tar.TypeDir, Mode: 0o777}},
			false,
			[]string{"out/"},
		},
		{"a root that is no folder", []tar.Header{file("/.", "evil")}, true, nil},
		{"a name too long", []tar.Header{file(strings.Repeat("x", 300), "1")}, true, nil},
		{"a type that is unknown", []tar.Header{{Name: "a", Typeflag: 'Z'}}, true, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			outside := t.TempDir()
			root := filepath.Join(outside, "root")
			if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(outside, "secret"), []byte("untouched"), 0o600)); err != nil {
				t.Fatal(err)
			}
			for i := range c.layer {
				c.layer[i].Linkname = strings.ReplaceAll(c.layer[i].Linkname, "OUTSIDE", outside)
			}
			for i := range c.want {
				c.want[i] = strings.ReplaceAll(c.want[i], "OUTSIDE", outside)
			}
			err := apply(t, root, archive(t, c.layer...))
			if c.refused != (err != nil) {
				t.Errorf("refused %v, got error %v", c.refused, err)
			}
			checkSecret(t, outside)
			got := slices.DeleteFunc(listing(t, root), func(name string) bool {
				return strings.HasPrefix(name, strings.TrimPrefix(os.TempDir(), "/")) || name == "a/" // where a link led to, inside
			})
			if c.want != nil && !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func checkSecret(t *testing.T, outside string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(outside, "secret"))
	if err != nil || string(content) != "untouched" {
		t.Errorf("the file outside has %q, %v", content, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(outside, "secret"), &st); err != nil || st.Nlink != 1 || st.Mode&0o777 != 0o600 {
		t.Errorf("the file outside has %d links and mode %o, %v", st.Nlink, st.Mode, err)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside lie %v, %v", entries, err)
	}
}

func TestApplySetsMetadata(t *testing.T) {
	needRoot(t)
	when := time.Unix(1_234_567_890, 123_000_000)
	root := t.TempDir()
	program := file("program", "x")
	program.Mode, program.Uid, program.Gid, program.ModTime = 0o4755, 7, 8, when
	program.PAXRecords["SCHILY.xattr.user.note"] = "hello"
	program.PAXRecords["SCHILY.xattr.trusted.overlay.opaque"] = "y"
	program.PAXRecords["SCHILY.xattr.security.selinux"] = "evil"
	folder := dir("d")
	folder.ModTime, folder.Mode = when, 0o1777
	link := symlink("l", "d")
	link.Uid, link.ModTime = 9, when
	if err := apply(t, root, archive(t, folder, file("d/a", "1"), program, link)); err != nil {
		t.Fatal(err)
	}
	check := func(name string, mode, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != mode || st.Uid != uid || st.Gid != gid || st.Mtim.Nano() != when.UnixNano() {
			t.Errorf("%s has mode %o, owner %d:%d, time %v", name, st.Mode&0o7777, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()))
		}
	}
	check("program", 0o4755, 7, 8)
	check("d", 0o1777, 0, 0)
	check("l", 0o777, 9, 0)
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(filepath.Join(root, "program"), "user.note", value)
	if err != nil && !errors.Is(err, unix.ENOTSUP) || err == nil && string(value[:n]) != "hello" {
		t.Errorf("attribute user.note is %q, %v", value[:max(n, 0)], err)
	}
	if _, err := unix.Lgetxattr(filepath.Join(root, "program"), "trusted.overlay.opaque", value); !errors.Is(err, unix.ENODATA) {
		t.Errorf("an attribute of overlayfs came through: %v", err)
	}
}

func TestApplyRefusesWhatIsTooLarge(t *testing.T) {
	needRoot(t)
	sparse := file("zeros", strings.Repeat("\x00", testLimit+1))
	err := apply(t, t.TempDir(), archive(t, sparse))
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("got %v, want ErrResourceExhausted", err)
	}
}

// The tree is deeper than PATH_MAX, which takes a link in the middle, and whoever removes it may not have a descriptor
// open for each level.
func TestWhiteoutOfADeepTree(t *testing.T) {
	needRoot(t)
	half := strings.Repeat("d/", 1500)
	root := t.TempDir()
	limits := Limits{Size: 1 << 30, Ratio: 1, Entries: 10000}
	layers := [][]byte{archive(t, dir(half), symlink("link", half), file("link/"+half+"f", "1"), file("kept", "2")), archive(t, file(".wh.d", ""))}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		if err := applyWithin(t, root, layer, limits); err != nil {
			t.Fatal(err)
		}
	}
	if got := listing(t, root); !slices.Equal(got, []string{"kept = 2", "link -> " + half}) {
		t.Errorf("left is %q", got)
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	needRoot(t)
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Apply(ctx, root, bytes.NewReader(archive(t, file("a", "1"))), DefaultLimits(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestApplyRefusesDamage(t *testing.T) {
	needRoot(t)
	whole := archive(t, file("a", strings.Repeat("x", 5000)))
	for name, layer := range map[string][]byte{
		"cut in a file": whole[:2000], "cut in a header": whole[:100], "no archive": bytes.Repeat([]byte("rubbish!"), 200),
	} {
		if err := apply(t, t.TempDir(), layer); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want ErrInvalidArgument", name, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: layers have owners and devices")
	}
	var seed bytes.Buffer
	w := tar.NewWriter(&seed)
	for _, header := range []tar.Header{symlink("out", ".."), file("out/.wh.secret", ""), hardlink("a", "out"), dir("d")} {
		header.PAXRecords = nil
		if err := w.WriteHeader(&header); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, layer []byte) {
		outside := t.TempDir()
		root := filepath.Join(outside, "root")
		if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(outside, "secret"), []byte("untouched"), 0o600)); err != nil {
			t.Fatal(err)
		}
		_ = apply(t, root, layer) // any answer will do
		checkSecret(t, outside)
	})
}
