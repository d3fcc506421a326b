package spec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type mountFlags struct {
	volumes []string
	mounts  []string
	tmpfs   []string
}

func (f *mountFlags) register(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.volumes, "volume", "v", nil, "Mount a path of the host or a volume: [source:]target[:options]")
	set.StringArrayVar(&f.mounts, "mount", nil, "Mount as type=bind|volume|tmpfs,source=…,target=…[,readonly,…]")
	set.StringArrayVar(&f.tmpfs, "tmpfs", nil, "Mount a tmpfs: target[:options]")
}

func (f *mountFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) error {
	for _, list := range []struct {
		values []string
		parse  func(string) (*berthv1.Mount, error)
	}{{f.volumes, parseVolume}, {f.mounts, parseMount}, {f.tmpfs, parseTmpfs}} {
		for _, value := range list.values {
			mount, err := list.parse(value)
			if err != nil {
				return err
			}
			for _, other := range spec.Mounts {
				if other.Target == mount.Target {
					return fmt.Errorf("duplicate mount point %q", mount.Target)
				}
			}
			spec.Mounts = append(spec.Mounts, mount)
		}
	}
	return nil
}

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// parseVolume reads the value of -v.
func parseVolume(text string) (*berthv1.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return nil, invalid("volume", text, "want [source:]target[:options]")
	}
	mount := &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Target: parts[0]}
	if len(parts) > 1 {
		mount.Source, mount.Target = parts[0], parts[1]
	}
	if len(parts) == 3 {
		if err := volumeOptions(mount, text, parts[2]); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(mount.Source, "/") || strings.HasPrefix(mount.Source, ".") {
		source, err := filepath.Abs(mount.Source)
		if err != nil {
			return nil, invalid("volume", text, err.Error())
		}
		mount.Type, mount.Source, mount.CreateSource = berthv1.MountType_MOUNT_TYPE_BIND, source, true
	}
	return cleanTarget(mount, "volume", text)
}

func volumeOptions(mount *berthv1.Mount, text, options string) error {
	writable := false // the default, too
	for option := range strings.SplitSeq(options, ",") {
		switch {
		case option == "ro" || option == "readonly":
			mount.ReadOnly = true
		case option == "rw":
			writable = true
		case option == "consistent" || option == "cached" || option == "delegated":
			// These speak of file sharing with a virtual machine.
		case option == "z" || option == "Z":
			mount.Relabel = option
		case option == "nocopy":
			mount.NoCopy = true
		case slices.Contains(propagations, option):
			mount.Propagation = option
		default:
			return invalid("volume", text, fmt.Sprintf("unknown option %q", option))
		}
	}
	if writable && mount.ReadOnly {
		return invalid("volume", text, "ro and rw exclude each other")
	}
	return nil
}

// cleanTarget refuses mounts over nothing and over everything.
func cleanTarget(mount *berthv1.Mount, flag, text string) (*berthv1.Mount, error) {
	if !filepath.IsAbs(mount.Target) {
		return nil, invalid(flag, text, fmt.Sprintf("the target %q must be an absolute path", mount.Target))
	}
	if mount.Target = filepath.Clean(mount.Target); mount.Target == "/" {
		return nil, invalid(flag, text, "the target can't be the root directory")
	}
	return mount, nil
}

// parseTmpfs reads the value of --tmpfs.
func parseTmpfs(text string) (*berthv1.Mount, error) {
	target, options, _ := strings.Cut(text, ":")
	mount := &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_TMPFS, Target: target}
	if options != "" {
		for option := range strings.SplitSeq(options, ",") {
			if option == "ro" {
				mount.ReadOnly = true
			} else if option != "rw" {
				mount.Options = append(mount.Options, option)
			}
		}
	}
	return cleanTarget(mount, "tmpfs", text)
}

// parseMount reads the value of --mount.
func parseMount(text string) (*berthv1.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, invalid("mount", text, "want comma-separated key=value pairs")
	}
	mount := &berthv1.Mount{Type: berthv1.MountType_MOUNT_TYPE_VOLUME}
	for _, field := range fields {
		key, value, assigned := strings.Cut(field, "=")
		if err := setMountField(mount, strings.ToLower(key), value, assigned); err != nil {
			return nil, invalid("mount", text, err.Error())
		}
	}
	switch {
	case mount.Target == "":
		return nil, invalid("mount", text, "target=… is missing")
	case mount.Source == "" && mount.Type == berthv1.MountType_MOUNT_TYPE_BIND:
		return nil, invalid("mount", text, "source=… is missing")
	case mount.Type == berthv1.MountType_MOUNT_TYPE_BIND:
		if mount.Source, err = filepath.Abs(mount.Source); err != nil {
			return nil, invalid("mount", text, err.Error())
		}
	}
	return cleanTarget(mount, "mount", text)
}

func setMountField(mount *berthv1.Mount, key, value string, assigned bool) (err error) {
	switch key {
	case "type":
		mount.Type, err = mountType(value)
	case "source", "src":
		mount.Source = value
	case "target", "destination", "dst":
		mount.Target = value
	case "readonly", "ro":
		mount.ReadOnly, err = boolean(key, value, assigned)
	case "volume-nocopy":
		mount.NoCopy, err = boolean(key, value, assigned)
	case "bind-create-src":
		mount.CreateSource, err = boolean(key, value, assigned)
	case "bind-propagation":
		if mount.Propagation = value; !slices.Contains(propagations, value) {
			err = fmt.Errorf("unknown bind-propagation %q", value)
		}
	case "tmpfs-size":
		size, parseErr := units.RAMInBytes(value)
		if parseErr != nil {
			return fmt.Errorf("tmpfs-size %q is no size", value)
		}
		mount.Options = append(mount.Options, "size="+strconv.FormatInt(size, 10))
	case "tmpfs-mode":
		if _, parseErr := strconv.ParseUint(value, 8, 32); parseErr != nil {
			return fmt.Errorf("tmpfs-mode %q is no octal number", value)
		}
		mount.Options = append(mount.Options, "mode="+value)
	case "consistency": // file sharing with a virtual machine: nothing to do here
	case "volume-driver":
		err = volumeDriver(value)
	case "volume-opt", "volume-label", "volume-subpath", "image-subpath", "bind-recursive", "bind-nonrecursive":
		err = fmt.Errorf("%s is not implemented", key)
	default:
		err = fmt.Errorf("unknown key %q", key)
	}
	return err
}

// volumeDriver accepts the one driver of volumes that there is.
func volumeDriver(name string) error {
	if name != "" && name != "local" {
		return fmt.Errorf("the volume driver %q is not implemented", name)
	}
	return nil
}

func mountType(name string) (berthv1.MountType, error) {
	switch name {
	case "bind":
		return berthv1.MountType_MOUNT_TYPE_BIND, nil
	case "volume":
		return berthv1.MountType_MOUNT_TYPE_VOLUME, nil
	case "tmpfs":
		return berthv1.MountType_MOUNT_TYPE_TMPFS, nil
	case "image", "npipe", "cluster":
		return 0, fmt.Errorf("type %s is not implemented", name)
	}
	return 0, fmt.Errorf("unknown type %q: want bind, volume or tmpfs", name)
}

func boolean(key, value string, assigned bool) (bool, error) {
	if !assigned {
		return true, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, errors.New(key + " wants true or false")
	}
	return b, nil
}
