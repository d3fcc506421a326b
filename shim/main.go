// Command containerd-shim-berth-v2 stands between a manager (berthd, containerd) and one container: it has the OCI
// runtime make it, owns its streams, reaps it, and keeps how it ended. It goes on when the manager is gone.
//
//	manager ──exec──► start ──fork──► serve ◄──ttrpc: task API── manager
//	           prints the address        │
//	manager ──exec──► delete             └──exec──► OCI runtime ──► container
//	        after a shim has died
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/internal/version"
)

const program = "containerd-shim-berth-v2"

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(1)
	}
}

// invocation is what the manager says on the command line and in the environment: who the container is, and where the
// manager itself can be reached.
type invocation struct {
	namespace string
	id        string
	bundle    string // absolute
	address   string // the manager's gRPC socket
	publisher string // program that publishes events
	ttrpc     string // the manager's ttrpc socket, which takes events
	listen    string // where the shim listens, "" if it chooses
	debug     bool
}

func run(ctx context.Context, args []string) error {
	var inv invocation
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.StringVar(&inv.namespace, "namespace", "default", "namespace of the container")
	flags.StringVar(&inv.id, "id", "", "id of the container")
	flags.StringVar(&inv.bundle, "bundle", "", "bundle of the container (default: the working directory)")
	flags.StringVar(&inv.address, "address", "", "socket of the manager")
	flags.StringVar(&inv.publisher, "publish-binary", "", "program that publishes events to the manager")
	flags.BoolVar(&inv.debug, "debug", false, "accepted for containerd; what is worth saying is always said")
	flags.StringVar(&inv.listen, "socket", "", "path of the shim's socket (default: start chooses; it prints the address)")
	var showVersion, showInfo bool
	flags.BoolVar(&showVersion, "version", false, "print the version")
	flags.BoolVar(&showVersion, "v", false, "print the version")
	flags.BoolVar(&showInfo, "info", false, "print what this shim is, as containerd's RuntimeInfo")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	switch {
	case showVersion:
		_, err := fmt.Fprintf(os.Stdout, "%s version %s\n", program, version.String())
		return err
	case showInfo:
		return info(ctx, os.Stdin, os.Stdout)
	}
	inv.ttrpc = os.Getenv("TTRPC_ADDRESS")
	if err := inv.check(); err != nil {
		return err
	}
	switch verb := flags.Arg(0); verb {
	case "start":
		return start(inv, os.Stdout)
	case "delete":
		return remove(ctx, inv, os.Stdout)
	case serveVerb:
		return serve(ctx, inv)
	case "":
		return errors.New("cannot run without a command: start or delete is wanted")
	default:
		return fmt.Errorf("cannot run command %q: start or delete is wanted", verb)
	}
}

// check refuses what could not name a container, and finds the bundle.
func (inv *invocation) check() error {
	for _, name := range []struct{ flag, value string }{{"id", inv.id}, {"namespace", inv.namespace}} {
		if name.value == "" {
			return fmt.Errorf("cannot run without -%s", name.flag)
		}
		if strings.ContainsAny(name.value, "/\x00") || name.value == "." || name.value == ".." {
			return fmt.Errorf("cannot use -%s %q: it would name another directory", name.flag, name.value)
		}
	}
	bundle, err := filepath.Abs(inv.bundle)
	if err != nil {
		return fmt.Errorf("cannot find bundle %q: %w", inv.bundle, err)
	}
	inv.bundle = bundle
	if inv.listen != "" && !filepath.IsAbs(inv.listen) {
		return fmt.Errorf("cannot use -socket %q: it is no absolute path", inv.listen)
	}
	return nil
}
