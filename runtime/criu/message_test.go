package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What protoc makes of the same messages.
func TestOptionsAreProtocolBuffers(t *testing.T) {
	for name, test := range map[string]struct {
		set  func(o *Options)
		want []byte
	}{
		"leave_running: true":                     {func(o *Options) { o.Flag(LeaveRunning, true) }, []byte{0x18, 1}},
		"leave_running: false":                    {func(o *Options) { o.Flag(LeaveRunning, false) }, []byte{0x18, 0}},
		"pid: 300":                                {func(o *Options) { o.Number(Pid, 300) }, []byte{0x10, 0xac, 0x02}},
		`log_file: "a"`:                           {func(o *Options) { o.Text(LogFile, "a") }, []byte{0x52, 1, 'a'}},
		`ext_mnt { key: "a" val: "b" }`:           {func(o *Options) { o.Pair(ExternalMount, "a", "b") }, []byte{0xba, 0x01, 6, 0x0a, 1, 'a', 0x12, 1, 'b'}},
		`inherit_fd { key: "a" fd: 4 }`:           {func(o *Options) { o.Inherit("a", 4) }, []byte{0xda, 0x01, 5, 0x0a, 1, 'a', 0x10, 4}},
		`ps { address: "a" port: 1 }`:             {func(o *Options) { o.PageServer("a", 1) }, []byte{0x5a, 5, 0x0a, 1, 'a', 0x10, 1}},
		"manage_cgroups_mode: STRICT file_locks ": {func(o *Options) { o.Number(CgroupsMode, int(CgroupsStrict)); o.Flag(FileLocks, true) }, []byte{0x90, 0x02, 5, 0x40, 1}},
	} {
		var o Options
		test.set(&o)
		if !bytes.Equal(o.content, test.want) {
			t.Errorf("%s: % x, want % x", name, o.content, test.want)
		}
	}
}

func TestParse(t *testing.T) {
	// type: NOTIFY success: true notify { script: "post-restore" pid: 300 }
	content := append([]byte{0x08, 6, 0x10, 1, 0x2a, 17, 0x0a, 12}, "post-restore\x10\xac\x02"...)
	r, err := parse(content)
	if err != nil || r.kind != notify || !r.success || r.notification.Point != "post-restore" || r.notification.Pid != 300 {
		t.Errorf("%+v, %v", r, err)
	}
	for end := 1; end < len(content); end++ {
		if _, err := parse(content[:end]); err == nil && end != 2 && end != 4 {
			t.Errorf("the first %d bytes are no message", end)
		}
	}
	if _, err := parse([]byte{0x0d, 1, 2, 3, 4}); err == nil {
		t.Error("criu has no fields of four bytes")
	}
}

func TestFailures(t *testing.T) {
	const reason = "Error (criu/x.c:12): what is wrong"
	for want, content := range map[string][]byte{
		"criu failed":                            {0x08, 1, 0x10, 0},
		"criu failed: no such file or directory": {0x08, 1, 0x10, 0, 0x38, 2},
		"criu failed: what is wrong":             append([]byte{0x08, 1, 0x10, 0, 0x4a, byte(len(reason))}, reason...),
	} {
		r, err := parse(content)
		if err != nil {
			t.Errorf("%q: %v", want, err)
		}
		if got := r.failure().Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestComplaints(t *testing.T) {
	log := filepath.Join(t.TempDir(), "dump.log")
	content := "(00.1) fine\n(00.2)     12: Error (criu/mount.c:1): no such mount\n(00.3) Error (criu/cr-dump.c:2): Dumping FAILED.\n"
	if err := os.WriteFile(log, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := Complaints(log), []string{"no such mount"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Complaints(log + ".none"); got != nil {
		t.Errorf("no log: %q", got)
	}
}
