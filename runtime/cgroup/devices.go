package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// anyNumber stands for every major or minor number.
const anyNumber = -1

// access is a set of r, w and m, with the bits of an eBPF device program.
type access uint32

const (
	mayMknod access = unix.BPF_DEVCG_ACC_MKNOD
	mayRead  access = unix.BPF_DEVCG_ACC_READ
	mayWrite access = unix.BPF_DEVCG_ACC_WRITE
	mayAll          = mayMknod | mayRead | mayWrite
)

func (a access) String() string {
	var text strings.Builder
	for _, bit := range []struct {
		access access
		letter byte
	}{{mayRead, 'r'}, {mayWrite, 'w'}, {mayMknod, 'm'}} {
		if a&bit.access != 0 {
			text.WriteByte(bit.letter)
		}
	}
	return text.String()
}

// device is what a rule is about.
type device struct {
	kind         byte // 'b' or 'c'
	major, minor int64
}

func (d device) String() string {
	number := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%c %s:%s", d.kind, number(d.major), number(d.minor))
}

// deviceRules is what a list of rules comes to: a default, and the accesses that are the other way.
type deviceRules struct {
	allow      bool
	exceptions map[device]access
}

// everyContainer lists what the spec's default devices need, which is allowed whatever the rules say: making any
// node, and using null, zero, full, random, urandom, tty, the pseudo-terminals and ptmx; and tun, which is in no list of the
// specification's: VPN programs rely on it, as runc and crun allow it.
func everyContainer() map[device]access {
	return map[device]access{
		{'c', anyNumber, anyNumber}: mayMknod,
		{'b', anyNumber, anyNumber}: mayMknod,
		{'c', 1, 3}:                 mayAll,
		{'c', 1, 5}:                 mayAll,
		{'c', 1, 7}:                 mayAll,
		{'c', 1, 8}:                 mayAll,
		{'c', 1, 9}:                 mayAll,
		{'c', 5, 0}:                 mayAll,
		{'c', 5, 2}:                 mayAll,
		{'c', 136, anyNumber}:       mayAll,
		{'c', 10, 200}:              mayAll,
	}
}

// parseDevices applies the rules in order, as the kernel of cgroup v1 does. As with runc no device is allowed before
// the first rule, so that a configuration without rules doesn't open the host's disks.
func parseDevices(rules []specs.LinuxDeviceCgroup) (deviceRules, error) {
	state := deviceRules{exceptions: map[device]access{}}
	for i, rule := range rules {
		refuse := func(field, format string, args ...any) error {
			text := fmt.Sprintf("linux.resources.devices[%d].%s: %s", i, field, fmt.Sprintf(format, args...))
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s", text))
		}
		what, err := parseAccess(rule.Access)
		if err != nil {
			return state, refuse("access", "%v", err)
		}
		major, minor := int64(anyNumber), int64(anyNumber)
		if rule.Major != nil {
			major = *rule.Major
		}
		if rule.Minor != nil {
			minor = *rule.Minor
		}
		if major < anyNumber || major > math.MaxUint32 {
			return state, refuse("major", "%d is no device number", major)
		}
		if minor < anyNumber || minor > math.MaxUint32 {
			return state, refuse("minor", "%d is no device number", minor)
		}
		switch rule.Type {
		case "", "a": // its numbers mean nothing, to runc and to the kernel of cgroup v1
			state = deviceRules{allow: rule.Allow, exceptions: map[device]access{}}
		case "c", "u", "b":
			kind := rule.Type[0]
			if kind == 'u' { // an unbuffered device is a character device to the kernel
				kind = 'c'
			}
			d := device{kind, major, minor}
			if wider, found := state.without(d, what, rule.Allow); found {
				return state, refuse("minor", "cgroups can't make an exception for %s from the rule for %s before it", d, wider)
			}
			state.apply(d, what, rule.Allow)
		default:
			return state, refuse("type", "unknown device type %q: it must be a, b, c or u", rule.Type)
		}
	}
	if !state.allow {
		return state, nil
	}
	for d, what := range everyContainer() {
		if wider, found := state.without(d, what, true); found {
			return state, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("linux.resources.devices: they deny %s, of which every container needs %s", wider, d))
		}
	}
	return state, nil
}

func parseAccess(letters string) (access, error) {
	if letters == "" {
		return mayAll, nil
	}
	var what access
	if letters == "a" {
		return 0, errors.New(`"a" alone gives no access: it must be of r, w and m`)
	}
	for _, letter := range letters {
		switch letter {
		case 'a': // as some write for a rule of all types: it adds nothing, as with runc
		case 'r':
			what |= mayRead
		case 'w':
			what |= mayWrite
		case 'm':
			what |= mayMknod
		default:
			return 0, fmt.Errorf("unknown access %q in %q: it must be of r, w and m", letter, letters)
		}
	}
	return what, nil
}

// without looks for a rule for many devices that d would have to be taken out of. The kernel of cgroup v1 has no word
// for that, and would go on as if nothing was said.
func (r *deviceRules) without(d device, what access, allow bool) (wider device, found bool) {
	if allow != r.allow {
		return wider, false
	}
	for _, wider := range []device{{d.kind, d.major, anyNumber}, {d.kind, anyNumber, d.minor}, {d.kind, anyNumber, anyNumber}} {
		if wider != d && r.exceptions[wider]&what != 0 {
			return wider, true
		}
	}
	return wider, false
}

// apply adds an exception from the default, or takes one back.
func (r *deviceRules) apply(d device, what access, allow bool) {
	if allow != r.allow {
		r.exceptions[d] |= what
		return
	}
	if left := r.exceptions[d] &^ what; left != 0 {
		r.exceptions[d] = left
	} else {
		delete(r.exceptions, d)
	}
}

// addDefaults allows what every container may use.
func (r *deviceRules) addDefaults() {
	for d, what := range everyContainer() {
		r.apply(d, what, true)
	}
}

// sorted returns the exceptions in a fixed order.
func (r *deviceRules) sorted() []device {
	devices := make([]device, 0, len(r.exceptions))
	for d := range r.exceptions {
		devices = append(devices, d)
	}
	slices.SortFunc(devices, func(a, b device) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	return devices
}
