package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// furnished is a bare container that also has what its configuration asks the kernel for: cgroups, file systems, devices,
// hidden paths, no capabilities. What a runtime does for safety, to be asked about the container, and to read what it is to
// do is not in it, nor the start of a program.
type furnished struct {
	*bare
	groups []string
}

// newFurnished prepares the container of a bundle.
func newFurnished(bundle, id, program, argument string) (*furnished, error) {
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(content, spec); err != nil {
		return nil, err
	}
	f := &furnished{bare: newBare(filepath.Join(bundle, "rootfs"), program, argument)}
	hierarchies, err := testenv.Hierarchies()
	if err != nil {
		return nil, err
	}
	for _, hierarchy := range hierarchies {
		f.groups = append(f.groups, filepath.Join(hierarchy, id))
	}
	f.mounts(spec)
	f.devices()
	f.hide(spec)
	f.confine(spec)
	return f, nil
}

func (f *furnished) call(number uintptr, args ...uintptr) {
	next := [7]uintptr{number}
	copy(next[1:], args)
	f.calls = append(f.calls, next)
}

// text returns the address of a string that stays.
func (f *furnished) text(s string) uintptr {
	f.texts = append(f.texts, cString(s))
	return uintptr(unsafe.Pointer(f.texts[len(f.texts)-1]))
}

func (f *furnished) mount(source, target, kind string, flags uintptr, data string) {
	f.call(unix.SYS_MOUNT, f.text(source), f.text(target), f.text(kind), flags, f.text(data))
}

func (f *furnished) bind(source, target string, flags uintptr) {
	f.mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	if flags != 0 {
		f.mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
	}
}

func (f *furnished) directory(path string) {
	f.call(unix.SYS_MKDIRAT, uintptr(unix.AT_FDCWD&(1<<32-1)), f.text(path), 0o755)
}

// mounts makes the file systems, below the current directory.
func (f *furnished) mounts(spec *specs.Spec) {
	known := map[string]uintptr{"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "ro": unix.MS_RDONLY, "strictatime": unix.MS_STRICTATIME, "relatime": unix.MS_RELATIME}
	for _, m := range spec.Mounts {
		var flags uintptr
		var data []string
		for _, option := range m.Options {
			if flag, ok := known[option]; ok {
				flags |= flag
				continue
			}
			data = append(data, option)
		}
		target := strings.TrimPrefix(m.Destination, "/")
		if strings.HasPrefix(target, "dev/") {
			f.directory(target)
		}
		if m.Type == "cgroup" {
			f.hierarchies(target, flags)
			continue
		}
		f.mount(m.Source, target, m.Type, flags, strings.Join(data, ","))
	}
}

func (f *furnished) hierarchies(target string, flags uintptr) {
	if len(f.groups) == 1 {
		f.mount("cgroup", target, "cgroup2", flags, "")
		return
	}
	f.mount("cgroup", target, "tmpfs", flags&^unix.MS_RDONLY, "mode=755")
	for _, group := range f.groups {
		inside := filepath.Join(target, filepath.Base(filepath.Dir(group)))
		f.directory(inside)
		f.bind(group, inside, flags)
	}
	f.mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// devices makes those that every container has.
func (f *furnished) devices() {
	here := uintptr(unix.AT_FDCWD & (1<<32 - 1))
	for name, number := range map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7), "random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0),
	} {
		f.call(unix.SYS_MKNODAT, here, f.text("dev/"+name), unix.S_IFCHR|0o666, uintptr(number))
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		f.call(unix.SYS_SYMLINKAT, f.text(target), here, f.text("dev/"+name))
	}
}

// hide makes paths read-only or hides them, where they exist.
func (f *furnished) hide(spec *specs.Spec) {
	const safe = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, path := range spec.Linux.ReadonlyPaths {
		if _, err := os.Stat(path); err == nil {
			f.bind(path[1:], path[1:], safe)
		}
	}
	for _, path := range spec.Linux.MaskedPaths {
		switch info, err := os.Stat(path); {
		case err != nil:
		case info.IsDir():
			f.mount("tmpfs", path[1:], "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
		default:
			f.bind("/dev/null", path[1:], 0)
		}
	}
	if spec.Root.Readonly {
		f.mount("", ".", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
}

// confine names the container, and takes what it is not to have.
func (f *furnished) confine(spec *specs.Spec) {
	f.call(unix.SYS_SETHOSTNAME, f.text(spec.Hostname), uintptr(len(spec.Hostname)))
	for number := range uintptr(unix.CAP_LAST_CAP) + 1 {
		f.call(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, number)
	}
	f.call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	f.call(unix.SYS_SETSID)
}

// begin makes the cgroups, starts the program and adds it to them.
func (f *furnished) begin() (pid int, err error) {
	for _, group := range f.groups {
		if err := os.Mkdir(group, 0o755); err != nil {
			return 0, err
		}
		if err := fill(group); err != nil {
			return 0, err
		}
	}
	if pid, err = f.bare.begin(); err != nil {
		return 0, err
	}
	for _, group := range f.groups {
		if err := write(group, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return pid, err
		}
	}
	return pid, nil
}

// fill does what cgroup v1 needs before a process can be added, and says which devices may be used.
func fill(group string) error {
	switch filepath.Base(filepath.Dir(group)) {
	case "cpuset":
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			content, err := os.ReadFile(filepath.Join(filepath.Dir(group), name))
			if err != nil {
				return err
			}
			if err := write(group, name, strings.TrimSpace(string(content))); err != nil {
				return err
			}
		}
	case "devices":
		errs := []error{write(group, "devices.deny", "a")}
		for _, rule := range []string{"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"} {
			errs = append(errs, write(group, "devices.allow", rule))
		}
		return errors.Join(errs...)
	}
	return nil
}

func write(group, name, value string) error {
	return os.WriteFile(filepath.Join(group, name), []byte(value), 0)
}

// remove ends the program and removes the cgroups.
func (f *furnished) remove(pid int) error {
	err := end(pid)
	for _, group := range slices.Backward(f.groups) {
		if e := os.Remove(group); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove a container without a runtime: %w", err)
	}
	return nil
}
