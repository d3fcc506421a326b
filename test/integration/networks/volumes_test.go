package networks_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func volume(name, target string) *berthv1.ContainerSpec {
	return &berthv1.ContainerSpec{Mounts: []*berthv1.Mount{{Type: berthv1.MountType_MOUNT_TYPE_VOLUME, Source: name, Target: target}}}
}

func (h *host) volumeNames() []string {
	h.t.Helper()
	response, err := h.volumes.ListVolumes(h.t.Context(), &berthv1.ListVolumesRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, v := range response.GetVolumes() {
		names = append(names, v.GetName())
	}
	return names
}

func TestNamedVolumeOutlivesContainers(t *testing.T) {
	h := newHost(t)
	h.output("writer", "echo kept >/data/file", volume("shelf", "/data"))
	_, err := h.volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "shelf"})
	wantCode(t, err, codes.FailedPrecondition, "shelf", "uses it")
	h.remove("writer")
	if got := h.output("reader", "cat /data/file", volume("shelf", "/data")); got != "kept\n" {
		t.Errorf("the second container reads %q", got)
	}
	h.remove("reader")
	h.Kill()
	h.Start()
	if names := h.volumeNames(); !slices.Equal(names, []string{"shelf"}) {
		t.Errorf("the volumes are %q", names)
	}
	_, err = h.volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "shelf"})
	wantCode(t, err, codes.OK)
	if entries, err := os.ReadDir(filepath.Join(h.Root, "volumes")); err != nil || len(entries) > 0 {
		t.Errorf("of the volume %v is left, %v", entries, err)
	}
	_, err = h.volumes.InspectVolume(t.Context(), &berthv1.InspectVolumeRequest{Name: "shelf"})
	wantCode(t, err, codes.NotFound, "shelf")
}

func TestAnonymousVolumeGoesWithItsContainer(t *testing.T) {
	h := newHost(t)
	h.output("short", "touch /data/file", volume("", "/data"))
	if names := h.volumeNames(); len(names) != 1 || len(names[0]) != 64 {
		t.Errorf("the volumes are %q", names)
	}
	h.remove("short")
	if names := h.volumeNames(); len(names) > 0 {
		t.Errorf("the volumes %q are left", names)
	}
}

// A volume is filled with what the image has in its place, but only while it is empty.
func TestEmptyVolumeIsFilledFromTheImage(t *testing.T) {
	h := newHost(t)
	script := "cd /etc && ls && stat -c '%a %u' . passwd && rm group && touch mine"
	first := h.output("first", script, volume("etc", "/etc"))
	for _, want := range []string{"passwd", "group", "os-release", "755 0", "644 0"} {
		if !strings.Contains(first, want) {
			t.Errorf("the filled volume lacks %q: %q", want, first)
		}
	}
	second := h.output("second", "ls /etc", volume("etc", "/etc"))
	if strings.Contains(second, "group\n") || !strings.Contains(second, "mine\n") {
		t.Errorf("the volume was filled again: %q", second)
	}
	if got := h.output("untouched", "cat /etc/group", &berthv1.ContainerSpec{}); !strings.Contains(got, "root") {
		t.Errorf("the image has changed: %q", got)
	}
}

func TestVolumeServiceRefuses(t *testing.T) {
	h := newHost(t)
	create := func(request *berthv1.CreateVolumeRequest) error {
		_, err := h.volumes.CreateVolume(t.Context(), request)
		return err
	}
	wantCode(t, create(&berthv1.CreateVolumeRequest{Name: "../etc"}), codes.InvalidArgument, "../etc")
	wantCode(t, create(&berthv1.CreateVolumeRequest{Name: "a", Driver: "nfs"}), codes.Unimplemented, "nfs")
	wantCode(t, create(&berthv1.CreateVolumeRequest{Name: "a", Labels: map[string]string{"k": "v"}}), codes.OK)
	wantCode(t, create(&berthv1.CreateVolumeRequest{Name: "a"}), codes.OK)
	found, err := h.volumes.ListVolumes(t.Context(), &berthv1.ListVolumesRequest{Filters: []*berthv1.Filter{{Key: "label", Values: []string{"k=v"}}}})
	if err != nil || len(found.GetVolumes()) != 1 || found.GetVolumes()[0].GetName() != "a" {
		t.Errorf("with the label are %v, %v", found, err)
	}
	_, err = h.volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "b"})
	wantCode(t, err, codes.NotFound, "b")
	_, err = h.volumes.RemoveVolume(t.Context(), &berthv1.RemoveVolumeRequest{Name: "b", Force: true})
	wantCode(t, err, codes.OK)
}
