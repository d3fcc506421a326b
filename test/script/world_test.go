// Package script_test tells how the berth command line is used, as stories over the real berth, berthd and registry:
// testdata/*.txtar for what is said and answered, terminal_test.go for what needs a terminal.
package script_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// world is what all stories of one test share: a registry with the demo's two images.
type world struct {
	registry string // host:port
	private  string // another, for "tester" with the password "secret" only
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.NeedRoot(t)
	layout := imageLayout(t)
	w := &world{registry: testenv.Registry(t), private: testenv.PrivateRegistry(t)}
	skopeo := testenv.Peer(t, "skopeo")
	for _, image := range []string{"busybox", "web"} {
		command := exec.Command(skopeo, "copy", "-q", "--dest-tls-verify=false", "oci:"+layout+":"+image, "docker://"+w.image(image)+":latest")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("cannot push the test's image %s: %v\n%s", image, err, output)
		}
	}
	return w
}

func (w *world) image(name string) string { return w.registry + "/demo/" + name }

// layouts is made once for all tests of the binary.
type layouts struct {
	once sync.Once
	dir  string
	err  error
}

var madeLayouts layouts

func TestMain(m *testing.M) {
	code := m.Run()
	if madeLayouts.dir != "" {
		_ = os.RemoveAll(madeLayouts.dir)
	}
	os.Exit(code)
}

// imageLayout returns an OCI layout with the images of hack/make-images.sh.
func imageLayout(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"umoci", "busybox"} {
		testenv.Peer(t, program)
	}
	madeLayouts.once.Do(func() {
		if madeLayouts.dir, madeLayouts.err = os.MkdirTemp("", "b."); madeLayouts.err != nil {
			return
		}
		command := exec.Command(filepath.Join(testenv.Repo(t), "hack", "make-images.sh"), filepath.Join(madeLayouts.dir, "layout"))
		if output, err := command.CombinedOutput(); err != nil {
			madeLayouts.err = fmt.Errorf("%w\n%s", err, output)
		}
	})
	if madeLayouts.err != nil {
		t.Fatalf("cannot make the test's images: %v", madeLayouts.err)
	}
	return filepath.Join(madeLayouts.dir, "layout")
}

// freePort returns a TCP port of the loopback address that nothing listens on at this moment.
func freePort(t testing.TB) string {
	t.Helper()
	_, port, err := net.SplitHostPort(testenv.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
