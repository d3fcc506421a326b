package process

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// AddMemoryPolicy adds the choice of the memory nodes that the process allocates from.
func AddMemoryPolicy(p *launch.Program, policy *specs.LinuxMemoryPolicy) error {
	mode, mask, length, err := MemoryPolicy(policy)
	if err != nil {
		return err
	}
	at := launch.Int(0)
	if mask != nil {
		at = launch.Pin(p, mask)
	}
	p.Call("set", "linux.memoryPolicy", unix.SYS_SET_MEMPOLICY, launch.Int(mode), at, launch.Int(length))
	return nil
}

// MemoryPolicy is a policy as set_mempolicy(2) has it. The mask is nil, and its length in bits 0, if no nodes are named.
func MemoryPolicy(policy *specs.LinuxMemoryPolicy) (mode int, mask *[maxNodes / 64]uint64, length int, err error) {
	modes := map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}
	flags := map[specs.MemoryPolicyFlagType]int{
		specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
	}
	mode, ok := modes[policy.Mode]
	if !ok {
		return 0, nil, 0, fmt.Errorf("linux.memoryPolicy.mode: unknown mode %q", policy.Mode)
	}
	for _, flag := range policy.Flags {
		bit, ok := flags[flag]
		if !ok {
			return 0, nil, 0, fmt.Errorf("linux.memoryPolicy.flags: unknown flag %q", flag)
		}
		mode |= bit
	}
	if policy.Nodes == "" {
		return mode, nil, 0, nil
	}
	if mask, err = nodeMask(policy.Nodes); err != nil {
		return 0, nil, 0, fmt.Errorf("linux.memoryPolicy.nodes: %w", err)
	}
	return mode, mask, maxNodes + 1, nil // the kernel takes one less
}

const maxNodes = 1024

// nodeMask understands a list like 0-1,3.
func nodeMask(nodes string) (*[maxNodes / 64]uint64, error) {
	mask := new([maxNodes / 64]uint64)
	if nodes == "" {
		return mask, nil
	}
	for _, part := range strings.Split(nodes, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no list of nodes", nodes)
		}
		to, err := strconv.ParseUint(last, 10, 16)
		if err != nil || to < from || to >= maxNodes {
			return nil, fmt.Errorf("%q is no list of nodes", nodes)
		}
		for node := from; node <= to; node++ {
			mask[node/64] |= 1 << (node % 64)
		}
	}
	return mask, nil
}
