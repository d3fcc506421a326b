package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/cgroup"
	"github.com/berthd/berth/runtime/config"
)

// example is what runc writes, and with what later versions of it mask.
//
//go:embed spec.json
var example []byte

func (g *globals) spec(args []string) (int, error) {
	flags := newFlags("spec", "[options]")
	bundle, rootless := ".", false
	both(flags.StringVar, &bundle, "bundle,b", "`directory` to write config.json to")
	flags.BoolVar(&rootless, "rootless", false, "write a configuration for a user other than root")
	rest, err := parse(flags, args)
	if err != nil {
		return 1, err
	}
	if err := checkArguments(flags, len(rest), 0, 0); err != nil {
		return 1, err
	}
	return 0, writeSpec(bundle, rootless)
}

func writeSpec(bundle string, rootless bool) error {
	spec, err := exampleSpec(rootless)
	if err != nil {
		return err
	}
	content, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(bundle, config.File)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot write %q: it exists already; remove it first", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	if _, err := file.Write(content); err != nil {
		return errors.Join(fmt.Errorf("cannot write the configuration: %w", err), file.Close(), os.Remove(path))
	}
	return file.Close()
}

func exampleSpec(rootless bool) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(example, spec); err != nil {
		return nil, fmt.Errorf("cannot understand the built-in configuration: %w", err)
	}
	if unified, err := cgroup.IsUnified(); err == nil && unified {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if rootless {
		makeRootless(spec)
	}
	return spec, nil
}

// makeRootless changes what only root may: the caller becomes root of a user namespace, the network stays the host's,
// and with it sysfs can't be mounted anew.
func makeRootless(spec *specs.Spec) {
	linux := spec.Linux
	linux.Namespaces = slices.DeleteFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	linux.UIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Geteuid()), Size: 1}}
	linux.GIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Getegid()), Size: 1}}
	linux.Resources = nil
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if m.Destination == "/sys" {
			m.Type, m.Source, m.Options = "none", "/sys", []string{"rbind", "nosuid", "noexec", "nodev", "ro"}
			continue
		}
		m.Options = slices.DeleteFunc(m.Options, func(option string) bool {
			return strings.HasPrefix(option, "uid=") || strings.HasPrefix(option, "gid=")
		})
	}
}
