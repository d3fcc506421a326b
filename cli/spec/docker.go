package spec

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// unbuilt are flags that docker has and berth has not yet. Help does not list them; given, they are refused by name: a
// container without what was asked for would be a surprise.
func unbuilt() map[string]string {
	return map[string]string{
		"health-cmd": "health checks", "health-interval": "health checks", "health-timeout": "health checks", "health-retries": "health checks",
		"health-start-period": "health checks", "health-start-interval": "health checks",
		"ip6": "addresses of IPv6", "link-local-ip": "link-local addresses", "network-alias": "names of containers in networks",
		"net-alias": "names of containers in networks", "link": "names of containers in networks",
		"volumes-from": "volumes of another container", "storage-opt": "options of the snapshotter",
		"gpus": "GPUs", "blkio-weight-device": "weights of single devices", "use-api-socket": "way to the API from containers",
	}
}

// ignored are flags of docker that scripts pass and that change nothing on Linux. Each has the sentence that is said
// about it; empty: none.
func ignored() map[string]string {
	return map[string]string{
		"disable-content-trust": "",
		"isolation":             "",
		"volume-driver":         "",
		"kernel-memory":         "--kernel-memory is ignored: kernels have no limit of their own memory any more",
	}
}

// dockerFlags are the flags that are there for docker's command lines only.
type dockerFlags struct {
	values    map[string]*[]string
	trust     bool
	isolation string
	volumes   string
	kernel    string
	warnings  []string
}

func (f *dockerFlags) register(set *pflag.FlagSet) {
	f.values = map[string]*[]string{}
	for name := range unbuilt() {
		f.values[name] = set.StringArray(name, nil, "")
	}
	set.Lookup("use-api-socket").NoOptDefVal = "true"
	set.BoolVar(&f.trust, "disable-content-trust", true, "")
	set.StringVar(&f.isolation, "isolation", "", "")
	set.StringVar(&f.kernel, "kernel-memory", "", "")
	set.StringVar(&f.volumes, "volume-driver", "", "")
	for _, names := range []map[string]string{unbuilt(), ignored()} {
		for name := range names {
			_ = set.MarkHidden(name)
		}
	}
}

func (f *dockerFlags) apply(_ *berthv1.ContainerSpec, set *pflag.FlagSet) error {
	names := unbuilt()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if set.Changed(name) {
			return fmt.Errorf("--%s is not implemented: berth has no %s yet", name, names[name])
		}
	}
	if f.isolation != "" && f.isolation != "default" {
		return invalid("isolation", f.isolation, "want default; others are of Windows")
	}
	if err := volumeDriver(f.volumes); err != nil {
		return invalid("volume-driver", f.volumes, err.Error())
	}
	if f.kernel != "" {
		if _, err := bytes("kernel-memory", f.kernel); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ignored())) {
		if warning := ignored()[name]; warning != "" && set.Changed(name) {
			f.warnings = append(f.warnings, warning)
		}
	}
	return nil
}

// Warnings are sentences about flags that Spec has read and that change nothing.
func (f *Flags) Warnings() []string { return f.docker.warnings }
