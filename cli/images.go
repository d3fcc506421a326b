package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

const (
	imagesTable  = `table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	digestsTable = `table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	// missing stands for a part that a name does not have.
	missing = "<none>"
)

// imageRow is a name of an image as images prints it, with docker's names of columns.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

func imageHeader() imageRow {
	return imageRow{
		Containers: "CONTAINERS", CreatedAt: "CREATED AT", CreatedSince: "CREATED", Digest: "DIGEST", ID: "IMAGE ID", Repository: "REPOSITORY",
		SharedSize: "SHARED SIZE", Size: "SIZE", Tag: "TAG", UniqueSize: "UNIQUE SIZE", VirtualSize: "VIRTUAL SIZE",
	}
}

type imagesOptions struct {
	quiet, whole, digests bool
	filters               []string
	format                string
}

func newImages(a *app) *cobra.Command {
	var options imagesOptions
	var all bool
	cmd := &cobra.Command{
		Use:               "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short:             "List images",
		Args:              atMost(1),
		ValidArgsFunction: a.completeImages(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runImages(cmd, options, args) },
	}
	set := cmd.Flags()
	set.BoolVarP(&all, "all", "a", false, "Intermediate images too (berth keeps none)")
	set.BoolVarP(&options.quiet, "quiet", "q", false, "Print IDs only")
	set.BoolVar(&options.whole, "no-trunc", false, "Print whole IDs")
	set.BoolVar(&options.digests, "digests", false, "Print digests")
	set.StringArrayVarP(&options.filters, "filter", "f", nil, "Only those that fit, as dangling=true or reference=busybox")
	set.StringVar(&options.format, "format", "", "table, table TEMPLATE, json, or a Go template")
	return cmd
}

func (a *app) runImages(cmd *cobra.Command, options imagesOptions, args []string) error {
	if len(args) == 1 {
		options.filters = append(options.filters, "reference="+args[0])
	}
	filters, err := parseFilters(options.filters)
	if err != nil {
		return err
	}
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	answer, err := conn.Images.ListImages(cmd.Context(), &berthv1.ListImagesRequest{Filters: filters})
	if err != nil {
		return err
	}
	layout := options.format
	switch table := layout == "" || layout == "table"; {
	case table && options.quiet:
		layout = "{{.ID}}"
	case table && options.digests:
		layout = digestsTable
	case table:
		layout = imagesTable
	}
	var rows []imageRow
	for _, image := range answer.GetImages() {
		rows = append(rows, imageRows(image, options.whole, time.Now())...)
	}
	return format.List(a.out, layout, imageHeader(), rows)
}

// imageRows returns a row for each name of an image; one that has only a digest for a name has no tag.
func imageRows(image *berthv1.Image, whole bool, now time.Time) []imageRow {
	row := imageRow{
		Containers: fmt.Sprint(image.GetContainers()), CreatedAt: format.Time(image.GetCreatedAt()), CreatedSince: format.Age(image.GetCreatedAt(), now),
		Digest: missing, ID: format.ID(image.GetId(), whole), Repository: missing, Tag: missing, SharedSize: "N/A", UniqueSize: "N/A",
		Size: format.Size(image.GetSize()), VirtualSize: format.Size(image.GetSize()),
	}
	digests := map[string]string{}
	for _, name := range image.GetDigests() {
		repository, _, digest := format.SplitName(name)
		digests[repository] = digest
	}
	var rows []imageRow
	for _, name := range image.GetTags() {
		repository, tag, _ := format.SplitName(name)
		tagged := row
		tagged.Repository, tagged.Tag = format.Name(repository), tag
		if digests[repository] != "" {
			tagged.Digest = digests[repository]
		}
		rows = append(rows, tagged)
	}
	if len(rows) > 0 {
		return rows
	}
	for repository, digest := range digests {
		untagged := row
		untagged.Repository, untagged.Digest = format.Name(repository), digest
		rows = append(rows, untagged)
	}
	if len(rows) == 0 {
		rows = append(rows, row)
	}
	return rows
}

func newHistory(a *app) *cobra.Command {
	var whole, quiet bool
	cmd := &cobra.Command{
		Use:               "history [OPTIONS] IMAGE",
		Short:             "Tell how an image was built",
		Args:              exactly(1),
		ValidArgsFunction: a.completeImages(1),
	}
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "Print whole commands")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print IDs only")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		conn, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := conn.Images.HistoryImage(cmd.Context(), &berthv1.HistoryImageRequest{Image: args[0]})
		if err != nil {
			return err
		}
		type row struct{ ID, Created, CreatedBy, Size, Comment string }
		var rows []row
		for _, entry := range answer.GetEntries() {
			by := strings.Join(strings.Fields(entry.GetCreatedBy()), " ")
			if !whole {
				by = format.Ellipsis(by, 45)
			}
			id := missing
			if entry.GetImageId() != "" {
				id = format.ID(entry.GetImageId(), whole)
			}
			rows = append(rows, row{id, format.Age(entry.GetCreatedAt(), time.Now()), by, format.Size(entry.GetSize()), entry.GetComment()})
		}
		layout := `table {{.ID}}\t{{.Created}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`
		if quiet {
			layout = "{{.ID}}"
		}
		return format.List(a.out, layout, row{"IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"}, rows)
	}
	return cmd
}
