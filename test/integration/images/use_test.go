package images_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// An image that containers use is not removed; with force it is, unless one runs, and a container outlives its image.
func TestRemoveRefusesWhatContainersUse(t *testing.T) {
	h, r := newHost(t), newRegistry(t)
	name := testenv.BusyboxImage(t, r.host)
	id := h.mustPull(name).result.GetImageId()
	containers := berthv1.NewContainersServiceClient(h.Dial())
	create := func(name, image string) {
		t.Helper()
		_, err := containers.CreateContainer(t.Context(), &berthv1.CreateContainerRequest{Name: name, Spec: &berthv1.ContainerSpec{
			Image: image, Network: &berthv1.NetworkSpec{Mode: "none"},
			Process: &berthv1.ProcessSpec{Entrypoint: &berthv1.StringList{Values: []string{"sleep", "1000"}}},
		}})
		wantCode(t, err, codes.OK)
	}
	start := func(name string) error {
		_, err := containers.StartContainer(t.Context(), &berthv1.StartContainerRequest{Container: name})
		return err
	}
	remove := func(name string) {
		t.Helper()
		_, err := containers.RemoveContainer(t.Context(), &berthv1.RemoveContainerRequest{Container: name, Force: true})
		wantCode(t, err, codes.OK)
	}
	create("one", name)
	_, err := h.remove(name, false)
	wantCode(t, err, codes.FailedPrecondition, "use it", "force")
	if err := h.tag(name, "spare"); err != nil {
		t.Fatal(err)
	}
	_, err = h.remove("spare", false)
	wantCode(t, err, codes.OK) // it is not the last name

	wantCode(t, start("one"), codes.OK)
	for _, reference := range []string{name, id} {
		_, err = h.remove(reference, true)
		wantCode(t, err, codes.FailedPrecondition, "stop")
	}
	if got := h.inspect(name); got.GetContainers() != 1 {
		t.Errorf("the image counts %d containers", got.GetContainers())
	}
	remove("one")

	create("two", name)
	removed, err := h.remove(name, true)
	wantCode(t, err, codes.OK)
	if !slices.Equal(removed.GetDeleted(), []string{id}) {
		t.Errorf("with force it answered %v", removed)
	}
	wantCode(t, start("two"), codes.OK)
	remove("two")

	// Its layers go with it at the latest with the next image.
	other := r.push("other", "latest", nil, gzipped(t, archive(t, file("a", "1"))))
	h.mustPull(r.host + "/other")
	if _, err := h.remove(other.config.Digest.String(), false); err != nil {
		t.Fatal(err)
	}
	if keys := strings.Join(h.snapshotKeys(), " "); keys != "" {
		t.Errorf("the snapshots %s are left", keys)
	}
}
