package runtime_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSystemdKeepsLimits: whatever a cgroup has been given stays, also when systemd writes again what it knows of.
func TestSystemdKeepsLimits(t *testing.T) {
	m := startManager(t)
	for name, resources := range map[string]specs.LinuxResources{
		"memory": {
			Memory: &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Swap: pointer(int64(96 << 20)), Reservation: pointer(int64(32 << 20))},
			Pids:   &specs.LinuxPids{Limit: pointer(int64(33))},
		},
		"memory without a limit": {Memory: &specs.LinuxMemory{Limit: pointer(int64(-1))}},
		"processors": {CPU: &specs.LinuxCPU{
			Quota: pointer(int64(35000)), Period: pointer(uint64(70000)), Burst: pointer(uint64(10000)), Shares: pointer(uint64(300)), Cpus: "0", Mems: "0",
		}},
		"idle":  {CPU: &specs.LinuxCPU{Idle: pointer(int64(1))}},
		"disks": {BlockIO: &specs.LinuxBlockIO{Weight: pointer(uint16(300))}},
	} {
		t.Run(name, func(t *testing.T) {
			if resources.BlockIO != nil && !onV2(t) {
				t.Skip("needs cgroup v2: on v1 BFQ alone has weights, and systemd's go up to 181 there")
			}
			s := newScope(t, m)
			resources.Devices = s.Spec.Linux.Resources.Devices
			s.Spec.Linux.Resources = &resources
			s.start()
			s.keeps(s.settings())
			if name == "idle" {
				s.must("update", "--cpu-idle", "0", s.ID)
				s.keeps(s.settings())
			}
		})
	}
}

// keeps checks that the cgroup's files say the same whatever systemd does.
func (s *scope) keeps(want map[string]string) {
	s.t.Helper()
	for _, happens := range []string{"daemon-reload", "set-property --runtime " + s.unit + " MemoryAccounting=no CPUAccounting=no IOAccounting=yes"} {
		s.m.systemctl(strings.Fields(happens)...)
		for file, got := range s.settings() {
			if got != want[file] {
				s.t.Errorf("after %s %s is %q, it was %q", happens, file, got, want[file])
			}
		}
	}
}

// changing are files that say something else by themselves.
var changing = regexp.MustCompile(`procs$|tasks$|threads$|pressure$|usage|failcnt|\.kill$|reclaim$|peak$|notify_on_release|force_empty|event_control|clone_children`)

// settings is what the cgroup's files say that can be written to.
func (s *scope) settings() map[string]string {
	s.t.Helper()
	dirs := []string{s.dir}
	if !onV2(s.t) {
		dirs, _ = filepath.Glob(strings.Replace(s.dir, "/memory/", "/*/", 1))
	}
	found := map[string]string{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, _ error) error {
			info, err := entry.Info()
			if err != nil || info.IsDir() || info.Mode()&0o200 == 0 || changing.MatchString(path) {
				return nil
			}
			if content, err := os.ReadFile(path); err == nil {
				found[path] = string(content)
			}
			return nil
		})
	}
	return found
}
