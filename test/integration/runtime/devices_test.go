package runtime_test

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// TestKindsOfDevices looks at device files of each kind, as they are made, or bound where nobody may make them.
func TestKindsOfDevices(t *testing.T) {
	devices := []specs.LinuxDevice{
		{Path: "/dev/character", Type: "c", Major: 1, Minor: 7, FileMode: pointer(os.FileMode(0o604)), UID: pointer(uint32(3)), GID: pointer(uint32(4))},
		{Path: "/dev/unbuffered", Type: "u", Major: 1, Minor: 5},
		{Path: "/dev/block", Type: "b", Major: 7, Minor: 200, FileMode: pointer(os.FileMode(0o640))},
		{Path: "/srv/deep/device", Type: "c", Major: 1, Minor: 3},
	}
	fifo := specs.LinuxDevice{Path: "/dev/fifo", Type: "p", FileMode: pointer(os.FileMode(0o620)), UID: pointer(uint32(5)), GID: pointer(uint32(6))}
	const script = `for d in character unbuffered block fifo; do stat -c '%n %F %a %u:%g %t:%T' /dev/$d; done; stat -c '%F %t:%T' /srv/deep/device; echo x > /srv/deep/device`
	const fifoLine = "/dev/fifo fifo 620 5:6 0:0\n"
	t.Run("made", func(t *testing.T) {
		c := newContainer(t).shell(script)
		c.Spec.Root.Readonly = false
		c.Spec.Linux.Devices = append(slices.Clone(devices), fifo)
		wantEqual(t, c.output(), `/dev/character character special file 604 3:4 1:7
/dev/unbuffered character special file 666 0:0 1:5
/dev/block block special file 640 0:0 7:c8
`+fifoLine+"character special file 1:3\n")
	})
	t.Run("in a user namespace", func(t *testing.T) {
		c := newContainer(t).shell("stat -c '%n %F %t:%T' /dev/full /dev/null; " + script[:len("for d in ")] + "fifo; do stat -c '%n %F %a %u:%g %t:%T' /dev/$d; done; echo x > /dev/null")
		mapUsers(t, c)
		c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/full", Type: "c", Major: 1, Minor: 7}, fifo}
		wantEqual(t, c.output(), "/dev/full character special file 1:7\n/dev/null character special file 1:3\n"+fifoLine)
	})
}

// TestRuntimeInAUserNamespace: there the runtime is root and may yet make no devices, nor limit them.
func TestRuntimeInAUserNamespace(t *testing.T) {
	c := newContainer(t).shell("stat -c '%n %F %t:%T' /dev/null /dev/tty; echo x > /dev/null && id -u")
	for i, m := range c.Spec.Mounts {
		c.Spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(option string) bool { return option == "gid=5" }) // a group that has no number there
	}
	c.writeConfig()
	command := c.command("run", "--bundle", c.Bundle, c.ID)
	r := testenv.Execute(t, exec.Command(testenv.Peer(t, "unshare"), append([]string{"--user", "--map-root-user", "--mount"}, command.Args...)...))
	if want := "/dev/null character special file 1:3\n/dev/tty character special file 5:0\n0\n"; r.Status != 0 || r.Stdout != want {
		t.Errorf("%+v, want %q", r, want)
	}
	c.gone()
}
