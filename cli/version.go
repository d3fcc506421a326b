package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/format"
	"github.com/berthd/berth/internal/version"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// versions is what the version command prints, with docker's names.
type versions struct {
	Client programVersion
	Server *serverVersion
}

type programVersion struct {
	Version   string
	GitCommit string `json:",omitempty"`
	GoVersion string
	Os        string
	Arch      string
}

type serverVersion struct {
	programVersion
	KernelVersion string
	Components    []component
}

type component struct {
	Name    string
	Version string
	Path    string
}

func newVersion(a *app) *cobra.Command {
	var layout string
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Tell the versions of berth, of berthd, and of the programs that it uses",
		Args:  exactly(0),
	}
	cmd.Flags().StringVarP(&layout, "format", "f", "", "json, or a Go template")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		known := versions{Client: programVersion{Version: version.String(), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}}
		failed := a.askVersion(cmd, &known)
		// The client's own version is worth telling also where there is no daemon.
		if layout != "" {
			if err := format.Object(a.out, layout, known); err != nil {
				return err
			}
			return failed
		}
		a.printVersions(known)
		return failed
	}
	return cmd
}

func (a *app) askVersion(cmd *cobra.Command, known *versions) error {
	conn, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	answer, err := conn.System.GetVersion(cmd.Context(), &berthv1.GetVersionRequest{})
	if err != nil {
		return err
	}
	known.Server = &serverVersion{
		programVersion: programVersion{
			Version: answer.GetVersion(), GitCommit: answer.GetCommit(), GoVersion: answer.GetGoVersion(), Os: answer.GetOs(), Arch: answer.GetArchitecture(),
		},
		KernelVersion: answer.GetKernel(),
	}
	for _, c := range answer.GetComponents() {
		known.Server.Components = append(known.Server.Components, component{c.GetName(), c.GetVersion(), c.GetPath()})
	}
	return nil
}

func (a *app) printVersions(known versions) {
	printProgram := func(title string, program programVersion) {
		fmt.Fprintf(a.out, "%s\n %-18s%s\n", title, "Version:", program.Version)
		if program.GitCommit != "" {
			fmt.Fprintf(a.out, " %-18s%s\n", "Git commit:", program.GitCommit)
		}
		fmt.Fprintf(a.out, " %-18s%s\n %-18s%s/%s\n", "Go version:", program.GoVersion, "OS/Arch:", program.Os, program.Arch)
	}
	printProgram("Client: berth", known.Client)
	if known.Server == nil {
		return
	}
	fmt.Fprintln(a.out)
	printProgram("Server: berthd", known.Server.programVersion)
	fmt.Fprintf(a.out, " %-18s%s\n", "Kernel:", known.Server.KernelVersion)
	for _, c := range known.Server.Components {
		fmt.Fprintf(a.out, " %-25s %s\n", c.Name+":", strings.TrimSpace(c.Version+"  "+c.Path))
	}
}
