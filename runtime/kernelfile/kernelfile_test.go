package kernelfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadOnce reads files that fill the first buffer, and one of the kernel's.
func TestReadOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 20000} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, read := range map[string]func(string) ([]byte, error){"Read": Read, "ReadOnce": ReadOnce} {
			if got, err := read(path); err != nil || string(got) != want {
				t.Errorf("%s of %d bytes: %d bytes, %v", name, size, len(got), err)
			}
		}
	}
	once, err := ReadOnce("/proc/self/cgroup")
	whole, wholeErr := Read("/proc/self/cgroup")
	if err != nil || wholeErr != nil || string(once) != string(whole) {
		t.Errorf("%q, %v and %q, %v", once, err, whole, wholeErr)
	}
}
