package inprocess_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/berthd/berth/cni-plugins/inprocess"
)

// The table goes with its last user, also while other processes change the host's rules all the time.
func TestTableGoesWhileOthersChangeRules(t *testing.T) {
	for _, program := range []string{"nft", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: %v", program, err)
		}
	}
	host := newNamespace(t)
	in := func(script string) *exec.Cmd { return exec.Command("nsenter", "--net="+host, "sh", "-c", script) }
	e := inprocess.New(inprocess.WithNetns(host))
	defer e.Close()
	cni := libcni.NewCNIConfigWithCacheDir(nil, t.TempDir(), e)
	list := network(t, t.TempDir(), "")
	container := newNamespace(t)
	churn := in("while nft 'add table inet churn; add chain inet churn c' && nft delete table inet churn; do :; done")
	if err := churn.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = churn.Process.Kill(); _ = churn.Wait() }()
	for range 10 {
		if _, err := cni.AddNetworkList(t.Context(), list, conf("c", container, 8000)); err != nil {
			t.Fatal(err)
		}
		tables := func() string {
			output, err := in("nft list tables").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			return string(output)
		}
		if err := e.DeleteTable(t.Context(), "berth"); err != nil || !strings.Contains(tables(), "inet berth") {
			t.Fatalf("a table that is used was deleted, %v", err)
		}
		if err := cni.DelNetworkList(t.Context(), list, conf("c", container, 8000)); err != nil {
			t.Fatal(err)
		}
		if err := e.DeleteTable(t.Context(), "berth"); err != nil || strings.Contains(tables(), "inet berth") {
			t.Fatalf("a table that nobody uses is left, %v", err)
		}
	}
}
