package config

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// validate checks what the types can't say. Values that only the kernel or the root file system can judge (a command,
// a user, a mount source) are left to them.
func validate(spec *specs.Spec) error {
	return first(
		func() error { return checkVersion(spec.Version) },
		func() error { return checkRoot(spec.Root) },
		func() error { return checkMounts(spec) },
		func() error {
			if spec.Process == nil {
				return invalid("process", "%w", errRequired)
			}
			return checkProcess("process", spec.Process)
		},
		func() error { return checkHooks(spec.Hooks) },
		func() error { return checkNames(spec) },
		func() error { return checkLinux(spec.Linux) },
	)
}

func checkRoot(root *specs.Root) error {
	if root == nil {
		return invalid("root", "%w", errRequired)
	}
	if root.Path == "" {
		return invalid("root.path", "%w", errRequired)
	}
	return nil
}

func checkMounts(spec *specs.Spec) error {
	for i, m := range spec.Mounts {
		field := at("mounts", i)
		if m.Destination == "" {
			return invalid(field+".destination", "%w", errRequired)
		}
		if len(m.UIDMappings) > 0 != (len(m.GIDMappings) > 0) {
			return invalid(field, "uidMappings and gidMappings must be given both or not at all")
		}
		if err := checkMappings(field+".uidMappings", m.UIDMappings); err != nil {
			return err
		}
		if err := checkMappings(field+".gidMappings", m.GIDMappings); err != nil {
			return err
		}
	}
	return nil
}

// checkNames refuses names that would become the host's.
func checkNames(spec *specs.Spec) error {
	if spec.Linux == nil {
		return invalid("linux", "%w", errRequired)
	}
	private := hasNamespace(spec.Linux, specs.UTSNamespace)
	if spec.Hostname != "" && !private {
		return invalid("hostname", "it can only be set in a uts namespace, which linux.namespaces does not have")
	}
	if spec.Domainname != "" && !private {
		return invalid("domainname", "it can only be set in a uts namespace, which linux.namespaces does not have")
	}
	const longest = 64
	if len(spec.Hostname) > longest {
		return invalid("hostname", "%q is longer than %d characters", spec.Hostname, longest)
	}
	if len(spec.Domainname) > longest {
		return invalid("domainname", "%q is longer than %d characters", spec.Domainname, longest)
	}
	return nil
}

func checkHooks(hooks *specs.Hooks) error {
	if hooks == nil {
		return nil
	}
	for _, kind := range []struct {
		field string
		hooks []specs.Hook
	}{
		{"hooks.prestart", hooks.Prestart}, //nolint:staticcheck // deprecated, not gone
		{"hooks.createRuntime", hooks.CreateRuntime},
		{"hooks.createContainer", hooks.CreateContainer},
		{"hooks.startContainer", hooks.StartContainer},
		{"hooks.poststart", hooks.Poststart},
		{"hooks.poststop", hooks.Poststop},
	} {
		for i, hook := range kind.hooks {
			field := at(kind.field, i)
			if !path.IsAbs(hook.Path) {
				return invalid(field+".path", "%q is not an absolute path", hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return invalid(field+".timeout", "%d seconds are not more than zero", *hook.Timeout)
			}
			if err := checkEnv(field+".env", hook.Env); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkEnv(field string, env []string) error {
	for i, entry := range env {
		if strings.IndexByte(entry, '=') < 1 {
			return invalid(at(field, i), "%q is not of the form NAME=VALUE", entry)
		}
	}
	return nil
}

// checkOneOf refuses a value that is none of those allowed.
func checkOneOf[S ~string](field string, value S, allowed ...S) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, name := range allowed {
		names[i] = string(name)
	}
	return invalid(field, "%q is none of %s", value, strings.Join(names, ", "))
}

func at(list string, index int) string { return list + "[" + strconv.Itoa(index) + "]" }
