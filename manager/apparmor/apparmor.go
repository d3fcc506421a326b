// Package apparmor confines containers by an AppArmor profile where the host has AppArmor, as Docker does with its
// docker-default.
package apparmor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Name is the profile of containers that ask for none. It may be loaded already, by another berthd: the kernel has one
// list of profiles.
const Name = "berth-default"

// loadLimit bounds how long apparmor_parser may take.
const loadLimit = 10 * time.Second

const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
)

// Profile is the default profile. The zero value is ready for use.
type Profile struct {
	mu sync.Mutex // one parser at a time
}

// Enabled tells whether the kernel confines by AppArmor.
func Enabled() bool {
	content, err := os.ReadFile(enabledFile)
	return err == nil && strings.TrimSpace(string(content)) == "Y"
}

// errNoParser says why containers are not confined on a host that could.
var errNoParser = errors.New("AppArmor is enabled, and apparmor_parser, which loads profiles, is not installed: containers run unconfined by it")

// Usable tells whether containers get the profile. An error says why they do not on a host with AppArmor.
func Usable() (bool, error) {
	if !Enabled() {
		return false, nil
	}
	if _, err := parser(); err != nil {
		return false, errNoParser
	}
	return true, nil
}

// parser finds apparmor_parser, which PATH of a service may not have.
func parser() (string, error) {
	path, err := exec.LookPath("apparmor_parser")
	if err != nil {
		path, err = exec.LookPath("/sbin/apparmor_parser")
	}
	return path, err
}

// Ensure returns the name of the profile, which it loads if the kernel does not have it. The name is empty where
// containers get no profile. An error is no reason to run a container without it.
func (p *Profile) Ensure(ctx context.Context) (name string, err error) {
	if usable, _ := Usable(); !usable {
		return "", nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if isLoaded() {
		return Name, nil
	}
	if err := load(ctx); err != nil {
		return "", fmt.Errorf("cannot load AppArmor profile %q: %w", Name, err)
	}
	return Name, nil
}

func isLoaded() bool {
	content, err := os.ReadFile(profilesFile)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		if name, _, _ := strings.Cut(line, " "); name == Name {
			return true
		}
	}
	return false
}

func load(ctx context.Context) error {
	path, err := parser()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	command := exec.CommandContext(ctx, path, "--replace", "--skip-cache")
	command.Stdin = strings.NewReader(text(confinement(), exists("tunables/global"), exists("abstractions/base")))
	command.WaitDelay = time.Second
	output, err := command.CombinedOutput()
	if err != nil && len(output) > 0 {
		return fmt.Errorf("apparmor_parser: %s: %w", bytes.TrimSpace(output), err)
	}
	return err
}

func exists(include string) bool {
	_, err := os.Stat(filepath.Join("/etc/apparmor.d", include))
	return err == nil
}

// confinement is the profile that berthd itself runs under.
func confinement() string {
	content, err := os.ReadFile("/proc/self/attr/current")
	name, _, _ := strings.Cut(strings.TrimRight(string(content), "\x00\n"), " ")
	if err != nil || name == "" {
		return "unconfined"
	}
	return name
}

// text is the profile. It allows what a container's capabilities, devices and mounts allow, and denies what they could
// reach of the host: mounts, and writing to files of the kernel in /proc and /sys that are not per process, but for
// those of System V shared memory and of cgroups.
func text(daemon string, tunables, base bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if tunables {
		line("#include <tunables/global>")
	} else {
		line("@{PROC}=/proc/")
	}
	line("profile %s flags=(attach_disconnected,mediate_deleted) {", Name)
	if base {
		line("  #include <abstractions/base>")
	}
	for _, rule := range []string{"network", "capability", "file", "umount"} {
		line("  %s,", rule)
	}
	for _, sender := range []string{"unconfined", "runc", "crun", daemon} {
		line("  signal (receive) peer=%s,", sender)
	}
	line("  signal (send,receive) peer=%s,", Name)
	line("  ptrace (trace,read,tracedby,readby) peer=%s,", Name)
	line("  deny mount,")
	for _, path := range []string{
		"@{PROC}/*", "@{PROC}/{acpi,asound,bus,driver,fs,irq,scsi,tty}/**",
		"@{PROC}/sys/[^k]**", "@{PROC}/sys/kernel/[^s]**", "@{PROC}/sys/kernel/s[^h]**", "@{PROC}/sys/kernel/sh[^m]**",
	} {
		line("  deny %s w,", path)
	}
	for _, path := range []string{"/sys/[^f]*/**", "/sys/f[^s]*/**", "/sys/fs/[^c]*/**", "/sys/fs/c[^g]*/**", "/sys/fs/cg[^r]*/**"} {
		line("  deny %s wklx,", path)
	}
	for _, path := range []string{
		"@{PROC}/sysrq-trigger", "@{PROC}/kcore", "/sys/firmware/**", "/sys/devices/virtual/powercap/**", "/sys/kernel/security/**",
	} {
		line("  deny %s rwklx,", path)
	}
	line("}")
	return b.String()
}
