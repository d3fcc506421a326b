package shim_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Managers get a short address for a long bundle: beside their own socket, or where they say, however long that is.
func TestLongBundlePaths(t *testing.T) {
	for _, chosen := range []bool{false, true} {
		t.Run(fmt.Sprint("chosen: ", chosen), func(t *testing.T) {
			c := newContainer(t, "sh", "-c", "[ -t 1 ]")
			base := filepath.Dir(c.Bundle)
			long := filepath.Join(base, strings.Repeat("long-", 30))
			if err := os.Rename(c.Bundle, long); err != nil {
				t.Fatal(err)
			}
			c.Bundle = long
			c.Flags = []string{"-address", base + "/manager"}
			pattern := base + "/s/*.sock"
			if chosen {
				pattern = long + "/chosen.sock"
				c.Flags = append(c.Flags, "-socket", pattern)
			}
			path, uri := c.streamURI(filepath.Base(long)+"/streams", nil)
			c.create(streams{stdout: uri, terminal: true})
			if info, err := os.Stat(path); err != nil || info.Mode().Type() != os.ModeSocket {
				t.Errorf("stream socket: %v, %v", info, err)
			}
			if found, err := filepath.Glob(pattern); err != nil || len(found) != 1 {
				t.Errorf("shim sockets %q, %v", found, err)
			}
			c.run("")
			c.expectExit("", 0)
			c.delete("")
			c.killShim()
			c.deleteVerb()
			left, err := filepath.Glob(pattern)
			more, _ := filepath.Glob(long + "/shim.*")
			if err != nil || len(left)+len(more) > 0 {
				t.Errorf("left %q and %q, %v", left, more, err)
			}
		})
	}
}

// A manager's socket may be called s, where the folder for the shims' would be.
func TestManagerWhoseSocketIsCalledS(t *testing.T) {
	c := newContainer(t, "true")
	base := filepath.Dir(c.Bundle)
	long := filepath.Join(base, strings.Repeat("long-", 30))
	if err := os.Rename(c.Bundle, long); err != nil {
		t.Fatal(err)
	}
	c.Bundle = long
	listener, err := net.Listen("unix", base+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	c.Flags = []string{"-address", base + "/s"}
	c.create(streams{})
	c.run("")
	c.expectExit("", 0)
}
