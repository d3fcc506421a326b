package cni_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/berthd/berth/test/testenv"
)

func pluginNames() []string {
	return []string{"bridge", "firewall", "host-local", "loopback", "portmap"}
}

func (h *host) status(n *libcni.NetworkConfigList) (err error) {
	h.do(func() { err = h.cni.GetStatusNetworkList(context.Background(), n) })
	return err
}

// call executes a plugin by hand and returns what it writes to its standard output, and whether it succeeded.
func (h *host) call(plugin, config string, environ ...string) (answer object, ok bool) {
	h.t.Helper()
	var output []byte
	var err error
	h.do(func() {
		cmd := exec.Command(filepath.Join(h.plugins, plugin))
		cmd.Env = append([]string{"CNI_PATH=" + h.plugins}, environ...)
		cmd.Stdin = strings.NewReader(config)
		output, err = cmd.Output()
	})
	if len(output) > 0 {
		if err := json.Unmarshal(output, &answer); err != nil {
			h.t.Errorf("%s wrote %q: %v", plugin, output, err)
		}
	}
	return answer, err == nil
}

func TestEveryPluginTellsItsVersions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, name := range pluginNames() {
		answer, ok := h.call(name, `{"cniVersion":"1.1.0"}`, "CNI_COMMAND=VERSION")
		versions, _ := answer["supportedVersions"].([]any)
		if !ok || answer["cniVersion"] != "1.1.0" || !slices.Contains(versions, any("1.1.0")) || !slices.Contains(versions, any("0.3.1")) {
			t.Errorf("%s answers VERSION with %v", name, answer)
		}
	}
}

func TestBadCallsAreErrorsOfCNI(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	good := `{"cniVersion":"1.1.0","name":"net","type":"loopback"}`
	attachment := []string{"CNI_CONTAINERID=c", "CNI_IFNAME=lo", "CNI_NETNS=/nonexistent"}
	for _, test := range []struct {
		name    string
		config  string
		environ []string
		code    float64
		word    string
	}{
		{"unknown command", good, append(attachment, "CNI_COMMAND=FROB"), codeEnvironment, "FROB"},
		{"no container", good, []string{"CNI_COMMAND=ADD", "CNI_IFNAME=lo", "CNI_NETNS=/x"}, codeEnvironment, "CNI_CONTAINERID"},
		{"no namespace", good, []string{"CNI_COMMAND=ADD", "CNI_IFNAME=lo", "CNI_CONTAINERID=c"}, codeEnvironment, "CNI_NETNS"},
		{"bad container", good, []string{"CNI_COMMAND=ADD", "CNI_IFNAME=lo", "CNI_CONTAINERID=../c", "CNI_NETNS=/x"}, codeEnvironment, "../c"},
		{"bad interface", good, []string{"CNI_COMMAND=ADD", "CNI_IFNAME=a/b", "CNI_CONTAINERID=c", "CNI_NETNS=/x"}, codeEnvironment, "interface"},
		{"no JSON", `{`, append(attachment, "CNI_COMMAND=ADD"), codeDecoding, "decode"},
		{"no name", `{"cniVersion":"1.1.0"}`, append(attachment, "CNI_COMMAND=ADD"), codeConfig, "name"},
		{"bad name", `{"cniVersion":"1.1.0","name":"../n"}`, append(attachment, "CNI_COMMAND=ADD"), codeConfig, "../n"},
		{"future version", `{"cniVersion":"9.9.9","name":"net"}`, append(attachment, "CNI_COMMAND=ADD"), 1, "version"},
		{"CHECK before it was", `{"cniVersion":"0.3.1","name":"net"}`, append(attachment, "CNI_COMMAND=CHECK"), 1, "CHECK"},
		{"GC before it was", `{"cniVersion":"1.0.0","name":"net"}`, []string{"CNI_COMMAND=GC"}, 1, "GC"},
		{"bad prevResult", `{"cniVersion":"1.1.0","name":"net","prevResult":{"ips":7}}`, append(attachment, "CNI_COMMAND=CHECK"), codeDecoding, "prevResult"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, ok := h.call("loopback", test.config, test.environ...)
			message, _ := answer["msg"].(string)
			if ok || answer["code"] != test.code || !strings.Contains(message, test.word) || answer["cniVersion"] == "" {
				t.Errorf("the answer is %v (success: %v), want code %v and %q", answer, ok, test.code, test.word)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.network("net", "10.88.0.0/24")
	if err := h.status(n); err != nil {
		t.Errorf("STATUS of a network that is not there yet: %v", err)
	}
	conf := h.bridgeConf("10.88.0.0/24")
	conf["vlan"] = 5
	if err := h.status(list(t, "net", conf)); err == nil || !strings.Contains(err.Error(), "vlan") {
		t.Errorf("STATUS of a configuration that ADD refuses: %v", err)
	}
	h.run("ip", "link", "add", "berth0", "type", "veth", "peer", "name", "peer0")
	if err := h.status(n); err == nil || !strings.Contains(err.Error(), "berth0") {
		t.Errorf("STATUS with something else in the bridge's place: %v", err)
	}
}

func TestProgramSpeaksToPeople(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if output := h.run(testenv.Binary(t, "berth-cni"), "--version"); !strings.HasPrefix(output, "berth-cni version ") {
		t.Errorf("--version prints %q", output)
	}
	output, err := h.try(filepath.Join(h.plugins, "bridge"))
	if err == nil || !strings.Contains(output, "berth-cni install") {
		t.Errorf("a plugin run by hand prints %q (%v)", output, err)
	}
	h.run(testenv.Binary(t, "berth-cni"), "install", h.plugins) // once more: the links are replaced
	h.run("rm", filepath.Join(h.plugins, "bridge"))
	h.run("touch", filepath.Join(h.plugins, "bridge"))
	if output, err := h.try(testenv.Binary(t, "berth-cni"), "install", h.plugins); err == nil || !strings.Contains(output, "bridge") {
		t.Errorf("install over another file prints %q (%v)", output, err)
	}
}
