package spec

import (
	"errors"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// UpdateFlags are those flags of run that can be changed afterwards.
type UpdateFlags struct {
	cgroup  cgroupFlags
	restart string
}

// Register declares the flags.
func (f *UpdateFlags) Register(set *pflag.FlagSet) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.cgroup.register(all)
	for _, name := range []string{
		"blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems",
		"memory", "memory-reservation", "memory-swap", "pids-limit",
	} {
		set.AddFlag(all.Lookup(name))
	}
	set.StringVar(&f.restart, "restart", "", "When to start the container again: no, on-failure[:retries], always, unless-stopped")
}

// Changes returns what the flags change; a nil policy leaves it as it is.
func (f *UpdateFlags) Changes(set *pflag.FlagSet) (*berthv1.Resources, *berthv1.RestartPolicy, error) {
	if set.NFlag() == 0 {
		return nil, nil, errors.New("nothing to change: give at least one limit, as --memory 512m, or --restart")
	}
	spec := &berthv1.ContainerSpec{Resources: &berthv1.Resources{}}
	if err := f.cgroup.apply(spec, set); err != nil {
		return nil, nil, err
	}
	if !set.Changed("restart") {
		return spec.GetResources(), nil, nil
	}
	policy, err := ParseRestart(f.restart)
	return spec.GetResources(), policy, err
}
