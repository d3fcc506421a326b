package grpcserve

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func newFlags() *Flags {
	f := NewFlags("berth-x", "/data", "/x.sock")
	f.Set.SetOutput(io.Discard)
	return f
}

func TestFlags(t *testing.T) {
	f := newFlags()
	own := f.Set.Int("own", 3, "the program's own")
	var stdout bytes.Buffer
	if err := f.Parse([]string{"--address", "/y.sock", "-own=4", "-log-level", "warn"}, &stdout); err != nil {
		t.Fatal(err)
	}
	if f.Root != "/data" || f.Address != "/y.sock" || *own != 4 || stdout.Len() > 0 {
		t.Errorf("got %q, %q, %d, %q", f.Root, f.Address, *own, &stdout)
	}
	if log := f.Logger(); log.Enabled(context.Background(), slog.LevelInfo) || !log.Enabled(context.Background(), slog.LevelWarn) {
		t.Error("the log level is not warn")
	}
}

func TestFlagsVersion(t *testing.T) {
	var stdout bytes.Buffer
	if err := newFlags().Parse([]string{"--version"}, &stdout); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v, want flag.ErrHelp", err)
	}
	if !strings.HasPrefix(stdout.String(), "berth-x version ") {
		t.Errorf("printed %q", &stdout)
	}
}

func TestFlagsRefuse(t *testing.T) {
	for want, args := range map[string][]string{
		`unexpected argument "serve"`:              {"-root", "/r", "serve"},
		"flag provided but not defined: -colour":   {"-colour"},
		`invalid value "loud" for flag -log-level`: {"-log-level", "loud"},
		"flag needs an argument: -address":         {"-address"},
		`invalid boolean value "x" for -version: `: {"-version=x"},
		`unexpected argument "after"`:              {"--", "after"},
	} {
		if err := newFlags().Parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", args, err, want)
		}
	}
}
