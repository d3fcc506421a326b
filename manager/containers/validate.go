package containers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/manager/bundle"
	"github.com/berthd/berth/manager/names"
	"github.com/berthd/berth/manager/networks"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func invalid(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

func notImplemented(what string) error {
	return errdefs.As(errdefs.ErrUnimplemented, fmt.Errorf("not implemented: %s", what))
}

// validate refuses what could never run, before anything is made.
func (s *Service) validate(name string, spec *berthv1.ContainerSpec) error {
	if name != "" {
		if err := names.Check(name); err != nil {
			return err
		}
	}
	if spec.GetImage() == "" {
		return invalid("spec.image is empty: name the image to create the container from")
	}
	if err := s.checkAbsent(spec); err != nil {
		return err
	}
	if err := errors.Join(checkHostName("host", spec.GetHostname()), checkHostName("domain", spec.GetDomainname())); err != nil {
		return err
	}
	if err := checkLife(spec); err != nil {
		return err
	}
	if _, err := parseLogOptions(spec.GetLog()); err != nil {
		return err
	}
	for _, mount := range spec.GetMounts() {
		if err := bundle.CheckMount(mount); err != nil {
			return err
		}
	}
	if err := s.checkRuntime(spec.GetRuntime()); err != nil {
		return err
	}
	if _, err := bundle.Resources(spec.GetResources()); err != nil {
		return err
	}
	if _, err := bundle.Rlimits(spec.GetResources()); err != nil {
		return err
	}
	if err := bundle.CheckSysctls(spec); err != nil {
		return err
	}
	if dir := spec.GetProcess().GetWorkingDir(); dir != "" && !filepath.IsAbs(dir) {
		return invalid("invalid working directory %q: want an absolute path", dir)
	}
	if err := bundle.CheckCapabilities(spec.GetSecurity()); err != nil {
		return err
	}
	if err := s.checkNamespaces(spec); err != nil {
		return err
	}
	return s.cfg.Networks.Validate(spec.GetNetwork())
}

// hostNameLength is what the kernel has room for.
const hostNameLength = 64

// checkHostName refuses what the kernel does not take, and what would be read as several names in /etc/hosts.
func checkHostName(kind, name string) error {
	if len(name) > hostNameLength {
		return invalid("the %s name %q is longer than %d bytes", kind, name, hostNameLength)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return invalid("the %s name %q has a %q in it: letters, digits, -, _ and . are allowed", kind, name, c)
		}
	}
	return nil
}

// checkAbsent refuses what this daemon can't do yet.
func (s *Service) checkAbsent(spec *berthv1.ContainerSpec) error {
	switch {
	case spec.GetSandboxId() != "":
		return notImplemented("sandboxes (sandbox_id)")
	case spec.GetHealth() != nil && !slices.Equal(spec.GetHealth().GetTest(), []string{"NONE"}):
		return notImplemented("health checks (health.test)")
	case spec.GetNamespaces().GetUser() != "" && spec.GetNamespaces().GetUser() != "host":
		return notImplemented(fmt.Sprintf("user namespaces (namespaces.user %q)", spec.GetNamespaces().GetUser()))
	}
	if spec.GetInit() {
		if _, err := os.Stat(s.cfg.Init); err != nil {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot give the container an init: %w", err))
		}
	}
	return nil
}

func checkLife(spec *berthv1.ContainerSpec) error {
	condition := spec.GetRestart().GetCondition()
	restarts := condition > berthv1.RestartCondition_RESTART_CONDITION_NO
	switch {
	case spec.GetAutoRemove() && restarts:
		return invalid("auto_remove and a restart policy exclude each other: a container that removes itself can't be started again")
	case spec.GetRestart().GetMaxRetries() > 0 && condition != berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE:
		return invalid("restart.max_retries is for the condition on-failure only")
	}
	if spec.GetStopSignal() != "" {
		if _, err := parseSignal(spec.GetStopSignal()); err != nil {
			return err
		}
	}
	return nil
}

// checkRuntime refuses a runtime that could not be executed.
func (s *Service) checkRuntime(runtime string) error {
	_, err := runtimePath(runtime)
	return err
}

// runtimePath finds a runtime by its absolute path, or one of knownRuntimes by its name in PATH. It is empty for the
// default.
func runtimePath(runtime string) (string, error) {
	switch {
	case runtime == "" || runtime == DefaultRuntime:
		return "", nil
	case filepath.IsAbs(runtime):
		if info, err := os.Stat(runtime); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return "", invalid("runtime %q is not an executable file", runtime)
		}
		return runtime, nil
	case slices.Contains(knownRuntimes(), runtime):
		path, err := exec.LookPath(runtime)
		if err != nil {
			return "", invalid("runtime %q is not installed: %v", runtime, err)
		}
		return path, nil
	}
	return "", invalid("unknown runtime %q: want %s, %s or an absolute path", runtime, DefaultRuntime, strings.Join(knownRuntimes(), ", "))
}

// knownRuntimes are those that a client may name without a path.
func knownRuntimes() []string { return []string{"runc", "crun"} }

// Runtimes are the names of the runtimes that this host has.
func Runtimes() []string {
	list := []string{DefaultRuntime}
	for _, name := range knownRuntimes() {
		if _, err := exec.LookPath(name); err == nil {
			list = append(list, name)
		}
	}
	return list
}

// DefaultRuntime is the name of the OCI runtime that containers get.
const DefaultRuntime = "berth-runtime"

// checkNamespaces refuses names of namespaces that mean nothing, or that could not be joined.
func (s *Service) checkNamespaces(spec *berthv1.ContainerSpec) error {
	for _, namespace := range joinable(spec) {
		target, joins := strings.CutPrefix(namespace.asked, "container:")
		switch {
		case joins:
			other, err := s.find(target)
			if err != nil {
				return fmt.Errorf("cannot join the %s namespace: %w", namespace.kind, err)
			}
			if err := checkShareable(namespace.kind, other.snapshot()); err != nil {
				return err
			}
		case namespace.kind == specs.IPCNamespace && (namespace.asked == "shareable" || namespace.asked == "none"):
		case namespace.asked != "" && namespace.asked != "host" && namespace.asked != "private":
			return invalid("unknown %s namespace %q: want private, host or container:NAME, for ipc also shareable or none", namespace.kind, namespace.asked)
		}
	}
	if spec.GetNamespaces().GetUts() == "host" && spec.GetHostname() != "" {
		return invalid("a host name can't be set in the host's uts namespace")
	}
	mode, target, err := networks.ParseMode(spec.GetNetwork())
	if err != nil {
		return err
	}
	if mode == networks.ModeContainer {
		if _, err := s.find(target); err != nil {
			return fmt.Errorf("cannot join the network namespace: %w", err)
		}
		return checkSharedNetwork(spec)
	}
	return nil
}

// checkShareable refuses the IPC namespace of a container that keeps it for itself.
func checkShareable(kind specs.LinuxNamespaceType, other *berthv1.Container) error {
	mode := other.GetSpec().GetNamespaces().GetIpc()
	if kind != specs.IPCNamespace || mode != "private" && mode != "none" {
		return nil
	}
	return invalid("cannot join the ipc namespace of container %q: it was made with the ipc namespace %q; make it with shareable", other.GetName(), mode)
}

// checkSharedNetwork refuses what belongs to a network namespace where that is another container's.
func checkSharedNetwork(spec *berthv1.ContainerSpec) error {
	network := spec.GetNetwork()
	for _, option := range []struct {
		name  string
		given bool
	}{
		{"a host name", spec.GetHostname() != ""},
		{"published ports", len(network.GetPorts()) > 0 || network.GetPublishAll()},
		{"exposed ports", len(network.GetExposedPorts()) > 0},
		{"name servers", len(network.GetDnsServers())+len(network.GetDnsSearch())+len(network.GetDnsOptions()) > 0},
		{"extra hosts", len(network.GetExtraHosts()) > 0},
		{"a MAC address", network.GetMacAddress() != ""},
	} {
		if option.given {
			return invalid("conflicting options: %s and the network mode %q: the network is the other container's", option.name, network.GetMode())
		}
	}
	return nil
}

// portSet is ports by protocol: at each port how many ranges begin there, less those that have ended. However many ranges an image
// names, and however they overlap, they take the same memory and little time.
type portSet map[string]*[1<<16 + 1]int

func (p portSet) add(text string) error {
	numbers, protocol, given := strings.Cut(strings.ToLower(text), "/")
	if !given {
		protocol = "tcp"
	}
	first, last, err := portRange(numbers)
	if err != nil || first == 0 || last < first || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return invalid("cannot expose %q: want PORT or FIRST-LAST, with /tcp, /udp or /sctp", text)
	}
	if p[protocol] == nil {
		p[protocol] = new([1<<16 + 1]int)
	}
	p[protocol][first]++
	p[protocol][last+1]--
	return nil
}

// list names each port, as "80/tcp".
func (p portSet) list() (names []string) {
	for protocol, changes := range p {
		ranges := 0
		for port, change := range changes {
			if ranges += change; ranges > 0 {
				names = append(names, fmt.Sprintf("%d/%s", port, protocol))
			}
		}
	}
	slices.Sort(names)
	return names
}

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(text string) (syscall.Signal, error) {
	if number, err := strconv.Atoi(text); err == nil && number > 0 && number <= 64 {
		return syscall.Signal(number), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal, nil
	}
	if signal := realTimeSignal(strings.TrimPrefix(name, "SIG")); signal != 0 {
		return signal, nil
	}
	return 0, invalid("unknown signal %q", text)
}

// realTimeSignal reads RTMIN, RTMIN+n, RTMAX and RTMAX-n, counted as the C library does.
func realTimeSignal(name string) syscall.Signal {
	const first, last = 34, 64
	number := 0
	switch {
	case name == "RTMIN":
		number = first
	case name == "RTMAX":
		number = last
	case strings.HasPrefix(name, "RTMIN+"):
		if offset, err := strconv.ParseUint(strings.TrimPrefix(name, "RTMIN+"), 10, 8); err == nil {
			number = first + int(offset)
		}
	case strings.HasPrefix(name, "RTMAX-"):
		if offset, err := strconv.ParseUint(strings.TrimPrefix(name, "RTMAX-"), 10, 8); err == nil {
			number = last - int(offset)
		}
	}
	if number < first || number > last {
		return 0
	}
	return syscall.Signal(number)
}

// logOptions are the options of json-file.
type logOptions struct {
	maxSize int64 // 0: no limit
	maxFile int
}

func keepsLog(spec *berthv1.ContainerSpec) bool { return spec.GetLog().GetDriver() != "none" }

func parseLogOptions(log *berthv1.LogSpec) (logOptions, error) {
	result := logOptions{maxFile: 1}
	switch log.GetDriver() {
	case "", "json-file":
	case "none":
		return result, nil
	default:
		return result, invalid("unknown log driver %q: want json-file or none", log.GetDriver())
	}
	for key, value := range log.GetOptions() {
		switch key {
		case "max-size":
			size, err := units.FromHumanSize(value)
			if err != nil || size <= 0 {
				return result, invalid("invalid log option max-size %q: want a size as 10m", value)
			}
			result.maxSize = size
		case "max-file":
			count, err := strconv.Atoi(value)
			if err != nil || count < 1 {
				return result, invalid("invalid log option max-file %q: want a number from 1", value)
			}
			result.maxFile = count
		default:
			return result, invalid("unknown log option %q of json-file: want max-size or max-file", key)
		}
	}
	if result.maxFile > 1 && result.maxSize == 0 {
		return result, invalid("log option max-file needs max-size: without it a log is never rotated")
	}
	return result, nil
}
