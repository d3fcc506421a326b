package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// spent is what one run spent in one system call.
type spent struct {
	calls int
	time  time.Duration
}

// calls shows where the time of `berth-runtime run` goes, by system call, as perf counts it. Tracing slows each call down
// by some microseconds; the proportions stay.
func (b *bench) calls() error {
	const title = "### System calls of one `berth-runtime run` of /bin/true, traced"
	perf, err := exec.LookPath("perf")
	if err != nil {
		fmt.Fprintf(b.out, "%s\n\nSkipped: perf is not installed.\n\n", title)
		return nil
	}
	bundle, err := b.makeBundle("calls", args("/bin/true"))
	if err != nil {
		return err
	}
	runs := make([]map[string]spent, 0, b.runs)
	for range b.runs {
		report := filepath.Join(b.work, "calls.txt")
		trace := command(perf, "trace", "--summary", "--output", report, b.berth("berth-runtime"), "--root", b.work+"/calls-state", "run", "--bundle", bundle, "calls")
		if err := trace(); err != nil {
			fmt.Fprintf(b.out, "%s\n\nSkipped: perf cannot trace here: %s.\n\n", title, firstLine(err))
			return nil
		}
		content, err := os.ReadFile(report)
		if err != nil {
			return err
		}
		runs = append(runs, readSummary(content))
	}
	fmt.Fprintf(b.out, "%s\n\n| | calls | median ms |\n|---|---|---|\n", title)
	b.writeCalls(runs)
	return nil
}

// readSummary adds up perf's tables, of which there is one for each thread: call, count, errors, total milliseconds, ….
func readSummary(report []byte) map[string]spent {
	sums := map[string]spent{}
	for lines := bufio.NewScanner(bytes.NewReader(report)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) != 8 {
			continue
		}
		count, err := strconv.Atoi(words[1])
		total, err2 := strconv.ParseFloat(words[3], 64)
		if err != nil || err2 != nil {
			continue // a heading
		}
		sum := sums[words[0]]
		sum.calls += count
		sum.time += time.Duration(total * float64(time.Millisecond))
		sums[words[0]] = sum
	}
	return sums
}

// writeCalls prints what costs most. Calls that only wait for another thread, or for the container, overlap with the others.
func (b *bench) writeCalls(runs []map[string]spent) {
	const rows = 16
	waits := []string{"futex", "nanosleep", "epoll_pwait", "wait4", "waitid", "poll", "sched_yield"}
	typical := map[string]spent{}
	for _, run := range runs {
		for name := range run {
			typical[name] = spent{
				calls: medianOf(runs, func(run map[string]spent) int { return run[name].calls }),
				time:  medianOf(runs, func(run map[string]spent) time.Duration { return run[name].time }),
			}
		}
	}
	var waiting, rest spent
	var shown []string
	for name, s := range typical {
		if slices.Contains(waits, name) {
			waiting.calls += s.calls
			waiting.time += s.time
			continue
		}
		shown = append(shown, name)
	}
	slices.SortFunc(shown, func(x, y string) int { return cmp.Compare(typical[y].time, typical[x].time) })
	for i, name := range shown {
		if i < rows {
			fmt.Fprintf(b.out, "| %s | %d | %.2f |\n", name, typical[name].calls, ms(typical[name].time))
			continue
		}
		rest.calls += typical[name].calls
		rest.time += typical[name].time
	}
	fmt.Fprintf(b.out, "| %d others | %d | %.2f |\n| waits: %s | %d | %.2f |\n\n", max(0, len(shown)-rows), rest.calls, ms(rest.time),
		strings.Join(waits, ", "), waiting.calls, ms(waiting.time))
}

func medianOf[T cmp.Ordered](runs []map[string]spent, of func(map[string]spent) T) T {
	values := make([]T, 0, len(runs))
	for _, run := range runs {
		values = append(values, of(run))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
