package config

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// rlimits are the names that the kernel has, in the order of their numbers.
const rlimits = " RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE RLIMIT_MEMLOCK" +
	" RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME "

// checkProcess checks the process whose fields lie below prefix.
func checkProcess(prefix string, process *specs.Process) error {
	return first(
		func() error {
			if len(process.Args) == 0 {
				return invalid(join(prefix, "args"), "it must have at least the command to run")
			}
			return nil
		},
		func() error {
			if !path.IsAbs(process.Cwd) {
				return invalid(join(prefix, "cwd"), "%q is not an absolute path", process.Cwd)
			}
			return nil
		},
		func() error { return checkEnv(join(prefix, "env"), process.Env) },
		func() error { return checkRlimits(join(prefix, "rlimits"), process.Rlimits) },
		func() error { return checkOOMScore(join(prefix, "oomScoreAdj"), process.OOMScoreAdj) },
		func() error { return checkScheduler(join(prefix, "scheduler"), process.Scheduler) },
		func() error { return checkIOPriority(join(prefix, "ioPriority"), process.IOPriority) },
		func() error { return checkAffinity(join(prefix, "execCPUAffinity"), process.ExecCPUAffinity) },
	)
}

// checkProcessEnv is more lenient than that of hooks: images have entries without a value, and runc passes them on.
func checkRlimits(field string, limits []specs.POSIXRlimit) error {
	var seen string
	for i, limit := range limits {
		entry := " " + limit.Type + " "
		if limit.Type == "" || strings.Contains(limit.Type, " ") || !strings.Contains(rlimits, entry) {
			return invalid(at(field, i)+".type", "%q is not the name of a resource limit", limit.Type)
		}
		if strings.Contains(seen, entry) {
			return invalid(at(field, i)+".type", "%s is given twice", limit.Type)
		}
		seen += entry
		if limit.Soft > limit.Hard {
			return invalid(at(field, i)+".soft", "%d is more than the hard limit, %d", limit.Soft, limit.Hard)
		}
	}
	return nil
}

func checkOOMScore(field string, score *int) error {
	if score != nil && (*score < -1000 || *score > 1000) {
		return invalid(field, "%d is not from -1000 to 1000", *score)
	}
	return nil
}

func checkScheduler(field string, scheduler *specs.Scheduler) error {
	if scheduler == nil {
		return nil
	}
	if err := checkOneOf(field+".policy", scheduler.Policy, specs.SchedOther, specs.SchedFIFO, specs.SchedRR,
		specs.SchedBatch, specs.SchedISO, specs.SchedIdle, specs.SchedDeadline); err != nil {
		return err
	}
	if scheduler.Nice < -20 || scheduler.Nice > 19 {
		return invalid(field+".nice", "%d is not from -20 to 19", scheduler.Nice)
	}
	realtime := scheduler.Policy == specs.SchedFIFO || scheduler.Policy == specs.SchedRR
	if scheduler.Priority != 0 && !realtime {
		return invalid(field+".priority", "only SCHED_FIFO and SCHED_RR have a priority")
	}
	deadline := scheduler.Policy == specs.SchedDeadline
	if !deadline && (scheduler.Runtime != 0 || scheduler.Deadline != 0 || scheduler.Period != 0) {
		return invalid(field, "only SCHED_DEADLINE has a runtime, deadline and period")
	}
	for i, flag := range scheduler.Flags {
		if err := checkOneOf(at(field+".flags", i), flag, specs.SchedFlagResetOnFork, specs.SchedFlagReclaim,
			specs.SchedFlagDLOverrun, specs.SchedFlagKeepPolicy, specs.SchedFlagKeepParams,
			specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax); err != nil {
			return err
		}
	}
	return nil
}

func checkIOPriority(field string, priority *specs.LinuxIOPriority) error {
	if priority == nil {
		return nil
	}
	if priority.Priority < 0 || priority.Priority > 7 {
		return invalid(field+".priority", "%d is not from 0 to 7", priority.Priority)
	}
	return checkOneOf(field+".class", priority.Class, specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE)
}

func checkAffinity(field string, affinity *specs.CPUAffinity) error {
	if affinity == nil {
		return nil
	}
	for _, list := range []struct{ field, value string }{
		{field + ".initial", affinity.Initial}, {field + ".final", affinity.Final},
	} {
		if err := checkNumbers(list.field, list.value); err != nil {
			return err
		}
	}
	return nil
}
