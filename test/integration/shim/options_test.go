package shim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/test/testenv"
)

// generic is how CRI sends a shim the section of the configuration that is its runtime's.
func generic(t testing.TB, message *runtimeoptions.Options) *anypb.Any {
	t.Helper()
	value, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: value}
}

// TestOptionsInTOML: a section and a file say the same.
func TestOptionsInTOML(t *testing.T) {
	for _, inFile := range []bool{false, true} {
		t.Run(fmt.Sprint("in a file: ", inFile), func(t *testing.T) {
			c := newContainer(t, "true")
			args, _ := c.file("args")
			real := c.runtime
			c.wrapRuntime(`[ "$verb" != create ] || echo "$@" > ` + args + "\nset -- $(for word; do [ $word = --systemd-cgroup ] || echo $word; done)")
			root := filepath.Join(filepath.Dir(c.Bundle), "runtime")
			text := fmt.Sprintf("# what an administrator writes\nBinaryName = %q\nRoot = '%s'\nSystemdCgroup = true\n", c.runtime, root)
			message := &runtimeoptions.Options{TypeUrl: "runtimeoptions.v1.Options", ConfigBody: []byte(text)}
			if inFile {
				path, _ := c.file("runtime.toml")
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				message = &runtimeoptions.Options{ConfigPath: path}
			}
			c.start()
			request := c.request(streams{})
			request.Options = generic(t, message)
			if _, err := c.api.Create(c.ctx(), request); err != nil {
				t.Fatalf("%v (with %s)", err, real)
			}
			c.run("")
			c.expectExit("", 0)
			got, err := os.ReadFile(args)
			if err != nil || !strings.HasPrefix(string(got), "--root "+root+"/"+namespace+" ") || !strings.Contains(string(got), " --systemd-cgroup ") {
				t.Errorf("the runtime was called with %q, %v", got, err)
			}
		})
	}
}

func TestBadOptionsInTOML(t *testing.T) {
	c := newContainer(t, "true")
	c.start()
	for text, says := range map[string]string{
		"BinaryName = 'x'\nBinaryNam = 'y'": `line 2: there is no option "BinaryNam"`,
		"SystemdCgroup = 'yes'":             "line 1",
		"= 1":                               "line 1",
	} {
		request := c.request(streams{})
		request.Options = generic(t, &runtimeoptions.Options{ConfigBody: []byte(text)})
		_, err := c.api.Create(c.ctx(), request)
		expectError(t, err, codes.InvalidArgument, says)
	}
	request := c.request(streams{})
	request.Options = generic(t, &runtimeoptions.Options{ConfigPath: "/no/such.toml"})
	_, err := c.api.Create(c.ctx(), request)
	expectError(t, err, codes.InvalidArgument, "/no/such.toml")
	request.Options = generic(t, &runtimeoptions.Options{TypeUrl: "io.other.Options"})
	_, err = c.api.Create(c.ctx(), request)
	expectError(t, err, codes.InvalidArgument, "io.other.Options")
}

func TestShimCgroup(t *testing.T) {
	c := newContainer(t, "sleep", "1000")
	dirs, err := testenv.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	path := testenv.CgroupParent + "-shims"
	t.Cleanup(func() { // after the shim has ended
		if err := testenv.RemoveCgroups(path); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(c.remove)
	for _, dir := range dirs {
		if filepath.Base(dir) == "cpuset" { // takes no processes before it has CPUs
			continue
		}
		if err := os.Mkdir(dir+path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	request := c.request(streams{})
	set := func(cgroup string) {
		opts := &options.Options{}
		if err := proto.Unmarshal(request.Options.Value, opts); err != nil {
			t.Fatal(err)
		}
		opts.ShimCgroup = cgroup
		if request.Options.Value, err = proto.Marshal(opts); err != nil {
			t.Fatal(err)
		}
	}
	set("/no/such/cgroup")
	_, err = c.api.Create(c.ctx(), request)
	expectError(t, err, codes.InvalidArgument, "/no/such/cgroup")
	set(path)
	created, err := c.api.Create(c.ctx(), request)
	if err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]bool{c.pid: true, int(created.Pid): false} {
		got, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || strings.Contains(string(got), ":"+path+"\n") != want {
			t.Errorf("process %d is in %q, %v", pid, got, err)
		}
	}
	if _, err := c.api.Kill(c.ctx(), &task.KillRequest{ID: c.ID, Signal: 9}); err != nil {
		t.Error(err)
	}
	c.expectExit("", 137)
}

// TestInfo: containerd learns from the shim what its runtime can do.
func TestInfo(t *testing.T) {
	runtime := ociRuntime(t)
	chosen, err := proto.Marshal(optionsFor(t, runtime))
	if err != nil {
		t.Fatal(err)
	}
	for _, stdin := range []string{"", string(chosen)} {
		cmd := exec.Command(testenv.Binary(t, shimName), "-info")
		cmd.Stdin = strings.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		output, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		var info types.RuntimeInfo
		if err := proto.Unmarshal(output, &info); err != nil {
			t.Fatal(err)
		}
		if info.Name != "io.containerd.berth.v2" || info.Features.GetTypeUrl() != "types.containerd.io/opencontainers/runtime-spec/1/features/Features" {
			t.Fatalf("info %v, %s", &info, &stderr)
		}
		var got features.Features
		if err := json.Unmarshal(info.Features.Value, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.MountOptions) == 0 || got.Linux == nil || len(got.Linux.Namespaces) == 0 {
			t.Errorf("features %s", info.Features.Value)
		}
	}
}

// TestOptionsThatCanNotBeUsed: none of them is ignored.
func TestOptionsThatCanNotBeUsed(t *testing.T) {
	c := newContainer(t, "true")
	c.start()
	for _, test := range []struct {
		field      string
		value      any
		checkpoint string
		code       codes.Code
		says       string
	}{
		{field: "TaskApiAddress", value: "ttrpc+unix:///other.sock", code: codes.Unimplemented, says: "TaskApiAddress"},
		{field: "TaskApiVersion", value: uint32(4), code: codes.Unimplemented, says: "TaskApiVersion 4"},
		{field: "CriuImagePath", value: "/no-such", code: codes.NotFound, says: "/no-such"},
		{field: "CriuImagePath", value: "/no-such", checkpoint: "/", code: codes.InvalidArgument, says: "CriuImagePath"},
	} {
		request := c.request(streams{})
		request.Options, request.Checkpoint = changed(t, request, test.field, test.value), test.checkpoint
		_, err := c.api.Create(c.ctx(), request)
		expectError(t, err, test.code, test.says)
	}
}

// changed returns the options of a request with another value of a field.
func changed(t *testing.T, r *task.CreateTaskRequest, field string, value any) *anypb.Any {
	t.Helper()
	opts := &options.Options{}
	if err := proto.Unmarshal(r.Options.Value, opts); err != nil {
		t.Fatal(err)
	}
	reflect.ValueOf(opts).Elem().FieldByName(field).Set(reflect.ValueOf(value))
	encoded, err := proto.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: r.Options.TypeUrl, Value: encoded}
}
