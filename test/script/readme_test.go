package script_test

import (
	"fmt"
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
		check := func() error { return step.check(t, d, dir) }
		if strings.HasPrefix(step.command, "curl ") || strings.HasPrefix(step.command, "berth logs ") {
			testenv.Until(t, limit, step.command, check) // a person types slower than a server starts and writes its log
			continue
		}
		if err := check(); err != nil {
			t.Fatal(err)
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

// check runs the command and compares.
func (s tourStep) check(t *testing.T, d *daemon, dir string) error {
	command := exec.Command("bash", "-c", s.command)
	if strings.Contains(s.command, " -it ") {
		command = exec.Command(testenv.Peer(t, "script"), "-qec", s.command, "/dev/null")
		command.Stdin = strings.NewReader("exit\r")
	}
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+testenv.BinDir(t)+":"+os.Getenv("PATH"), "BERTH_HOST="+d.Host, "IMAGE=busybox", "SHELL=/bin/bash")
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("$ %s: %w\n%s", s.command, err, output)
	}
	if !pattern(s.shown).MatchString(squeeze(string(output))) {
		return fmt.Errorf("$ %s\nprints\n%s\nwhere the README shows\n%s", s.command, output, s.shown)
	}
	return nil
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
