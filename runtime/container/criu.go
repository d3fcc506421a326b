package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
