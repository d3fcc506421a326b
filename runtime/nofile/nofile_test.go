package nofile_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/nofile"
)

// TestRaised executes this test with a low limit, which Go raises before anything else of the program runs.
func TestRaised(t *testing.T) {
	if os.Getenv("LOW") == "" {
		command := exec.Command("sh", "-c", `ulimit -Sn 123; exec "$0" -test.run TestRaised -test.v`, os.Args[0])
		command.Env = append(os.Environ(), "LOW=1")
		output, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(output), "PASS") {
			t.Errorf("%v: %s", err, output)
		}
		return
	}
	var now unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		t.Fatal(err)
	}
	limit, raised := nofile.Raised()
	if limit.Soft != 123 || !raised || now.Cur <= 123 {
		t.Errorf("%+v, raised %v, now %+v", limit, raised, now)
	}
}
