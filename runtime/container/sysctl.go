package container

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/config"
	"github.com/berthd/berth/runtime/launch"
)

// openSysctls opens the runtime's own /proc/sys, if there is anything to write there: a mount namespace that the container
// joins may have something else in its place.
func (s *setup) openSysctls() error {
	if len(s.container.Spec.Linux.Sysctl) == 0 {
		return nil
	}
	const dir = "/proc/sys"
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", dir, err)
	}
	s.sysctls = fd
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil || stat.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("cannot use %q: it is not in a file system of type \"proc\"", dir)
	}
	return nil
}

// addSysctls writes to files of /proc/sys and to nothing else: no link and no other mount leads elsewhere. What a file
// there means depends on the namespaces of who opens it.
func addSysctls(p *launch.Program, dir int, sysctls map[string]string) {
	how := &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	}
	for name, value := range sysctls {
		quoted := fmt.Sprintf("linux.sysctl %q to %q", name, value)
		file := p.Call("set", quoted, unix.SYS_OPENAT2, launch.Int(dir), p.String(config.SysctlPath(name)), launch.Pin(p, how), launch.Int(unsafe.Sizeof(*how))).Result()
		p.Call("set", quoted, unix.SYS_WRITE, file, p.String(value), launch.Int(len(value)))
		p.Close(file)
	}
}
