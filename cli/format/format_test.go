package format

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type row struct{ ID, Name string }

func TestList(t *testing.T) {
	header := row{"ID", "NAME"}
	rows := []row{{"1", "first"}, {"22222222222", "<b>"}}
	for format, want := range map[string]string{
		"json":                                "{\"ID\":\"1\",\"Name\":\"first\"}\n{\"ID\":\"22222222222\",\"Name\":\"<b>\"}\n",
		`table {{.ID}}\t{{.Name}}`:            "ID            NAME\n1             first\n22222222222   <b>\n",
		"{{.Name}}":                           "first\n<b>\n",
		`{{.ID}}\t{{upper .Name}}`:            "1\tFIRST\n22222222222\t<B>\n",
		"{{json .}}":                          "{\"ID\":\"1\",\"Name\":\"first\"}\n{\"ID\":\"22222222222\",\"Name\":\"<b>\"}\n",
		`{{truncate .ID 2}}{{pad .Name 1 1}}`: "1 first \n22 <b> \n",
	} {
		var out bytes.Buffer
		if err := List(&out, format, header, rows); err != nil || out.String() != want {
			t.Errorf("List with %q: %v\n%s\nwant\n%s", format, err, out.String(), want)
		}
	}
}

func TestWrongFormatsNameTheFormat(t *testing.T) {
	for _, format := range []string{"{{.ID", "{{.Missing}}", "table {{.Missing}}", "{{nosuch .ID}}"} {
		var out bytes.Buffer
		err := List(&out, format, row{}, []row{{"1", "x"}})
		if err == nil || !strings.Contains(err.Error(), "cannot format with ") || out.Len() != 0 {
			t.Errorf("List with %q: error %v, output %q; want an error and no output", format, err, out.String())
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	for want, state := range map[string]*berthv1.ContainerState{
		"Created":                         {Status: berthv1.ContainerStatus_CONTAINER_STATUS_CREATED},
		"Up 3 minutes":                    {Status: berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING, StartedAt: ago(3 * time.Minute)},
		"Up 2 hours (Paused)":             {Status: berthv1.ContainerStatus_CONTAINER_STATUS_PAUSED, StartedAt: ago(2 * time.Hour)},
		"Exited (137) About a minute ago": {Status: berthv1.ContainerStatus_CONTAINER_STATUS_EXITED, ExitCode: 137, FinishedAt: ago(time.Minute)},
		"Restarting (1) 5 seconds ago":    {Status: berthv1.ContainerStatus_CONTAINER_STATUS_RESTARTING, ExitCode: 1, FinishedAt: ago(5 * time.Second)},
		"Up 3 minutes (healthy)":          {Status: berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING, StartedAt: ago(3 * time.Minute), Health: &berthv1.Health{Status: berthv1.HealthStatus_HEALTH_STATUS_HEALTHY}},
		"Up 3 minutes (health: starting)": {Status: berthv1.ContainerStatus_CONTAINER_STATUS_RUNNING, StartedAt: ago(3 * time.Minute), Health: &berthv1.Health{Status: berthv1.HealthStatus_HEALTH_STATUS_STARTING}},
		"Removal In Progress":             {Status: berthv1.ContainerStatus_CONTAINER_STATUS_REMOVING},
		"Dead":                            {Status: berthv1.ContainerStatus_CONTAINER_STATUS_DEAD},
	} {
		if got := Status(state, now); got != want {
			t.Errorf("Status = %q, want %q", got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for reference, want := range map[string][4]string{
		"docker.io/library/busybox:latest": {"busybox:latest", "docker.io/library/busybox", "latest", ""},
		"docker.io/me/app:1":               {"me/app:1", "docker.io/me/app", "1", ""},
		"127.0.0.1:5000/app":               {"127.0.0.1:5000/app", "127.0.0.1:5000/app", "", ""},
		"quay.io/app:2@sha256:0123":        {"quay.io/app:2@sha256:0123", "quay.io/app", "2", "sha256:0123"},
	} {
		repository, tag, digest := SplitName(reference)
		if got := [4]string{Name(reference), repository, tag, digest}; got != want {
			t.Errorf("%q: got %q, want %q", reference, got, want)
		}
	}
	if got := ID("sha256:0123456789abcdef", false); got != "0123456789ab" {
		t.Errorf("ID = %q", got)
	}
}

// Ports that follow each other, on the host and in the container alike, are written as one range.
func TestPortRanges(t *testing.T) {
	var container berthv1.Container
	for i := range uint32(3) {
		container.Ports = append(container.Ports,
			&berthv1.PortMapping{HostIp: "127.0.0.1", HostPort: 18084 - i, ContainerPort: 83 - i},
			&berthv1.PortMapping{HostPort: 9000 + 2*i, ContainerPort: 90 + i, Protocol: "tcp"})
	}
	container.ExposedPorts = []string{"81/tcp", "100/tcp", "8002/udp", "101/tcp", "8001/udp", "odd"}
	want := "0.0.0.0:9000->90/tcp, 0.0.0.0:9002->91/tcp, 0.0.0.0:9004->92/tcp, 127.0.0.1:18082-18084->81-83/tcp, odd, 100-101/tcp, 8001-8002/udp"
	if got := Ports(&container); got != want {
		t.Errorf("Ports = %q, want %q", got, want)
	}
}

func TestPorts(t *testing.T) {
	container := &berthv1.Container{
		Ports: []*berthv1.PortMapping{
			{HostIp: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
			{HostPort: 53, ContainerPort: 53, Protocol: "udp"},
			{HostIp: "::1", HostPort: 1, ContainerPort: 2},
		},
		ExposedPorts: []string{"80/tcp", "443/tcp"},
	}
	want := "0.0.0.0:53->53/udp, 127.0.0.1:8080->80/tcp, [::1]:1->2/tcp, 443/tcp"
	if got := Ports(container); got != want {
		t.Errorf("Ports = %q, want %q", got, want)
	}
}
