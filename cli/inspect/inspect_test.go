package inspect

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// TestDocuments keeps the documents as they are: people's formats depend on every key.
func TestDocuments(t *testing.T) {
	for name, document := range map[string]any{
		"container.json": NewContainer(container()),
		"bare.json":      NewContainer(&berthv1.Container{Id: "0123", Name: "bare", State: &berthv1.ContainerState{}, Spec: &berthv1.ContainerSpec{}}),
		"image.json":     NewImage(image()),
		"network.json":   NewNetwork(network(), map[string]string{"0123456789abcdef": "web"}),
		"volume.json": NewVolume(&berthv1.Volume{
			Name: "data", Driver: "local", Mountpoint: "/var/lib/berth/volumes/data/_data", CreatedAt: at(0), Labels: map[string]string{"a": "b"},
		}),
	} {
		got, err := json.MarshalIndent(document, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got), -update accepts it:\n%s", name, diff)
		}
	}
}

func at(seconds int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 11, 21, 8, 0, 0, 123456789, time.UTC).Add(time.Duration(seconds) * time.Second))
}

func container() *berthv1.Container {
	web := &berthv1.PortMapping{HostIp: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}
	return &berthv1.Container{
		Id: "0123456789abcdef", Name: "web", CreatedAt: at(0), Image: "docker.io/library/busybox:latest", ImageId: "sha256:1234",
		Command: []string{"httpd", "-f"}, LogPath: "/var/lib/berth/containers/0123/0123-json.log", Bundle: "/run/berth/bundles/0123", Snapshotter: "overlay",
		NetworkNamespace: "/run/berth/netns/0123456789abcdef", SizeRw: proto.Int64(5),
		State: &berthv1.ContainerState{
			Status: berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED, Pid: 42, StartedAt: at(1), RestartCount: 2, ApparmorProfile: "berth-default",
			Health: &berthv1.Health{
				Status: berthv1.HealthStatus_HEALTH_STATUS_UNHEALTHY, FailingStreak: 3,
				Log: []*berthv1.HealthProbe{{StartedAt: at(2), FinishedAt: at(3), ExitCode: 1, Output: "no"}},
			},
		},
		Process: &berthv1.ProcessSpec{
			Entrypoint: &berthv1.StringList{Values: []string{"httpd"}}, Args: []string{"-f"}, Env: []string{"A=1"}, WorkingDir: "/srv", User: "33", Tty: true, Stdin: true,
		},
		Spec: &berthv1.ContainerSpec{
			Hostname: "box", Labels: map[string]string{"tier": "web"}, AutoRemove: true, StopSignal: "INT", StopTimeout: durationpb.New(3 * time.Second),
			Mounts: []*berthv1.Mount{
				{Type: berthv1.MountType_MOUNT_TYPE_BIND, Source: "/srv", Target: "/data", ReadOnly: true},
				{Type: berthv1.MountType_MOUNT_TYPE_TMPFS, Target: "/tmp", Options: []string{"size=1m"}},
			},
			Resources: &berthv1.Resources{
				Memory: proto.Int64(64 << 20), NanoCpus: proto.Int64(5e8), PidsLimit: proto.Int64(20), Devices: []*berthv1.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse"}},
				Ulimits: []*berthv1.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}},
			},
			Security: &berthv1.Security{
				CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, NoNewPrivileges: true, SeccompProfile: "unconfined", SelinuxLabels: []string{"disable"},
			},
			Namespaces: &berthv1.Namespaces{Pid: "host"},
			Network:    &berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{web}},
			Log:        &berthv1.LogSpec{Options: map[string]string{"max-size": "10m"}},
			Restart:    &berthv1.RestartPolicy{Condition: berthv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, MaxRetries: 3},
			Health:     &berthv1.HealthCheck{Test: []string{"CMD", "true"}, Interval: durationpb.New(time.Second)},
		},
		Mounts: []*berthv1.MountState{{Mount: &berthv1.Mount{
			Type: berthv1.MountType_MOUNT_TYPE_BIND, Source: "/srv", Target: "/data", ReadOnly: true,
		}, HostPath: "/srv"}},
		ExposedPorts: []string{"80/tcp", "443/tcp"}, Ports: []*berthv1.PortMapping{web},
		Endpoints: []*berthv1.EndpointState{endpoint()},
	}
}

func endpoint() *berthv1.EndpointState {
	return &berthv1.EndpointState{
		Config: &berthv1.Endpoint{Network: "bridge", Aliases: []string{"www"}}, NetworkId: "feed", Interface: "eth0", MacAddress: "02:42:0a:01:00:02",
		Addresses: []string{"10.1.0.2/24", "fd00::2/64"}, Gateways: []string{"10.1.0.1", "fd00::1"},
	}
}

func image() *berthv1.Image {
	return &berthv1.Image{
		Id: "sha256:1234", Tags: []string{"docker.io/library/busybox:latest", "localhost:5000/a:v1"}, Digests: []string{"docker.io/library/busybox@sha256:5678"},
		Platform: &berthv1.Platform{Os: "linux", Architecture: "arm64", Variant: "v8"}, CreatedAt: at(0), Size: 1 << 20, Layers: []string{"sha256:9abc"},
		Config: &berthv1.ImageConfig{
			User: "33", ExposedPorts: []string{"80/tcp"}, Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}, Volumes: []string{"/data"}, WorkingDir: "/srv", StopSignal: "INT",
			Raw: []byte(`{"config": {"OnBuild": ["RUN true"], "Shell": ["sh", "-c"], "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000}}}`),
		},
		Snapshotter: "overlay", TaggedAt: at(9), Labels: map[string]string{"a": "b"}, Author: "berth", Comment: "none",
	}
}

func network() *berthv1.Network {
	return &berthv1.Network{
		Id: "feed", CreatedAt: at(0), Endpoints: map[string]*berthv1.EndpointState{"0123456789abcdef": endpoint()},
		Config: &berthv1.NetworkConfig{Name: "bridge", Driver: "bridge", Subnets: []*berthv1.Subnet{{Cidr: "10.1.0.0/24", Gateway: "10.1.0.1"}}},
	}
}
