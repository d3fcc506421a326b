package script_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/berthd/berth/test/testenv"
)

// TestTour runs every command of the README's ten minutes and compares what it prints with what the README shows.
// There, three dots stand for anything.
func TestTour(t *testing.T) {
	w := newWorld(t)
	d := startDaemon(t)
	for _, args := range [][]string{{"pull", "-q", w.image("busybox")}, {"tag", w.image("busybox"), "busybox"}, {"rmi", w.image("busybox")}} {
		if _, err := d.berth(args...); err != nil {
			t.Fatal(err)
		}
	}
	port, dir := freePort(t), t.TempDir()
	killed := false
	for _, step := range tour(t) {
		step.command, step.shown = strings.ReplaceAll(step.command, "8080", port), strings.ReplaceAll(step.shown, "8080", port)
		switch {
		case strings.HasPrefix(step.command, "IMAGE="):
			continue
		case strings.HasPrefix(step.command, "kill -9 $(pidof berthd)"):
			d.Kill()
			killed = true
			continue
		case killed && strings.HasPrefix(step.command, "berth "):
			d.Start() // as systemd does
			killed = false
		}
		if strings.HasPrefix(step.command, "curl ") { // a person types slower than a server starts
			testenv.Until(t, limit, step.command, func() error { return exec.Command("bash", "-c", step.command).Run() })
		}
		output := runStep(t, d, dir, step.command)
		if want := pattern(step.shown); !want.MatchString(squeeze(output)) {
			t.Fatalf("$ %s\nprints\n%s\nwhere the README shows\n%s", step.command, output, step.shown)
		}
	}
	d.becomesEmpty()
}

type tourStep struct{ command, shown string }

// tour returns the commands of the README's console blocks, each with the lines below it.
func tour(t *testing.T) []tourStep {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(testenv.Repo(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var steps []tourStep
	for _, block := range strings.Split(string(content), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				steps = append(steps, tourStep{command: strings.TrimSpace(command)})
			} else {
				steps[len(steps)-1].shown += line
			}
		}
	}
	if len(steps) < 10 {
		t.Fatalf("the README's tour has only %d commands", len(steps))
	}
	return steps
}

func runStep(t *testing.T, d *daemon, dir, line string) string {
	t.Helper()
	command := exec.Command("bash", "-c", line)
	if strings.Contains(line, " -it ") {
		command = exec.Command(testenv.Peer(t, "script"), "-qec", line, "/dev/null")
		command.Stdin = strings.NewReader("exit\r")
	}
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+testenv.BinDir(t)+":"+os.Getenv("PATH"), "BERTH_HOST="+d.Host, "IMAGE=busybox", "SHELL=/bin/bash")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("$ %s\n%v\n%s", line, err, output)
	}
	return string(output)
}

// pattern matches the output that the README shows.
func pattern(shown string) *regexp.Regexp {
	quoted := strings.ReplaceAll(regexp.QuoteMeta(squeeze(shown)), `\.\.\.`, ".*")
	return regexp.MustCompile(`(?s)^` + quoted + `$`)
}

// squeeze makes the width of a table's columns not matter.
func squeeze(text string) string {
	return strings.TrimSpace(regexp.MustCompile(` +`).ReplaceAllString(text, " "))
}
