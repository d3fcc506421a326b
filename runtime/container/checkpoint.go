package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/criu"
	"github.com/berthd/berth/runtime/rootfs"
)

// CheckpointOptions are what checkpoint and restore are told alike.
type CheckpointOptions struct {
	Program      string // criu
	Images, Work string // directories; without Work, criu's log is with the images
	Passed       criu.Options

	ShellJob                         bool   // a terminal from outside is allowed
	PreDump, LeaveRunning, LazyPages bool   // of checkpoint
	StatusFD                         int    // of checkpoint; -1 without
	Profile                          string // of restore: TYPE:NAME, the security profile that is wanted

	Warn func(text string) // told what is lost
}

// descriptorsFile is in the images and says what the standard descriptors were, under runc's name and in its format.
const descriptorsFile = "descriptors.json"

// What criu's names begin with of files and terminals that a container has open and can't see.
const outsideFile, outsideTerminal = "file[", "tty["

func isOutside(name string) bool {
	return strings.HasPrefix(name, outsideFile) || strings.HasPrefix(name, outsideTerminal)
}

// nullDevice stands for all masked files, which are behind it.
const nullDevice = "/dev/null"

// files are the directories of a checkpoint.
type files struct {
	images, work *os.File
	log          string
}

// openFiles opens them, makes those of criu that are missing, and tells criu of them.
func openFiles(o CheckpointOptions, log string, options *criu.Options) (f files, err error) {
	if f.images, err = os.Open(o.Images); err != nil {
		return f, fmt.Errorf("cannot open --image-path: %w", err)
	}
	options.Number(criu.ImagesDirFD, int(f.images.Fd()))
	options.Text(criu.LogFile, log)
	f.log = filepath.Join(o.Images, log)
	if o.Work == "" {
		return f, nil
	}
	if err := os.Mkdir(o.Work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		f.close()
		return f, fmt.Errorf("cannot create --work-path: %w", err)
	}
	if f.work, err = os.Open(o.Work); err != nil {
		f.close()
		return f, fmt.Errorf("cannot open --work-path: %w", err)
	}
	options.Number(criu.WorkDirFD, int(f.work.Fd()))
	f.log = filepath.Join(o.Work, log)
	return f, nil
}

func (f files) close() {
	for _, file := range []*os.File{f.images, f.work} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// explain says where criu's own account of its failure is, and quotes what it adds to the reason that criu has given.
func (f files) explain(failure error) error {
	if errors.Is(failure, criu.ErrFailed) {
		said := failure.Error()
		more := slices.DeleteFunc(criu.Complaints(f.log), func(complaint string) bool { return strings.Contains(said, complaint) })
		if len(more) > 0 {
			failure = fmt.Errorf("%w: %s", failure, strings.Join(more, "; "))
		}
	}
	return fmt.Errorf("%w (its log is %q)", failure, f.log)
}

// describeToCRIU sets what holds for each dump and restore.
func (c *Container) describeToCRIU(spec *specs.Spec, o CheckpointOptions, options *criu.Options) {
	const verbose = 4
	options.Number(criu.LogLevel, verbose)
	options.Flag(criu.NotifyScripts, true)
	options.Flag(criu.ManageCgroups, true)
	// The other end of a terminal is outside. If it isn't the container's own, the caller's takes its place.
	options.Flag(criu.OrphanPtsMaster, !o.ShellJob || spec.Process.Terminal)
	options.Number(criu.EmptyNamespaces, unix.CLONE_NEWNET) // interfaces come from who made the container
	options.Number(criu.CgroupsMode, int(criu.CgroupsDefault))
	// An administrator's settings for containers are where runc looks for them, unless the container has its own.
	if file, ok := c.Annotations["org.criu.config"]; !ok {
		options.Text(criu.ConfigFile, "/etc/criu/runc.conf")
	} else if file != "" {
		options.Text(criu.ConfigFile, file)
	}
	options.Append(o.Passed)
}

// layout is the container's file system as it was configured.
func (c *Container) layout(spec *specs.Spec) rootfs.Config {
	return rootfs.Config{
		Spec: spec, Bundle: c.Bundle, Root: c.Rootfs, CgroupPaths: c.Cgroups,
		CgroupNamespace: namespaceOf(spec, specs.CgroupNamespace) != nil,
	}
}

func namespaceOf(spec *specs.Spec, kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range spec.Linux.Namespaces {
		if spec.Linux.Namespaces[i].Type == kind {
			return &spec.Linux.Namespaces[i]
		}
	}
	return nil
}

// external are the namespaces that criu leaves alone if the container has joined them, and the names that they have in
// the images.
func external() map[specs.LinuxNamespaceType][2]string {
	return map[specs.LinuxNamespaceType][2]string{
		specs.NetworkNamespace: {"net", "extRootNetNS"},
		specs.PIDNamespace:     {"pid", "extRootPidNS"},
	}
}

// Checkpoint writes the container's processes to files. Afterwards the container is gone, unless it was only a
// PreDump or is to go on.
func (c *Container) Checkpoint(o CheckpointOptions) error {
	if err := c.require("checkpoint", specs.StateRunning, Paused); err != nil {
		return err
	}
	lost, err := c.strangers()
	if err == nil {
		err = c.dump(o)
	}
	if err != nil {
		return fmt.Errorf("cannot checkpoint container %q: %w", c.ID, err)
	}
	if len(lost) > 0 && !o.PreDump {
		o.Warn(fmt.Sprintf("the checkpoint of container %q is without processes that are not descendants of its first one, as executed ones: pids %v", c.ID, lost))
	}
	if o.PreDump || o.LeaveRunning {
		return nil
	}
	if err := c.Remove(); err != nil {
		return fmt.Errorf("container %q is checkpointed, but not removed: %w", c.ID, err)
	}
	return nil
}

func (c *Container) dump(o CheckpointOptions) (err error) {
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	if err := checkFeatures(o); err != nil {
		return err
	}
	var options criu.Options
	files, err := openFiles(o, "dump.log", &options)
	if err != nil {
		return err
	}
	defer files.close()
	c.describeToCRIU(spec, o, &options)
	options.Number(criu.Pid, c.Pid)
	options.Text(criu.Root, c.Rootfs)
	options.Flag(criu.LeaveRunning, o.LeaveRunning)
	if dir := freezerOf(c.Cgroups); dir != "" {
		options.Text(criu.FreezeCgroup, dir)
	}
	if err := c.nameNamespaces(spec, &options); err != nil {
		return err
	}
	kind := criu.PreDump
	if !o.PreDump {
		kind = criu.Dump
		if err := errors.Join(c.nameMounts(spec, &options), c.noteDescriptors(o, &options)); err != nil {
			return err
		}
	}
	session, err := criu.Start(o.Program, nil, nil)
	if err != nil {
		return err
	}
	if err := session.Ask(kind, options, func(n criu.Notification) error { return o.tell(n.Point) }); err != nil {
		return files.explain(err)
	}
	return nil
}

// strangers lists the container's processes that do not descend from its first one: criu does not look at them.
func (c *Container) strangers() ([]int, error) {
	if len(c.Cgroups) == 0 {
		return nil, nil // nobody knows
	}
	pids, err := c.Pids()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{c.Pid: true}
	for todo := []int{c.Pid}; len(todo) > 0; todo = todo[1:] {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", todo[0]))
		if err != nil {
			return nil, err
		}
		for _, thread := range threads {
			content, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended
			}
			for _, word := range strings.Fields(string(content)) {
				child, _ := strconv.Atoi(word)
				ours[child] = true
				todo = append(todo, child)
			}
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return ours[pid] }), nil
}

func checkFeatures(o CheckpointOptions) error {
	if o.PreDump {
		if err := criu.Require(o.Program, criu.MemoryTracking); err != nil {
			return err
		}
	}
	if !o.LazyPages {
		return nil
	}
	if o.StatusFD >= 0 {
		flags, err := unix.FcntlInt(uintptr(o.StatusFD), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
			return fmt.Errorf("descriptor %d of --status-fd is not open for writing", o.StatusFD)
		}
	}
	return criu.Require(o.Program, criu.LazyMemory)
}

// tell says on the status descriptor that the server of lazy pages is ready.
func (o CheckpointOptions) tell(point string) error {
	if point != "status-ready" || o.StatusFD < 0 {
		return nil
	}
	if _, err := unix.Write(o.StatusFD, []byte{0}); err != nil {
		return fmt.Errorf("cannot write to --status-fd: %w", err)
	}
	return unix.Close(o.StatusFD)
}

// freezerOf returns the cgroup by which criu can stop all processes at once.
func freezerOf(paths map[string]string) string {
	if unified, err := cgroup.IsUnified(); err == nil && unified {
		return paths[""]
	}
	return paths["freezer"]
}

// nameNamespaces keeps criu from dumping namespaces that the container has joined.
func (c *Container) nameNamespaces(spec *specs.Spec, options *criu.Options) error {
	for kind, names := range external() {
		if joined := namespaceOf(spec, kind); joined == nil || joined.Path == "" {
			continue
		}
		var stat unix.Stat_t
		path := fmt.Sprintf("/proc/%d/ns/%s", c.Pid, names[0])
		if err := unix.Stat(path, &stat); err != nil {
			return fmt.Errorf("cannot look at namespace %q: %w", path, err)
		}
		options.Text(criu.External, fmt.Sprintf("%s[%d]:%s", names[0], stat.Ino, names[1]))
	}
	return nil
}

// nameMounts tells criu which mounts show something of the host's, and under which names it finds them at the restore.
func (c *Container) nameMounts(spec *specs.Spec, options *criu.Options) error {
	mounts, err := rootfs.Externals(c.layout(spec))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		options.Pair(criu.ExternalMount, m.Destination, m.Destination)
	}
	masked, err := rootfs.MaskedFiles(c.Pid, spec.Linux.MaskedPaths)
	if err != nil {
		return err
	}
	for _, name := range masked {
		options.Pair(criu.ExternalMount, name, nullDevice)
	}
	return nil
}

// noteDescriptors keeps the names of the standard descriptors: pipes, and files that the container can't see, are
// replaced by those of who restores.
func (c *Container) noteDescriptors(o CheckpointOptions, options *criu.Options) error {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.Pid))
	if err != nil {
		return fmt.Errorf("cannot list the container's mounts: %w", err)
	}
	var names [3]string
	for fd := range names {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.Pid, fd))
		if err == nil && strings.HasPrefix(name, "/") {
			name, err = c.nameFile(fd, name, mounts, o.ShellJob)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot look at descriptor %d: %w", fd, err)
		}
		if isOutside(name) {
			options.Text(criu.External, name)
		}
		names[fd] = name
	}
	content, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Images, descriptorsFile), content, 0o600)
}

// nameFile returns a descriptor's path, or what criu calls the file if it is on none of the container's mounts. Terminals
// there have to be allowed.
func (c *Container) nameFile(fd int, path string, mounts []byte, terminals bool) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", c.Pid, fd), &stat); err != nil {
		return "", err
	}
	kind := stat.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFIFO && (kind != unix.S_IFCHR || !terminals) {
		return path, nil
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", c.Pid, fd))
	if err != nil {
		return "", err
	}
	var mount string
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			mount = strings.TrimSpace(value)
		}
	}
	id, err := strconv.Atoi(mount)
	if err != nil || bytes.HasPrefix(mounts, []byte(mount+" ")) || bytes.Contains(mounts, []byte("\n"+mount+" ")) {
		return path, err
	}
	if kind == unix.S_IFCHR {
		const firstPty, lastPty = 136, 143
		if major := unix.Major(stat.Rdev); major < firstPty || major > lastPty {
			return path, nil
		}
		return fmt.Sprintf("%s%x:%x]", outsideTerminal, stat.Rdev, stat.Dev), nil
	}
	return fmt.Sprintf("%s%x:%x]", outsideFile, id, stat.Ino), nil
}
