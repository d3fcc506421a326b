package checkpoint_test

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// systemd makes the scope anew, with the limits of the configuration, and has the processes in it.
func TestSystemd(t *testing.T) {
	testenv.NeedCRIU(t)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("needs systemd, as make test-vm PART=systemd has")
	}
	c := newContainer(t, echo)
	c.systemd = true
	c.Spec.Linux.CgroupsPath = "system.slice:berth-test:" + c.ID
	limit := int64(123)
	c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
	c.run().ask("a", "a 1")
	c.checkpoint()
	c.restore().ask("b", "b 2")
	const unit = "/system.slice/berth-test-"
	file := "/sys/fs/cgroup" + unit + c.ID + ".scope/pids.max"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		file = "/sys/fs/cgroup/pids" + unit + c.ID + ".scope/pids.max"
	}
	if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != "123" {
		t.Errorf("pids.max %q, %v", got, err)
	}
	got, err := os.ReadFile("/proc/" + jsonNumber(c.state().Pid) + "/cgroup")
	if err != nil || !strings.Contains(string(got), unit+c.ID+".scope\n") {
		t.Errorf("cgroups %s, %v", got, err)
	}
	c.must("delete", "--force", c.ID)
	if _, err := os.Stat(file); err == nil {
		t.Error("the scope is left")
	}
}
