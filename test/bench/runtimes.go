package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
)

// ociRuntime is a program with runc's command line.
type ociRuntime struct {
	name string
	path string
	root string
	skip string
}

func (b *bench) ociRuntimes() []ociRuntime {
	list := []ociRuntime{{name: "berth-runtime", path: b.berth("berth-runtime")}, {name: "crun"}, {name: "runc"}}
	for i := range list {
		r := &list[i]
		r.root = filepath.Join(b.work, "state-"+r.name)
		if r.path != "" {
			continue
		}
		var err error
		if r.path, err = exec.LookPath(r.name); err != nil {
			r.skip = "not installed"
		}
	}
	return list
}

func (r ociRuntime) command(args ...string) func() error {
	return command(r.path, append([]string{"--root", r.root}, args...)...)
}

// The floor of what a runtime written in Go can reach has two parts: what the kernel needs, and the start of the program.
const (
	noRuntime         = "no runtime: clone3, pivot_root, execve"
	allWithoutRuntime = "the same with the cgroups, mounts and devices of the configuration"
	nothing           = "`berth-runtime --version`: a process that does nothing"
)

// runtimes pairs the OCI runtimes on bundles with runc's default configuration.
func (b *bench) runtimes() error {
	bundle, err := b.makeBundle("bundle", args("/bin/true"))
	if err != nil {
		return err
	}
	filtered, err := b.makeBundle("filtered", args("/bin/true"), dockerSeccomp)
	if err != nil {
		return err
	}
	run := b.sides(func(r ociRuntime) func() error { return r.command("run", "--bundle", bundle, r.id()) })
	run = append(run,
		side{name: noRuntime, job: newBare(filepath.Join(bundle, "rootfs"), "/bin/true", "").run},
		side{name: nothing, job: command(b.berth("berth-runtime"), "--version")})
	if err := b.compare("`run` of /bin/true, runc's default configuration", run, aim{"crun", 0.6}, aim{"runc", 0.2}); err != nil {
		return err
	}
	run = b.sides(func(r ociRuntime) func() error { return r.command("run", "--bundle", filtered, r.id()) })
	if err := b.compare("`run` of /bin/true with Docker's default seccomp profile", run, aim{"crun", 0.6}, aim{"runc", 0.2}); err != nil {
		return err
	}
	lifecycle := b.sides(func(r ociRuntime) func() error {
		return func() error {
			return errors.Join(r.command("create", "--bundle", bundle, r.id())(), r.command("start", r.id())(), r.command("delete", "--force", r.id())())
		}
	})
	if err := b.compare("`create` + `start` + `delete --force`", lifecycle, aim{"crun", 0.6}); err != nil {
		return err
	}
	return b.inside()
}

// inside pairs exec, in a container that sleeps.
func (b *bench) inside() error {
	bundle, err := b.makeBundle("sleeping", args("sleep", "3600"))
	if err != nil {
		return err
	}
	for _, r := range b.ociRuntimes() {
		if r.skip != "" {
			continue
		}
		if err := r.command("run", "--detach", "--bundle", bundle, "exec-"+r.name)(); err != nil {
			return err
		}
		defer func() { _ = r.command("delete", "--force", "exec-"+r.name)() }()
	}
	exec := b.sides(func(r ociRuntime) func() error { return r.command("exec", "exec-"+r.name, "/bin/true") })
	return b.compare("`exec` of /bin/true", exec, aim{"crun", 0.6}, aim{"runc", 0.2})
}

// crowd pairs the starts of many containers, some at a time, that all stay.
func (b *bench) crowd() error {
	const containers, atOnce = 100, 8
	bundle, err := b.makeBundle("crowd", args("sleep", "3600"))
	if err != nil {
		return err
	}
	each := func(job func(i int) error) func() error {
		return func() error {
			var group errgroup.Group
			group.SetLimit(atOnce)
			for i := range containers {
				group.Go(func() error { return job(i) })
			}
			return group.Wait()
		}
	}
	verb := func(r ociRuntime, args ...string) func() error {
		return each(func(i int) error { return r.command(append(slices.Clone(args), fmt.Sprint(r.id(), "-", i))...)() })
	}
	sides := b.sides(func(r ociRuntime) func() error { return verb(r, "run", "--detach", "--bundle", bundle) })
	for i, r := range b.ociRuntimes() {
		sides[i].after = verb(r, "delete", "--force")
		b.later(func() { _ = sides[i].after() }) // of a round that failed
	}
	bare, err := b.crowdWithout(bundle, containers)
	if err != nil {
		return err
	}
	for _, floor := range bare {
		sides = append(sides, side{name: floor.name, job: each(floor.begin), after: each(floor.remove)})
		b.later(func() { _ = each(floor.remove)() })
	}
	sides = append(sides, side{name: nothing, job: each(func(int) error { return command(b.berth("berth-runtime"), "--version")() })})
	few := *b
	few.runs = max(1, b.runs/10)
	return few.compare(fmt.Sprintf("%d containers started, %d at a time", containers, atOnce), sides, aim{"crun", 0.5})
}

// withoutRuntime is a part of a crowd's floor.
type withoutRuntime struct {
	name          string
	begin, remove func(i int) error
}

// crowdWithout returns the crowd's floor: containers that no runtime makes, bare and with what their configuration asks for.
func (b *bench) crowdWithout(bundle string, containers int) ([]withoutRuntime, error) {
	rootfs, pids := filepath.Join(bundle, "rootfs"), make([]int, containers)
	bare := newBare(rootfs, "/bin/sleep", "3600")
	rooms := make([]*furnished, containers)
	for i := range rooms {
		var err error
		if rooms[i], err = newFurnished(bundle, fmt.Sprint("bench-bare-", i), "/bin/sleep", "3600"); err != nil {
			return nil, err
		}
	}
	taken := func(i int) int {
		pid := pids[i]
		pids[i] = 0
		return pid
	}
	return []withoutRuntime{
		{
			name:   noRuntime,
			begin:  func(i int) (err error) { pids[i], err = bare.begin(); return err },
			remove: func(i int) error { return end(taken(i)) },
		},
		{
			name:   allWithoutRuntime,
			begin:  func(i int) (err error) { pids[i], err = rooms[i].begin(); return err },
			remove: func(i int) error { return rooms[i].remove(taken(i)) },
		},
	}, nil
}

// sides returns a side for each runtime, with its job.
func (b *bench) sides(job func(ociRuntime) func() error) []side {
	var sides []side
	for _, r := range b.ociRuntimes() {
		sides = append(sides, side{name: r.name, job: job(r), skip: r.skip})
	}
	return sides
}

func (r ociRuntime) id() string { return "bench-" + r.name }

// size compares the runtimes' binaries. Those written in C need libraries besides.
func (b *bench) size() error {
	fmt.Fprint(b.out, "### Size of the binary\n\n| | KiB | aim |\n|---|---|---|\n")
	for i, r := range b.ociRuntimes() {
		if r.skip != "" {
			fmt.Fprintf(b.out, "| %s | skipped: %s | |\n", r.name, r.skip)
			continue
		}
		info, err := os.Stat(r.path)
		if err != nil {
			return err
		}
		goal := ""
		if i == 0 {
			goal = "≤ 8192"
		}
		fmt.Fprintf(b.out, "| %s | %d | %s |\n", r.name, info.Size()>>10, goal)
	}
	fmt.Fprintln(b.out)
	return nil
}

// waiting measures the private memory of the process that waits between create and start.
func (b *bench) waiting() error {
	bundle, err := b.makeBundle("waiting", args("/bin/true"))
	if err != nil {
		return err
	}
	fmt.Fprint(b.out, "### Private memory of the process between `create` and `start`\n\n| | KiB | aim |\n|---|---|---|\n")
	for i, r := range b.ociRuntimes() {
		if r.skip != "" {
			fmt.Fprintf(b.out, "| %s | skipped: %s | |\n", r.name, r.skip)
			continue
		}
		id := "waiting-" + r.name
		if err := r.command("create", "--bundle", bundle, id)(); err != nil {
			return err
		}
		kib, err := r.privateMemory(id)
		if err := errors.Join(err, r.command("delete", "--force", id)()); err != nil {
			return err
		}
		goal := ""
		if i == 0 {
			goal = "≤ 1536"
		}
		fmt.Fprintf(b.out, "| %s | %d | %s |\n", r.name, kib, goal)
	}
	fmt.Fprintln(b.out)
	return nil
}

func (r ociRuntime) privateMemory(id string) (int, error) {
	output, err := exec.Command(r.path, "--root", r.root, "state", id).Output()
	if err != nil {
		return 0, err
	}
	var state struct{ Pid int }
	if err := json.Unmarshal(output, &state); err != nil {
		return 0, err
	}
	return privateMemory(state.Pid)
}

// privateMemory returns Private_Clean plus Private_Dirty of a process in KiB.
func privateMemory(pid int) (int, error) {
	return smaps(pid, "Private_Clean:", "Private_Dirty:")
}

func smaps(pid int, fields ...string) (int, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		for _, field := range fields {
			if len(words) > 1 && words[0] == field {
				kib, err := strconv.Atoi(words[1])
				if err != nil {
					return 0, err
				}
				sum += kib
			}
		}
	}
	return sum, nil
}

// makeBundle writes a bundle with busybox and runc's default configuration, edited.
func (b *bench) makeBundle(name string, edits ...func(*specs.Spec) error) (string, error) {
	bundle := filepath.Join(b.work, name)
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("busybox-static is needed: %w", err)
	}
	for _, applet := range []string{"sh", "true", "sleep"} {
		if err := os.WriteFile(filepath.Join(bin, applet), busybox, 0o755); err != nil {
			return "", err
		}
	}
	if err := command(b.berth("berth-runtime"), "spec", "--bundle", bundle)(); err != nil {
		return "", err
	}
	return bundle, editConfig(filepath.Join(bundle, "config.json"), edits)
}

func editConfig(path string, edits []func(*specs.Spec) error) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config specs.Spec
	if err := json.Unmarshal(content, &config); err != nil {
		return err
	}
	config.Version = "1.0.2" // Debian's crun knows no later one
	config.Process.Terminal = false
	for _, edit := range edits {
		if err := edit(&config); err != nil {
			return err
		}
	}
	if content, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

func args(argv ...string) func(*specs.Spec) error {
	return func(config *specs.Spec) error {
		config.Process.Args = argv
		return nil
	}
}

func dockerSeccomp(config *specs.Spec) (err error) {
	config.Linux.Seccomp, err = seccomp.GetDefaultProfile(config)
	return err
}
