package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/berthd/berth/runtime/container"
)

func (g *globals) ps(args []string) (int, error) {
	flags := newFlags("ps", "[options] ID [OPTIONS OF ps]")
	format := "table"
	both(flags.StringVar, &format, "format,f", "`format` of the output: table or json")
	if err := parseFlags(flags, args); err != nil {
		return 1, err
	}
	if err := checkArguments(flags, flags.NArg(), 1, -1); err != nil {
		return 1, err
	}
	c, err := container.Load(g.root, flags.Arg(0))
	if err != nil {
		return 1, err
	}
	pids, err := c.Pids()
	if err != nil {
		return 1, err
	}
	switch format {
	case "json":
		return 0, printJSON(pids, "")
	case "table":
		return 0, printProcesses(pids, flags.Args()[1:])
	}
	return 1, fmt.Errorf("unknown format %q: it is table or json", format)
}

// printProcesses prints those lines of the host's ps that are about the processes.
func printProcesses(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	output, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
		return fmt.Errorf("cannot execute ps %s: %w: %s", strings.Join(options, " "), err, said)
	}
	column := -1
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if column < 0 {
			if column = slices.Index(fields, "PID"); column < 0 {
				return fmt.Errorf("cannot find the column PID in the output of ps %s", strings.Join(options, " "))
			}
			fmt.Fprint(os.Stdout, line)
			continue
		}
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprint(os.Stdout, line)
		}
	}
	return nil
}
