package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// newFlags returns the flags of a command.
func newFlags(name, arguments string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "Usage: %s %s\n", name, arguments)
		flags.PrintDefaults()
	}
	return flags
}

// parseFlags reads the flags in front of the first argument.
func parseFlags(flags *flag.FlagSet, args []string) error {
	usage := flags.Usage
	flags.Usage = func() {}
	flags.SetOutput(io.Discard) // errors are ours to print
	err := flags.Parse(args)
	flags.Usage = usage
	flags.SetOutput(os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		usage()
	}
	return err
}

// parse reads flags wherever they stand and returns the arguments.
func parse(flags *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		if err := parseFlags(flags, args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return rest, nil
		}
		if n := len(args) - flags.NArg(); n > 0 && args[n-1] == "--" {
			return append(rest, flags.Args()...), nil
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

// parseID is parse for commands whose one argument is a container.
func parseID(flags *flag.FlagSet, args []string) (string, error) {
	rest, err := parse(flags, args)
	if err != nil {
		return "", err
	}
	return firstOf(rest), checkArguments(flags, len(rest), 1, 1)
}

func firstOf(arguments []string) string {
	if len(arguments) == 0 {
		return ""
	}
	return arguments[0]
}

// checkArguments refuses fewer arguments than least, and more than most unless that is negative.
func checkArguments(flags *flag.FlagSet, count, least, most int) error {
	const hint = ": berth-runtime %s --help tells which"
	switch {
	case least == most && count != most:
		return fmt.Errorf("%q requires exactly %d argument(s), not %d"+hint, flags.Name(), most, count, flags.Name())
	case count < least:
		return fmt.Errorf("%q requires a minimum of %d argument(s)"+hint, flags.Name(), least, flags.Name())
	case most >= 0 && count > most:
		return fmt.Errorf("%q requires a maximum of %d argument(s), not %d"+hint, flags.Name(), most, count, flags.Name())
	}
	return nil
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set adds a value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// both gives a flag its short name too.
func both[T any](define func(*T, string, T, string), at *T, names, usage string) {
	long, short, _ := strings.Cut(names, ",")
	define(at, long, *at, usage)
	define(at, short, *at, "short for -"+long)
}
