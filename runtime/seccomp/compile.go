package seccomp

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Compile turns a profile into a filter for this machine. Names of system calls that are unknown are skipped, as the
// same profile has to serve older and newer kernels, and several architectures.
func Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	return compile(profile, runtime.GOARCH)
}

// maxProgram is the kernel's limit.
const maxProgram = unix.BPF_MAXINSNS

func compile(profile *specs.LinuxSeccomp, machine string) (*Filter, error) {
	sections, err := sections(machine, profile.Architectures)
	if err != nil {
		return nil, err
	}
	c, err := parse(profile)
	if err != nil {
		return nil, err
	}
	a := &assembler{returns: map[outcome]label{}}
	next := a.ret(killThread) // another architecture's call
	for _, s := range slices.Backward(sections) {
		next = a.branch(opEqual, s.audit, c.section(a, s), next)
	}
	a.continueAt(next)
	a.emit(opLoad, offsetArch)
	if len(a.reversed) > maxProgram {
		return nil, invalid("syscalls", "the filter has %d instructions, more than the kernel's %d", len(a.reversed), maxProgram)
	}
	flags, err := parseFlags(profile, c.notifies)
	if err != nil {
		return nil, err
	}
	return &Filter{Program: a.program(), Flags: flags, Notify: c.notifies}, nil
}

// rule is an outcome for calls whose arguments fulfil all of the conditions.
type rule struct {
	outcome    outcome
	conditions []condition
}

// use is that a rule applies to a system call. Sorted by their order, the uses of a call stand together.
type use struct {
	call *syscallNumbers
	rule int
}

// compiler is a profile, understood.
type compiler struct {
	fallback outcome
	// newer is for calls with numbers above all that the profile mentions, if they would fail: programs try new calls,
	// and do without if told that there is no such call. What is denied in any other way they take for broken.
	newer    outcome
	rules    []rule
	uses     []use
	blocks   map[block]label
	notifies bool
}

func parse(profile *specs.LinuxSeccomp) (*compiler, error) {
	fallback, err := parseAction("defaultAction", "defaultErrnoRet", profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	if fallback == notify {
		return nil, invalid("defaultAction", "%s can't be the default, as the listener could not even be handed over", profile.DefaultAction)
	}
	if profile.ListenerMetadata != "" && profile.ListenerPath == "" {
		return nil, invalid("listenerMetadata", "it needs listenerPath")
	}
	c := &compiler{fallback: fallback, newer: fail | outcome(unix.ENOSYS), blocks: map[block]label{}}
	if fallback.permits() {
		c.newer = fallback
	}
	for i := range profile.Syscalls {
		if err := c.add(at("syscalls", i), &profile.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	if c.notifies && profile.ListenerPath == "" {
		return nil, invalid("listenerPath", "%s needs it", specs.ActNotify)
	}
	return c, nil
}

// add notes the rule of one entry, or those that it comes to.
func (c *compiler) add(field string, entry *specs.LinuxSyscall) error {
	result, err := parseAction(field+".action", field+".errnoRet", entry.Action, entry.ErrnoRet)
	if err != nil {
		return err
	}
	if len(entry.Names) == 0 {
		return invalid(field+".names", "it must have at least one system call")
	}
	var conditions []condition
	var indexes uint
	repeated := false
	for i, arg := range entry.Args {
		condition, err := parseCondition(at(field+".args", i), arg)
		if err != nil {
			return err
		}
		repeated = repeated || indexes&(1<<arg.Index) != 0
		indexes |= 1 << arg.Index
		conditions = append(conditions, condition)
	}
	first := len(c.rules)
	if repeated { // as runc: several conditions on one argument are alternatives
		for i := range conditions {
			c.rules = append(c.rules, rule{result, conditions[i : i+1]})
		}
	} else {
		c.rules = append(c.rules, rule{result, conditions})
	}
	for _, name := range entry.Names {
		call := find(name)
		if call == nil {
			continue
		}
		if result == notify {
			c.notifies = true
		}
		for r := first; r < len(c.rules); r++ {
			c.uses = append(c.uses, use{call, r})
		}
	}
	return nil
}
