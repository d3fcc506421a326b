package stores_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestUmaskIsOurOwn starts the programs as a hardened root shell does. Users of containers must reach layers all the same,
// and only root and the group the sockets.
func TestUmaskIsOurOwn(t *testing.T) {
	testenv.NeedRoot(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := testenv.ShortDir(t)
	content, snapshots := start(t, "berth-contentstore", dir), start(t, "berth-snapshotter", dir)
	d := startBerthd(t, content, snapshots)
	for name, pid := range map[string]int{"berth-contentstore": content.cmd.Process.Pid, "berth-snapshotter": snapshots.cmd.Process.Pid, "berthd": d.Pid()} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !bytes.Contains(status, []byte("Umask:\t0022")) {
			t.Errorf("%s has another umask, or %v", name, err)
		}
	}
	snapshots.prepare("container", "")
	for _, name := range []string{"", "snapshots", "snapshots/1"} {
		if info, err := os.Stat(filepath.Join(snapshots.Root, name)); err != nil || info.Mode().Perm()&0o011 != 0o011 {
			t.Errorf("%q can't be passed: %v, %v", name, info, err)
		}
	}
	if info, err := os.Stat(snapshots.Address); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}
