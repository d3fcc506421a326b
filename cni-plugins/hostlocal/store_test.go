package hostlocal

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A container's ID may be as long as its caller likes. Its address is still its own, and can so be released.
func TestReservationOfALongID(t *testing.T) {
	s, err := open(t.Context(), filepath.Join(t.TempDir(), "net"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, length := range []int{10, 1018, 1019, 1024, 5000} {
		id := strings.Repeat("i", length)
		address := netip.MustParseAddr("10.0.0.2")
		if err := s.reserve(address, owner(id, "eth0"), 0); err != nil {
			t.Fatal(err)
		}
		found, err := s.leases()
		if err != nil || !owns(id, "eth0", found[address]) {
			t.Errorf("with an ID of %d bytes the address is that of %d bytes, %v", length, len(found[address]), err)
		}
	}
}

// A process that is stopped while it holds the lock blocks nobody for longer than he likes to wait.
func TestLockThatIsHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net")
	first, err := open(t.Context(), dir, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := open(ctx, dir, true); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the lock was got twice: %v", err)
	}
	got := make(chan error)
	go func() {
		second, err := open(t.Context(), dir, true)
		if err == nil {
			second.close()
		}
		got <- err
	}()
	first.close()
	if err := <-got; err != nil {
		t.Errorf("after its release the lock is not to be had: %v", err)
	}
}
