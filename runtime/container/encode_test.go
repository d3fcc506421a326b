package container

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthd/berth/runtime/resctrl"
)

// What is encoded by hand is what encoding/json makes of it, for every field that a State may get.
func TestEncode(t *testing.T) {
	full := State{
		Version: 1, OCIVersion: "1.3.0", ID: "id", Pid: 7, StartTime: 1 << 60, Bundle: "/a \"b\"\\\n\x01\u2028é", Rootfs: "/r", Created: time.Now().UTC(), Owner: 1000,
		Annotations: map[string]string{"a": "<&>", "": "\x7f"}, Cgroups: map[string]string{"": "/sys/fs/cgroup"},
		Class: &resctrl.Group{}, ConfigSize: 9, Traits: Traits{Scope: true, SharedKeyring: true, TimeNamespace: true},
	}
	value := reflect.ValueOf(full)
	for i := range value.NumField() {
		if value.Field(i).IsZero() {
			t.Errorf("this test knows nothing of %s", value.Type().Field(i).Name)
		}
	}
	for name, state := range map[string]State{"full": full, "empty": {}} {
		got, err := state.encode()
		if err != nil {
			t.Fatal(err)
		}
		standard, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var ours, theirs map[string]any
		if err := json.Unmarshal(got, &ours); err != nil {
			t.Fatalf("%s: %v: %s", name, err, got)
		}
		if err := json.Unmarshal(standard, &theirs); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s (-json +ours):\n%s", name, diff)
		}
	}
}
