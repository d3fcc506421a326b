package seccomp

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
)

// outcome is what a filter returns: an action in the upper half, its data in the lower.
type outcome uint32

const (
	killThread  outcome = 0x00000000
	killProcess outcome = 0x80000000
	trap        outcome = 0x00030000
	fail        outcome = 0x00050000
	notify      outcome = 0x7fc00000
	trace       outcome = 0x7ff00000
	logged      outcome = 0x7ffc0000
	allow       outcome = 0x7fff0000

	actionMask outcome = 0xffff0000
)

// severity orders actions as the kernel does when several filters disagree: the lower one wins.
func (o outcome) severity() int32 { return int32(o & actionMask) }

// permits tells whether an action lets a call happen, or leaves it to somebody who may.
func (o outcome) permits() bool {
	action := o & actionMask
	return action == allow || action == logged || action == trace
}

// parseAction returns the outcome of an action. Only those that can have an errno may have one.
func parseAction(field, errnoField string, action specs.LinuxSeccompAction, errno *uint) (outcome, error) {
	var result outcome
	switch action {
	case specs.ActKill, specs.ActKillThread:
		result = killThread
	case specs.ActKillProcess:
		result = killProcess
	case specs.ActTrap:
		result = trap
	case specs.ActErrno, specs.ActTrace:
		result = fail
		if action == specs.ActTrace {
			result = trace
		}
		number := uint(unix.EPERM)
		if errno != nil {
			number = *errno
		}
		if const16 := uint(0xffff); number > const16 {
			return 0, invalid(errnoField, "%d is not from 0 to %d", number, const16)
		}
		return result | outcome(number), nil
	case specs.ActAllow:
		result = allow
	case specs.ActLog:
		result = logged
	case specs.ActNotify:
		result = notify
	default:
		return 0, invalid(field, "%q is not an action", action)
	}
	if errno != nil && *errno != 0 { // zero stands for none, as the specification has it
		return 0, invalid(errnoField, "action %s has no errno", action)
	}
	return result, nil
}

// tsync is a flag that the specification names and its Go types do not.
const tsync = "SECCOMP_FILTER_FLAG_TSYNC"

// parseFlags returns the SECCOMP_FILTER_FLAG_ bits. Without any runc asks not to slow speculation down, and so do we.
func parseFlags(profile *specs.LinuxSeccomp, notifies bool) (uint, error) {
	var bits uint
	if profile.Flags == nil {
		bits = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for i, flag := range profile.Flags {
		switch flag {
		case specs.LinuxSeccompFlagLog:
			bits |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if notifies { // the kernel refuses it without a listener
				bits |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		case tsync: // the container's process has one thread when it loads the filter
		default:
			return 0, invalid(at("flags", i), "%q is not a flag", flag)
		}
	}
	if notifies {
		bits |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return bits, nil
}

func invalid(field, format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("field linux.seccomp.%s: %w", field, fmt.Errorf(format, args...)))
}

func unsupported(field, why string) error {
	if field != "" {
		field = "." + field
	}
	return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("field linux.seccomp%s can't be honoured: %w", field, errors.New(why)))
}

func at(list string, index int) string { return list + "[" + strconv.Itoa(index) + "]" }
