package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type securityFlags struct {
	capAdd   []string
	capDrop  []string
	options  []string
	readOnly bool
	sysctls  []string
	pid      string
	ipc      string
	uts      string
	cgroup   string
	user     string
}

func (f *securityFlags) register(set *pflag.FlagSet) {
	set.StringArrayVar(&f.capAdd, "cap-add", nil, "Add a capability, or ALL")
	set.StringArrayVar(&f.capDrop, "cap-drop", nil, "Drop a capability, or ALL")
	set.StringArrayVar(&f.options, "security-opt", nil, "no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, label=…, systempaths=unconfined")
	set.BoolVar(&f.readOnly, "read-only", false, "Mount the root file system read-only")
	set.StringArrayVar(&f.sysctls, "sysctl", nil, "Kernel parameter of the container's namespaces, as net.core.somaxconn=1024")
	set.StringVar(&f.pid, "pid", "", "PID namespace: host or container:NAME")
	set.StringVar(&f.ipc, "ipc", "", "IPC namespace: shareable, private, none (without /dev/shm), host or container:NAME")
	set.StringVar(&f.uts, "uts", "", "UTS namespace: host")
	set.StringVar(&f.cgroup, "cgroupns", "", "cgroup namespace: private or host")
	set.StringVar(&f.user, "userns", "", "User namespace: host")
}

func (f *securityFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) (err error) {
	security := spec.Security
	security.CapAdd, security.CapDrop = capabilities(f.capAdd), capabilities(f.capDrop)
	security.ReadOnlyRootfs = f.readOnly
	for _, text := range f.sysctls {
		if !strings.Contains(text, "=") {
			return invalid("sysctl", text, "want NAME=value")
		}
	}
	if security.Sysctls, err = KeyValues("sysctl", f.sysctls); err != nil {
		return err
	}
	for _, option := range f.options {
		if err := securityOption(security, option); err != nil {
			return err
		}
	}
	return f.applyNamespaces(spec.Namespaces)
}

func capabilities(names []string) []string {
	var caps []string
	for _, list := range names {
		for name := range strings.SplitSeq(list, ",") {
			caps = append(caps, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		}
	}
	return caps
}

func (f *securityFlags) applyNamespaces(namespaces *berthv1.Namespaces) error {
	for _, namespace := range []struct {
		flag, value string
		joinable    bool
		to          *string
	}{
		{"pid", f.pid, true, &namespaces.Pid},
		{"ipc", f.ipc, true, &namespaces.Ipc},
		{"uts", f.uts, false, &namespaces.Uts},
		{"cgroupns", f.cgroup, false, &namespaces.Cgroup},
	} {
		switch value := namespace.value; {
		case namespace.flag == "ipc" && (value == "private" || value == "shareable" || value == "none"):
			*namespace.to = value
		case value == "private":
		case value == "" || value == "host":
			*namespace.to = value
		case namespace.joinable && strings.HasPrefix(value, "container:") && value != "container:":
			*namespace.to = value
		default:
			want := "want private or host"
			if namespace.joinable {
				want += " or container:NAME"
			}
			if namespace.flag == "ipc" {
				want += ", or shareable or none"
			}
			return invalid(namespace.flag, value, want)
		}
	}
	if f.user != "" && f.user != "host" {
		return invalid("userns", f.user, "want host; user namespaces of containers are not implemented")
	}
	namespaces.User = f.user
	return nil
}

// securityOption reads one value of --security-opt, which docker writes with = or, as it once did, with a colon.
func securityOption(security *berthv1.Security, option string) error {
	name, value, assigned := strings.Cut(option, "=")
	if !assigned {
		name, value, assigned = strings.Cut(option, ":")
	}
	switch name {
	case "no-new-privileges":
		yes := true
		if assigned {
			var err error
			if yes, err = strconv.ParseBool(value); err != nil {
				return invalid("security-opt", option, "no-new-privileges is true or false")
			}
		}
		security.NoNewPrivileges = yes
	case "seccomp":
		profile, err := seccompProfile(value)
		if err != nil {
			return err
		}
		security.SeccompProfile = profile
	case "apparmor":
		security.ApparmorProfile = value
	case "label":
		security.SelinuxLabels = append(security.SelinuxLabels, value)
	case "systempaths":
		if value != "unconfined" {
			return invalid("security-opt", option, "systempaths can be unconfined only")
		}
		security.MaskedPaths, security.ReadonlyPaths = &berthv1.StringList{}, &berthv1.StringList{}
	default:
		return invalid("security-opt", option, "want no-new-privileges, seccomp=…, apparmor=…, label=… or systempaths=unconfined")
	}
	return nil
}

// seccompProfile reads a profile here: the daemon may not see the client's files.
func seccompProfile(value string) (string, error) {
	switch value {
	case "unconfined":
		return value, nil
	case "builtin", "default":
		return "", nil
	case "":
		return "", invalid("security-opt", "seccomp=", "want unconfined or the path of a profile")
	}
	content, err := os.ReadFile(value)
	if err != nil {
		return "", fmt.Errorf("cannot read the seccomp profile: %w", err)
	}
	if !json.Valid(content) {
		return "", fmt.Errorf("cannot read the seccomp profile %q: it is not JSON", value)
	}
	return string(content), nil
}
