package runtime_test

import (
	"bufio"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

type event struct {
	Type, ID string
	Data     map[string]any
}

func TestStatsHaveTheFieldsOfRunc(t *testing.T) {
	ours := newContainer(t, "sleep", "1000")
	ours.start()
	var got, want event
	if err := json.Unmarshal([]byte(ours.must("events", "--stats", ours.ID)), &got); err != nil {
		t.Fatal(err)
	}
	runc := testenv.Peer(t, "runc")
	t.Setenv("BERTH_TEST_RUNTIME", runc)
	theirs := newContainer(t, "sleep", "1000")
	theirs.start()
	if err := json.Unmarshal([]byte(theirs.must("events", "--stats", theirs.ID)), &want); err != nil {
		t.Fatal(err)
	}
	if got.Type != want.Type || got.ID != ours.ID {
		t.Errorf("event %q of %q", got.Type, got.ID)
	}
	have := paths("", got.Data)
	for _, path := range paths("", want.Data) {
		sometimes := strings.HasPrefix(path, "/blkio") || strings.Contains(path, "memory/cache") || strings.HasSuffix(path, "/usage/max")
		if !slices.Contains(have, path) && !sometimes {
			t.Errorf("runc has %s and berth has not", path)
		}
	}
}

// paths lists where the values in a document are.
func paths(prefix string, value any) []string {
	object, ok := value.(map[string]any)
	if !ok {
		return []string{prefix}
	}
	var all []string
	for key, inner := range object {
		all = append(all, paths(prefix+"/"+key, inner)...)
	}
	slices.Sort(all)
	return all
}

func TestStatsAreTheContainers(t *testing.T) {
	c := newContainer(t).shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & exec sleep 1000")
	c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20))}
	c.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: pointer(int64(33))}
	c.start()
	var e struct {
		Data struct {
			CPU    struct{ Usage struct{ Total uint64 } }
			Memory struct{ Usage struct{ Limit, Usage uint64 } }
			Pids   struct{ Current, Limit uint64 }
		}
	}
	testenv.WaitFor(t, "two processes", func() bool {
		if err := json.Unmarshal([]byte(c.must("events", "--stats", c.ID)), &e); err != nil {
			t.Fatal(err)
		}
		return e.Data.Pids.Current == 2
	})
	if e.Data.Pids.Limit != 33 || e.Data.Memory.Usage.Limit != 64<<20 || e.Data.Memory.Usage.Usage == 0 || e.Data.CPU.Usage.Total < 1e5 {
		t.Errorf("%+v", e.Data)
	}
}

func TestEventsTellOfLackOfMemory(t *testing.T) {
	c := newContainer(t).shell("trap 'head -c 100000000 /dev/zero | tail -c 90000000 >/dev/null; exit' USR1; while :; do sleep 0.05; done")
	c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(32 << 20))}
	if onV2(t) {
		c.Spec.Linux.Resources.Memory.Swap = pointer(int64(32 << 20))
	}
	c.start()
	command := c.command("events", "--interval", "30ms", c.ID)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.ID != c.ID {
			t.Errorf("%q: %v", lines.Text(), err)
		}
		seen[e.Type]++
		switch {
		case e.Type == "stats" && seen["stats"] == 1:
			c.must("kill", c.ID, "USR1")
		case e.Type == "oom" && seen["oom"] == 1:
			c.must("delete", "--force", c.ID)
		}
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
	if seen["stats"] == 0 || seen["oom"] == 0 {
		t.Errorf("events %v", seen)
	}
}

func TestEventsRefuse(t *testing.T) {
	c := newContainer(t, "true")
	c.start()
	testenv.WaitFor(t, "the program to end", func() bool { return strings.Contains(c.must("state", c.ID), `"stopped"`) })
	for want, args := range map[string][]string{
		"it is not running":      {"events", "--stats", c.ID},
		"does not exist":         {"events", "--stats", "no-such-container"},
		"must be more than zero": {"events", "--interval", "0s", c.ID},
	} {
		if r := c.verb(args...); r.Status != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%v: %+v, want %q", args, r, want)
		}
	}
}
