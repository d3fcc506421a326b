// Package overlay lays snapshots out for overlayfs: each one has a directory with what it adds to its parents,
// <id>/fs, and, if it can be written to, the work directory that overlayfs asks for, <id>/work.
package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/tree"
	"github.com/berthd/berth/snapshotter/graph"
)

// Layout implements snapshotter's layout over the directories in Dir.
type Layout struct {
	dir     string
	options []string // what every overlay mount here needs
}

// New returns the layout for the snapshot directories below dir.
func New(dir string) *Layout {
	return &Layout{dir: dir, options: mountOptions()}
}

// Make makes the directories of a snapshot. Its root has the owner and mode of the parent's root, because overlayfs
// shows those of the topmost layer.
func (l *Layout) Make(s graph.Snapshot) error {
	fs := l.path(s.ID, "fs")
	made, err := makeDirectory(fs, 0o755)
	if err != nil {
		return err
	}
	if s.Info.Kind == snapshotsapi.Kind_ACTIVE {
		if _, err := makeDirectory(l.path(s.ID, "work"), 0o711); err != nil {
			return err
		}
	}
	if len(s.Parents) == 0 || !made {
		return nil
	}
	parent, err := os.Stat(l.path(s.Parents[0], "fs"))
	if err != nil {
		return err
	}
	return copyOwner(fs, parent)
}

// Complete says whether the directories of a snapshot are there.
func (l *Layout) Complete(s graph.Snapshot) bool {
	_, err := os.Stat(l.path(s.ID, "fs"))
	if err == nil && s.Info.Kind == snapshotsapi.Kind_ACTIVE {
		_, err = os.Stat(l.path(s.ID, "work"))
	}
	return err == nil
}

// makeDirectory makes a directory with just that mode, whatever the umask is, unless it is there.
func makeDirectory(path string, mode os.FileMode) (made bool, err error) {
	err = os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.Chmod(path, mode)
}

func copyOwner(path string, of os.FileInfo) error {
	if stat, ok := of.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(path, int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	const modeBits = os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky
	return os.Chmod(path, of.Mode()&modeBits)
}

// Mounts returns one mount: a bind of the only layer if there is but one, else an overlay.
func (l *Layout) Mounts(s graph.Snapshot) []*types.Mount {
	view := s.Info.Kind == snapshotsapi.Kind_VIEW
	switch {
	case len(s.Parents) == 0 && view:
		return bind(l.path(s.ID, "fs"), "ro")
	case len(s.Parents) == 0:
		return bind(l.path(s.ID, "fs"), "rw")
	case len(s.Parents) == 1 && view:
		return bind(l.path(s.Parents[0], "fs"), "ro")
	}
	options := append([]string(nil), l.options...)
	if !view {
		options = append(options, "workdir="+l.path(s.ID, "work"), "upperdir="+l.path(s.ID, "fs"))
	}
	lower := make([]string, len(s.Parents))
	for i, id := range s.Parents {
		lower[i] = l.path(id, "fs")
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

func bind(path, access string) []*types.Mount {
	return []*types.Mount{{Type: "bind", Source: path, Options: []string{access, "rbind"}}}
}

// Usage measures what the snapshot itself adds.
func (l *Layout) Usage(ctx context.Context, s graph.Snapshot) (size, inodes int64, err error) {
	if s.Info.Kind == snapshotsapi.Kind_VIEW {
		return 0, 0, nil
	}
	return tree.Usage(ctx, l.path(s.ID, "fs"))
}

// Rebase is true: a layer's directory holds only what it adds, whatever is below it.
func (l *Layout) Rebase() bool { return true }

func (l *Layout) path(id uint64, name string) string {
	return filepath.Join(l.dir, strconv.FormatUint(id, 10), name)
}

// mountOptions returns index=off where the kernel knows it: with an index, a layer can't be used in two mounts at once.
// In a user namespace overlayfs has to keep its attributes in user.*, because trusted.* needs the host's root.
func mountOptions() []string {
	var options []string
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	if inUserNamespace() {
		options = append(options, "userxattr")
	}
	return options
}

func inUserNamespace() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false // a kernel without user namespaces
	}
	fields := strings.Fields(string(content))
	return len(fields) != 3 || fields[0] != "0" || fields[1] != "0" || fields[2] != "4294967295"
}
