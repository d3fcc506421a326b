// Package bundle turns what a client asked for and what the image says into an OCI bundle: the config.json that the
// runtime reads, with Docker's defaults where nobody said anything.
package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/atomicfile"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Names of files in a bundle.
const (
	ConfigFile     = "config.json"
	RootfsDir      = "rootfs"
	HostnameFile   = "hostname"
	HostsFile      = "hosts"
	ResolvConfFile = "resolv.conf"
	// ShmDir is a mount of another container's /dev/shm, while a container is made that shares it.
	ShmDir = "shm"
)

// initPath is where the init of `--init` appears in a container.
const initPath = "/sbin/berth-init"

// Request is all that a configuration is made of.
type Request struct {
	ID   string
	Dir  string // the bundle; its rootfs is mounted
	Spec *berthv1.ContainerSpec
	// Process is the spec's, with the image's defaults applied.
	Process  *berthv1.ProcessSpec
	Hostname string
	// Mounts are the spec's and the image's, with their host paths.
	Mounts []*berthv1.MountState
	// Joins are the namespaces to join by path: of other containers, or the pinned network namespace.
	Joins map[specs.LinuxNamespaceType]string
	// CgroupParent holds the container's cgroup, unless the spec names another parent.
	CgroupParent string
	// AppArmorProfile confines a container that is not privileged and names no profile. Empty: none.
	AppArmorProfile string
	// Init is the host's path of the init program.
	Init    string
	TTYSize *berthv1.TerminalSize
}

// Write makes config.json in the bundle, and returns the environment of its process.
func Write(request Request) (env []string, err error) {
	spec, err := Build(request)
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the configuration: %w", err)
	}
	return spec.Process.Env, atomicfile.WriteVolatile(filepath.Join(request.Dir, ConfigFile), encoded, 0o600)
}

// Environment reads back what Write returned.
func Environment(dir string) ([]string, error) {
	encoded, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	var spec struct {
		Process struct {
			Env []string `json:"env"`
		} `json:"process"`
	}
	if err := json.Unmarshal(encoded, &spec); err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return spec.Process.Env, nil
}

// Build makes the configuration.
func Build(request Request) (*specs.Spec, error) {
	spec := &specs.Spec{
		Version:     version(request),
		Root:        &specs.Root{Path: RootfsDir, Readonly: request.Spec.GetSecurity().GetReadOnlyRootfs()},
		Annotations: request.Spec.GetAnnotations(),
		Linux: &specs.Linux{
			CgroupsPath: cgroupsPath(request),
			Namespaces:  namespaces(request),
		},
	}
	if uts := request.Spec.GetNamespaces().GetUts(); !hostNamespace(uts) && !strings.HasPrefix(uts, "container:") {
		spec.Hostname, spec.Domainname = request.Hostname, request.Spec.GetDomainname()
	}
	rootfs := filepath.Join(request.Dir, RootfsDir)
	process, err := Process(rootfs, request.Process, request.Spec.GetSecurity())
	if err != nil {
		return nil, err
	}
	spec.Process = process
	spec.Process.Env = environment(request, process)
	if request.TTYSize != nil && process.Terminal {
		spec.Process.ConsoleSize = &specs.Box{Width: uint(request.TTYSize.GetWidth()), Height: uint(request.TTYSize.GetHeight())}
	}
	for _, step := range []func(Request, *specs.Spec) error{addMounts, addResources, addDevices, addRlimits, addSecurity} {
		if err := step(request, spec); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// version is the oldest version of the specification that has all that the configuration uses: older runtimes refuse a
// newer one (crun before 1.9).
func version(request Request) string {
	if request.Spec.GetDomainname() != "" || len(request.Spec.GetResources().GetUnified()) > 0 {
		return specs.Version
	}
	return "1.0.2"
}

func cgroupsPath(request Request) string {
	parent := request.Spec.GetResources().GetCgroupParent()
	if parent == "" {
		parent = request.CgroupParent
	}
	return filepath.Join("/", parent, request.ID)
}

// namespaces are all private but for those that the spec shares with the host, or that are joined.
func namespaces(request Request) []specs.LinuxNamespace {
	asked := request.Spec.GetNamespaces()
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, namespace := range []struct {
		kind  specs.LinuxNamespaceType
		asked string
	}{
		{specs.PIDNamespace, asked.GetPid()},
		{specs.IPCNamespace, asked.GetIpc()},
		{specs.UTSNamespace, asked.GetUts()},
		{specs.CgroupNamespace, asked.GetCgroup()},
		{specs.NetworkNamespace, request.Spec.GetNetwork().GetMode()},
	} {
		if !hostNamespace(namespace.asked) {
			list = append(list, specs.LinuxNamespace{Type: namespace.kind, Path: request.Joins[namespace.kind]})
		}
	}
	return list
}

func hostNamespace(asked string) bool { return asked == "host" }

// MergeProcess applies the image's defaults to what the client asked for, and says what runs.
func MergeProcess(asked *berthv1.ProcessSpec, image ocispec.ImageConfig) *berthv1.ProcessSpec {
	merged := &berthv1.ProcessSpec{
		Entrypoint: asked.GetEntrypoint(), Args: asked.GetArgs(), Env: mergeEnv(image.Env, asked.GetEnv()),
		WorkingDir: asked.GetWorkingDir(), User: asked.GetUser(), AdditionalGroups: asked.GetAdditionalGroups(),
		Tty: asked.GetTty(), Stdin: asked.GetStdin(), StdinOnce: asked.GetStdinOnce(),
		TtySize: asked.GetTtySize(), Privileged: asked.GetPrivileged(),
	}
	if merged.GetEntrypoint() == nil {
		merged.Entrypoint = &berthv1.StringList{Values: image.Entrypoint}
		if len(merged.GetArgs()) == 0 {
			merged.Args = image.Cmd
		}
	}
	// An entrypoint of one empty word stands for none: builders write ENTRYPOINT [""] to take one away.
	if values := merged.GetEntrypoint().GetValues(); len(values) == 1 && values[0] == "" {
		merged.Entrypoint = &berthv1.StringList{}
	}
	if merged.GetWorkingDir() == "" {
		merged.WorkingDir = image.WorkingDir
	}
	if merged.GetWorkingDir() == "" {
		merged.WorkingDir = "/"
	}
	if merged.GetUser() == "" {
		merged.User = image.User
	}
	return merged
}

// Command is the command line of a merged process.
func Command(process *berthv1.ProcessSpec) []string {
	command := append([]string{}, process.GetEntrypoint().GetValues()...)
	return append(command, process.GetArgs()...)
}
