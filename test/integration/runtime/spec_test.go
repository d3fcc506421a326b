package runtime_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthd/berth/test/testenv"
)

func specOf(t *testing.T, binary string, flags ...string) []string {
	t.Helper()
	dir := t.TempDir()
	command := exec.Command(binary, append([]string{"spec"}, flags...)...)
	command.Dir = dir
	if r := testenv.Execute(t, command); r.Status != 0 || r.Stdout != "" {
		t.Fatalf("%v: %+v", command.Args, r)
	}
	content, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	// Debian's runc asks for ambient capabilities that are not inheritable, which the kernel refuses, and which a newer one warns of as we do.
	content = regexp.MustCompile(`,\s*"ambient": \[[^]]*\]`).ReplaceAll(content, nil)
	var lines []string
	for line := range strings.Lines(string(content)) {
		// Debian's runc is older, and its list of what is masked shorter.
		if !strings.Contains(line, `"ociVersion"`) && !strings.Contains(line, "/sys/devices/virtual/tpm") {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestSpecEqualsRuncs(t *testing.T) { compareSpecs(t, testenv.Peer(t, "runc")) }

func TestSpecEqualsTheNewestRuncs(t *testing.T) { compareSpecs(t, testenv.NewestPeer(t, "runc")) }

func compareSpecs(t *testing.T, runc string) {
	t.Helper()
	for _, flags := range [][]string{nil, {"--rootless"}} {
		ours, theirs := specOf(t, testenv.Binary(t, "berth-runtime"), flags...), specOf(t, runc, flags...)
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("spec %v differs from runc's:\n%s", flags, diff)
		}
	}
}

func TestSpecKeepsAnExistingFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := testenv.Execute(t, exec.Command(testenv.Binary(t, "berth-runtime"), "spec", "-b", dir))
	if r.Status != 1 || !strings.Contains(r.Stderr, "config.json") || !strings.Contains(r.Stderr, "exists already") {
		t.Errorf("%+v", r)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "mine" {
		t.Errorf("the file is %q, %v", content, err)
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, args := range [][]string{{"spec", "x"}, {"spec", "--nope"}, {"spec", "--bundle", "/nonexistent"}} {
		if r := testenv.Execute(t, exec.Command(testenv.Binary(t, "berth-runtime"), args...)); r.Status == 0 || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// TestBadConfiguration puts mistakes into config.json. Each has to be told in one sentence, and to leave nothing.
func TestBadConfiguration(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"a misspelt field":   {`"cwd":"/"`, `"cwdd":"/"`, "field process.cwdd: there is no such field"},
		"no resctrl":         {`"resources"`, `"intelRdt":{},"resources"`, "field linux.intelRdt: the file system resctrl is not mounted"},
		"a wrong type":       {`"cwd":"/"`, `"cwd":7`, "field process.cwd: it must be a string, not 7"},
		"no JSON":            {`"hostname"`, `hostname`, "it is not JSON"},
		"a namespace's typo": {`{"type":"pid"}`, `{"type":"pids"}`, `field linux.namespaces[0].type: "pids" is none of`},
		"a relative cwd":     {`"cwd":"/"`, `"cwd":"tmp"`, `field process.cwd: "tmp" is not an absolute path`},
		"a seccomp action":   {`"resources"`, `"seccomp":{"defaultAction":"ALLOW"},"resources"`, `field linux.seccomp.defaultAction: "ALLOW" is not an action`},
		"a device rule":      {`"access":"rwm"`, `"access":"rwx"`, "linux.resources.devices[0].access"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			c.writeConfig()
			file := filepath.Join(c.Bundle, "config.json")
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(content), test.old, test.new, 1)
			if changed == string(content) {
				t.Fatalf("%s has no %s", content, test.old)
			}
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			r := c.verb("run", "--bundle", c.Bundle, c.ID)
			if r.Status != 1 || !strings.Contains(r.Stderr, test.want) || strings.Count(r.Stderr, "\n") != 1 {
				t.Errorf("%+v, want %q", r, test.want)
			}
			c.gone()
		})
	}
}

// TestExtendedConfiguration: the specification allows further properties. Who has misspelt one is told.
func TestExtendedConfiguration(t *testing.T) {
	c := newContainer(t, "echo", "hello")
	c.writeConfig()
	file := filepath.Join(c.Bundle, "config.json")
	content := strings.Replace(readFile(t, file), `"cwd"`, `"com.example.x":{"y":[1]},"cwd"`, 1)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "field process.com.example.x: there is no such field, it is ignored\n"
	r := c.verb("run", "--bundle", c.Bundle, c.ID)
	if r.Status != 0 || r.Stdout != "hello\n" || !strings.HasPrefix(r.Stderr, "warning: config.json of bundle ") || !strings.HasSuffix(r.Stderr, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	log := filepath.Join(c.Bundle, "log")
	c.Flags = []string{"--log", log, "--log-format", "json"}
	if r := c.verb("run", "--bundle", c.Bundle, c.ID); r.Status != 0 {
		t.Errorf("%+v", r)
	}
	var entry struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(readFile(t, log)), &entry); err != nil || entry.Level != "warning" || !strings.HasSuffix(entry.Msg+"\n", want) {
		t.Errorf("the log has %+v, %v", entry, err)
	}
}

func TestNoConfiguration(t *testing.T) {
	c := newContainer(t)
	r := c.verb("run", "--bundle", c.Bundle, c.ID)
	if want := "cannot read config.json of bundle"; r.Status != 1 || !strings.Contains(r.Stderr, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	c.gone()
}
