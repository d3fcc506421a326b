package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestUpdate changes every limit that the machine's cgroups have, by its flag.
func TestUpdate(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	const unlimited = "9223372036854771712" // as the kernel of cgroup v1 has it, in pages
	for _, test := range []struct {
		flags      []string
		v1, wantV1 string
		v2, wantV2 string
	}{
		{flags: []string{"--pids-limit", "77"}, v1: "pids/pids.max", wantV1: "77", v2: "pids.max", wantV2: "77"},
		{flags: []string{"--memory", "64m"}, v1: "memory/memory.limit_in_bytes", wantV1: "67108864", v2: "memory.max", wantV2: "67108864"},
		{flags: []string{"--memory", "134217728"}, v1: "memory/memory.limit_in_bytes", wantV1: "134217728", v2: "memory.max", wantV2: "134217728"},
		{
			flags: []string{"--memory-reservation", "32MiB"}, v1: "memory/memory.soft_limit_in_bytes", wantV1: "33554432",
			v2: "memory.low", wantV2: "33554432",
		},
		{flags: []string{"--cpu-share", "512"}, v1: "cpu/cpu.shares", wantV1: "512", v2: "cpu.weight", wantV2: "59"},
		{
			flags: []string{"--cpu-period", "50000", "--cpu-quota", "25000"}, v1: "cpu/cpu.cfs_quota_us", wantV1: "25000",
			v2: "cpu.max", wantV2: "25000 50000",
		},
		{flags: []string{"--cpuset-cpus", "0", "--cpuset-mems", "0"}, v1: "cpuset/cpuset.cpus", wantV1: "0", v2: "cpuset.cpus", wantV2: "0"},
		{
			flags: []string{"--cpu-burst", "10000"}, v1: "cpu/cpu.cfs_burst_us", wantV1: "10000",
			v2: "cpu.max.burst", wantV2: "10000",
		},
		{flags: []string{"--cpu-period", "60000"}, v1: "cpu/cpu.cfs_period_us", wantV1: "60000", v2: "cpu.max", wantV2: "25000 60000"},
		{flags: []string{"--cpu-quota", "30000"}, v1: "cpu/cpu.cfs_quota_us", wantV1: "30000", v2: "cpu.max", wantV2: "30000 60000"},
		{flags: []string{"--cpu-quota", "-1"}, v1: "cpu/cpu.cfs_quota_us", wantV1: "-1", v2: "cpu.max", wantV2: "max 60000"},
		{flags: []string{"--memory-swap", "192m"}, v1: "memory/memory.memsw.limit_in_bytes", wantV1: "201326592", v2: "memory.swap.max", wantV2: "67108864"},
		{flags: []string{"--memory", "1.5g", "--memory-swap", "2g"}, v1: "memory/memory.limit_in_bytes", wantV1: "1610612736", v2: "memory.max", wantV2: "1610612736"},
		{flags: []string{"--memory-swap", "-1"}, v1: "memory/memory.memsw.limit_in_bytes", wantV1: unlimited, v2: "memory.swap.max", wantV2: "max"},
		{flags: []string{"--memory", "-1"}, v1: "memory/memory.limit_in_bytes", wantV1: unlimited, v2: "memory.max", wantV2: "max"},
		{flags: []string{"--pids-limit", "-1"}, v1: "pids/pids.max", wantV1: "max", v2: "pids.max", wantV2: "max"},
		{flags: []string{"--kernel-memory", "5m", "--kernel-memory-tcp", "5m"}, v1: "memory/memory.kmem.limit_in_bytes", wantV1: unlimited, v2: "memory.max", wantV2: "max"},
		{flags: []string{"--cpu-idle", "1"}, v1: "cpu/cpu.idle", wantV1: "1", v2: "cpu.idle", wantV2: "1"},
	} {
		c.must(append(append([]string{"update"}, test.flags...), c.ID)...)
		want := test.wantV1
		if onV2(t) {
			want = test.wantV2
		}
		if got := c.cgroupFile(test.v1, test.v2); got != want {
			t.Errorf("%v: %q, want %q", test.flags, got, want)
		}
	}
}

func TestUpdateBlockIOWeight(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	file := "blkio.bfq.weight"
	if onV2(t) {
		file = "io.bfq.weight"
	}
	dir := filepath.Join("/sys/fs/cgroup/blkio", c.Spec.Linux.CgroupsPath)
	if onV2(t) {
		dir = filepath.Join("/sys/fs/cgroup", c.Spec.Linux.CgroupsPath)
	}
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		t.Skip("no scheduler of block I/O with weights: ", err)
	}
	c.must("update", "--blkio-weight", "500", c.ID)
	wantContains(t, readFile(t, filepath.Join(dir, file)), "500")
}

func TestUpdateFromJSON(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	file := filepath.Join(c.Bundle, "resources.json")
	if err := os.WriteFile(file, []byte(`{"pids": {"limit": 55}, "new": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.verb("update", "--resources", file, "--pids-limit", "99", c.ID)
	if want := "field new: there is no such field, it is ignored\n"; r.Status != 0 || !strings.HasSuffix(r.Stderr, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	if got := c.cgroupFile("pids/pids.max", "pids.max"); got != "55" {
		t.Errorf("pids.max is %s", got)
	}
	command := c.command("update", "-r", "-", c.ID)
	command.Stdin = strings.NewReader(`{"pids": {"limit": 56}}`)
	if r := testenv.Execute(t, command); r.Status != 0 || c.cgroupFile("pids/pids.max", "pids.max") != "56" {
		t.Errorf("from stdin: %+v", r)
	}
}

func TestUpdateRefuses(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	c.start()
	for want, args := range map[string][]string{
		"it is not a number of bytes":        {"--memory", "much"},
		`"mm" is not a unit`:                 {"--memory", "5mm"},
		"it is out of range":                 {"--memory", "99999999999g"},
		"it has no class of service":         {"--l3-cache-schema", "L3:0=1"},
		"cannot read resources":              {"-r", "/nonexistent"},
		"field cpu.shares: it must be":       {"-r", "/dev/fd/0"},
		"exactly 1 argument(s), not 2":       {"--pids-limit", "3", "more"},
		"it must not be negative":            {"--cpu-share", "-1"},
		"it is not a whole number":           {"--cpu-quota", "1k"},
		"it is not a number from 10 to 1000": {"--blkio-weight", "70000"},
	} {
		command := c.command(append(append([]string{"update"}, args...), c.ID)...)
		command.Stdin = strings.NewReader(`{"cpu": {"shares": "many"}}`)
		if r := testenv.Execute(t, command); r.Status != 1 || !strings.Contains(r.Stderr, want) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: %+v, want %q", args, r, want)
		}
	}
}
