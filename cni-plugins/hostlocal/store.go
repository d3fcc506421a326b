package hostlocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/errdefs"
)

// store is the directory of one network, locked against every other process:
//
//	lock                  held (flock) by whoever reads or changes the directory
//	10.88.0.2             "CONTAINER\r\nINTERFACE", one file for each address in use; empty: its writer was killed, so it is removed
//	last_reserved_ip.0    the address that was given last, for each set of ranges
//
// It has to survive neither power failure nor reboot, so that nothing is synced: the containers are gone then.
type store struct {
	dir  string
	lock *os.File
}

const (
	// lockPatience is how long another process may hold the lock, which it needs for a moment.
	lockPatience = 10 * time.Second
	// lockPause is about how long it needs it; after each try the next one waits twice as long.
	lockPause    = 200 * time.Microsecond
	longestPause = 10 * time.Millisecond
)

// leases maps addresses in use to their owners.
type leases map[netip.Addr]string

// of lists the addresses of the request's attachment.
func (l leases) of(r *plugin.Request) []netip.Addr {
	var list []netip.Addr
	for address, holder := range l {
		if owns(r.ContainerID, r.IfName, holder) {
			list = append(list, address)
		}
	}
	return list
}

func owner(container, ifName string) string { return container + "\r\n" + ifName }

// owns tells whether a reservation is that of an interface. Old ones do not say of which interface they are.
func owns(container, ifName, holder string) bool {
	return holder == owner(container, ifName) || holder == container
}

// open locks the directory, made if create. It returns nil if there is none.
func open(ctx context.Context, dir string, create bool) (*store, error) {
	if create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot create the directory of reservations: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the directory of reservations: %w", err)
	}
	// Not LOCK_EX, which would wait for ever for a process that is stopped.
	deadline := time.Now().Add(lockPatience)
	for pause := lockPause; ; pause = min(2*pause, longestPause) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &store{dir: dir, lock: lock}, nil
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline) && ctx.Err() == nil {
			time.Sleep(pause)
			continue
		}
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errdefs.As(errdefs.ErrUnavailable, fmt.Errorf("another process has held it for %v", lockPatience))
		}
		return nil, fmt.Errorf("cannot lock the directory of reservations %q: %w", dir, errors.Join(err, ctx.Err()))
	}
}

func (s *store) close() { _ = s.lock.Close() }

func (s *store) leases() (leases, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list reservations: %w", err)
	}
	found := leases{}
	for _, entry := range entries {
		address, err := netip.ParseAddr(entry.Name())
		if err != nil {
			continue // the lock, or a last_reserved_ip
		}
		content, err := s.read(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("cannot read reservation %q: %w", filepath.Join(s.dir, entry.Name()), err)
		}
		if len(content) == 0 {
			if err := s.release(address); err != nil {
				return nil, err
			}
			continue
		}
		found[address] = strings.TrimSpace(string(content))
	}
	return found, nil
}

// read reads one small file, with a third of the system calls that os.ReadFile needs: there may be thousands.
func (s *store) read(name string) ([]byte, error) {
	fd, err := unix.Open(filepath.Join(s.dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	content := make([]byte, 0, 1024)
	for {
		n, err := unix.Read(fd, content[len(content):cap(content)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		content = content[:len(content)+n]
		if len(content) < cap(content) { // a regular file reads short only at its end
			return content, nil
		}
		content = slices.Grow(content, cap(content))
	}
}

func (s *store) path(address netip.Addr) string { return filepath.Join(s.dir, address.String()) }

// reserve writes the address down for its owner, and as the last that was given of a set.
func (s *store) reserve(address netip.Addr, owner string, set int) error {
	if err := os.WriteFile(s.path(address), []byte(owner), 0o644); err != nil {
		_ = os.Remove(s.path(address)) // nothing, or the empty file of a full disk
		return fmt.Errorf("cannot reserve address %s: %w", address, err)
	}
	if err := os.WriteFile(s.lastPath(set), []byte(address.String()), 0o644); err != nil {
		_ = os.Remove(s.path(address))
		return fmt.Errorf("cannot note address %s as the last one: %w", address, err)
	}
	return nil
}

func (s *store) release(address netip.Addr) error {
	if err := os.Remove(s.path(address)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot release address %s: %w", address, err)
	}
	return nil
}

func (s *store) lastPath(set int) string {
	return filepath.Join(s.dir, "last_reserved_ip."+strconv.Itoa(set))
}

// last returns the address that was given last. Without one, or with a file that makes no sense, counting starts over.
func (s *store) last(set int) netip.Addr {
	content, err := os.ReadFile(s.lastPath(set))
	if err != nil {
		return netip.Addr{}
	}
	address, _ := netip.ParseAddr(strings.TrimSpace(string(content)))
	return address
}
