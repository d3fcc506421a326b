package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// turns returns the order of a round. Kernel threads still take down the namespaces and cgroups of the container before,
// and so everyone must follow everyone else equally often: each round begins with another side, every other goes backwards.
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
	start := time.Now()
	err := s.job()
	took := time.Since(start)
	if err == nil && s.after != nil {
		err = s.after()
	}
	return took, err
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
