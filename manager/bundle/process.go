package bundle

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Process makes the OCI process of a merged one: the container's own, or one that Exec adds. Users are looked up in
// the file system at rootfs. Its environment is the process's, with HOME.
func Process(rootfs string, process *berthv1.ProcessSpec, security *berthv1.Security) (*specs.Process, error) {
	command := Command(process)
	if len(command) == 0 {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("no command: neither the request nor the image names one"))
	}
	cwd := process.GetWorkingDir()
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid working directory %q: want an absolute path", cwd))
	}
	user, home, err := lookupUser(rootfs, process.GetUser(), process.GetAdditionalGroups())
	if err != nil {
		return nil, err
	}
	capabilities, err := capabilitySets(security, process.GetPrivileged() || security.GetPrivileged(), user.UID == 0)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal: process.GetTty(), User: user, Args: command, Cwd: path.Clean(cwd),
		Env:             withDefault(process.GetEnv(), "HOME="+home),
		Capabilities:    capabilities,
		NoNewPrivileges: security.GetNoNewPrivileges(),
	}, nil
}

// environment puts the defaults of a container before what the image and the client set.
func environment(request Request, process *specs.Process) []string {
	defaults := []string{defaultPath, "HOSTNAME=" + request.Hostname}
	if process.Terminal {
		defaults = append(defaults, "TERM=xterm")
	}
	return mergeEnv(defaults, process.Env)
}

// ExecEnvironment is what a process that Exec adds gets: the container's environment, and its own on top.
func ExecEnvironment(container, added []string, tty bool) []string {
	if tty {
		container = withDefault(container, "TERM=xterm")
	}
	return mergeEnv(container, added)
}

// mergeEnv sets the variables of changes in base. A name without a value removes the variable.
func mergeEnv(base, changes []string) []string {
	merged := slices.Clone(base)
	for _, change := range changes {
		name, _, hasValue := strings.Cut(change, "=")
		index := slices.IndexFunc(merged, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		switch {
		case hasValue && index >= 0:
			merged[index] = change
		case hasValue:
			merged = append(merged, change)
		case index >= 0:
			merged = slices.Delete(merged, index, index+1)
		}
	}
	return merged
}

// Sets tells whether an environment has a variable.
func Sets(env []string, name string) bool {
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
}

func withDefault(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	if Sets(env, name) {
		return env
	}
	return append(slices.Clone(env), entry)
}
