package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describeCode is machine code of x86-64 that prints what keyctl says of the session keyring.
func describeCode() []byte {
	const movEAX, movEDI, movEDX = 0xb8, 0xbf, 0xba
	return slices.Concat(
		immediate(movEAX, unix.SYS_KEYCTL), immediate(movEDI, unix.KEYCTL_DESCRIBE),
		[]byte{0x48, 0xc7, 0xc6, 0xfd, 0xff, 0xff, 0xff},       // mov rsi, KEY_SPEC_SESSION_KEYRING
		[]byte{0x48, 0x8d, 0x94, 0x24, 0x00, 0xff, 0xff, 0xff}, // lea rdx, [rsp-256]
		[]byte{0x41}, immediate(movEDX, 200), // mov r10d, 200
		[]byte{0x0f, 0x05, 0x89, 0xc2},                         // syscall; mov edx, eax
		[]byte{0x48, 0x8d, 0xb4, 0x24, 0x00, 0xff, 0xff, 0xff}, // lea rsi, [rsp-256]
		immediate(movEAX, unix.SYS_WRITE), immediate(movEDI, 1), []byte{0x0f, 0x05},
		immediate(movEAX, unix.SYS_EXIT), immediate(movEDI, 0), []byte{0x0f, 0x05},
	)
}

// TestSessionKeyring: the container has one of its own, which its processes share, unless the caller lends his.
func TestSessionKeyring(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("executes machine code of x86-64")
	}
	for _, test := range []struct {
		flags  []string
		mapped bool
		want   string
	}{
		{want: "keyring;0;0;3f1b0000;_ses.%s"}, {mapped: true, want: "keyring;0;0;3f130008;_ses.%s"}, {flags: []string{"--no-new-keyring"}},
	} {
		t.Run(fmt.Sprint(test.flags, test.mapped), func(t *testing.T) {
			c := newContainer(t).shell("/describe > /dev/shm/keyring; exec sleep 1000 > /dev/null 2>&1")
			if err := os.WriteFile(filepath.Join(c.Rootfs, "describe"), program(t, describeCode()), 0o755); err != nil {
				t.Fatal(err)
			}
			if test.mapped {
				mapUsers(t, c)
			}
			if r := c.run(append(test.flags, "--detach")...); r.Status != 0 {
				t.Fatalf("%+v", r)
			}
			out := c.must("exec", c.ID, "sh", "-c", "until [ -s /dev/shm/keyring ]; do :; done; cat /dev/shm/keyring; echo; /describe")
			first, second, _ := strings.Cut(strings.ReplaceAll(out, "\x00", ""), "\n")
			own := strings.Contains(first, "_ses."+c.ID)
			if first != second || own != (test.want != "") || own && first != fmt.Sprintf(test.want, c.ID) {
				t.Errorf("the first process has %q, and that of exec %q", first, second)
			}
		})
	}
}
