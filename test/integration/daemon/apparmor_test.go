package daemon_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// Containers are confined by the daemon's profile where the host has AppArmor, unless they are told otherwise, and what
// is said of them is what the kernel says.
func TestDefaultAppArmorProfile(t *testing.T) {
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || string(enabled) != "Y\n" {
		t.Skip("the kernel has no AppArmor: make test-vm PART=daemon has")
	}
	testenv.Peer(t, "apparmor_parser")
	w := newWorld(t)
	const tell = "cat /proc/self/attr/current; echo x >/proc/sysrq-trigger && echo written"
	for name, c := range map[string]struct {
		security *berthv1.Security
		want     string
	}{
		"default":    {nil, "berth-default"},
		"unconfined": {&berthv1.Security{ApparmorProfile: "unconfined"}, ""},
		"privileged": {&berthv1.Security{Privileged: true}, ""},
	} {
		spec := w.spec("sh", "-c", "cat /proc/self/attr/current; exec sleep 1000")
		spec.Security = c.security
		id := w.run(name, spec)
		kernel := "unconfined"
		if c.want != "" {
			kernel = c.want + " (enforce)"
		}
		w.untilLogged(id, kernel)
		if got := w.inspect(id).GetState().GetApparmorProfile(); got != c.want {
			t.Errorf("%s: berthd says %q, the kernel %q", name, got, kernel)
		}
		if c.want == "" {
			continue
		}
		if output, _ := w.exec(id, "sh", "-c", tell); !strings.HasPrefix(output, kernel) || strings.Contains(output, "written") {
			t.Errorf("%s: a process that is executed in it says %q", name, output)
		}
		if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id}); err != nil {
			t.Errorf("%s: the profile keeps the container from being stopped: %v", name, err)
		}
	}
	info, err := w.system.GetInfo(w.ctx(), &berthv1.GetInfoRequest{})
	if err != nil || !slices.Contains(info.GetSecurityOptions(), "name=apparmor") || len(info.GetWarnings()) > 0 {
		t.Errorf("info says %q and %q, %v", info.GetSecurityOptions(), info.GetWarnings(), err)
	}
}
