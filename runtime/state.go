package main

import (
	"encoding/json"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/container"
)

// report is what state and list print of a container, with runc's names.
type report struct {
	OCIVersion  string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func reportOf(c *container.Container) report {
	state := c.OCIState(c.Status())
	return report{
		OCIVersion: state.Version, ID: state.ID, Pid: state.Pid, Status: state.Status, Bundle: state.Bundle,
		Rootfs: c.Rootfs, Created: c.Created, Annotations: state.Annotations,
	}
}

func (g *globals) state(args []string) (int, error) {
	id, err := parseID(newFlags("state", "ID"), args)
	if err != nil {
		return 1, err
	}
	c, err := container.Load(g.root, id)
	if err != nil {
		return 1, err
	}
	// Like runc's this has no owner, and no end of the line.
	content, err := json.MarshalIndent(reportOf(c), "", "  ")
	if err == nil {
		_, err = os.Stdout.Write(content)
	}
	return 0, err
}

func printJSON(value any, indent string) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", indent)
	return encoder.Encode(value)
}

func userName(uid int) string {
	if uid == 0 {
		return "root" // without reading a file for it
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "#" + strconv.Itoa(uid)
}
