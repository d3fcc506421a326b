package attack_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// host is a part of the host that no container may get at: a directory that lies beside the containers' roots, with
// the names in it that a runtime looks for, and all that is global.
type host struct {
	Dir    string
	Canary string // the name of a file in it that is nowhere else
	before []string
}

func newHost(t testing.TB) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{Dir: filepath.Join(testenv.ShortDir(t), "outside")}
	h.Canary = "canary-" + filepath.Ext(filepath.Dir(h.Dir))[1:]
	for _, dir := range []string{"dev/pts", "dev/shm", "etc", "proc/sys/kernel", "proc/self/attr", "sys/fs/cgroup", "mnt/sub"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		h.Canary: "secret", "etc/passwd": "root:x:0:0::/secret:/bin/sh\n", "proc/sys/kernel/shmmax": "1", "proc/self/attr/exec": "label",
		"dev/null": "", "dev/console": "console",
	} {
		if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.before = h.look(t)
	return h
}

// search is a command that prints where in a container the host's directory can be seen.
func (h *host) search() string {
	return `find / \( -path /proc -o -path /sys \) -prune -o -name ` + h.Canary + ` -print`
}

// untouched fails the test if anything of the host is not as it was.
func (h *host) untouched(t testing.TB) {
	t.Helper()
	after := h.look(t)
	for _, line := range after {
		if !slices.Contains(h.before, line) {
			t.Errorf("the host has changed: there is now %s", line)
		}
	}
	for _, line := range h.before {
		if !slices.Contains(after, line) {
			t.Errorf("the host has changed: there is no more %s", line)
		}
	}
	h.before = after
}

// changes is untouched for those who only want to tell of it.
func (h *host) changes(t testing.TB) []string {
	t.Helper()
	after := h.look(t)
	var changed []string
	for _, line := range after {
		if !slices.Contains(h.before, line) {
			changed = append(changed, line)
		}
	}
	h.before = after
	return changed
}

func (h *host) look(t testing.TB) []string {
	t.Helper()
	lines := slices.Concat(tree(t, h.Dir), devices(t), h.mounts(t))
	for _, name := range []string{"kernel/core_pattern", "kernel/hostname", "kernel/shmmax", "kernel/domainname", "net/ipv4/ip_forward", "net/ipv4/ping_group_range"} {
		content, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("sysctl %s = %s", name, content))
	}
	return lines
}

// tree describes every file of a directory.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		line := describe(path, info)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func describe(path string, info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%s %v %d:%d device %d", path, info.Mode(), stat.Uid, stat.Gid, stat.Rdev)
}

// devices describes the host's /dev, without what comes and goes with terminals.
func devices(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/dev")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && !info.IsDir() {
			lines = append(lines, describe("/dev/"+entry.Name(), info))
		}
	}
	return lines
}

// mounts are those at or of a place that has to do with this test.
func (h *host) mounts(t testing.TB) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, filepath.Dir(h.Dir)) {
			lines = append(lines, "mount "+line)
		}
	}
	return lines
}
