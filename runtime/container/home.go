package container

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	fd, err := unix.Openat2(dir, "etc/passwd", &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fallback
	}
	file := os.NewFile(uintptr(fd), "etc/passwd")
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return fallback
	}
	const uidField, homeField, fields, enough = 2, 5, 7, 1 << 20
	lines := bufio.NewScanner(io.LimitReader(file, enough))
	uid := strconv.FormatUint(uint64(process.User.UID), 10)
	for lines.Scan() {
		entry := strings.Split(lines.Text(), ":")
		if len(entry) >= fields && entry[uidField] == uid && entry[homeField] != "" {
			return entry[homeField]
		}
	}
	return fallback
}
