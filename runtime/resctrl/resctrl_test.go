package resctrl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// tree is a directory in place of the file system, which hardly any machine has. It doesn't fill new directories, so
// classes that are to be written to are there before, as others would have made them.
func tree(t *testing.T, classes ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, class := range append(classes, ".") {
		if err := os.MkdirAll(filepath.Join(root, class, "mon_groups"), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(root, class, "schemata"), "    L3:0=7ff;1=07f\n    MB:0= 100;1=100\n")
	}
	return root
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClassOfTheContainer(t *testing.T) {
	root := tree(t)
	g, err := Create(root, "box", &specs.LinuxIntelRdt{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(42); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "box", "tasks"); got != "42" {
		t.Errorf("tasks: %q", got)
	}
	if _, err := Create(root, "box", &specs.LinuxIntelRdt{}); err == nil {
		t.Error("a second container has the same class")
	}
	if err := os.Remove(filepath.Join(root, "box", "tasks")); err != nil { // as the kernel does with the directory
		t.Fatal(err)
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "box")); err == nil {
		t.Error("the class is left")
	}
	if err := g.Delete(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestClassOfOthers(t *testing.T) {
	root := tree(t, "gold")
	wanted := &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:1=7F", MemBwSchema: "MB:0=100", Schemata: []string{"L3:0=f"}}
	g, err := Create(root, "box", wanted)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "gold", "schemata"); got != "L3:0=f\n" { // each line is a write of its own, and here a file
		t.Errorf("schemata: %q", got)
	}
	if err := g.Update(root, "L3:0=3", ""); err != nil || content(t, root, "gold", "schemata") != "L3:0=3\n" {
		t.Errorf("update: %v", err)
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	content(t, root, "gold", "schemata")
}

func TestDefaultClass(t *testing.T) {
	root := tree(t)
	before := content(t, root, "schemata")
	g, err := Create(root, "box", &specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(7); err != nil {
		t.Fatal(err)
	}
	if content(t, root, "tasks") != "7" || content(t, root, "mon_groups", "box", "tasks") != "7" || content(t, root, "schemata") != before {
		t.Error("the process is not in the default class alone")
	}
}

func TestRefusals(t *testing.T) {
	for want, wanted := range map[string]specs.LinuxIntelRdt{
		"cannot find the class of field linux.intelRdt.closID": {ClosID: "none"},
		"field linux.intelRdt.l3CacheSchema: the class":        {ClosID: "gold", L3CacheSchema: "L3:0=1"},
		"field linux.intelRdt.memBwSchema: the class":          {ClosID: "gold", MemBwSchema: "MB:2=100"},
		"cannot create the monitoring group":                   {ClosID: "gold", EnableMonitoring: true},
	} {
		root := tree(t, "gold")
		if wanted.EnableMonitoring {
			if err := os.Mkdir(filepath.Join(root, "gold", "mon_groups", "box"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Create(root, "box", &wanted); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestUsage(t *testing.T) {
	root := tree(t, "gold")
	for file, text := range map[string]string{
		"info/L3/cbm_mask": "7ff\n", "info/L3/min_cbm_bits": "1\n", "info/L3/num_closids": "16\n", "info/MB/min_bandwidth": "10\n",
		"gold/mon_groups/box/mon_data/mon_L3_00/llc_occupancy": "4096\n", "gold/mon_groups/box/mon_data/mon_L3_00/mbm_total_bytes": "7\n",
		"gold/mon_groups/box/mon_data/mon_L3_01/llc_occupancy": "Unavailable\n",
	} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, path, text)
	}
	g := &Group{Class: filepath.Join(root, "gold"), Monitor: filepath.Join(root, "gold/mon_groups/box")}
	usage, err := g.Usage(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(usage)
	if err != nil {
		t.Fatal(err)
	}
	const line, bandwidth = `"L3:0=7ff;1=07f"`, `"MB:0= 100;1=100"`
	want := `{"l3_cache_info":{"cbm_mask":"7ff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":` + line + `,"l3_cache_schema":` + line +
		`,"mem_bw_info":{"min_bandwidth":10},"mem_bw_schema_root":` + bandwidth + `,"mem_bw_schema":` + bandwidth +
		`,"schemata":[` + line + `,` + bandwidth + `],"mbm_stats":[{"mbm_total_bytes":7,"mbm_local_bytes":0}],"cmt_stats":[{"llc_occupancy":4096},{"llc_occupancy":0}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if usage, err := (*Group)(nil).Usage(root); err != nil || usage.Schemata != nil {
		t.Errorf("without a group: %+v, %v", usage, err)
	}
}
