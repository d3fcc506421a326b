package process

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
	"github.com/berthd/berth/runtime/nofile"
)

func rlimits() map[string]int {
	return map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}
}

func (c Config) addLimits(p *launch.Program) error {
	known := rlimits()
	given := func(limit specs.POSIXRlimit) bool { return limit.Type == "RLIMIT_NOFILE" }
	if limit, raised := nofile.Raised(); raised && !slices.ContainsFunc(c.Process.Rlimits, given) {
		setLimit(p, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: limit.Soft, Hard: limit.Hard}, unix.RLIMIT_NOFILE)
	}
	for _, limit := range c.Process.Rlimits {
		resource, ok := known[limit.Type]
		if !ok {
			return fmt.Errorf("process.rlimits: unknown type %q", limit.Type)
		}
		setLimit(p, limit, resource)
	}
	if c.Process.IOPriority != nil {
		if err := addIOPriority(p, c.Process.IOPriority); err != nil {
			return err
		}
	}
	if c.Process.Scheduler != nil {
		return addScheduler(p, c.Process.Scheduler)
	}
	return nil
}

func setLimit(p *launch.Program, limit specs.POSIXRlimit, resource int) {
	value := &unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}
	p.Call("set", fmt.Sprintf("limit %s to %d, at most %d", limit.Type, limit.Soft, limit.Hard), unix.SYS_PRLIMIT64,
		launch.Int(0), launch.Int(resource), launch.Pin(p, value), launch.Int(0))
}

func addIOPriority(p *launch.Program, priority *specs.LinuxIOPriority) error {
	const whoProcess = 1
	number, err := IOPriority(priority)
	if err != nil {
		return err
	}
	p.Call("set", "process.ioPriority", unix.SYS_IOPRIO_SET, launch.Int(whoProcess), launch.Int(0), launch.Int(number))
	return nil
}

// IOPriority is what ioprio_set(2) calls a priority.
func IOPriority(priority *specs.LinuxIOPriority) (int, error) {
	const classShift = 13
	classes := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[priority.Class]
	if !ok {
		return 0, fmt.Errorf("process.ioPriority.class: unknown class %q", priority.Class)
	}
	return class<<classShift | priority.Priority, nil
}

func addScheduler(p *launch.Program, scheduler *specs.Scheduler) error {
	policies := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}
	flags := map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
		specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
	}
	policy, ok := policies[scheduler.Policy]
	if !ok {
		return fmt.Errorf("process.scheduler.policy: unknown policy %q", scheduler.Policy)
	}
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: scheduler.Nice, Priority: uint32(scheduler.Priority),
		Runtime: scheduler.Runtime, Deadline: scheduler.Deadline, Period: scheduler.Period,
	}
	for _, flag := range scheduler.Flags {
		bit, ok := flags[flag]
		if !ok {
			return fmt.Errorf("process.scheduler.flags: unknown flag %q", flag)
		}
		attr.Flags |= bit
	}
	p.Call("set", "process.scheduler", unix.SYS_SCHED_SETATTR, launch.Int(0), launch.Pin(p, attr), launch.Int(0))
	return nil
}

// Personality returns the number for linux.personality.
func Personality(wanted *specs.LinuxPersonality) (uint32, error) {
	if len(wanted.Flags) > 0 {
		return 0, fmt.Errorf("linux.personality.flags: %s: the specification defines none", strings.Join(flagNames(wanted), ", "))
	}
	switch wanted.Domain {
	case specs.PerLinux:
		return 0, nil
	case specs.PerLinux32:
		return 8, nil
	}
	return 0, fmt.Errorf("linux.personality.domain: unknown domain %q", wanted.Domain)
}

func flagNames(wanted *specs.LinuxPersonality) []string {
	names := make([]string, len(wanted.Flags))
	for i, flag := range wanted.Flags {
		names[i] = string(flag)
	}
	return names
}
