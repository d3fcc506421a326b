package main

import (
	"flag"
	"fmt"

	"github.com/docker/go-units"

	"github.com/berthd/berth/manager/unpack"
)

// imageOptions are the flags about images and their registries.
type imageOptions struct {
	insecureRegistries list
	unpack             unpack.Limits
}

func (o *imageOptions) register(set *flag.FlagSet) {
	o.unpack = unpack.DefaultLimits()
	set.Var(&o.insecureRegistries, "insecure-registry", "`host` of a registry to speak plain HTTP with; can be given several times")
	set.Var((*byteSize)(&o.unpack.Size), "max-layer-size", "`bytes` that a layer may unpack to, holes counted")
	set.Int64Var(&o.unpack.Ratio, "max-layer-ratio", o.unpack.Ratio, "`times` its compressed size that a layer of more than 1 GiB may take on disk")
	set.Int64Var(&o.unpack.Entries, "max-layer-entries", o.unpack.Entries, "`number` of files and directories that a layer may have")
}

// byteSize is a flag with units, as 128GiB.
type byteSize int64

func (b *byteSize) String() string { return units.BytesSize(float64(*b)) }

// Set implements flag.Value.
func (b *byteSize) Set(value string) error {
	size, err := units.RAMInBytes(value)
	if err != nil {
		return err
	}
	*b = byteSize(size)
	return nil
}

func (o *imageOptions) checkLimits() error {
	for name, value := range map[string]int64{"max-layer-size": o.unpack.Size, "max-layer-ratio": o.unpack.Ratio, "max-layer-entries": o.unpack.Entries} {
		if value < 1 {
			return fmt.Errorf("invalid --%s %d: want at least 1", name, value)
		}
	}
	return nil
}
