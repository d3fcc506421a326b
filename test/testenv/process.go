package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Process is a running process.
type Process struct {
	Pid int
	// Args is its command line, each argument followed by a zero byte, as /proc/PID/cmdline has it.
	Args string
}

func (p Process) String() string {
	return fmt.Sprintf("process %d: %s", p.Pid, strings.ReplaceAll(p.Args, "\x00", " "))
}

// Processes returns the host's processes whose command lines contain all of the texts.
func Processes(t testing.TB, texts ...string) []Process {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []Process
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err != nil || !containsAll(string(args), texts) {
			continue // it may have ended meanwhile
		}
		p := Process{Args: string(args)}
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &p.Pid); err != nil {
			t.Fatal(err)
		}
		found = append(found, p)
	}
	return found
}

func containsAll(s string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(s, text) {
			return false
		}
	}
	return true
}
