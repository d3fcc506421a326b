package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	psTable     = `table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`
	psTableSize = psTable + `\t{{.Size}}`
)

// psRow is a container as ps prints it: docker's names of columns, so that people's formats work.
type psRow struct {
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string
	labels       map[string]string
}

// Label returns the value of a label; in the header, its name.
func (r psRow) Label(name string) string {
	if r.labels == nil && r.ID == psHeader().ID {
		return name
	}
	return r.labels[name]
}

func psHeader() psRow {
	return psRow{
		Command: "COMMAND", CreatedAt: "CREATED AT", ID: "CONTAINER ID", Image: "IMAGE", Labels: "LABELS", LocalVolumes: "LOCAL VOLUMES",
		Mounts: "MOUNTS", Names: "NAMES", Networks: "NETWORKS", Ports: "PORTS", RunningFor: "CREATED", Size: "SIZE", State: "STATE", Status: "STATUS",
	}
}

type psOptions struct {
	all, quiet, whole, size, latest bool
	last                            int
	filters                         []string
	format                          string
}

func newPs(a *app) *cobra.Command {
	var options psOptions
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Args:  exactly(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.runPs(cmd, options) },
	}
	set := cmd.Flags()
	set.BoolVarP(&options.all, "all", "a", false, "Also containers that do not run")
	set.BoolVarP(&options.quiet, "quiet", "q", false, "Print IDs only")
	set.BoolVar(&options.whole, "no-trunc", false, "Print whole IDs and commands")
	set.BoolVarP(&options.size, "size", "s", false, "Print how much containers have written")
	set.BoolVarP(&options.latest, "latest", "l", false, "Only the container created last, in any state")
	set.IntVarP(&options.last, "last", "n", -1, "Only this many containers created last, in any state")
	set.StringArrayVarP(&options.filters, "filter", "f", nil, "Only containers that match, as status=exited or label=NAME=value")
	set.StringVar(&options.format, "format", "", "table, table TEMPLATE, json, or a Go template")
	return cmd
}

func (a *app) runPs(cmd *cobra.Command, options psOptions) error {
	filters, err := parseFilters(options.filters)
	if err != nil {
		return err
	}
	request := &berthv1.ListContainersRequest{All: options.all, Filters: filters, Size: options.size || strings.Contains(options.format, ".Size")}
	if options.latest {
		options.last = 1
	}
	if options.last > 0 {
		request.Limit = uint32(options.last)
	}
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	answer, err := conn.Containers.ListContainers(cmd.Context(), request)
	if err != nil {
		return err
	}
	layout := options.format
	switch {
	case layout == "" && options.quiet, layout == "table" && options.quiet:
		layout = "{{.ID}}"
	case (layout == "" || layout == "table") && options.size:
		layout = psTableSize
	case layout == "" || layout == "table":
		layout = psTable
	}
	rows := make([]psRow, 0, len(answer.GetContainers()))
	for _, container := range answer.GetContainers() {
		rows = append(rows, newPsRow(container, options.whole, time.Now()))
	}
	return format.List(a.out, layout, psHeader(), rows)
}

func newPsRow(c *berthv1.Container, whole bool, now time.Time) psRow {
	command := strings.Join(c.GetCommand(), " ")
	if !whole {
		command = format.Ellipsis(command, 20)
	}
	image := format.Name(c.GetImage())
	if strings.HasPrefix(image, "sha256:") {
		image = format.ID(image, whole)
	}
	row := psRow{
		Command: `"` + command + `"`, CreatedAt: format.Time(c.GetCreatedAt()), ID: format.ID(c.GetId(), whole), Image: image,
		Labels: format.Labels(c.GetSpec().GetLabels()), Names: c.GetName(), Networks: strings.Join(networkNames(c), ","),
		RunningFor: format.Age(c.GetCreatedAt(), now), State: format.State(c.GetState().GetStatus()),
		Status: format.Status(c.GetState(), now), Size: sizes(c), labels: c.GetSpec().GetLabels(),
	}
	if status := c.GetState().GetStatus(); status == berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING ||
		status == berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED {
		row.Ports = format.Ports(c)
	}
	var mounts []string
	volumes := 0
	for _, mount := range c.GetMounts() {
		name := mount.GetMount().GetSource()
		if mount.GetVolume() != "" {
			name = mount.GetVolume()
			volumes++
		}
		if !whole {
			name = format.Ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	row.Mounts, row.LocalVolumes = strings.Join(mounts, ","), fmt.Sprint(volumes)
	return row
}

func networkNames(c *berthv1.Container) []string {
	var names []string
	for _, endpoint := range c.GetEndpoints() {
		names = append(names, endpoint.GetConfig().GetNetwork())
	}
	if len(names) == 0 {
		for _, endpoint := range c.GetSpec().GetNetwork().GetEndpoints() {
			names = append(names, endpoint.GetNetwork())
		}
	}
	if len(names) == 0 {
		mode := c.GetSpec().GetNetwork().GetMode()
		if mode == "" {
			mode = "bridge"
		}
		names = []string{mode}
	}
	slices.Sort(names)
	return names
}

// sizes returns what a container has written, and this with its image.
func sizes(c *berthv1.Container) string {
	text := units.HumanSizeWithPrecision(float64(c.GetSizeRw()), 3)
	if c.GetSizeRootfs() > 0 {
		text += " (virtual " + format.Size(c.GetSizeRootfs()) + ")"
	}
	return text
}

// parseFilters reads key=value.
func parseFilters(texts []string) ([]*berthv1.Filter, error) {
	var filters []*berthv1.Filter
	for _, text := range texts {
		key, value, found := strings.Cut(text, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("invalid value %q for --filter: want key=value", text)
		}
		key = strings.ToLower(strings.TrimSpace(key))
		at := slices.IndexFunc(filters, func(f *berthv1.Filter) bool { return f.GetKey() == key })
		if at < 0 {
			filters, at = append(filters, &berthv1.Filter{Key: key}), len(filters)
		}
		filters[at].Values = append(filters[at].Values, strings.TrimSpace(value))
	}
	return filters, nil
}
