package main

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/container"
)

func (g *globals) kill(args []string) (int, error) {
	flags := newFlags("kill", "[options] ID [SIGNAL]")
	var all bool
	both(flags.BoolVar, &all, "all,a", "send the signal to all processes of the container")
	rest, err := parse(flags, args)
	if err != nil {
		return 1, err
	}
	if err := checkArguments(flags, len(rest), 1, 2); err != nil {
		return 1, err
	}
	signal := unix.SIGTERM
	if len(rest) == 2 && rest[1] != "" {
		if signal, err = parseSignal(rest[1]); err != nil {
			return 1, err
		}
	}
	c, err := container.Load(g.root, rest[0])
	if err != nil {
		return 1, err
	}
	defer c.Close()
	if all {
		return 0, c.SignalAll(signal)
	}
	return 0, c.Signal(signal)
}

// The real-time signals that programs may use: the C library keeps the kernel's first two.
const firstRealTime, lastRealTime = 34, 64

// parseSignal knows numbers, names with and without SIG, and the real-time signals as the kernel counts them.
func parseSignal(text string) (unix.Signal, error) {
	const rtMin, rtMax = firstRealTime, lastRealTime
	if number, err := strconv.Atoi(text); err == nil && number >= 0 && number <= rtMax {
		return unix.Signal(number), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if signal := unix.SignalNum("SIG" + name); signal != 0 {
		return signal, nil
	}
	for prefix, base := range map[string]int{"RTMIN": rtMin, "RTMAX": rtMax} {
		offset, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if offset == "" {
			return unix.Signal(base), nil
		}
		if n, err := strconv.Atoi(offset); err == nil && base+n >= rtMin && base+n <= rtMax {
			return unix.Signal(base + n), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}
