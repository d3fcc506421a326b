// Package main pairs berth with the programs it wants to beat and prints ratios: both sides run in turn, on the same
// machine, in one run, so that a noisy machine disturbs both alike. `make bench` runs it in network and mount
// namespaces of its own.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of all sections.
type bench struct {
	bin    string // the built binaries
	work   string // private directory, removed at the end
	layout string // OCI layout with the image "busybox"
	runs   int
	out    io.Writer
	undo   []func()
}

func run() (err error) {
	bin := flag.String("bin", "bin", "directory of the built binaries")
	layout := flag.String("layout", "", "OCI layout that hack/make-images.sh made")
	runs := flag.Int("runs", 31, "counted runs of each side")
	only := flag.String("only", "", "comma-separated sections: runtime, calls, crowd, waiting, size, daemons, cni (default: all)")
	flag.Parse()

	b := &bench{runs: *runs, out: os.Stdout}
	if b.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	if b.layout, err = filepath.Abs(*layout); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("/tmp", "bench."); err != nil {
		return err
	}
	b.later(func() { _ = os.RemoveAll(b.work) })
	defer b.close()

	fmt.Fprintf(b.out, "%s, %s\n\n", machine(), time.Now().UTC().Format(time.DateOnly))
	sections := []struct {
		name string
		run  func() error
	}{
		{"runtime", b.runtimes},
		{"calls", b.calls},
		{"crowd", b.crowd},
		{"waiting", b.waiting},
		{"size", b.size},
		{"daemons", b.daemons},
		{"cni", b.plugins},
	}
	for _, section := range sections {
		if *only != "" && !strings.Contains(","+*only+",", ","+section.name+",") {
			continue
		}
		if err := section.run(); err != nil {
			return fmt.Errorf("cannot measure %s: %w", section.name, err)
		}
	}
	return nil
}

// later registers what close undoes, newest first.
func (b *bench) later(undo func()) { b.undo = append(b.undo, undo) }

func (b *bench) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	b.undo = nil
}

func (b *bench) berth(name string) string { return filepath.Join(b.bin, name) }

// machine says what the figures were measured on.
func machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpus, _ := exec.Command("nproc").Output()
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s, %s cores, Linux %s", model, strings.TrimSpace(string(cpus)), strings.TrimSpace(string(kernel)))
}
