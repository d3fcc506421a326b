package script_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// daemon is a berthd of a story's own, and the command line to it.
type daemon struct {
	*testenv.Daemon
	t testing.TB
}

func startDaemon(t testing.TB) *daemon {
	t.Helper()
	return &daemon{Daemon: testenv.StartDaemon(t), t: t}
}

// dir is the directory with all that is berthd's.
func (d *daemon) dir() string { return filepath.Dir(d.Root) }

// berth runs the command line against this daemon.
func (d *daemon) berth(args ...string) (string, error) {
	command := exec.Command(testenv.Binary(d.t, "berth"), args...)
	command.Env = append(os.Environ(), "BERTH_HOST="+d.Host)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("berth %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// becomesEmpty fails the test unless all of the containers goes away. A shim ends by itself, a moment after its
// container was removed.
func (d *daemon) becomesEmpty() {
	d.t.Helper()
	testenv.Until(d.t, 5*time.Second, "nothing is left of the containers", d.empty)
}

// empty tells what there still is of containers while berthd runs.
func (d *daemon) empty() error {
	if ids, err := d.berth("ps", "-aq"); err != nil || ids != "" {
		return errors.Join(err, fmt.Errorf("there are containers: %q", ids))
	}
	for _, trace := range d.Traces() {
		if strings.HasPrefix(trace, "mount ") || strings.Contains(trace, "containerd-shim-berth-v2") || strings.Contains(trace, "berth-runtime ") {
			return fmt.Errorf("there is %s", trace)
		}
	}
	for _, pattern := range []string{
		filepath.Join(d.State, "netns", "*"), filepath.Join(d.State, "bundles", "*"),
		"/sys/fs/cgroup/" + d.Cgroup + "/*/", "/sys/fs/cgroup/*/" + d.Cgroup + "/*/",
	} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return fmt.Errorf("there is %s", strings.Join(found, ", "))
		}
	}
	return nil
}
