package capability

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNumbersAreTheKernels(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_MKNOD": unix.CAP_MKNOD, "CAP_SETFCAP": unix.CAP_SETFCAP,
		"CAP_AUDIT_READ": unix.CAP_AUDIT_READ, "CAP_CHECKPOINT_RESTORE": unix.CAP_LAST_CAP,
	} {
		if number, ok := Number(name); !ok || number != want {
			t.Errorf("%s is %d, %v, want %d", name, number, ok, want)
		}
	}
	if Last != unix.CAP_LAST_CAP {
		t.Errorf("the last is %d, want %d", Last, unix.CAP_LAST_CAP)
	}
}

func TestSets(t *testing.T) {
	masks, unknown := Sets(&specs.LinuxCapabilities{
		Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_TO_COME"},
		Effective:   []string{"CAP_CHOWN"},
		Inheritable: []string{"CAP_SYS_ADMIN"},
		Permitted:   []string{"CAP_CHOWN", "CAP_TO_COME", "chown"},
		Ambient:     []string{"CAP_CHECKPOINT_RESTORE"},
	})
	want := Masks{Bounding: 1 | 1<<5, Effective: 1, Inheritable: 1 << 21, Permitted: 1, Ambient: 1 << 40}
	if masks != want {
		t.Errorf("%+v, want %+v", masks, want)
	}
	if !slices.Equal(unknown, []string{"CAP_TO_COME", "chown"}) {
		t.Errorf("unknown %q", unknown)
	}
	if masks, unknown := Sets(nil); masks != (Masks{}) || unknown != nil {
		t.Errorf("no capabilities are %+v, %q", masks, unknown)
	}
}

func TestLimit(t *testing.T) {
	all := Masks{Bounding: ^uint64(0), Effective: ^uint64(0), Inheritable: ^uint64(0), Permitted: ^uint64(0), Ambient: ^uint64(0)}
	const four = 0x1f
	if got, lost := all.Limit(All(4)); got != (Masks{four, four, four, four, four}) || len(lost) != 59 || lost[0] != "CAP_KILL" || lost[58] != "63" {
		t.Errorf("%+v without %q", got, lost)
	}
	if got, lost := all.Limit(All(63)); got != all || lost != nil {
		t.Errorf("%+v without %q", got, lost)
	}
	held, err := Held()
	if status, readErr := os.ReadFile("/proc/self/status"); err != nil || readErr != nil || !strings.Contains(string(status), fmt.Sprintf("CapPrm:\t%016x\n", held)) {
		t.Errorf("held %016x, %v, %v", held, err, readErr)
	}
	last, err := KernelLast()
	if text, readErr := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err != nil || readErr != nil || strings.TrimSpace(string(text)) != strconv.Itoa(last) {
		t.Errorf("the kernel's last is %d, %v, and it says %s, %v", last, err, text, readErr)
	}
}
