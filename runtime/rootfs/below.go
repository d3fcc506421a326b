package rootfs

import (
	"fmt"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// hideBelow adds the taking away of the host's /proc and /sys, where its tree stays below the container's root. The kernel
// lets everybody with a user namespace of his own mount what is visible in full already, and there nothing is masked.
func (b *Builder) hideBelow() error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("proc", "sysfs"))
	if err != nil {
		return fmt.Errorf("cannot list the host's mounts: %w", err)
	}
	for _, mount := range mounts {
		b.hideMount(mount.FSType, mount.Mountpoint)
	}
	return nil
}

func (b *Builder) hideMount(kind, name string) {
	p := b.program
	at, quoted := p.String(name), fmt.Sprintf("the host's %q", name)
	locked, gone := p.NewLabel(), p.NewLabel()
	p.Call("take away", quoted, unix.SYS_UMOUNT2, at, launch.Int(unix.MNT_DETACH)).Then(gone).OnError(locked, unix.EINVAL, unix.EPERM)
	p.Place(locked) // as it came with a user namespace
	target := p.Call("hide", quoted, unix.SYS_OPENAT, launch.Cwd, at, launch.Int(unix.O_PATH|unix.O_CLOEXEC), launch.Int(0)).OnError(gone, unix.ENOENT).Result()
	empty := b.newMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: name}, options{set: unix.MOUNT_ATTR_RDONLY}, launch.Int(0))
	b.moveTo(empty, target).Explain(func(errno unix.Errno) error {
		return fmt.Errorf("cannot hide %s (type %q): %w", quoted, kind, errno)
	})
	p.Close(empty)
	p.Close(target)
	p.Place(gone)
}
