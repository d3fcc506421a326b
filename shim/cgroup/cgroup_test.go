package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const hybrid = "12:pids:/a/b\n5:cpu,cpuacct:/a/b\n1:name=systemd:/a/c\n0::/a/b\n"
	v1, err := parse(strings.NewReader(hybrid), false)
	if err != nil {
		t.Fatal(err)
	}
	for controller, want := range map[string]string{
		"pids": "/sys/fs/cgroup/pids/a/b", "cpu": "/sys/fs/cgroup/cpu/a/b", "cpuacct": "/sys/fs/cgroup/cpuacct/a/b",
		"name=systemd": "/sys/fs/cgroup/systemd/a/c",
	} {
		if v1.v1[controller] != want {
			t.Errorf("%s is in %q, want %q", controller, v1.v1[controller], want)
		}
	}
	if v1.unified != "" {
		t.Errorf("version 2 in a hybrid system: %q", v1.unified)
	}
	v2, err := parse(strings.NewReader("0::/system.slice/x\n"), true)
	if err != nil || v2.unified != "/sys/fs/cgroup/system.slice/x" {
		t.Errorf("%+v, %v", v2, err)
	}
	if _, err := parse(strings.NewReader("0::/\n"), true); err == nil {
		t.Error("the root cgroup was taken for a container's")
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVersion2(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "memory.current", "4096\n")
	write(t, dir, "memory.max", "max\n")
	write(t, dir, "memory.stat", "anon 100\nfile 200\nworkingset_refault_anon 1\nworkingset_refault_file 2\n")
	write(t, dir, "memory.events", "low 0\noom 2\noom_kill 1\n")
	write(t, dir, "cpu.stat", "usage_usec 77\nnr_throttled 3\n")
	write(t, dir, "io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0\n")
	write(t, dir, "pids.current", "5\n")
	c := Cgroup{unified: dir}
	m := c.version2()
	if m.Memory.Usage != 4096 || m.Memory.UsageLimit != math.MaxUint64 || m.Memory.Anon != 100 || m.Memory.WorkingsetRefault != 3 {
		t.Errorf("memory %v", m.Memory)
	}
	if m.CPU.UsageUsec != 77 || m.CPU.NrThrottled != 3 || m.Pids.Current != 5 || m.MemoryEvents.OomKill != 1 {
		t.Errorf("cpu %v pids %v events %v", m.CPU, m.Pids, m.MemoryEvents)
	}
	if len(m.Io.Usage) != 1 || m.Io.Usage[0].Major != 8 || m.Io.Usage[0].Minor != 16 || m.Io.Usage[0].Wios != 4 {
		t.Errorf("io %v", m.Io)
	}
	if c.OOMKills() != 1 {
		t.Errorf("%d OOM kills", c.OOMKills())
	}
	stats, err := c.Stats()
	if err != nil || stats.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("%v, %v", stats.GetTypeUrl(), err)
	}
}

func TestVersion1(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "memory.usage_in_bytes", "4096\n")
	write(t, dir, "memory.stat", "cache 1\ntotal_rss 2\n")
	write(t, dir, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
	write(t, dir, "cpuacct.usage", "99\n")
	write(t, dir, "cpuacct.usage_percpu", "40 59\n")
	write(t, dir, "pids.max", "max\n")
	write(t, dir, "blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\nTotal 10\n")
	c := Cgroup{v1: map[string]string{"memory": dir, "cpuacct": dir, "pids": dir, "blkio": dir}}
	m := c.version1()
	if m.Memory.Usage.Usage != 4096 || m.Memory.Cache != 1 || m.Memory.TotalRSS != 2 {
		t.Errorf("memory %v", m.Memory)
	}
	if m.CPU.Usage.Total != 99 || len(m.CPU.Usage.PerCPU) != 2 || m.Pids.Limit != 0 {
		t.Errorf("cpu %v pids %v", m.CPU, m.Pids)
	}
	if entries := m.Blkio.IoServiceBytesRecursive; len(entries) != 1 || entries[0].Op != "Read" || entries[0].Value != 10 {
		t.Errorf("blkio %v", m.Blkio)
	}
	if c.OOMKills() != 4 {
		t.Errorf("%d OOM kills", c.OOMKills())
	}
	stats, err := c.Stats()
	if err != nil || stats.TypeUrl != "io.containerd.cgroups.v1.Metrics" {
		t.Errorf("%v, %v", stats.GetTypeUrl(), err)
	}
}
