package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Delegate calls the IPAM plugin that the configuration names on behalf of the one that serves r: in this process if
// it is one of ours, and otherwise by executing it from CNI_PATH.
func (r *Request) Delegate(ctx context.Context, ours []Plugin, command string) (*types100.Result, error) {
	name := r.Common.IPAM.Type
	args := &invoke.Args{
		Command: command, ContainerID: r.ContainerID, NetNS: r.Netns, PluginArgsStr: r.Args, IfName: r.IfName, Path: r.Path,
	}
	for _, p := range ours {
		if p.Name == name {
			return p.serveDelegated(ctx, r, command)
		}
	}
	path, err := invoke.FindInPath(name, filepath.SplitList(r.Path))
	if err != nil {
		return nil, fmt.Errorf("cannot find the IPAM plugin %q: %w", name, err)
	}
	if command != "ADD" {
		return nil, invoke.ExecPluginWithoutResult(ctx, path, r.Config, args, executor())
	}
	result, err := invoke.ExecPluginWithResult(ctx, path, r.Config, args, executor())
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}

func (p Plugin) serveDelegated(ctx context.Context, r *Request, command string) (*types100.Result, error) {
	request := *r
	request.Command = command
	if command == "ADD" {
		return p.Add(ctx, &request)
	}
	_, err := p.serve(ctx, &request)
	return nil, err
}

// RuntimeConfig reads the capability arguments that the runtime passed into conf.
func (r *Request) RuntimeConfig(conf any) error {
	var outer struct {
		RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	}
	if err := r.Decode(&outer); err != nil || len(outer.RuntimeConfig) == 0 {
		return err
	}
	if err := json.Unmarshal(outer.RuntimeConfig, conf); err != nil {
		return InvalidConfig("cannot decode runtimeConfig of network %q: %v", r.Common.Name, err)
	}
	return nil
}

// Arguments returns the values of a key in CNI_ARGS, which is NAME=VALUE;NAME=VALUE, where a value may be several with commas.
func (r *Request) Arguments(key string) []string {
	var values []string
	for pair := range strings.SplitSeq(r.Args, ";") {
		if name, value, _ := strings.Cut(pair, "="); name == key && value != "" {
			values = append(values, strings.Split(value, ",")...)
		}
	}
	return values
}
