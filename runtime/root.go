package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthd/berth/runtime/namespace"
)

// findRoot finds the directory of the containers' state: where --root says, or where users have what is theirs until
// they log out.
func (g *globals) findRoot(flags *flag.FlagSet) error {
	const name = "berth-runtime"
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "root" })
	users := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case given:
		g.given = true
	case users == "" || !isUsers():
		g.root = filepath.Join("/run", name)
	default:
		g.root = filepath.Join(users, name)
		// The sticky bit keeps it from those who clean up there.
		err := os.MkdirAll(g.root, 0o700)
		if err == nil {
			err = os.Chmod(g.root, 0o700|os.ModeSticky)
		}
		if err != nil {
			return fmt.Errorf("cannot use $XDG_RUNTIME_DIR for the containers' state: %w", err)
		}
	}
	root, err := filepath.Abs(g.root)
	if err != nil {
		return fmt.Errorf("cannot find --root: %w", err)
	}
	if root == "/" {
		return fmt.Errorf("cannot use --root %q: delete --force would remove directories of the system there", g.root)
	}
	g.root = root
	return nil
}

// isUsers tells whether this is a user's: who has another uid, or is root of a user namespace and not known as root.
func isUsers() bool {
	if os.Geteuid() != 0 {
		return true
	}
	name, known := os.LookupEnv("USER")
	return (!known || name != "root") && namespace.InUsers()
}

// setRootless reads the flag --rootless.
func (g *globals) setRootless(text string) error {
	if text == "" || strings.EqualFold(text, "auto") {
		g.rootless = nil
		return nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return errors.New("it is true, false or auto")
	}
	g.rootless = &value
	return nil
}

// tolerant tells whether a container may do without a cgroup that can't be made. It is asked only then.
func (g *globals) tolerant() bool {
	if g.rootless != nil {
		return *g.rootless
	}
	return os.Geteuid() != 0 || namespace.InUsers()
}
