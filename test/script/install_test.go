package script_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestInstall runs hack/install.sh, which make install and make uninstall call, where everything but the destination is
// read-only: an install that leaves its destination fails.
func TestInstall(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Binary(t, "berthd")
	for name, place := range map[string]struct{ prefix, destdir string }{
		"prefix":  {prefix: filepath.Join(t.TempDir(), "prefix")},
		"destdir": {prefix: "/usr/local", destdir: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			top := place.destdir + place.prefix
			if err := os.MkdirAll(top, 0o755); err != nil {
				t.Fatal(err)
			}
			bin := filepath.Join(top, "bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				t.Fatal(err)
			}
			other := filepath.Join(bin, "other")
			if err := os.WriteFile(other, []byte("somebody else's"), 0o755); err != nil {
				t.Fatal(err)
			}
			before := filesBelow(t, top)
			installConfined(t, top, "install", place.prefix, place.destdir)
			for file, mode := range map[string]os.FileMode{
				"bin/berthd": 0o755, "libexec/berth/cni/bridge": 0o755, "lib/systemd/system/berthd.service": 0o644, "lib/sysusers.d/berth.conf": 0o644,
			} {
				if info, err := os.Stat(filepath.Join(top, file)); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v, %v", file, info, err)
				}
			}
			unit, err := os.ReadFile(filepath.Join(top, "lib/systemd/system/berthd.service"))
			if err != nil || !strings.Contains(string(unit), "ExecStart="+place.prefix+"/bin/berthd\n") {
				t.Errorf("the unit does not start berthd of the prefix: %s, %v", unit, err)
			}
			if out, err := exec.Command(filepath.Join(bin, "berth-runtime"), "--version").CombinedOutput(); err != nil {
				t.Errorf("the installed runtime: %v: %s", err, out)
			}
			installConfined(t, top, "uninstall", place.prefix, place.destdir)
			if left := filesBelow(t, top); left != before {
				t.Errorf("uninstall has left\n%s\nbefore install there was\n%s", left, before)
			}
		})
	}
	for _, prefix := range []string{"relative", "/a prefix"} {
		out, err := exec.Command(filepath.Join(testenv.Repo(t), "hack/install.sh"), "install", prefix).CombinedOutput()
		if err == nil || !strings.Contains(string(out), `PREFIX "`+prefix+`" must be`) {
			t.Errorf("prefix %q: %v: %s", prefix, err, out)
		}
	}
}

// installConfined runs hack/install.sh with the umask of a hardened root, in a mount namespace where only top can be
// written to.
func installConfined(t *testing.T, top string, args ...string) {
	t.Helper()
	script := filepath.Join(testenv.Repo(t), "hack/install.sh")
	const confine = `mount --bind "$1" "$1"
		awk '{print $5}' /proc/self/mountinfo | while read -r point; do
			case $(printf '%b' "$point") in "$1"|/dev*|/proc*) ;; *) mount -o remount,bind,ro "$(printf '%b' "$point")" || exit 1 ;; esac
		done || exit 1
		umask 077; shift; exec "$@"`
	command := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", confine, "sh", top, script}, args...)...)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("install.sh %q: %v: %s", args, err, out)
	}
}

// filesBelow lists the paths below dir but for directories, which a package manager may share, one a line.
func filesBelow(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			list.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}
