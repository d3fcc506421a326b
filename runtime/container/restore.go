package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/cleanup"
	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/criu"
	"github.com/berthd/berth/runtime/hooks"
	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/namespace"
	"github.com/berthd/berth/runtime/netdevice"
	"github.com/berthd/berth/runtime/process"
	"github.com/berthd/berth/runtime/rootfs"
	"github.com/berthd/berth/runtime/terminal"
)

// restoration is the making of a container from the files of a checkpoint.
type restoration struct {
	*Created
	options CreateOptions
	images  CheckpointOptions
	passed  criu.Options
	files   files
	joined  []*os.File // namespaces that criu puts the processes into
	root    string     // where criu finds the root file system
}

// Restore makes a container whose processes go on where they were at the checkpoint. On failure nothing of it stays.
func Restore(o CreateOptions, images CheckpointOptions) (_ *Created, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer func() { err = undo.Run(context.Background(), err) }()
	created, group, err := register(o, nil, &undo)
	if err != nil {
		return nil, err
	}
	if group == nil {
		return nil, fmt.Errorf("cannot restore container %q: it needs a cgroup", o.ID)
	}
	defer func() { _ = group.Close() }()
	undo.Add(func(context.Context) error {
		if created.lost {
			return nil
		}
		return group.Kill()
	})
	if err := created.createClass(&undo); err != nil {
		return nil, err
	}
	r := &restoration{Created: created, options: o, images: images, root: filepath.Join(created.dir, "criu-root")}
	if err := r.restore(group); err != nil {
		return nil, fmt.Errorf("cannot restore container %q: %w", o.ID, err)
	}
	return created, o.announce(created.process)
}

func (r *restoration) restore(group cgroup.Cgroup) error {
	r.describeToCRIU(r.Spec, r.images, &r.passed)
	r.passed.Flag(criu.RestoreSibling, true) // the processes become this one's children, not criu's
	r.passed.Flag(criu.EvasiveDevices, true)
	r.passed.Text(criu.Root, r.root)
	defer r.close()
	if err := errors.Join(r.joinNamespaces(), r.inheritDescriptors()); err != nil {
		return err
	}
	if err := os.Mkdir(r.root, 0o755); err != nil {
		return err
	}
	defer func() { _ = os.Remove(r.root) }()
	var session *criu.Session
	if err := namespace.WithOwnMounts(func() (err error) { session, err = r.start(); return err }); err != nil {
		return err
	}
	if err := r.place(session.Pid, group); err != nil {
		session.Close()
		return err
	}
	if err := session.Ask(criu.Restore, r.passed, r.answer); err != nil {
		return r.files.explain(err)
	}
	if r.process == nil {
		return errors.New("criu has not said which process it restored")
	}
	r.checkPrivileges()
	return r.checkProfile()
}

func (r *restoration) close() {
	r.files.close()
	for _, file := range r.joined {
		_ = file.Close()
	}
}

// start prepares the root file system and starts criu, in a mount namespace of their own. The root of a container has
// to be a mount for criu, and not covered by another one.
func (r *restoration) start() (*criu.Session, error) {
	var err error
	if r.files, err = openFiles(r.images, "restore.log", &r.passed); err != nil { // here, as criu mounts something in them
		return nil, err
	}
	root, err := unix.Open(r.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = rootfs.Bind(r.Rootfs, root)
	_ = unix.Close(root)
	if err != nil {
		return nil, err
	}
	if err := rootfs.MakeMountPoints(r.layout(r.Spec)); err != nil {
		return nil, err
	}
	if err := r.findMounts(); err != nil { // now that all links in the root lead somewhere
		return nil, err
	}
	if err := process.Bequeath(r.Spec); err != nil { // of what criu does not restore
		return nil, err
	}
	if r.Spec.Process.Terminal {
		return criu.Start(r.images.Program, nil, r.joined)
	}
	return criu.Start(r.images.Program, &[3]*os.File{os.Stdin, os.Stdout, os.Stderr}, r.joined)
}

// place moves criu to the container's cgroup and class of service, where the processes are born then, and says so.
func (r *restoration) place(pid int, group cgroup.Cgroup) error {
	if err := errors.Join(group.Add(pid), r.Class.Add(pid)); err != nil {
		return err
	}
	process.FreeOfAffinity(pid)
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return fmt.Errorf("cannot find criu's cgroup: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		_, line, _ = strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, _ := strings.Cut(line, ":")
		for controller := range strings.SplitSeq(controllers, ",") {
			r.passed.Pair(criu.CgroupRoot, controller, path)
		}
	}
	return nil
}

// joinNamespaces makes criu put the processes into the namespaces that are joined by path.
func (r *restoration) joinNamespaces() error {
	known := external()
	for _, n := range r.Spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		names, ok := known[n.Type]
		if !ok {
			if n.Type == specs.CgroupNamespace || n.Type == specs.TimeNamespace {
				return fmt.Errorf("criu can't join the %s namespace %q", n.Type, n.Path)
			}
			r.passed.Pair(criu.JoinNamespace, criuName(n.Type), n.Path)
			continue
		}
		file, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("cannot open the %s namespace: %w", n.Type, err)
		}
		r.passed.Inherit(names[1], criu.FirstFile+len(r.joined))
		r.joined = append(r.joined, file)
	}
	return nil
}

// criuName is a namespace's name in /proc.
func criuName(kind specs.LinuxNamespaceType) string {
	if kind == specs.MountNamespace {
		return "mnt"
	}
	return string(kind)
}

// findMounts tells criu where the mounts are now that show something of the host's.
func (r *restoration) findMounts() error {
	mounts, err := rootfs.Externals(r.layout(r.Spec))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		r.passed.Pair(criu.ExternalMount, m.Destination, m.Source)
	}
	if len(r.Spec.Linux.MaskedPaths) > 0 {
		r.passed.Pair(criu.ExternalMount, nullDevice, nullDevice)
	}
	return nil
}

// inheritDescriptors makes the standard descriptors of this process replace those that led outside.
func (r *restoration) inheritDescriptors() error {
	content, err := os.ReadFile(filepath.Join(r.images.Images, descriptorsFile))
	if err != nil {
		return fmt.Errorf("cannot read the checkpoint's descriptors: %w", err)
	}
	var names []string
	if err := json.Unmarshal(content, &names); err != nil {
		return fmt.Errorf("cannot understand the checkpoint's %s: %w", descriptorsFile, err)
	}
	const standard = 3
	for fd, name := range names {
		if fd < standard && (strings.HasPrefix(name, "pipe:") || isOutside(name)) {
			r.passed.Inherit(name, fd)
		}
		if strings.HasPrefix(name, outsideTerminal) {
			r.passed.Flag(criu.ShellJob, false) // which would make criu look for the terminal itself
		}
	}
	return nil
}

// answer does what is to be done at a point of the restore.
func (r *restoration) answer(n criu.Notification) error {
	switch n.Point {
	case "setup-namespaces":
		return r.setUp(n.Pid)
	case "post-restore":
		return r.adopt(n.Pid)
	case "orphan-pts-master":
		if r.options.Console < 0 {
			return errors.New("the container has a terminal, and there is no --console-socket for it")
		}
		return terminal.Send(r.options.Console, n.FD)
	}
	return nil
}

// setUp comes when the namespaces are there, and empty.
func (r *restoration) setUp(pid int) error {
	if network := namespaceOf(r.Spec, specs.NetworkNamespace); network != nil && network.Path == "" {
		if err := netdevice.Move(r.Spec.Linux.NetDevices, pid); err != nil {
			return err
		}
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		if err := namespace.Within(unix.CLONE_NEWNET, path, r.setUpNetwork); err != nil {
			return err
		}
	}
	if r.Spec.Hooks == nil {
		return nil
	}
	return r.whileCreating(func() error {
		state := r.OCIState(specs.StateCreating)
		state.Pid = pid
		//nolint:staticcheck // prestart hooks are deprecated, and still what people have
		if err := hooks.Run("prestart", r.Spec.Hooks.Prestart, state); err != nil {
			return err
		}
		return hooks.Run("createRuntime", r.Spec.Hooks.CreateRuntime, state)
	})
}

// setUpNetwork does what criu leaves out because the network is not in the images. It runs inside.
func (r *restoration) setUpNetwork() error {
	if err := raiseLoopback(); err != nil {
		return err
	}
	for name, value := range r.Spec.Linux.Sysctl {
		file := config.SysctlPath(name)
		if !strings.HasPrefix(file, "net/") {
			continue // has come back with its namespace
		}
		if err := os.WriteFile("/proc/sys/"+file, []byte(value), 0); err != nil {
			return fmt.Errorf("cannot set linux.sysctl %q to %q: %w", name, value, err)
		}
	}
	return nil
}

func raiseLoopback() error {
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot create a socket: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("cannot bring up the loopback interface: %w", err)
	}
	return nil
}

// adopt comes when the processes are there, and have not gone on yet.
func (r *restoration) adopt(pid int) error {
	var err error
	if r.process, err = launch.Adopt(pid); err != nil {
		return err
	}
	if err := r.protectRoot(pid); err != nil {
		return err
	}
	start, _, err := processTimes(pid)
	if err != nil {
		return fmt.Errorf("cannot find the restored process: %w", err)
	}
	r.Pid, r.StartTime = pid, start
	// Their clocks go on where they were: criu gives them a time namespace for it, if the kernel has it.
	var own, theirs unix.Stat_t
	if unix.Stat("/proc/self/ns/time", &own) == nil && unix.Stat(fmt.Sprintf("/proc/%d/ns/time", pid), &theirs) == nil {
		r.TimeNamespace = own.Ino != theirs.Ino
	}
	return r.save()
}

// checkProfile fails if the process is not confined as it was asked for: criu changes the profile of what had one only.
func (r *restoration) checkProfile() error {
	_, wanted, _ := strings.Cut(r.images.Profile, ":")
	if wanted == "" {
		return nil
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", r.Pid))
	if err != nil {
		return fmt.Errorf("cannot see the security profile: %w", err)
	}
	profile := strings.TrimRight(string(content), "\n\x00")
	if bare, _, _ := strings.Cut(profile, " ("); profile != wanted && bare != wanted { // AppArmor adds the mode
		return fmt.Errorf("criu has not applied --lsm-profile %q: the profile is %q, and one that had none gets none", r.images.Profile, profile)
	}
	return nil
}

// protectRoot makes the root file system read-only again, which criu before 4 forgets.
func (r *restoration) protectRoot(pid int) error {
	root := fmt.Sprintf("/proc/%d/root", pid)
	var stat unix.Statfs_t
	if err := unix.Statfs(root, &stat); err != nil {
		return fmt.Errorf("cannot look at the root file system: %w", err)
	}
	if r.Spec.Root == nil || !r.Spec.Root.Readonly || stat.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	return namespace.Within(unix.CLONE_NEWNS, fmt.Sprintf("/proc/%d/ns/mnt", pid), func() error {
		err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err != nil {
			return fmt.Errorf("cannot make the root file system read-only: %w", err)
		}
		return nil
	})
}

// checkPrivileges warns of a loss that there is no way to make good from outside: criu knows noNewPrivileges since 3.18,
// and sets it last.
func (r *restoration) checkPrivileges() {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Pid))
	if err == nil && r.Spec.Process.NoNewPrivileges && strings.Contains(string(status), "\nNoNewPrivs:\t0\n") {
		r.images.Warn("criu has restored the container without process.noNewPrivileges: programs with the set-user-id bit have an effect in it now")
	}
}
