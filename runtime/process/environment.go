package process

import (
	"slices"
	"strings"
)

// environment is what the program gets, with a place for HOME at its end where the container lacks one. Of what is there twice the last holds, as for exec the container's variables are
// followed by the caller's, and a program would take the first.
func (c Config) environment() []string {
	env := slices.Clip(c.Process.Env)
	if c.lacksHome() {
		env = append(env, homePrefix)
	}
	for i := len(env) - 1; i > 0; i-- {
		name, _, _ := strings.Cut(env[i], "=")
		if !slices.ContainsFunc(env[:i], func(earlier string) bool { return names(earlier, name) }) {
			continue
		}
		kept := env[:0:0]
		for _, earlier := range env[:i] {
			if !names(earlier, name) {
				kept = append(kept, earlier)
			}
		}
		env, i = append(kept, env[i:]...), len(kept)
	}
	return env
}

func names(entry, name string) bool {
	return len(entry) > len(name) && entry[len(name)] == '=' && entry[:len(name)] == name || entry == name
}
