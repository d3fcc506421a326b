package rootfs

import (
	"fmt"
	"os"
	"path"
	"slices"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// defaultDevices are in every container, as the specification asks.
func defaultDevices() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	device := func(path string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor, FileMode: &mode}
	}
	return []specs.LinuxDevice{
		device("/dev/null", 1, 3), device("/dev/random", 1, 8), device("/dev/full", 1, 7),
		device("/dev/tty", 5, 0), device("/dev/zero", 1, 5), device("/dev/urandom", 1, 9),
	}
}

// devices adds the device files and the links that programs expect in /dev.
func (b *Builder) devices() error {
	p := b.program
	if b.dev == (launch.Arg{}) {
		b.dev = b.directory("/dev")
	}
	dev := b.dev
	named := map[string]bool{}
	for _, device := range b.config.Spec.Linux.Devices {
		named[path.Clean(device.Path)] = true
	}
	for _, device := range defaultDevices() {
		if !named[device.Path] {
			if err := b.device(dev, device); err != nil {
				return err
			}
		}
	}
	for _, device := range b.config.Spec.Linux.Devices {
		if err := b.device(dev, device); err != nil {
			return err
		}
	}
	links := [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}}
	if _, err := os.Lstat("/proc/kcore"); err == nil {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, link := range links {
		p.Call("create link", fmt.Sprintf("%q", "/dev/"+link[1]), unix.SYS_SYMLINKAT, p.String(link[0]), dev, p.String(link[1])).Tolerate(unix.EEXIST)
	}
	p.Call("remove", `"/dev/ptmx"`, unix.SYS_UNLINKAT, dev, p.String("ptmx"), launch.Int(0)).Tolerate(unix.ENOENT)
	p.Call("create link", `"/dev/ptmx"`, unix.SYS_SYMLINKAT, p.String("pts/ptmx"), dev, p.String("ptmx"))
	return nil
}

// device adds one device file. One that is there already has to be the same device.
func (b *Builder) device(dev launch.Arg, d specs.LinuxDevice) error {
	p := b.program
	kind, err := deviceType(d)
	if err != nil {
		return err
	}
	name := path.Clean("/" + d.Path)
	if name == "/dev/ptmx" {
		return nil // it's a link into the container's own devpts
	}
	if slices.ContainsFunc(b.config.Spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == name }) {
		return nil // the configuration says what is there instead, as with /dev/urandom bound at /dev/random
	}
	dir := dev
	if path.Dir(name) != "/dev" {
		dir = b.directory(path.Dir(name))
		defer b.closeUnlessKept(dir)
	}
	if b.config.BindDevices && kind != unix.S_IFIFO {
		b.bindDevice(name, d)
		return nil
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	quoted, base := fmt.Sprintf("device %q", d.Path), p.String(path.Base(name))
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	exists, done := p.NewLabel(), p.NewLabel()
	p.Call("create", quoted, unix.SYS_MKNODAT, dir, base, launch.Int(kind|mode), launch.Int(number)).OnError(exists, unix.EEXIST)
	if owner := ownerOf(d); owner != (ids{}) {
		p.Call("give away", quoted, unix.SYS_FCHOWNAT, dir, base, launch.Int(owner.uid), launch.Int(owner.gid), launch.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	p.Jump(done)
	p.Place(exists)
	fd := p.Call("open", quoted, unix.SYS_OPENAT, dir, base, launch.Int(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC), launch.Int(0)).Result()
	b.verifyDevice(fd, quoted, deviceID{kind: kind, major: uint32(d.Major), minor: uint32(d.Minor)})
	p.Close(fd)
	p.Place(done)
	return nil
}

type ids struct{ uid, gid uint32 }

func ownerOf(d specs.LinuxDevice) (owner ids) {
	if d.UID != nil {
		owner.uid = *d.UID
	}
	if d.GID != nil {
		owner.gid = *d.GID
	}
	return owner
}

// bindDevice adds a bind mount of the host's device, as nobody can make devices in a user namespace.
func (b *Builder) bindDevice(name string, d specs.LinuxDevice) {
	p := b.program
	target := b.target(name, false)
	mount := p.Call("open", fmt.Sprintf("the host's device %q", d.Path), unix.SYS_OPEN_TREE, launch.Cwd, p.String(d.Path),
		launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)).Result()
	b.attach(specs.Mount{Source: d.Path, Destination: d.Path, Type: "bind"}, mount, target)
	p.Close(mount)
}

func deviceType(d specs.LinuxDevice) (uint32, error) {
	switch d.Type {
	case "c", "u":
		return unix.S_IFCHR, nil
	case "b":
		return unix.S_IFBLK, nil
	case "p":
		return unix.S_IFIFO, nil
	}
	return 0, fmt.Errorf("linux.devices: device %q has the unknown type %q", d.Path, d.Type)
}

// deviceID says which device a file is.
type deviceID struct {
	kind         uint32
	major, minor uint32
}

// verifyDevice adds a check that a descriptor is of the device and of nothing else.
func (b *Builder) verifyDevice(fd launch.Arg, quoted string, want deviceID) {
	stat, _ := b.checkKind(fd, quoted, want.kind, unix.EEXIST)
	if want.kind != unix.S_IFIFO { // major and minor follow each other
		number := launch.Int(uintptr(unsafe.Pointer(stat)) + unsafe.Offsetof(stat.Rdev_major))
		b.program.Expect("use", quoted, number, launch.Masked{Mask: ^uint64(0), Value: uint64(want.major) | uint64(want.minor)<<32, Errno: unix.EEXIST})
	}
}

// checkKind adds a check that a descriptor is of a file of the kind, which fails with errno, and returns where the child
// finds what else is known of the file.
func (b *Builder) checkKind(fd launch.Arg, quoted string, kind uint32, errno unix.Errno) (*unix.Statx_t, launch.Op) {
	p, stat := b.program, &unix.Statx_t{}
	buffer := launch.Pin(p, stat)
	p.Call("check", quoted, unix.SYS_STATX, fd, b.empty, launch.Int(emptyPath), launch.Int(unix.STATX_TYPE), buffer)
	// 64 bits from the gid on hold the mode in their upper half.
	mode := launch.Int(uintptr(unsafe.Pointer(stat)) + unsafe.Offsetof(stat.Gid))
	return stat, p.Expect("use", quoted, mode, launch.Masked{Mask: unix.S_IFMT << 32, Value: uint64(kind) << 32, Errno: errno})
}

// reopenNull replaces the host's /dev/null, where a standard descriptor leads there, by the container's own: a
// checkpoint can't hold what is open outside of the container.
func (b *Builder) reopenNull() {
	p := b.program
	null := deviceID{kind: unix.S_IFCHR, major: 1, minor: 3}
	absent := p.NewLabel()
	for fd := range 3 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil || stat.Mode&unix.S_IFMT != null.kind || stat.Rdev != unix.Mkdev(null.major, null.minor) {
			continue
		}
		own := b.open("open", "/dev/null", unix.O_RDWR).OnError(absent, unix.ENOENT).Result()
		b.verifyDevice(own, `"/dev/null" of the container`, null)
		p.Call("redirect", "a standard descriptor", unix.SYS_DUP3, own, launch.Int(fd), launch.Int(0))
		p.Close(own)
	}
	p.Place(absent)
}

// console adds the terminal, and its place in the container's /dev.
func (b *Builder) console() {
	p := b.program
	b.inDev = b.ownDev
	slave := b.config.Console(p, func(flags int) launch.Op {
		return b.open("open", "/dev/pts/ptmx", flags)
	})
	if !b.ownDev {
		return
	}
	mount := p.Call("open", "the terminal to mount it at \"/dev/console\"", unix.SYS_OPEN_TREE, slave, b.empty,
		launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|emptyPath)).Result()
	target := b.target("/dev/console", false)
	b.attach(specs.Mount{Source: "terminal", Destination: "/dev/console", Type: "bind"}, mount, target)
	p.Close(mount)
}
