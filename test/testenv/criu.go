package testenv

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// criuCheck says whether criu and the kernel go together: the reasons why not, and nothing if they do.
var criuCheck = sync.OnceValue(func() string {
	output, err := exec.Command("criu", "check").CombinedOutput()
	if err == nil {
		return ""
	}
	return strings.Join(strings.FieldsFunc(string(output), func(r rune) bool { return r == '\n' }), "; ")
})

// NeedCRIU skips the test where criu can't work, with its own words.
func NeedCRIU(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	Peer(t, "criu")
	if reason := criuCheck(); reason != "" {
		t.Skipf("criu can't work with this kernel: %s", reason)
	}
}
