package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// side is one of the programs that do the same job.
type side struct {
	name string
	// job does the work once; its duration is measured.
	job func() error
	// before and after surround each job and are not measured.
	before, after func() error
	// skip says why the side can't be measured here. Empty: it can.
	skip string
}

// aim is a ratio that the first side is to stay under, against a named side. 0: none is set.
type aim struct {
	against string
	ratio   float64
}

// compare runs all sides in turn and prints a row for each: the median and the first side's ratio to it.
func (b *bench) compare(what string, sides []side, aims ...aim) error {
	const warmUps = 2
	samples := make([][]time.Duration, len(sides))
	for round := range b.runs + warmUps {
		for _, i := range turns(len(sides), round) {
			if sides[i].skip != "" {
				continue
			}
			took, err := sides[i].measure()
			if err != nil {
				return fmt.Errorf("%s with %s: %w", what, sides[i].name, err)
			}
			if round >= warmUps {
				samples[i] = append(samples[i], took)
			}
		}
	}
	fmt.Fprintf(b.out, "### %s\n\n| | median ms | min ms | berth / it | aim |\n|---|---|---|---|---|\n", what)
	ours := median(samples[0])
	for i, s := range sides {
		if s.skip != "" {
			fmt.Fprintf(b.out, "| %s | skipped: %s | | | |\n", s.name, s.skip)
			continue
		}
		theirs := median(samples[i])
		fmt.Fprintf(b.out, "| %s | %.1f | %.1f | %.2f | %s |\n", s.name, ms(theirs), ms(slices.Min(samples[i])),
			float64(ours)/float64(theirs), target(s.name, aims))
	}
	fmt.Fprintln(b.out)
	return nil
}

// turns returns the order of a round: each begins with another side, every other goes backwards, so that no side always
// follows the same other one.
func turns(sides, round int) []int {
	order := make([]int, sides)
	for i := range order {
		order[i] = (i + round/2) % sides
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// measure does the job once, with what surrounds it, and returns how long the job took.
func (s side) measure() (time.Duration, error) {
	if s.before != nil {
		if err := s.before(); err != nil {
			return 0, err
		}
	}
	settle()
	start := time.Now()
	err := s.job()
	took := time.Since(start)
	if err == nil && s.after != nil {
		err = s.after()
	}
	return took, err
}

// settle waits until the kernel has taken down the network namespaces and cgroups of the containers before, which its
// workers do when nobody waits for it: else it counts against the side whose turn is next. Where others keep them busy
// it gives up after a while.
func settle() {
	for end := time.Now().Add(time.Second); time.Now().Before(end) && workersBusy(); {
		time.Sleep(2 * time.Millisecond)
	}
}

// workersBusy looks at the names of the kernel's workers, where a plus stands before the queue that one works on.
func workersBusy() bool {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return false
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err == nil && bytes.HasPrefix(comm, []byte("kworker/")) && (bytes.Contains(comm, []byte("+netns")) || bytes.Contains(comm, []byte("+cgroup"))) {
			return true
		}
	}
	return false
}

func target(name string, aims []aim) string {
	for _, a := range aims {
		if a.against == name {
			return fmt.Sprintf("≤ %.2f", a.ratio)
		}
	}
	return ""
}

func median(samples []time.Duration) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// command returns a job that runs a program to its end. What it prints is kept for the error.
func command(name string, args ...string) func() error {
	return func() error {
		// A file, not a pipe: a created container holds what create was given, and the end of a pipe would not come.
		output, err := os.CreateTemp("", "bench")
		if err != nil {
			return err
		}
		defer output.Close()
		if err := os.Remove(output.Name()); err != nil {
			return err
		}
		cmd := exec.Command(name, args...)
		cmd.Stdout, cmd.Stderr = output, output
		if err := cmd.Run(); err != nil {
			said, _ := io.ReadAll(io.NewSectionReader(output, 0, 1<<16))
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said))
		}
		return nil
	}
}
