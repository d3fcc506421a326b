package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/internal/errdefs"
)

// minimal is a valid configuration. The tests put something wrong into it.
const minimal = `{
  "ociVersion": "1.2.0",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]},
  "root": {"path": "rootfs"},
  "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
}`

func TestRead(t *testing.T) {
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, File), []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	document, err := Read(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if spec := document.Spec; spec.Process.Args[0] != "sh" || len(spec.Linux.Namespaces) != 2 {
		t.Errorf("unexpected %+v", spec)
	}
}

func TestReadNamesTheBundle(t *testing.T) {
	bundle := t.TempDir()
	_, err := Read(bundle)
	if err == nil || !strings.HasPrefix(err.Error(), `cannot read config.json of bundle "`+bundle+`": `) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unexpected error %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	const linux = `"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}`
	inLinux := func(more string) [2]string {
		return [2]string{linux, `"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], ` + more + `}`}
	}
	inProcess := func(more string) [2]string { return [2]string{`"cwd": "/"`, `"cwd": "/", ` + more} }
	for _, test := range []struct {
		name    string
		replace [2]string
		want    string
	}{
		{"no object", [2]string{minimal, `[]`}, `it must be an object, not a list`},
		{"empty", [2]string{minimal, ``}, `it ends in the middle of its JSON`},
		{"cut off", [2]string{minimal, minimal[:40]}, `it ends in the middle of its JSON`},
		{"no JSON", [2]string{`"root": {`, `"root": x{`}, "line 4, column 11: it is not JSON: invalid character 'x' looking for beginning of value"},
		{"two objects", [2]string{minimal, minimal + "{}"}, "line 6, column 2: there is more behind the JSON object"},
		{"misspelt", [2]string{`"cwd"`, `"cwdd"`}, `field process.cwd: "" is not an absolute path (and field process.cwdd: there is no such field)`},
		{"unknown and wrong", inProcess(`"new": {"x": 1}, "terminal": 1`), "field process.terminal: it must be true or false, not 1"},
		{"wrong type", [2]string{`["sh"]`, `"sh"`}, `field process.args: it must be a list, not "sh"`},
		{"wrong type in a list", [2]string{`["sh"]`, `["sh", 1]`}, `field process.args[1]: it must be a string, not 1`},
		{"negative", [2]string{`"uid": 0`, `"uid": -1`}, `field process.user.uid: it must be a whole number from 0 to 4294967295, not -1`},
		{"object for a string", [2]string{`"rootfs"`, `{}`}, `field root.path: it must be a string, not an object`},
		{"NUL", [2]string{`"sh"`, `"s\u0000h"`}, `field process.args[0]: "s\x00h" has a NUL character`},
		{"no version", [2]string{`"1.2.0"`, `""`}, "field ociVersion: it is required"},
		{"bad version", [2]string{`"1.2.0"`, `"latest"`}, `field ociVersion: "latest" is not a version such as "1.3.0"`},
		{"other major", [2]string{`"1.2.0"`, `"2.0.0"`}, `field ociVersion: "2.0.0" is not supported: versions 1.x are`},
		{"no root", [2]string{`"root": {"path": "rootfs"},`, ``}, "field root: it is required"},
		{"no process", [2]string{`"process"`, `"process": null, "annotations": {}, "x-`}, "it is not JSON"},
		{"no args", [2]string{`["sh"]`, `[]`}, "field process.args: it must have at least the command to run"},
		{"relative cwd", [2]string{`"cwd": "/"`, `"cwd": "home"`}, `field process.cwd: "home" is not an absolute path`},
		{"env without name", [2]string{`"PATH=/bin"`, `"=x"`}, `field process.env[0]: "=x" is not of the form NAME=VALUE`},
		{"env without value", [2]string{`"PATH=/bin"`, `"X"`}, `field process.env[0]: "X" is not of the form NAME=VALUE`},
		{"rlimit", inProcess(`"rlimits": [{"type": "RLIMIT_NOFILES", "soft": 1, "hard": 1}]`), `field process.rlimits[0].type: "RLIMIT_NOFILES" is not the name of a resource limit`},
		{"rlimit twice", inProcess(`"rlimits": [{"type": "RLIMIT_AS", "soft": 1, "hard": 1}, {"type": "RLIMIT_AS", "soft": 1, "hard": 1}]`), `field process.rlimits[1].type: RLIMIT_AS is given twice`},
		{"rlimit order", inProcess(`"rlimits": [{"type": "RLIMIT_AS", "soft": 2, "hard": 1}]`), `field process.rlimits[0].soft: 2 is more than the hard limit, 1`},
		{"oom score", inProcess(`"oomScoreAdj": 1001`), "field process.oomScoreAdj: 1001 is not from -1000 to 1000"},
		{"scheduler", inProcess(`"scheduler": {"policy": "SCHED_FAST"}`), `field process.scheduler.policy: "SCHED_FAST" is none of SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_ISO, SCHED_IDLE, SCHED_DEADLINE`},
		{"io priority", inProcess(`"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}`), "field process.ioPriority.priority: 8 is not from 0 to 7"},
		{"affinity", inProcess(`"execCPUAffinity": {"initial": "0-"}`), `field process.execCPUAffinity.initial: "0-" is not a list of numbers and ranges such as 0-3,7`},
		{"namespace", [2]string{`{"type": "pid"}`, `{"type": "pids"}`}, `field linux.namespaces[1].type: "pids" is none of pid, network, mount, ipc, uts, user, cgroup, time`},
		{"namespace twice", [2]string{`{"type": "pid"}`, `{"type": "mount"}`}, "field linux.namespaces[1].type: mount is given twice"},
		{"hostname", [2]string{`"root"`, `"hostname": "x", "root"`}, "field hostname: it can only be set in a uts namespace, which linux.namespaces does not have"},
		{"mappings", inLinux(`"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]`), "field linux.uidMappings: it needs a user namespace, which linux.namespaces does not have"},
		{"overlap", inLinux(`"uidMappings": [{"containerID": 0, "hostID": 1, "size": 9}, {"containerID": 8, "hostID": 90, "size": 1}]`), "field linux.uidMappings[1]: it overlaps with one before it"},
		{"time", inLinux(`"timeOffsets": {"boottime": {"secs": 1}}`), "field linux.timeOffsets: it needs a time namespace, which linux.namespaces does not have"},
		{"sysctl of the host", inLinux(`"sysctl": {"vm.overcommit_memory": "1"}`), `field linux.sysctl "vm.overcommit_memory": it is not in a namespace, so that it would change the whole host`},
		{"sysctl without namespace", inLinux(`"sysctl": {"net.core.somaxconn": "1"}`), `field linux.sysctl "net.core.somaxconn": it needs a network namespace, which linux.namespaces does not have`},
		{"sysctl of the hostname", inLinux(`"namespaces": [{"type": "uts"}], "sysctl": {"kernel.hostname": "x"}`), `field linux.sysctl "kernel.hostname": the field hostname is for that`},
		{"sysctl of the hostname, by its path", inLinux(`"namespaces": [{"type": "uts"}], "sysctl": {"kernel/hostname": "x"}`), `field linux.sysctl "kernel/hostname": the field hostname is for that`},
		{"sysctl with a way out", inLinux(`"sysctl": {"net/../kernel/core_pattern": "1"}`), `field linux.sysctl "net/../kernel/core_pattern": it is not in a namespace, so that it would change the whole host`},
		{"sysctl with another way out", inLinux(`"sysctl": {"net.//.kernel.core_pattern": "1"}`), `field linux.sysctl "net.//.kernel.core_pattern": it is not in a namespace, so that it would change the whole host`},
		{"device", inLinux(`"devices": [{"path": "/dev/x", "type": "z"}]`), `field linux.devices[0].type: "z" is none of c, b, u, p`},
		{"masked path", inLinux(`"maskedPaths": ["proc/kcore"]`), `field linux.maskedPaths[0]: "proc/kcore" is not an absolute path`},
		{"propagation", inLinux(`"rootfsPropagation": "public"`), `field linux.rootfsPropagation: "public" is none of , private, rprivate, slave, rslave, shared, rshared, unbindable, runbindable`},
		{"personality", inLinux(`"personality": {"domain": "BSD"}`), `field linux.personality.domain: "BSD" is none of LINUX, LINUX32`},
		{"huge page", inLinux(`"resources": {"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}`), `field linux.resources.hugepageLimits[0].pageSize: "../../x" is not a size such as 64KB, 2MB or 1GB`},
		{"cpus", inLinux(`"resources": {"cpu": {"cpus": "3-1"}}`), `field linux.resources.cpu.cpus: "3-1" runs backwards`},
		{"mount", [2]string{`"root"`, `"mounts": [{"type": "proc"}], "root"`}, "field mounts[0].destination: it is required"},
		{"hook", [2]string{`"root"`, `"hooks": {"poststop": [{"path": "x"}]}, "root"`}, `field hooks.poststop[0].path: "x" is not an absolute path`},
		{"hook timeout", [2]string{`"root"`, `"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}, "root"`}, `field hooks.poststop[0].timeout: 0 seconds are not more than zero`},
		{"class", inLinux(`"intelRdt": {"closID": "../x"}`), `field linux.intelRdt.closID: "../x" can't be the name of a class`},
		{"bandwidth", inLinux(`"intelRdt": {"memBwSchema": "L3:0=1"}`), `field linux.intelRdt.memBwSchema: "L3:0=1" does not start with MB:`},
		{"schemata", inLinux(`"intelRdt": {"schemata": ["a", "b\nc"]}`), `field linux.intelRdt.schemata[1]: "b\nc" is more than one line`},
		{"net device", inLinux(`"netDevices": {"eth0": {"name": "a/b"}}`), `field linux.netDevices: "a/b" can't be the name of a network device`},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := strings.Replace(minimal, test.replace[0], test.replace[1], 1)
			_, err := Parse([]byte(content))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%v is not of class %v", err, errdefs.ErrInvalidArgument)
			}
		})
	}
}

func TestParseToleratesWhatCallersSend(t *testing.T) {
	for name, replace := range map[string][2]string{
		"a field of a newer version": {`"ociVersion": "1.2.0",`, `"ociVersion": "1.9.0", "memory": {"x": 1},`},
		"an extension":               {`"root"`, `"com.example.x": {"y": 1}, "root"`},
		"null":                       {`"linux": {`, `"linux": {"devices": null, `},
		"a release candidate":        {`"1.2.0"`, `"1.0.0-rc5-dev"`},
		"another platform's part":    {`"root"`, `"windows": {"layerFolders": []}, "root"`},
		"an escaped NUL's text":      {`"sh"`, `"s\\u0000h"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(strings.Replace(minimal, replace[0], replace[1], 1))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParseTellsWhatItIgnores(t *testing.T) {
	for _, test := range [][3]string{
		{`"root"`, `"hostnam": "x", "root"`, "hostnam"},
		{`"cwd"`, `"noNewPrivilege": true, "cwd"`, "process.noNewPrivilege"},
		{`{"type": "pid"}`, `{"type": "pid", "paht": {"y": 1}}`, "linux.namespaces[1].paht"},
	} {
		_, ignored, err := parse([]byte(strings.Replace(minimal, test[0], test[1], 1)))
		if err != nil || !reflect.DeepEqual(ignored, []string{test[2]}) {
			t.Errorf("ignored %q, %v, want %q", ignored, err, test[2])
		}
	}
}

func TestLoadProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "process.json")
	for content, want := range map[string]string{
		`{"args": ["ls"], "cwd": "/", "user": {"uid": 1, "gid": 2}}`: "",
		`{"args": ["ls"], "cwd": "x"}`:                               `field cwd: "x" is not an absolute path`,
		`{"argv": ["ls"], "cwd": "/"}`:                               "field args: it must have at least the command to run",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadProcess(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", content, err, want)
		}
	}
}

// TestFastDecoder: it decodes what callers send, without help, to what encoding/json makes of it.
func TestFastDecoder(t *testing.T) {
	for _, content := range []string{
		minimal,
		`{"ociVersion": "1.0.0", "process": {"args": ["sh", "-c", "a \u0026\u0026 b > \"c\" \\ \/ \t\u00e9é"], "oomScoreAdj": -5, "terminal": true},
		  "annotations": {"a": "b", "": "c"}, "mounts": [], "hooks": null, "linux": {"resources": {"memory": {"limit": 9223372036854775807},
		  "unified": {}, "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}, "rdma": {"mlx": {"hcaHandles": 3}}}}}`,
		`{}`, " { \n}\t",
	} {
		var got, want specs.Spec
		if !decodeFast([]byte(content), &got) {
			t.Errorf("%s was left to encoding/json", content)
		}
		if err := json.Unmarshal([]byte(content), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", content, got, want)
		}
	}
}

// FuzzFastDecoder looks for documents that it takes for something else than encoding/json does.
func FuzzFastDecoder(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"mounts": [{"options": ["a\u0041\n"]}], "linux": {"timeOffsets": {"x": {"secs": -0}}}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var got, want specs.Spec
		if !decodeFast(content, &got) {
			return
		}
		if _, err := decode(content, &want); err != nil {
			t.Fatalf("%q: encoding/json refuses it: %v", content, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, want %+v", content, got, want)
		}
	})
}

// FuzzParse looks for documents on which the search for the fault disagrees with the decoder, or crashes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(strings.Replace(minimal, `["sh"]`, `{"a": [1, null]}`, 1)))
	f.Add([]byte(strings.Replace(minimal, `1.2.0`, `1.4.0", "new": "`, 1)))
	f.Fuzz(func(t *testing.T, content []byte) {
		spec, err := Parse(content)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v has no class", content, err)
			}
			return
		}
		encoded, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(encoded)
		if err != nil {
			t.Errorf("%q was accepted, but not what it means, %s: %v", content, encoded, err)
		} else if again.Version != spec.Version || len(again.Process.Args) != len(spec.Process.Args) {
			t.Errorf("%q means something else after encoding it", content)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse([]byte(minimal)); err != nil {
			b.Fatal(err)
		}
	}
}
