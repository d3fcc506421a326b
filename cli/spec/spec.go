// Package spec turns the flags of run and create, which are docker's, into the specification that berthd takes.
package spec

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Flags are the flags that describe a container, grouped by what they are about.
type Flags struct {
	process   processFlags
	lifecycle lifecycleFlags
	logging   loggingFlags
	health    healthFlags
	mounts    mountFlags
	network   networkFlags
	cgroup    cgroupFlags
	devices   deviceFlags
	security  securityFlags
	docker    dockerFlags
}

// group is a set of flags about one thing: it declares them, and writes what they say into a specification.
type group interface {
	register(set *pflag.FlagSet)
	apply(spec *berthv1.ContainerSpec, set *pflag.FlagSet) error
}

func (f *Flags) groups() []group {
	return []group{&f.process, &f.lifecycle, &f.logging, &f.health, &f.mounts, &f.network, &f.cgroup, &f.devices, &f.security, &f.docker}
}

// Register declares the flags.
func (f *Flags) Register(set *pflag.FlagSet) {
	for _, g := range f.groups() {
		g.register(set)
	}
}

// Spec returns the specification of a container of image that runs args. Set is the parsed set that Register was
// called with: it tells which flags were given.
func (f *Flags) Spec(set *pflag.FlagSet, image string, args []string) (*berthv1.ContainerSpec, error) {
	spec := &berthv1.ContainerSpec{
		Image:      image,
		Process:    &berthv1.ProcessSpec{Args: args},
		Resources:  &berthv1.Resources{},
		Security:   &berthv1.Security{},
		Namespaces: &berthv1.Namespaces{},
		Network:    &berthv1.NetworkSpec{},
		Log:        &berthv1.LogSpec{},
	}
	for _, g := range f.groups() {
		if err := g.apply(spec, set); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// invalid says which flag has which wrong value, and what it should be.
func invalid(flag, value, want string) error {
	return fmt.Errorf("invalid value %q for --%s: %s", value, flag, want)
}

// KeyValues reads NAME=value pairs; a name without = gets an empty value.
func KeyValues(flag string, pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	values := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if name == "" {
			return nil, invalid(flag, pair, "want NAME=value")
		}
		values[name] = value
	}
	return values, nil
}
