package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// referencePlugins is where Debian's containernetworking-plugins are.
const referencePlugins = "/usr/lib/cni"

// network attaches one container to a network of the usual chain, by executing the plugins as an engine does.
type network struct {
	plugins string // CNI_PATH
	netns   string // of the container
	chain   []map[string]any
	prev    json.RawMessage
}

// plugins pairs the CNI plugins: bridge, host-local, portmap with one port, firewall.
func (b *bench) plugins() error {
	netns := filepath.Join(b.work, "netns")
	if err := errors.Join(os.WriteFile(netns, nil, 0o600), command("unshare", "--net="+netns, "true")()); err != nil {
		return err
	}
	b.later(func() { _ = command("umount", netns)() })
	ours := filepath.Join(b.work, "cni")
	if err := command(b.berth("berth-cni"), "install", ours)(); err != nil {
		return err
	}
	var attach, detach []side
	for i, plugins := range []string{ours, referencePlugins} {
		name, skip := "berth-cni", ""
		if i > 0 {
			name = "reference plugins"
			if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
				skip = "containernetworking-plugins is not installed"
			}
		}
		n := b.network(i)
		n.plugins, n.netns = plugins, netns
		attach = append(attach, side{name: name, job: n.add, after: n.del, skip: skip})
		detach = append(detach, side{name: name, before: n.add, job: n.del, skip: skip})
	}
	if err := b.compare("CNI ADD: bridge + host-local + portmap + firewall, executed", attach, aim{"reference plugins", 0.4}); err != nil {
		return err
	}
	return b.compare("CNI DEL of the same", detach)
}

func (b *bench) network(index int) *network {
	return &network{chain: []map[string]any{
		{
			"type": "bridge", "bridge": fmt.Sprint("bench", index), "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": filepath.Join(b.work, "leases", fmt.Sprint(index)), "subnet": fmt.Sprintf("10.23%d.0.0/24", index),
			},
		},
		{"type": "portmap", "snat": true, "runtimeConfig": map[string]any{
			"portMappings": []map[string]any{{"hostPort": 18080 + index, "containerPort": 80, "protocol": "tcp"}},
		}},
		{"type": "firewall", "ingressPolicy": "same-bridge"},
	}}
}

func (n *network) add() error {
	n.prev = nil
	for _, conf := range n.chain {
		output, err := n.call("ADD", conf)
		if err != nil {
			return err
		}
		n.prev = output
	}
	return nil
}

func (n *network) del() error {
	var errs []error
	for _, conf := range slices.Backward(n.chain) {
		_, err := n.call("DEL", conf)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (n *network) call(verb string, conf map[string]any) ([]byte, error) {
	conf["cniVersion"], conf["name"] = "1.0.0", "bench"
	delete(conf, "prevResult")
	if n.prev != nil && (verb == "DEL" || conf["type"] != "bridge") {
		conf["prevResult"] = n.prev
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	plugin, _ := conf["type"].(string)
	cmd := exec.Command(filepath.Join(n.plugins, plugin))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID=bench", "CNI_IFNAME=eth0", "CNI_NETNS="+n.netns, "CNI_PATH="+n.plugins)
	cmd.Stdin = bytes.NewReader(text)
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", plugin, verb, err, strings.TrimSpace(string(output)))
	}
	return output, nil
}
