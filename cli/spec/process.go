package spec

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type processFlags struct {
	Process
	entrypoint string
	groups     []string
	hostname   string
	domainname string
}

func (f *processFlags) register(set *pflag.FlagSet) {
	f.Process.Register(set) //nolint:staticcheck // f.Register would read like a call of itself
	set.StringVar(&f.entrypoint, "entrypoint", "", "Overwrite the image's entrypoint")
	set.StringArrayVar(&f.groups, "group-add", nil, "Additional group to join")
	set.StringVarP(&f.hostname, "hostname", "h", "", "Host name of the container")
	set.StringVar(&f.domainname, "domainname", "", "NIS domain name of the container")
}

func (f *processFlags) apply(spec *berthv1.ContainerSpec, set *pflag.FlagSet) error {
	if err := f.Apply(spec.Process); err != nil {
		return err
	}
	if set.Changed("entrypoint") {
		spec.Process.Entrypoint = &berthv1.StringList{}
		if f.entrypoint != "" {
			spec.Process.Entrypoint.Values = []string{f.entrypoint}
		}
	}
	spec.Security.Privileged, spec.Process.Privileged = f.privileged, false
	spec.Process.AdditionalGroups = f.groups
	spec.Hostname, spec.Domainname = f.hostname, f.domainname
	return nil
}

// Process are the flags that run, create and exec share.
type Process struct {
	Interactive bool
	TTY         bool
	env         []string
	envFiles    []string
	workdir     string
	user        string
	privileged  bool
}

// Register declares the flags.
func (f *Process) Register(set *pflag.FlagSet) {
	set.BoolVarP(&f.Interactive, "interactive", "i", false, "Keep standard input open")
	set.BoolVarP(&f.TTY, "tty", "t", false, "Give the process a terminal")
	set.StringArrayVarP(&f.env, "env", "e", nil, "Set an environment variable (NAME=value, or NAME to pass it on)")
	set.StringArrayVar(&f.envFiles, "env-file", nil, "Read environment variables from a file")
	set.StringVarP(&f.workdir, "workdir", "w", "", "Working directory in the container")
	set.StringVarP(&f.user, "user", "u", "", "User name or ID, with group: name|uid[:group|gid]")
	set.BoolVar(&f.privileged, "privileged", false, "Give all capabilities and devices of the host")
}

// Apply writes what the flags say into process.
func (f *Process) Apply(process *berthv1.ProcessSpec) error {
	for _, path := range f.envFiles {
		env, err := readEnvFile(path)
		if err != nil {
			return err
		}
		process.Env = append(process.Env, env...)
	}
	for _, entry := range f.env {
		entry, given, err := environment(entry)
		if err != nil {
			return err
		}
		if given {
			process.Env = append(process.Env, entry)
		}
	}
	process.WorkingDir, process.User = f.workdir, f.user
	process.Stdin, process.Tty = f.Interactive, f.TTY
	process.Privileged = f.privileged
	return nil
}

// environment completes a bare NAME with the value that it has here; given is false if it has none.
func environment(entry string) (complete string, given bool, err error) {
	name, _, assigned := strings.Cut(entry, "=")
	if name == "" {
		return "", false, invalid("env", entry, "want NAME=value or NAME")
	}
	if assigned {
		return entry, true, nil
	}
	value, given := os.LookupEnv(name)
	return name + "=" + value, given, nil
}

// readEnvFile reads a file with one NAME=value or NAME a line; empty lines and those that start with # are skipped.
func readEnvFile(path string) ([]string, error) {
	return readLines("env-file", path, func(line string) (string, bool, error) {
		name, _, _ := strings.Cut(line, "=")
		if strings.ContainsAny(name, " \t") {
			return "", false, fmt.Errorf("the name %q contains white space", name)
		}
		return environment(line)
	})
}

// readLines returns what parse makes of the lines of a file, without empty ones and comments.
func readLines(flag, path string, parse func(line string) (entry string, keep bool, err error)) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read --%s: %w", flag, err)
	}
	defer func() { _ = file.Close() }()
	var entries []string
	scanner := bufio.NewScanner(file)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimLeft(strings.TrimPrefix(scanner.Text(), "\ufeff"), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		entry, keep, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("cannot read --%s %q, line %d: %w", flag, path, number, err)
		}
		if keep {
			entries = append(entries, entry)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot read --%s %q: %w", flag, path, err)
	}
	return entries, nil
}
