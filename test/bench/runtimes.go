package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// runtimes pairs the OCI runtimes on one bundle: runc's default configuration, with args /bin/true.
func (b *bench) runtimes() error {
	bundle, err := b.makeBundle("bundle", nil)
	if err != nil {
		return err
	}
	var run, lifecycle, inside []side
	for _, r := range b.ociRuntimes() {
		id := "bench-" + r.name
		run = append(run, side{name: r.name, job: r.command("run", "--bundle", bundle, id), skip: r.skip})
		lifecycle = append(lifecycle, side{name: r.name, skip: r.skip, job: func() error {
			return errors.Join(r.command("create", "--bundle", bundle, id)(), r.command("start", id)(), r.command("delete", "--force", id)())
		}})
	}
	if err := b.compare("`run` of /bin/true, runc's default configuration", run, aim{"crun", 0.6}, aim{"runc", 0.2}); err != nil {
		return err
	}
	if err := b.compare("`create` + `start` + `delete --force`", lifecycle, aim{"crun", 0.6}); err != nil {
		return err
	}

	sleeping, err := b.makeBundle("sleeping", []string{"sleep", "3600"})
	if err != nil {
		return err
	}
	for _, r := range b.ociRuntimes() {
		if r.skip == "" {
			if err := r.command("run", "--detach", "--bundle", sleeping, "exec-"+r.name)(); err != nil {
				return err
			}
			defer func() { _ = r.command("delete", "--force", "exec-"+r.name)() }()
		}
		inside = append(inside, side{name: r.name, job: r.command("exec", "exec-"+r.name, "/bin/true"), skip: r.skip})
	}
	return b.compare("`exec` of /bin/true", inside, aim{"crun", 0.6}, aim{"runc", 0.2})
}

// waiting measures the private memory of the process that waits between create and start.
func (b *bench) waiting() error {
	bundle, err := b.makeBundle("waiting", nil)
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

// makeBundle writes a bundle with busybox and runc's default configuration.
func (b *bench) makeBundle(name string, args []string) (string, error) {
	if args == nil {
		args = []string{"/bin/true"}
	}
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
	return bundle, editConfig(filepath.Join(bundle, "config.json"), args)
}

func editConfig(path string, args []string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(content, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no process", path)
	}
	process["args"] = args
	process["terminal"] = false
	config["ociVersion"] = "1.0.2" // Debian's crun knows no later one
	if content, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
