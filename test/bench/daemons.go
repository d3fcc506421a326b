package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// engine is a container engine that is up, privately, with the image loaded.
type engine struct {
	name    string
	skip    string
	client  string   // program and global flags before the verb
	flags   []string // …
	pids    []int    // its daemons
	image   string
	runArgs []string
}

func (e engine) do(args ...string) func() error {
	return command(e.client, append(append([]string{}, e.flags...), args...)...)
}

// cgroupParent is what the peers' containers have their cgroups below, and leave: ctr's namespace names it too.
const cgroupParent = "/bench"

// daemons pairs whole engines: a container from the client's command line to its exit, exec, and memory.
func (b *bench) daemons() error {
	b.later(func() {
		if err := testenv.RemoveCgroups(cgroupParent); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	engines := []engine{b.startBerth(), b.startDocker(), b.startContainerd(), b.setUpPodman()}
	if engines[0].skip != "" {
		return errors.New(engines[0].skip)
	}
	var run, inside []side
	for _, e := range engines {
		id := 0
		run = append(run, side{name: e.name, skip: e.skip, job: func() error {
			id++
			args := append([]string{"run", "--rm"}, e.runArgs...)
			if args = append(args, e.image); e.name == "ctr" {
				args = append(args, "bench"+strconv.Itoa(id))
			}
			return e.do(append(args, "true")...)()
		}})
	}
	if err := b.memory(engines); err != nil {
		return err
	}
	if err := b.compare("`run --rm IMAGE true` (bridge network; ctr: no network)", run, aim{"docker", 0.35}, aim{"ctr", 0.4}); err != nil {
		return err
	}
	for _, e := range engines {
		if e.name == "ctr" || e.name == "podman" {
			continue
		}
		if e.skip == "" {
			if err := e.do("run", "-d", "--name", "inside", e.image, "sleep", "3600")(); err != nil {
				return err
			}
			defer func() { _ = e.do("rm", "-f", "inside")() }()
		}
		inside = append(inside, side{name: e.name, job: e.do("exec", "inside", "true"), skip: e.skip})
	}
	return b.compare("`exec CONTAINER true`", inside, aim{"docker", 0.25})
}

// memory prints what the daemons use when idle, and what a shim uses for an idle container.
func (b *bench) memory(engines []engine) error {
	fmt.Fprint(b.out, "### Memory\n\n| | KiB | aim |\n|---|---|---|\n")
	for _, e := range engines {
		if e.skip != "" || len(e.pids) == 0 {
			continue
		}
		sum := 0
		for _, pid := range e.pids {
			kib, err := smaps(pid, "Rss:")
			if err != nil {
				return err
			}
			sum += kib
		}
		goal := ""
		if e.name == "berth" {
			goal = "≤ 46080"
		}
		fmt.Fprintf(b.out, "| RSS of %s's daemons, idle | %d | %s |\n", e.name, sum, goal)
	}
	for _, e := range engines {
		if e.skip != "" || e.name == "podman" {
			continue
		}
		shim := map[string]string{"berth": "containerd-shim-berth-v2", "docker": "containerd-shim-runc-v2", "ctr": "containerd-shim-runc-v2"}[e.name]
		const count = 4 // several, so that the text they share does not count as one's own
		for i := range count {
			name := "idle" + strconv.Itoa(i)
			args := append(append([]string{"run", "-d"}, e.runArgs...), "--name", name, e.image)
			if e.name == "ctr" {
				args = append(append([]string{"run", "-d"}, e.runArgs...), e.image, name)
			}
			if err := e.do(append(args, "sleep", "3600")...)(); err != nil {
				return err
			}
		}
		time.Sleep(3 * time.Second) // an idle shim is one that has had time to give memory back
		private, err := b.shimMemory(shim)
		if err != nil {
			return err
		}
		for i := range count {
			name := "idle" + strconv.Itoa(i)
			if e.name == "ctr" {
				_ = e.do("task", "kill", "-s", "KILL", name)()
				_ = e.do("task", "rm", "-f", name)()
				_ = e.do("container", "rm", name)()
			} else if err := e.do("rm", "-f", name)(); err != nil {
				return err
			}
		}
		goal := ""
		if e.name == "berth" {
			goal = "≤ 2560"
		}
		fmt.Fprintf(b.out, "| private memory of one shim of %s (%s) | %d | %s |\n", e.name, shim, private, goal)
	}
	fmt.Fprintln(b.out)
	return nil
}

// shimMemory returns the median private memory of the shims of that name that serve this run.
func (b *bench) shimMemory(name string) (int, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var figures []time.Duration
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join(process, "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(name)) || !b.mine(pid, line) {
			continue
		}
		kib, err := privateMemory(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		figures = append(figures, time.Duration(kib))
	}
	if len(figures) == 0 {
		return 0, fmt.Errorf("no process %s found", name)
	}
	return int(median(figures)), nil
}

// mine tells whether a process belongs to this run: its command line or its folder is below the private directory.
func (b *bench) mine(pid int, commandLine []byte) bool {
	folder, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return bytes.Contains(commandLine, []byte(b.work)) || strings.HasPrefix(folder, b.work)
}

// background starts a daemon that ends with the run, and waits until check succeeds.
func (b *bench) background(check func() error, name string, args ...string) (int, error) {
	log, err := os.Create(filepath.Join(b.work, filepath.Base(name)+".log"))
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+b.bin+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	b.later(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = log.Close()
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return cmd.Process.Pid, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%s does not answer: %w", name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
