package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// LoadAppArmor gives the kernel an AppArmor profile that denies reading one file, until the test ends. It returns false
// if the kernel has no AppArmor: that of make test-vm has.
func LoadAppArmor(t testing.TB, name, denied string) bool {
	t.Helper()
	NeedRoot(t)
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || string(enabled) != "Y\n" {
		return false
	}
	parser := Peer(t, "apparmor_parser")
	text := "profile " + name + " flags=(attach_disconnected) {\n file,\n capability,\n network,\n mount,\n signal,\n ptrace,\n unix,\n deny " + denied + " rw,\n}\n"
	parse := func(flags ...string) {
		t.Helper()
		command := exec.Command(parser, flags...)
		command.Stdin = strings.NewReader(text)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command.Args, err, output)
		}
	}
	parse("--add", "--skip-cache")
	t.Cleanup(func() { parse("--remove") })
	return true
}
