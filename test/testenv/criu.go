package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// criu is whether there is one in $PATH that works with the kernel: the reasons why not, and nothing if there is.
var criu struct {
	once   sync.Once
	reason string
}

// NeedCRIU skips the test where criu can't work, with its own words. What hack/fetch-criu.sh has unpacked is put in
// $PATH where the installed one does not work.
func NeedCRIU(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	criu.once.Do(func() { criu.reason = findCRIU(filepath.Join(Repo(t), ".cache/criu")) })
	if criu.reason != "" {
		t.Skipf("criu can't work with this kernel: %s", criu.reason)
	}
}

func findCRIU(fetched string) string {
	said, err := exec.Command("criu", "check").CombinedOutput()
	if err == nil {
		return ""
	}
	if exec.Command(filepath.Join(fetched, "criu"), "check").Run() == nil {
		_ = os.Setenv("PATH", fetched+":"+os.Getenv("PATH"))
		return ""
	}
	return strings.Join(strings.FieldsFunc(string(said), func(r rune) bool { return r == '\n' }), "; ")
}
