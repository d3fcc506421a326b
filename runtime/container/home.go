package container

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/sys"
)

// home returns the user's home directory as the container's /etc/passwd has it, or "/", or nothing if the environment
// has one already. One that is empty is none. The file is opened inside the root, whatever links are in it.
func home(root string, process *specs.Process) string {
	for i := len(process.Env) - 1; i >= 0; i-- {
		value, is := strings.CutPrefix(process.Env[i], "HOME=")
		if is && value != "" {
			return ""
		}
		if is {
			break
		}
	}
	const fallback = "/"
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fallback
	}
	defer func() { _ = unix.Close(dir) }()
	content, err := readRegular(dir, "etc/passwd")
	if err != nil {
		return fallback
	}
	const uidField, homeField, fields = 2, 5, 7
	uid := strconv.FormatUint(uint64(process.User.UID), 10)
	for line := range strings.Lines(string(content)) {
		entry := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(entry) >= fields && entry[uidField] == uid && entry[homeField] != "" {
			return entry[homeField]
		}
	}
	return fallback
}

// readRegular reads the start of a file of an image, wherever links in it lead inside the root. Before it is opened it is
// looked at: to open a device may do something to the host, and so may reading the kernel's own files, which have no size.
func readRegular(dir int, name string) ([]byte, error) {
	fd, err := sys.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size == 0 {
		return nil, unix.EINVAL
	}
	file, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(file) }()
	const enough = 1 << 20
	content := make([]byte, min(stat.Size, enough))
	n, err := unix.Read(file, content)
	return content[:max(n, 0)], err
}
