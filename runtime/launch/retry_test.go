package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestOpenat2WhileOthersRename walks ".." while files are renamed elsewhere, which the kernel answers with EAGAIN.
func TestOpenat2WhileOthersRename(t *testing.T) {
	top, elsewhere := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		name := filepath.Join(elsewhere, "x")
		_ = os.WriteFile(name, nil, 0o600)
		for {
			select {
			case <-done:
				return
			default:
				_ = os.Rename(name, name+".moved")
				_ = os.Rename(name+".moved", name)
			}
		}
	}()
	p := New()
	root := p.Call("open", "the root", unix.SYS_OPENAT, Cwd, p.String(top), Int(unix.O_PATH|unix.O_CLOEXEC), Int(0)).Result()
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	path, at := p.String(strings.Repeat("a/b/c/../../../", 20)), Pin(p, how)
	for range 20000 {
		fd := p.Call("open", "a path", unix.SYS_OPENAT2, root, path, at, Int(unsafe.Sizeof(*how))).Result()
		p.Close(fd)
	}
	exitWith(p, 3)
	process := fork(t, p, Birth{}) // with memory of its own, or the renaming would stop meanwhile
	if err := process.Executed(); err != nil {
		t.Error(err)
	}
	wantStatus(t, process, 3)
}

// TestManySlots uses more slots and operations than 16 bits can count.
func TestManySlots(t *testing.T) {
	const many = 1 << 17
	p := New()
	var last Arg
	for i := range many {
		last = p.NewSlot()
		p.Set(last, Int(i&0x7f))
	}
	p.Call("exit", "", unix.SYS_EXIT_GROUP, last)
	process := fork(t, p, Birth{})
	if err := process.Executed(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, process, (many-1)&0x7f)

	p = New()
	for range many {
		p.Set(p.NewSlot(), Int(0))
	}
	p.Fail("reach", "the end", unix.ERANGE)
	process = fork(t, p, Birth{})
	if err := process.Executed(); err == nil || !strings.HasPrefix(err.Error(), "cannot reach the end:") {
		t.Errorf("error %v", err)
	}
	wantStatus(t, process, exitSetupFailed)
}

func TestTooManyOperations(t *testing.T) {
	p := New()
	p.explanations = make([]explanation, maxOperations+1)
	if _, err := Fork(p, Birth{CgroupFD: -1}); err == nil || !strings.Contains(err.Error(), "operations") {
		t.Errorf("error %v", err)
	}
}
