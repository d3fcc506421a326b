package failure_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/test/testenv"
)

func TestPullOntoAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	image := pushBusybox(t, testenv.Registry(t), 24<<20)
	root := testenv.ShortDir(t)
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", 16<<20)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := startDaemon(t, "--root", root)
	d.Root = root
	err := d.pull(image)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("the pull ended with %v", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", 128<<20)); err != nil {
		t.Fatal(err)
	}
	if err := d.pull(image); err != nil {
		t.Errorf("with more room: %v", err)
	}
	removeImage(t, d, image)
	d.Stop()
	d.noneOf(func() []string { return stored(t, d) })
}
