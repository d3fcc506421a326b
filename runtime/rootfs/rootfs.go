// Package rootfs writes the operations that make a container's file system: its mounts, devices, the change of root,
// and what is masked or read-only. Everything is done on descriptors: a mount point is opened inside the container's
// root once, and what was opened is what is mounted on, so that nothing in the container can lead a mount elsewhere.
package rootfs

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// Config is what there is to know about the container beside its configuration.
type Config struct {
	Spec    *specs.Spec
	Bundle  string
	Root    string // the absolute path of the root file system
	NoPivot bool   // move the root instead of pivot_root, for a host that runs from an initramfs
	OwnUser bool   // the container has a user namespace of its own

	BindDevices bool // devices can't be made, as in a user namespace

	// Detached keeps the root out of the tree of mounts, for a container without a mount namespace: else its mounts would be
	// the host's.
	Detached bool

	CgroupPaths     map[string]string // the container's cgroup by controller, "" for cgroup v2
	CgroupNamespace bool

	// Join, if set, adds the joining of the cgroup. It is called before the first operation that shows the cgroup to the
	// container or that the cgroup has to pay for.
	Join func()

	Warn func(text string) // told of what is no failure; may be nil

	// Console adds the operations that open a terminal in the container's devpts and returns its end; nil without.
	Console func(p *launch.Program, openPtmx func(flags int) launch.Op) launch.Arg
}

// Builder writes the operations. It holds what they share.
type Builder struct {
	operands
	config   Config
	program  *launch.Program
	root     launch.Arg // descriptor of the container's root
	mounts   launch.Arg // descriptor of the host's mount namespace, for a container without one
	ownDev   bool       // /dev is the container's own to fill
	dev      launch.Arg // descriptor of it, before anything could be mounted on it: the image may lead a volume there
	inDev    bool       // what is below /dev is found from there
	readOnly []finished
	shared   uint64             // linux.rootfsPropagation
	sources  []launch.Arg       // by index of the mount: what is bound, detached from the host's tree
	plans    map[string][]entry // what the child copies, by the mount point
	prepared []int              // descriptors of this process
	placed   []placed           // mount points so far
	provided map[int]provided   // by index of the mount: what is bound comes with another mount
}

// operands are in the child's memory, for any number of operations.
type operands struct {
	empty launch.Arg // ""
	hows  map[unix.OpenHow]launch.Arg
	looks *looks // nil before guardProc needs it
}

// New returns what writes the operations to p.
func New(p *launch.Program, config Config) *Builder {
	return &Builder{
		operands: operands{empty: p.String(""), hows: map[unix.OpenHow]launch.Arg{}}, config: config, program: p, ownDev: true,
		sources: make([]launch.Arg, len(config.Spec.Mounts)), provided: map[int]provided{},
	}
}

// Open adds the taking of what comes from the host's tree while the child still is the host's user: the root of a new
// user namespace may not be let in to where these things are. Without one, only the root is taken here, and what is
// bound at its turn, as the kernel lists mounts in the order of their making.
func (b *Builder) Open() error {
	if err := b.choosePropagation(); err != nil {
		return err
	}
	b.openRoot()
	if !b.config.OwnUser {
		return nil
	}
	for i, m := range b.config.Spec.Mounts {
		if _, later := b.provided[i]; !later {
			b.openSource(i, m, parseOptions(m.Options))
		}
	}
	return nil
}

// Fill adds everything from there to the container's own tree, in which the child then stands at /. What filled adds comes
// when all is mounted and the host's tree is still there.
func (b *Builder) Fill(filled func()) error {
	p, config := b.program, b.config
	if !slices.ContainsFunc(config.Spec.Mounts, func(m specs.Mount) bool { return isDev(m.Destination) }) {
		b.dev = b.directory("/dev")
	}
	for i, m := range config.Spec.Mounts {
		b.mount(i, m)
	}
	b.join()
	if b.ownDev {
		if err := b.devices(); err != nil {
			return err
		}
	}
	filled()
	if config.Console != nil {
		b.console()
	}
	if config.NoPivot && !config.Detached {
		if err := b.hideBelow(); err != nil {
			return err
		}
	}
	b.inDev = false
	if !config.Detached {
		b.enter()
	}
	b.reopenNull()
	b.maskPaths()
	b.readOnlyPaths()
	b.workingDirectory()
	for _, m := range b.readOnly {
		b.setAttributes(m.mount, m.name, attributeChange{set: unix.MOUNT_ATTR_RDONLY})
		b.closeUnlessKept(m.mount)
	}
	if b.shared&(unix.MS_SHARED|unix.MS_UNBINDABLE) != 0 {
		b.propagate(b.root, "/", []uint64{b.shared})
	}
	if config.Spec.Root.Readonly {
		b.setAttributes(b.root, "/", attributeChange{set: unix.MOUNT_ATTR_RDONLY})
	}
	if config.Detached {
		b.enterDetached()
	}
	p.Close(b.root)
	return nil
}

// openRoot adds the cutting of ties with the host's mounts, and the mount that will be the container's root.
func (b *Builder) openRoot() {
	p := b.program
	if b.config.Detached {
		b.leaveMounts()
	}
	b.separate()
	quoted := fmt.Sprintf("root file system %q", b.config.Root)
	at := p.Call("open", quoted, unix.SYS_OPENAT, launch.Cwd, p.String(b.config.Root), launch.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), launch.Int(0)).Result()
	b.root = p.Call("open", quoted, unix.SYS_OPEN_TREE, at, b.empty,
		launch.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|emptyPath)).Result()
	b.moveTo(b.root, at).Explain(func(errno unix.Errno) error { return fmt.Errorf("cannot mount %s: %w", quoted, errno) })
	p.Close(at)
}

// enter adds the change of root. The host's tree is gone afterwards.
func (b *Builder) enter() {
	p := b.program
	quoted := fmt.Sprintf("root file system %q", b.config.Root)
	dot := p.String(".")
	p.Call("enter", quoted, unix.SYS_FCHDIR, b.root)
	if b.config.NoPivot {
		p.Call("move", quoted, unix.SYS_MOVE_MOUNT, b.root, b.empty, launch.Cwd, p.String("/"), launch.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
		p.Call("change the root to", quoted, unix.SYS_CHROOT, dot)
	} else {
		untie := b.holdOldRoot()
		// The old root ends up on top of the new one, at the same place, and is taken away from there.
		p.Call("pivot to", quoted, unix.SYS_PIVOT_ROOT, dot, dot)
		untie()
		p.Call("detach", "the host's mounts", unix.SYS_UMOUNT2, dot, launch.Int(unix.MNT_DETACH))
	}
	p.Call("enter", quoted, unix.SYS_CHDIR, p.String("/"))
}

// workingDirectory adds the creation of process.cwd, as a user would expect of an image's WORKDIR.
func (b *Builder) workingDirectory() {
	if process := b.config.Spec.Process; process != nil && relative(process.Cwd) != "." {
		b.program.Close(b.directory(process.Cwd))
	}
}
