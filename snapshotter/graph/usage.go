package graph

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// DiskUsage returns how many bytes and inodes a tree takes on disk. A file with several links in it counts once. What
// disappears while it is measured is not counted.
func DiskUsage(root string) (size, inodes int64, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				stat := info.Sys().(*syscall.Stat_t) // always, on Linux
				if id := (inode{stat.Dev, stat.Ino}); stat.Nlink == 1 || info.IsDir() || !seen[id] {
					seen[id] = stat.Nlink > 1 && !info.IsDir()
					size += stat.Blocks * 512
					inodes++
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return size, inodes, err
}
