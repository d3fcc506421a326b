package rootfs

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for text, want := range map[string]options{
		"":                         {},
		"ro":                       {set: unix.MOUNT_ATTR_RDONLY},
		"rw,ro":                    {set: unix.MOUNT_ATTR_RDONLY},
		"ro,rw":                    {clear: unix.MOUNT_ATTR_RDONLY},
		"nosuid,nodev,noexec":      {set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
		"noatime":                  {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
		"noatime,relatime":         {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
		"relatime,strictatime":     {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
		"relatime":                 {clear: unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
		"nodiratime":               {set: unix.MOUNT_ATTR_NODIRATIME, clear: unix.MOUNT_ATTR__ATIME},
		"noatime,atime":            {},
		"atime":                    {},
		"rnoatime":                 {setAll: unix.MOUNT_ATTR_NOATIME, clearAll: unix.MOUNT_ATTR__ATIME},
		"rro":                      {setAll: unix.MOUNT_ATTR_RDONLY},
		"rnosuid,rrw":              {setAll: unix.MOUNT_ATTR_NOSUID, clearAll: unix.MOUNT_ATTR_RDONLY},
		"bind":                     {bind: true},
		"rbind":                    {bind: true, recursive: true},
		"rprivate,shared":          {propagation: []uint64{unix.MS_PRIVATE | unix.MS_REC, unix.MS_SHARED}},
		"size=64k,mode=755":        {superBlock: []string{"size=64k", "mode=755"}},
		"defaults,sync,silent":     {superFlags: []string{"sync"}},
		"sync,lazytime,async":      {superFlags: []string{"lazytime"}},
		"iversion,ro":              {set: unix.MOUNT_ATTR_RDONLY, version: true},
		"remount,bind":             {bind: true, remount: true},
		"lowerdir=/a:/b,userxattr": {superBlock: []string{"lowerdir=/a:/b", "userxattr"}},
	} {
		got := parseOptions(strings.Split(text, ","))
		if got.set != want.set || got.clear != want.clear || got.setAll != want.setAll || got.clearAll != want.clearAll {
			t.Errorf("%q: attributes %+v, want %+v", text, got, want)
		}
		if got.bind != want.bind || got.recursive != want.recursive || got.remount != want.remount || got.version != want.version {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
		if strings.Join(got.superBlock, ",") != strings.Join(want.superBlock, ",") || strings.Join(got.superFlags, ",") != strings.Join(want.superFlags, ",") {
			t.Errorf("%q: for the file system %+v, want %+v", text, got, want)
		}
		if len(got.propagation) != len(want.propagation) {
			t.Errorf("%q: propagation %v, want %v", text, got.propagation, want.propagation)
		}
	}
}

func TestRelativeStaysInside(t *testing.T) {
	for name, want := range map[string]string{
		"/": ".", "": ".", "/proc": "proc", "proc/": "proc", "/a/../../b": "b", "../../x": "x", "/a//b/./c": "a/b/c",
	} {
		if got := relative(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

// FuzzParseOptions looks for options that are understood in two ways at once, or make the parser fail badly.
func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{"ro", "rro,rw", "rbind,rprivate", "size=1", "r", "rr", "remount", "idmap,ridmap"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := parseOptions(strings.Split(text, ","))
		if o.set&o.clear&^unix.MOUNT_ATTR__ATIME != 0 || o.setAll&o.clearAll&^unix.MOUNT_ATTR__ATIME != 0 {
			t.Errorf("%q sets and clears the same: %+v", text, o)
		}
	})
}
