package runtime_test

import (
	"encoding/json"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berthd/berth/test/testenv"
)

func featuresOf(t *testing.T, binary string) features.Features {
	t.Helper()
	r := testenv.Execute(t, exec.Command(binary, "features"))
	var f features.Features
	if err := json.Unmarshal([]byte(r.Stdout), &f); err != nil || r.Status != 0 {
		t.Fatalf("%+v: %v", r, err)
	}
	return f
}

// TestFeaturesAreThoseOfRunc compares with Debian's runc. What it has and berth has not is listed here.
func TestFeaturesAreThoseOfRunc(t *testing.T) {
	ours, theirs := featuresOf(t, testenv.Binary(t, "berth-runtime")), featuresOf(t, testenv.Peer(t, "runc"))
	missing := func(ours, theirs []string) []string {
		return slices.DeleteFunc(slices.Clone(theirs), func(name string) bool { return slices.Contains(ours, name) })
	}
	for name, lists := range map[string][3][]string{
		"hooks":         {ours.Hooks, theirs.Hooks},
		"namespaces":    {ours.Linux.Namespaces, theirs.Linux.Namespaces},
		"capabilities":  {ours.Linux.Capabilities, theirs.Linux.Capabilities},
		"operators":     {ours.Linux.Seccomp.Operators, theirs.Linux.Seccomp.Operators},
		"actions":       {ours.Linux.Seccomp.Actions, theirs.Linux.Seccomp.Actions},
		"architectures": {ours.Linux.Seccomp.Archs, theirs.Linux.Seccomp.Archs},
		"mount options": {ours.MountOptions, theirs.MountOptions, {"acl", "noacl"}},
	} {
		if got := missing(lists[0], lists[1]); !slices.Equal(got, lists[2]) {
			t.Errorf("%s: runc has %q and berth has not, want %q", name, got, lists[2])
		}
		if !slices.IsSorted(lists[0]) && name != "hooks" && name != "capabilities" {
			t.Errorf("%s are not sorted: %q", name, lists[0])
		}
	}
	for _, flag := range ours.Linux.Seccomp.KnownFlags {
		c := filtered(t, specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.ActErrno}, "true")
		c.Spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(flag)}
		if r := c.run(); (r.Status == 0) != slices.Contains(ours.Linux.Seccomp.SupportedFlags, flag) && flag != string(specs.LinuxSeccompFlagWaitKillableRecv) {
			t.Errorf("flag %s: %+v, but the supported ones are %q", flag, r, ours.Linux.Seccomp.SupportedFlags)
		}
	}
	cgroups := ours.Linux.Cgroup
	cgroups.Rdma = nil // runc is silent about it
	if !reflect.DeepEqual(cgroups, theirs.Linux.Cgroup) {
		t.Errorf("cgroups: %+v", cgroups)
	}
	if ours.OCIVersionMax != specs.Version {
		t.Errorf("the version is %q", ours.OCIVersionMax)
	}
}

// TestFeaturesTellTheTruth mounts something with each of the options that features lists, and uses each namespace.
func TestFeaturesTellTheTruth(t *testing.T) {
	f := featuresOf(t, testenv.Binary(t, "berth-runtime"))
	c := newContainer(t, "true")
	for _, option := range f.MountOptions {
		if option == "mand" || option == "idmap" || option == "ridmap" {
			continue // mandatory locking has left the kernel, and the others have a test of their own
		}
		m := specs.Mount{Destination: "/m/" + option, Type: "tmpfs", Source: "tmpfs", Options: []string{option}}
		if option == "bind" || option == "rbind" {
			m = specs.Mount{Destination: "/m/" + option, Type: "bind", Source: t.TempDir(), Options: []string{option}}
		}
		if option == "remount" {
			m.Destination = "/m/bind"
		}
		c.Spec.Mounts = append(c.Spec.Mounts, m)
	}
	c.Spec.Linux.Namespaces = nil
	for _, namespace := range f.Linux.Namespaces {
		c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(namespace)})
	}
	c.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 0, Size: 70000}}
	c.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 0, Size: 70000}}
	if r := c.run(); r.Status != 0 {
		t.Errorf("%+v", r)
	}
}

// TestMountLabel: without SELinux the kernel knows no labels. That is an error which names the label, and nothing else.
func TestMountLabel(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	c := newContainer(t).shell("mount")
	c.Spec.Linux.MountLabel = label
	if filesystems := readFile(t, "/proc/filesystems"); !strings.Contains(filesystems, "selinuxfs") {
		c.refused(label)
		return
	}
	if out := c.output(); !strings.Contains(out, label) {
		t.Errorf("no mount has the label:\n%s", out)
	}
}
