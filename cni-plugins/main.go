// Command berth-cni is all of berth's CNI plugins in one program: it serves as the one whose name it was started by.
//
//	berth-cni install DIR   makes a link in DIR for each plugin
//	berth-cni --version
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/berthd/berth/cni-plugins/internal/catalog"
	"github.com/berthd/berth/cni-plugins/internal/nft"
	"github.com/berthd/berth/cni-plugins/plugin"
	"github.com/berthd/berth/internal/version"
)

const program = "berth-cni"

func main() {
	name := filepath.Base(os.Args[0])
	p, found := catalog.Named(name)
	if found && os.Getenv("CNI_COMMAND") != "" {
		os.Exit(serve(p))
	}
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// serve makes one call of a plugin, in CNI's way: the configuration comes from standard input, and the result or the
// error goes to standard output.
func serve(p plugin.Plugin) int {
	runtime.LockOSThread() // what p does in network namespaces must not move to another thread
	config, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fail(types.NewError(types.ErrIOFailure, fmt.Sprintf("cannot read the network configuration: %v", err), ""), nil)
	}
	// The sockets stay open to the end: the exit closes them, while the kernel already does what closing waits for.
	output, failure := p.Run(context.Background(), plugin.Call{Getenv: os.Getenv, Config: config, Sockets: &nft.Sockets{}})
	if failure != nil {
		return fail(failure, config)
	}
	if _, err := os.Stdout.Write(output); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fail(failure *types.Error, config []byte) int {
	var asked struct {
		CNIVersion string `json:"cniVersion"`
	}
	if json.Unmarshal(config, &asked) != nil || asked.CNIVersion == "" {
		asked.CNIVersion = cniversion.Current()
	}
	output, _ := json.Marshal(struct { // strings and a number always encode
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{asked.CNIVersion, failure})
	fmt.Fprintln(os.Stdout, string(output))
	return 1
}

// run serves people.
func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 1 && (args[0] == "--version" || args[0] == "version"):
		fmt.Fprintf(out, "%s version %s\n", program, version.String())
		return nil
	case len(args) == 2 && args[0] == "install":
		return install(args[1])
	}
	return errors.New("this is a CNI plugin: a container engine runs it with CNI_COMMAND set; people can run berth-cni install DIR, or berth-cni --version")
}

// install makes a symbolic link for each plugin. One that is there is replaced, and anything else is not.
func install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find the program itself: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot create directory %q: %w", dir, err)
	}
	for _, p := range catalog.All() {
		path := filepath.Join(dir, p.Name)
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink == 0 {
			return fmt.Errorf("cannot install plugin %q: %q exists and is no link", p.Name, path)
		}
		// Made beside and renamed, as a container may be starting.
		temporary := path + ".new"
		err := errors.Join(removeAny(temporary), os.Symlink(self, temporary))
		if err == nil {
			err = os.Rename(temporary, path)
		}
		if err != nil {
			return fmt.Errorf("cannot install plugin %q: %w", p.Name, err)
		}
	}
	return nil
}

func removeAny(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
