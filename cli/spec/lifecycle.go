package spec

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type lifecycleFlags struct {
	remove      bool
	restart     string
	init        bool
	labels      []string
	labelFiles  []string
	annotations []string
	stopSignal  string
	stopTimeout int
	platform    string
	runtime     string
}

func (f *lifecycleFlags) register(set *pflag.FlagSet) {
	set.BoolVar(&f.remove, "rm", false, "Remove the container, with its anonymous volumes, when it has exited")
	set.StringVar(&f.restart, "restart", "no", "When to start the container again: no, on-failure[:retries], always, unless-stopped")
	set.BoolVar(&f.init, "init", false, "Run an init as process 1 that forwards signals and reaps processes")
	set.StringArrayVarP(&f.labels, "label", "l", nil, "Set a label (NAME=value)")
	set.StringArrayVar(&f.labelFiles, "label-file", nil, "Read labels from a file")
	set.StringArrayVar(&f.annotations, "annotation", nil, "Add an annotation to the OCI configuration (NAME=value)")
	set.StringVar(&f.stopSignal, "stop-signal", "", "Signal that stops the container")
	set.IntVar(&f.stopTimeout, "stop-timeout", 10, "Seconds to wait before killing, when stopping")
	set.StringVar(&f.platform, "platform", "", "Platform of the image to take: os/arch[/variant]")
	set.StringVar(&f.runtime, "runtime", "", "OCI runtime: berth-runtime, runc, crun or a path")
}

func (f *lifecycleFlags) apply(spec *berthv1.ContainerSpec, set *pflag.FlagSet) (err error) {
	if spec.Restart, err = ParseRestart(f.restart); err != nil {
		return err
	}
	if f.remove && spec.Restart.Condition != berthv1.RestartCondition_RESTART_CONDITION_NO {
		return errors.New("conflicting options: --restart starts the container again, --rm removes it")
	}
	if spec.Labels, err = f.readLabels(); err != nil {
		return err
	}
	if spec.Annotations, err = KeyValues("annotation", f.annotations); err != nil {
		return err
	}
	if spec.Platform, err = ParsePlatform(f.platform); err != nil {
		return err
	}
	if set.Changed("stop-timeout") {
		spec.StopTimeout = durationpb.New(time.Duration(f.stopTimeout) * time.Second)
	}
	spec.AutoRemove, spec.Init = f.remove, f.init
	spec.StopSignal, spec.Runtime = f.stopSignal, f.runtime
	return nil
}

func (f *lifecycleFlags) readLabels() (map[string]string, error) {
	var pairs []string
	for _, path := range f.labelFiles {
		lines, err := readLines("label-file", path, func(line string) (string, bool, error) { return line, true, nil })
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, lines...)
	}
	return KeyValues("label", append(pairs, f.labels...))
}

// ParseRestart reads a restart policy as docker writes it.
func ParseRestart(text string) (*berthv1.RestartPolicy, error) {
	name, count, counted := strings.Cut(text, ":")
	policy := &berthv1.RestartPolicy{}
	switch name {
	case "no", "":
		policy.Condition = berthv1.RestartCondition_RESTART_CONDITION_NO
	case "always":
		policy.Condition = berthv1.RestartCondition_RESTART_CONDITION_ALWAYS
	case "unless-stopped":
		policy.Condition = berthv1.RestartCondition_RESTART_CONDITION_UNLESS_STOPPED
	case "on-failure":
		policy.Condition = berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE
	default:
		return nil, invalid("restart", text, "want no, on-failure[:retries], always or unless-stopped")
	}
	if !counted {
		return policy, nil
	}
	retries, err := strconv.ParseUint(count, 10, 32)
	if err != nil || name != "on-failure" {
		return nil, invalid("restart", text, "a number of retries goes with on-failure only, as on-failure:3")
	}
	policy.MaxRetries = uint32(retries)
	return policy, nil
}

// ParsePlatform reads os/arch[/variant]; empty stands for the daemon's own.
func ParsePlatform(text string) (*berthv1.Platform, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if part == "" || len(parts) > 3 {
			return nil, invalid("platform", text, "want os/arch[/variant], as linux/arm64")
		}
	}
	platform := &berthv1.Platform{Os: "linux"}
	switch {
	case len(parts) > 1:
		platform.Os, platform.Architecture = parts[0], parts[1]
	case text == "linux":
		return platform, nil
	case slices.Contains(architectures(), text):
		platform.Architecture = text
	default:
		return nil, invalid("platform", text, "it is neither an operating system nor an architecture that is known")
	}
	if len(parts) == 3 {
		platform.Variant = parts[2]
	}
	return platform, nil
}

// architectures are the names by which images are built for Linux, and what machines call them.
func architectures() []string {
	return []string{
		"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x",
		"aarch64", "armel", "armhf", "i386", "x86-64", "x86_64",
	}
}

type loggingFlags struct {
	driver  string
	options []string
}

func (f *loggingFlags) register(set *pflag.FlagSet) {
	set.StringVar(&f.driver, "log-driver", "", "Where output is logged: json-file or none")
	set.StringArrayVar(&f.options, "log-opt", nil, "Option of the log driver, as max-size=10m")
}

func (f *loggingFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) (err error) {
	spec.Log.Driver = f.driver
	spec.Log.Options, err = KeyValues("log-opt", f.options)
	return err
}

type healthFlags struct {
	none bool
}

func (f *healthFlags) register(set *pflag.FlagSet) {
	set.BoolVar(&f.none, "no-healthcheck", false, "Disable the image's health check")
}

func (f *healthFlags) apply(spec *berthv1.ContainerSpec, _ *pflag.FlagSet) error {
	if f.none {
		spec.Health = &berthv1.HealthCheck{Test: []string{"NONE"}}
	}
	return nil
}
