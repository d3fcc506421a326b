// One goroutine works here, and to look for the limits of its own cgroup costs more than what it does.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command berth-runtime runs containers as the OCI runtime specification defines them, with runc's command line.
//
// It needs Linux 5.15. Nothing newer is called without another way: the newest of what it takes for granted are cgroup.kill
// and MOUNT_ATTR_NOSYMFOLLOW (5.14), mount_setattr with id-mapped mounts (5.12), close_range with CLOSE_RANGE_CLOEXEC (5.11),
// setns of several namespaces by a pidfd and faccessat2 (5.8), CLONE_INTO_CGROUP (5.7) and openat2 (5.6). What a
// configuration may ask for and only later kernels do is refused by them, with the field's name: id-mapped overlays and
// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19), id-mapped tmpfs (6.3) and MPOL_WEIGHTED_INTERLEAVE (6.9).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/version"
	"github.com/berthd/berth/runtime/monitor"
)

// command is one of the runtime's verbs. It returns the exit status, or an error and with it the status 1.
type command struct {
	name, summary string
	run           func(g *globals, args []string) (int, error)
}

func commands() []command {
	return []command{
		{"create", "create a container, and leave its process waiting for start", (*globals).create},
		{"start", "let the process of a created container execute its program", (*globals).start},
		{"run", "create and start a container", (*globals).run},
		{"exec", "execute another process in a running container", (*globals).exec},
		{"kill", "send a signal to a container's first process", (*globals).kill},
		{"delete", "delete a container that has stopped", (*globals).delete},
		{"state", "print the state of a container", (*globals).state},
		{"list", "list containers", (*globals).list},
		{"ps", "list the processes of a container", (*globals).ps},
		{"spec", "write a configuration to start from", (*globals).spec},
		{"features", "print what this runtime can do", (*globals).features},
		{"update", "change the limits of a container", (*globals).update},
		{"events", "print statistics and events of a container", (*globals).events},
		{"pause", "suspend all processes of a container", (*globals).pause},
		{"resume", "resume all processes of a container", (*globals).resume},
		{"checkpoint", "write a container's processes to files", (*globals).checkpoint},
		{"restore", "let the processes of a checkpoint go on", (*globals).restore},
	}
}

// globals are the flags in front of the verb.
type globals struct {
	root      string
	log       string
	logFormat string
	debug     bool
	systemd   bool
	given     bool  // root, by the flag
	rootless  *bool // nil: find out
	criu      string
}

func main() {
	monitor.Quiet()
	os.Exit(start(os.Args[1:]))
}

func start(args []string) int {
	g := &globals{}
	status, err := g.dispatch(args)
	switch {
	case err == nil:
		return status
	case errors.Is(err, flag.ErrHelp):
		return 0
	}
	g.report(err)
	return max(status, 1)
}

func (g *globals) dispatch(args []string) (int, error) {
	flags := newFlags("berth-runtime", "[global options] COMMAND [options] [arguments]")
	flags.StringVar(&g.root, "root", "", "`directory` of the containers' state (default \"/run/berth-runtime\", for users $XDG_RUNTIME_DIR/berth-runtime)")
	flags.StringVar(&g.log, "log", "", "`file` to append errors to")
	flags.StringVar(&g.logFormat, "log-format", textFormat, "`format` of the log: text or json")
	flags.BoolVar(&g.debug, "debug", false, "log what is done too")
	flags.BoolVar(&g.systemd, "systemd-cgroup", false, "let systemd make the cgroup; cgroupsPath is slice:prefix:name")
	flags.Func("rootless", "do without a cgroup that can't be made: true, false or auto, for users other than root (default auto)", g.setRootless)
	flags.StringVar(&g.criu, "criu", "criu", "`program` that writes checkpoints and restores them")
	printVersion := flags.Bool("version", false, "print the version and exit")
	flags.BoolVar(printVersion, "v", false, "short for -version")
	usage := flags.Usage
	flags.Usage = func() {
		usage()
		fmt.Fprintln(flags.Output(), "\nCommands:")
		for _, c := range commands() {
			fmt.Fprintf(flags.Output(), "  %-10s %s\n", c.name, c.summary)
		}
		fmt.Fprintf(flags.Output(), "  %-10s %s\n", "help", "print this, or the options of the command behind it")
	}
	if err := parseFlags(flags, args); err != nil {
		return 0, err
	}
	if *printVersion {
		return 0, showVersion()
	}
	if format := g.logFormat; format != textFormat && format != jsonFormat && format != "" {
		g.logFormat = textFormat
		return 1, fmt.Errorf("unknown log format %q: it is text or json", format)
	}
	if err := g.openLog(); err != nil {
		return 1, err
	}
	name, rest := flags.Arg(0), flags.Args()
	if name == "help" || name == "h" {
		if rest = rest[1:]; len(rest) > 0 {
			name, rest = rest[0], []string{rest[0], "--help"}
		}
	}
	if len(rest) == 0 {
		flags.Usage()
		return 0, nil
	}
	if err := g.findRoot(flags); err != nil {
		return 1, err
	}
	g.note("%s %q with the state in %q", name, rest[1:], g.root)
	for _, c := range commands() {
		if c.name == name {
			return c.run(g, rest[1:])
		}
	}
	const unknown = 3 // as runc has it
	return unknown, fmt.Errorf("%q is not implemented: berth-runtime --help lists the commands", name)
}

// showVersion prints what engines look for in the output of runc: a line with the version, the commit and the
// specification's version.
func showVersion() error {
	_, err := fmt.Printf("berth-runtime version %s\ncommit: %s\nspec: %s\ngo: %s\n", //nolint:forbidigo // what was asked for
		version.Release, version.Commit(), specs.Version, runtime.Version())
	return err
}
