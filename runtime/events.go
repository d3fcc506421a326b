package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/runtime/container"
	"github.com/berthd/berth/runtime/resctrl"
	"github.com/berthd/berth/runtime/stats"
)

// event is a line of the output, as runc prints it.
type event struct {
	Type string       `json:"type"`
	ID   string       `json:"id"`
	Data *stats.Stats `json:"data,omitempty"`
}

func (g *globals) events(args []string) (int, error) {
	flags := newFlags("events", "[options] ID")
	interval := flags.Duration("interval", 5*time.Second, "`time` between two lines of statistics")
	once := flags.Bool("stats", false, "print the statistics of now, and nothing else")
	id, err := parseID(flags, args)
	if err != nil {
		return 1, err
	}
	if *interval <= 0 {
		return 1, fmt.Errorf("invalid --interval %v: it must be more than zero", *interval)
	}
	c, err := container.Load(g.root, id)
	if err != nil {
		return 1, err
	}
	if c.Status() == specs.StateStopped {
		return 1, fmt.Errorf("cannot tell events of container %q: it is not running", id)
	}
	if *once {
		return 0, printStats(c)
	}
	if len(c.Cgroups) == 0 {
		return 1, fmt.Errorf("cannot tell events of container %q: it has no cgroup", id)
	}
	return 0, follow(c, *interval)
}

// follow prints until the container's cgroup is gone.
func follow(c *container.Container, interval time.Duration) error {
	watch, err := stats.WatchOOM(c.Cgroups)
	if err != nil {
		return err
	}
	defer watch.Close()
	for next := time.Now().Add(interval); ; {
		news, err := watch.Wait(max(time.Until(next), 0))
		switch {
		case err != nil || news == stats.Gone:
			return err
		case news == stats.Killed:
			err = printEvent(event{Type: "oom", ID: c.ID})
		case time.Now().Before(next):
		case c.Status() == specs.StateStopped:
			if news, err := watch.Wait(0); err != nil || news != stats.Killed { // what has ended it may come last
				return err
			}
			return printEvent(event{Type: "oom", ID: c.ID})
		default:
			next = time.Now().Add(interval)
			err = printStats(c)
		}
		if err != nil {
			return err
		}
	}
}

func printStats(c *container.Container) error {
	now, err := stats.Read(c.Cgroups)
	if err != nil {
		return fmt.Errorf("cannot read the statistics of container %q: %w", c.ID, err)
	}
	if c.Class != nil {
		root, err := resctrl.Mounted()
		if err != nil {
			return err
		}
		if now.IntelRdt, err = c.Class.Usage(root); err != nil {
			return err
		}
	}
	return printEvent(event{Type: "stats", ID: c.ID, Data: now})
}

func printEvent(e event) error {
	return json.NewEncoder(os.Stdout).Encode(e)
}
