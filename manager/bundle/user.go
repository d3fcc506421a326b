package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/sys"
)

// accountLimit bounds what is read of a container's /etc/passwd and /etc/group, which the image's maker wrote.
const accountLimit = 4 << 20

// lookupUser finds the user, primary group, groups and home directory for "user", "user:group" or their numbers.
func lookupUser(rootfs, name string, groups []string) (specs.User, string, error) {
	passwd, err := readInRoot(rootfs, "etc/passwd")
	if err != nil {
		return specs.User{}, "", err
	}
	group, err := readInRoot(rootfs, "etc/group")
	if err != nil {
		return specs.User{}, "", err
	}
	defaults := &user.ExecUser{Home: "/"}
	found, err := user.GetExecUser(name, defaults, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return specs.User{}, "", errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot find user %q in the container: %w", name, err))
	}
	added, err := user.GetAdditionalGroups(groups, bytes.NewReader(group))
	if err != nil {
		return specs.User{}, "", errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot find additional groups %q in the container: %w", groups, err))
	}
	result := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, gid := range append(append([]int{found.Gid}, found.Sgids...), added...) {
		result.AdditionalGids = appendNew(result.AdditionalGids, uint32(gid))
	}
	return result, found.Home, nil
}

func appendNew(list []uint32, value uint32) []uint32 {
	for _, present := range list {
		if present == value {
			return list
		}
	}
	return append(list, value)
}

// readInRoot reads a small regular file. The image may have anything in its place: links are followed inside rootfs
// only, a device or pipe is not read, and a file that is too large is an error. A missing file is empty.
func readInRoot(rootfs, path string) ([]byte, error) {
	content, err := tryReadInRoot(rootfs, path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot read /%s of the container: %w", path, err))
	}
	return content, nil
}

func tryReadInRoot(rootfs, path string) ([]byte, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rootfs, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := sys.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(file, accountLimit+1))
	if err == nil && len(content) > accountLimit {
		err = fmt.Errorf("it has more than %d bytes", accountLimit)
	}
	return content, err
}
