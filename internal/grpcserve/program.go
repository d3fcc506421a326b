package grpcserve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/berthd/berth/internal/version"
)

// Flags are those that every stand-alone service has. A program adds its own to Set before it calls Parse.
type Flags struct {
	Set           *flag.FlagSet
	Root, Address string
	level         slog.Level
	version       bool
}

// NewFlags returns the flags of the program with the given name and defaults.
func NewFlags(name, root, address string) *Flags {
	f := &Flags{Set: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.Set.StringVar(&f.Root, "root", root, "`directory` that keeps the data")
	f.Set.StringVar(&f.Address, "address", address, "`path` of the unix socket to serve on")
	f.Set.TextVar(&f.level, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	f.Set.BoolVar(&f.version, "version", false, "print the version and exit")
	return f
}

// Parse reads the command line. It returns flag.ErrHelp if it has printed what was asked for, and nothing is left to do.
func (f *Flags) Parse(args []string, stdout io.Writer) error {
	if err := ParseFlags(f.Set, args, stdout); err != nil {
		return err
	}
	if f.Set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Set.Arg(0))
	}
	if f.version {
		if _, err := fmt.Fprintf(stdout, "%s version %s\n", f.Set.Name(), version.String()); err != nil {
			return err
		}
		return flag.ErrHelp
	}
	for name, path := range map[string]string{"root": f.Root, "address": f.Address} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("invalid --%s %q: want an absolute path", name, path)
		}
	}
	return nil
}

// ParseFlags makes of a flag that is wrong one sentence, instead of the sentence and all that the program takes, and writes
// help that was asked for to stdout. Then it returns flag.ErrHelp.
func ParseFlags(set *flag.FlagSet, args []string, stdout io.Writer) error {
	set.SetOutput(io.Discard)
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		set.SetOutput(stdout)
		set.Usage()
		return err
	case err != nil:
		return fmt.Errorf("%w (%s --help lists the flags)", err, set.Name())
	}
	return nil
}

// Logger returns a logger to stderr with the level that was asked for.
func (f *Flags) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: f.level}))
}

// umask is that of our programs, whatever the one is that they are started with. A hardened shell's 077 would keep the
// users of containers from layers and volumes, and a 0 would let every user of the host use a socket before it has its mode.
const umask = 0o022

// Main runs a program until it ends or is told to by SIGTERM or SIGINT, and returns its exit status.
func Main(run func(ctx context.Context, args []string) error) int {
	syscall.Umask(umask)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	default:
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 1
	}
}
