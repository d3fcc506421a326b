package daemon_test

import (
	"slices"
	"strings"
	"testing"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// made pulls an image of busybox with a configuration of its own, and returns its name.
func (w *world) made(name string, config map[string]any) string {
	w.t.Helper()
	image := testenv.PushImage(w.t, testenv.Registry(w.t), "test/"+name, testenv.BusyboxRootfs(w.t), config)
	w.pull(image)
	return image
}

// A builder that is told ENTRYPOINT [""] writes an entrypoint of one empty word, which stands for none.
func TestEntrypointOfOneEmptyWord(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Image = w.made("empty-entrypoint", map[string]any{"Entrypoint": []string{""}, "Cmd": []string{"echo", "hi"}})
	id := w.run("", spec)
	if code := w.wait(id); code != 0 || w.logs(id) != "hi\n" {
		t.Errorf("exit code %d, output %q", code, w.logs(id))
	}
}

// EXPOSE may name a range, or no protocol.
func TestExposedRangesArePublished(t *testing.T) {
	w := newWorld(t)
	spec := w.sleeper()
	spec.Image = w.made("exposed", map[string]any{"ExposedPorts": map[string]any{"8000-8002/tcp": struct{}{}, "53/udp": struct{}{}, "8001": struct{}{}}})
	spec.Network = &berthv1.NetworkSpec{PublishAll: true, ExposedPorts: []string{"9000", "8000/tcp"}}
	container := w.inspect(w.run("", spec))
	want := []string{"53/udp", "8000/tcp", "8001/tcp", "8002/tcp", "9000/tcp"}
	if !slices.Equal(container.GetExposedPorts(), want) || len(container.GetPorts()) != len(want) {
		t.Errorf("exposed %q, published %v; want %q", container.GetExposedPorts(), container.GetPorts(), want)
	}
}

// What a container does without is said when it is created.
func TestWarnings(t *testing.T) {
	w := newWorld(t)
	checked := w.made("checked", map[string]any{
		"Cmd": []string{"true"}, "Healthcheck": map[string]any{"Test": []string{"CMD", "true"}}, "ExposedPorts": map[string]any{"none/tcp": struct{}{}},
	})
	for _, c := range []struct {
		spec *berthv1.ContainerSpec
		want []string
	}{
		{w.spec("true"), nil},
		{&berthv1.ContainerSpec{Image: w.image, Network: &berthv1.NetworkSpec{Mode: "host", PublishAll: true}}, []string{"published ports are discarded"}},
		{&berthv1.ContainerSpec{Image: checked}, []string{`the port "none/tcp"`, "has a health check"}},
		{&berthv1.ContainerSpec{Image: checked, Health: &berthv1.HealthCheck{Test: []string{"NONE"}}}, []string{`the port "none/tcp"`}},
	} {
		answer, err := w.containers.CreateContainer(w.ctx(), &berthv1.CreateContainerRequest{Spec: c.spec})
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.GetWarnings()) != len(c.want) {
			t.Errorf("%v: warnings %q, want %q", c.spec, answer.GetWarnings(), c.want)
			continue
		}
		for i, warning := range answer.GetWarnings() {
			if !strings.Contains(warning, c.want[i]) {
				t.Errorf("warning %q, want %q", warning, c.want[i])
			}
		}
	}
}
