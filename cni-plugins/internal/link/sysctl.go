package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SetSysctl sets one value below /proc/sys, as the calling thread's network namespace sees it. A key that the kernel does not
// have (IPv6 is off) is no error. Writing what is there already is avoided: /proc/sys may be read-only.
func SetSysctl(key, value string) error {
	path := filepath.Join("/proc/sys", key)
	present, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && strings.TrimSpace(string(present)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("cannot set sysctl %s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}
