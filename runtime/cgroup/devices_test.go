package cgroup

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
)

func pointer[T any](value T) *T { return &value }

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
}

// permits says what the rules come to, as the device program and the v1 kernel decide it.
func (r *deviceRules) permits(d device, what access) bool {
	for exception, covered := range r.exceptions {
		if exception.kind != d.kind || exception.major != anyNumber && exception.major != d.major || exception.minor != anyNumber && exception.minor != d.minor {
			continue
		}
		if r.allow && covered&what != 0 {
			return false
		}
		if !r.allow && what&^covered == 0 {
			return true
		}
	}
	return r.allow
}

func TestDeviceRules(t *testing.T) {
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	allowAll := specs.LinuxDeviceCgroup{Allow: true}
	disk, null := device{'b', 8, 0}, device{'c', 1, 3}
	for name, test := range map[string]struct {
		rules  []specs.LinuxDeviceCgroup
		device device
		access access
		want   bool
	}{
		"no rules":               {nil, disk, mayRead, false},
		"no rules, mknod":        {nil, disk, mayMknod, true},
		"no rules, null":         {nil, null, mayRead | mayWrite, true},
		"all denied":             {[]specs.LinuxDeviceCgroup{denyAll}, disk, mayRead, false},
		"all allowed":            {[]specs.LinuxDeviceCgroup{denyAll, allowAll}, disk, mayAll, true},
		"one allowed":            {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "b", 8, 0, "r")}, disk, mayRead, true},
		"one allowed to read":    {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "b", 8, 0, "r")}, disk, mayRead | mayWrite, false},
		"another minor":          {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "b", 8, 1, "rwm")}, disk, mayRead, false},
		"any minor":              {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "b", 8, -1, "rwm")}, disk, mayRead, true},
		"another type":           {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 8, 0, "rwm")}, disk, mayRead, false},
		"unbuffered":             {[]specs.LinuxDeviceCgroup{denyAll, rule(true, "u", 9, 9, "rwm")}, device{'c', 9, 9}, mayRead, true},
		"taken back":             {[]specs.LinuxDeviceCgroup{rule(true, "b", 8, 0, "rw"), rule(false, "b", 8, 0, "w")}, disk, mayWrite, false},
		"taken back, read left":  {[]specs.LinuxDeviceCgroup{rule(true, "b", 8, 0, "rw"), rule(false, "b", 8, 0, "w")}, disk, mayRead, true},
		"allowed but one":        {[]specs.LinuxDeviceCgroup{allowAll, rule(false, "b", 8, 0, "w")}, disk, mayWrite, false},
		"allowed but one's half": {[]specs.LinuxDeviceCgroup{allowAll, rule(false, "b", 8, 0, "w")}, disk, mayRead, true},
		"allowed but null":       {[]specs.LinuxDeviceCgroup{allowAll, rule(false, "c", 1, 3, "rwm")}, null, mayRead, true},
	} {
		rules, err := parseDevices(test.rules)
		if err != nil {
			t.Fatal(err)
		}
		rules.addDefaults()
		if got := rules.permits(test.device, test.access); got != test.want {
			t.Errorf("%s: %v %v is %v", name, test.device, test.access, got)
		}
		if got := run(t, deviceProgram(rules), test.device, test.access); got != test.want {
			t.Errorf("%s: %v %v is %v to the program", name, test.device, test.access, got)
		}
	}
}

// run executes the instructions that deviceProgram uses.
func run(t *testing.T, program []instruction, d device, what access) bool {
	t.Helper()
	memory := map[int16]uint32{0: uint32(what)<<16 | uint32(deviceKind(d.kind)), 4: uint32(d.major), 8: uint32(d.minor)}
	var registers [16]uint64
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		to, from := in.registers&0xf, in.registers>>4
		switch in.op {
		case opLoadWord:
			registers[to] = uint64(memory[in.offset])
		case opMove:
			registers[to] = uint64(in.immediate)
		case opMoveReg:
			registers[to] = registers[from]
		case opAnd:
			registers[to] &= uint64(in.immediate)
		case opShiftRight:
			registers[to] >>= uint64(in.immediate)
		case opJumpUnequal:
			if uint32(registers[to]) != uint32(in.immediate) {
				pc += int(in.offset)
			}
		case opJumpEqual:
			if uint32(registers[to]) == uint32(in.immediate) {
				pc += int(in.offset)
			}
		case opExit:
			return registers[result] == 1
		default:
			t.Fatalf("instruction %d has the unknown code %#x", pc, in.op)
		}
	}
	t.Fatal("the program runs off its end")
	return false
}

func TestDeviceRulesRefuse(t *testing.T) {
	all := func(allow bool, kind string, major int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major}
	}
	for want, rules := range map[string][]specs.LinuxDeviceCgroup{
		"linux.resources.devices[1].minor: cgroups can't make an exception for b 8:1 from the rule for b 8:* before it": {all(true, "b", 8), rule(false, "b", 8, 1, "w")},
		"linux.resources.devices: they deny c 1:*, of which every container needs c 1:":                                 {{Allow: true}, all(false, "c", 1)},
	} {
		if _, err := parseDevices(rules); err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	for want, bad := range map[string]specs.LinuxDeviceCgroup{
		`linux.resources.devices[0].access: unknown access 'x' in "rx": it must be of r, w and m`: {Access: "rx"},
		`linux.resources.devices[0].type: unknown device type "z": it must be a, b, c or u`:       {Type: "z"},
		`linux.resources.devices[0].access: "a" alone gives no access: it must be of r, w and m`:  {Access: "a"},
		"linux.resources.devices[0].major: -2 is no device number":                                {Type: "c", Major: pointer(int64(-2))},
		"linux.resources.devices[0].minor: 4294967296 is no device number":                        {Type: "c", Minor: pointer(int64(1 << 32))},
	} {
		if _, err := parseDevices([]specs.LinuxDeviceCgroup{bad}); err == nil || err.Error() != want || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
