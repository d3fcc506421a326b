package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

func TestLimitsAndOOM(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; tail /dev/zero")
	spec.Resources = &berthv1.Resources{Memory: new(int64(16 << 20)), MemorySwap: new(int64(16 << 20))}
	id := w.run("hungry", spec)
	if code := w.wait(id); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	if !w.inspect(id).GetState().GetOomKilled() {
		t.Error("the state does not tell that the kernel has killed it for want of memory")
	}
	if logged := w.logs(id); !strings.HasPrefix(logged, "16777216\n") {
		t.Errorf("the limit that the container sees: %q", logged)
	}
}

func TestUpdateChangesTheLimitsOfARunningContainer(t *testing.T) {
	w := newWorld(t)
	id := w.run("box", w.sleeper())
	w.untilLogged(id, "ready")
	request := &berthv1.UpdateContainerRequest{Container: id, Resources: &berthv1.Resources{PidsLimit: new(int64(77))}, Restart: always()}
	if _, err := w.containers.UpdateContainer(w.ctx(), request); err != nil {
		t.Fatal(err)
	}
	output, _ := w.exec(id, "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null")
	if output != "77\n" {
		t.Errorf("pids.max is %q", output)
	}
	w.Kill()
	w.Start()
	if spec := w.inspect(id).GetSpec(); spec.GetResources().GetPidsLimit() != 77 || spec.GetRestart().GetCondition() != always().GetCondition() {
		t.Errorf("after a restart of berthd the spec is %v", spec)
	}
}

// A limit of 0 is none: it is lifted in the cgroup that the container has. A list replaces the one before.
func TestUpdateLiftsLimits(t *testing.T) {
	w := newWorld(t)
	spec := w.sleeper()
	spec.Resources = &berthv1.Resources{
		Memory: new(int64(64 << 20)), MemoryReservation: new(int64(32 << 20)), NanoCpus: new(int64(5e8)), CpuShares: new(uint64(2000)),
		PidsLimit: new(int64(50)), Ulimits: []*berthv1.Ulimit{{Name: "nofile", Soft: 100, Hard: 100}},
	}
	id := w.run("box", spec)
	w.untilLogged(id, "ready")
	const limits = "cd /sys/fs/cgroup; cat pids/pids.max memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares" +
		" pids.max memory.max memory.low cpu.max cpu.weight 2>/dev/null"
	if output, _ := w.exec(id, "sh", "-c", limits); !strings.Contains(output, "50000") || !strings.Contains(output, "67108864") {
		t.Fatalf("the limits are %q", output)
	}
	request := &berthv1.UpdateContainerRequest{Container: id, Resources: &berthv1.Resources{
		Memory: new(int64(0)), MemoryReservation: new(int64(0)), NanoCpus: new(int64(0)), CpuShares: new(uint64(0)), PidsLimit: new(int64(0)),
		Ulimits: []*berthv1.Ulimit{{Name: "nofile", Soft: 200, Hard: 200}},
	}}
	for range 2 {
		if _, err := w.containers.UpdateContainer(w.ctx(), request); err != nil {
			t.Fatal(err)
		}
	}
	const v1, v2 = "max\n9223372036854771712\n9223372036854771712\n-1\n1024\n", "max\nmax\n0\nmax 100000\n100\n"
	if output, _ := w.exec(id, "sh", "-c", limits); output != v1 && output != v2 {
		t.Errorf("the limits are %q, want %q or on cgroup v2 %q", output, v1, v2)
	}
	if ulimits := w.inspect(id).GetSpec().GetResources().GetUlimits(); len(ulimits) != 1 || ulimits[0].GetSoft() != 200 {
		t.Errorf("the ulimits are %v, want the last one only", ulimits)
	}
	_, err := w.containers.UpdateContainer(w.ctx(), &berthv1.UpdateContainerRequest{Container: id, Resources: &berthv1.Resources{CgroupParent: "other"}})
	wantCode(t, err, codes.InvalidArgument, "cgroup_parent")
}

func TestVolumesAndMounts(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(testenv.ShortDir(t), "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := w.spec("sh", "-c", "ls /data; echo kept >/data/mark; echo x >/anon/mark; echo out >/host/file; touch /ro/x; grep ' /tmp ' /proc/mounts")
	volume := berthv1.MountType_MOUNT_TYPE_VOLUME
	readOnly := bind(host, "/ro")
	readOnly.ReadOnly = true
	spec.Mounts = []*berthv1.Mount{
		{Type: volume, Source: "data", Target: "/data"},
		{Type: volume, Target: "/anon"},
		bind(host, "/host"), readOnly,
		{Type: volume, Source: "etc", Target: "/etc"},
		{Type: berthv1.MountType_MOUNT_TYPE_TMPFS, Target: "/tmp", Options: []string{"size=64k"}},
	}
	id := w.run("one", spec)
	w.wait(id)
	if logged := w.logs(id); !strings.Contains(logged, "/ro/x: Read-only file system") || !strings.Contains(logged, "size=64k") {
		t.Errorf("logged %q", logged)
	}
	if content, err := os.ReadFile(filepath.Join(host, "file")); string(content) != "out\n" {
		t.Errorf("the bound file has %q, %v", content, err)
	}
	var anonymous string
	for _, mount := range w.inspect(id).GetMounts() {
		switch mount.GetMount().GetTarget() {
		case "/anon":
			anonymous = mount.GetVolume()
		case "/etc": // filled with what the image has there
			if _, err := os.Stat(filepath.Join(mount.GetHostPath(), "os-release")); err != nil {
				t.Errorf("a new volume lacks the image's content: %v", err)
			}
		}
	}
	volumes := berthv1.NewVolumesServiceClient(w.Dial())
	if _, err := volumes.InspectVolume(w.ctx(), &berthv1.InspectVolumeRequest{Name: anonymous}); err != nil {
		t.Errorf("the anonymous volume: %v", err)
	}
	w.remove(id)
	if _, err := volumes.InspectVolume(w.ctx(), &berthv1.InspectVolumeRequest{Name: anonymous}); err == nil {
		t.Error("the anonymous volume is still there")
	}
	again := w.spec("cat", "/data/mark")
	again.Mounts = []*berthv1.Mount{{Type: volume, Source: "data", Target: "/data"}}
	id = w.run("two", again)
	w.wait(id)
	if logged := w.logs(id); logged != "kept\n" {
		t.Errorf("the volume has %q", logged)
	}
}

func TestPublishedPortSurvivesTheDaemon(t *testing.T) {
	w := newWorld(t)
	address := testenv.FreeAddress(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	spec := w.spec("sh", "-c", `echo ready; while :; do nc -l -p 80 -e sh -c 'echo hello; cat /etc/hosts /etc/resolv.conf >&2'; done`)
	mapping := &berthv1.PortMapping{HostIp: host, ContainerPort: 80}
	if _, err := fmt.Sscan(port, &mapping.HostPort); err != nil {
		t.Fatal(err)
	}
	spec.Network = &berthv1.NetworkSpec{Ports: []*berthv1.PortMapping{mapping}}
	id := w.run("web", spec)
	check := func(when string) {
		t.Helper()
		testenv.Until(t, 10*time.Second, "an answer "+when, func() error { return greets(w.ctx(), address) })
	}
	check("at first")
	if ports := w.inspect(id).GetPorts(); len(ports) != 1 || ports[0].GetHostPort() != mapping.GetHostPort() {
		t.Errorf("published ports: %v", ports)
	}
	taken := w.create("other", spec)
	if _, err := w.containers.StartContainer(w.ctx(), &berthv1.StartContainerRequest{Container: taken}); err == nil || !strings.Contains(err.Error(), port) {
		t.Errorf("starting a container with a port that is taken: %v, want an error that names the port", err)
	}
	w.Kill()
	check("while berthd is dead")
	w.Start()
	check("after it was started again")
	w.remove(id)
	w.start(taken) // the port is free again
	check("from the other container")
}

func greets(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{Timeout: testenv.Patience(time.Second)}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(testenv.Patience(time.Second))); err != nil {
		return err
	}
	answer := make([]byte, 16)
	n, err := conn.Read(answer)
	if got := string(answer[:n]); got != "hello\n" {
		return errors.Join(fmt.Errorf("got %q", got), err)
	}
	return nil
}

func TestSharedNamespaces(t *testing.T) {
	w := newWorld(t)
	first := w.run("first", w.sleeper())
	w.untilLogged(first, "ready")
	const tell = "for n in net pid ipc; do readlink /proc/self/ns/$n; done"
	spec := w.spec("sh", "-c", tell+"; exec sleep 1000")
	spec.Network = &berthv1.NetworkSpec{Mode: "container:first"}
	spec.Namespaces = &berthv1.Namespaces{Pid: "container:first"}
	second := w.run("second", spec)
	w.untilLogged(second, "ipc:")
	own, _ := w.exec(first, "sh", "-c", tell)
	ours, theirs := strings.Fields(own), strings.Fields(w.logs(second))
	if len(ours) != 3 || len(theirs) != 3 || ours[0] != theirs[0] || ours[1] != theirs[1] || ours[2] == theirs[2] {
		t.Errorf("namespaces of the first: %v, of the second: %v", ours, theirs)
	}
}

func TestInitForwardsAndReaps(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", `trap "exit 33" TERM; (sleep 0.1 &) ; echo ready; while :; do sleep 1; done`)
	spec.Init = true
	id := w.run("with-init", spec)
	w.untilLogged(id, "ready")
	if output, _ := w.exec(id, "cat", "/proc/1/cmdline"); !strings.HasPrefix(output, "/sbin/berth-init\x00") {
		t.Errorf("process 1 is %q", output)
	}
	testenv.Until(t, 5*time.Second, "the orphan is reaped", func() error {
		if output, _ := w.exec(id, "sh", "-c", "grep -l 'State:.Z' /proc/[0-9]*/status"); output != "" {
			return fmt.Errorf("zombies: %q", output)
		}
		return nil
	})
	answer, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id})
	if err != nil || answer.GetExitCode() != 33 {
		t.Errorf("stop answered %v, %v; want exit code 33", answer, err)
	}
}

func TestListFiltersAndTop(t *testing.T) {
	w := newWorld(t)
	labelled := w.sleeper()
	labelled.Labels = map[string]string{"tier": "web"}
	running := w.run("alpha", labelled)
	w.untilLogged(running, "ready")
	ended := w.run("beta", w.spec("sh", "-c", "exit 4"))
	w.wait(ended)
	w.create("gamma", w.spec("true"))
	for _, c := range []struct {
		key, value string
		all        bool
		want       string
	}{
		{"", "", false, "alpha"},
		{"", "", true, "gamma beta alpha"},
		{"name", "^.e", true, "beta"},
		{"label", "tier=web", true, "alpha"},
		{"label", "tier=db", true, ""},
		{"status", "created", false, "gamma"},
		{"exited", "4", false, "beta"},
		{"before", "beta", true, "alpha"},
		{"since", "beta", true, "gamma"},
		{"id", ended[:10], true, "beta"},
		{"ancestor", w.image, true, "gamma beta alpha"},
	} {
		request := &berthv1.ListContainersRequest{All: c.all}
		if c.key != "" {
			request.Filters = []*berthv1.Filter{{Key: c.key, Values: []string{c.value}}}
		}
		answer, err := w.containers.ListContainers(w.ctx(), request)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, container := range answer.GetContainers() {
			names = append(names, container.GetName())
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s=%s (all %v): got %q, want %q", c.key, c.value, c.all, got, c.want)
		}
	}
	_, err := w.containers.ListContainers(w.ctx(), &berthv1.ListContainersRequest{Filters: []*berthv1.Filter{{Key: "colour", Values: []string{"red"}}}})
	if err == nil || !strings.Contains(err.Error(), `"colour"`) {
		t.Errorf("an unknown filter: %v", err)
	}
	top, err := w.containers.TopContainer(w.ctx(), &berthv1.TopContainerRequest{Container: running})
	if err != nil || len(top.GetProcesses()) != 2 || !strings.Contains(strings.Join(top.GetProcesses()[1].GetColumns(), " "), "sleep 1000") {
		t.Errorf("top: %v, %v", top, err)
	}
	pruned, err := w.containers.PruneContainers(w.ctx(), &berthv1.PruneContainersRequest{})
	if err != nil || len(pruned.GetRemoved()) != 2 {
		t.Errorf("prune removed %v, %v; want the two that do not run", pruned.GetRemoved(), err)
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	stream, err := w.events.SubscribeEvents(ctx, &berthv1.SubscribeEventsRequest{Filters: []*berthv1.Filter{{Key: "container", Values: []string{"noted"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	recv := func() {
		t.Helper()
		message, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, message.GetEvent().GetAction())
	}
	if _, err := stream.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	id := w.run("noted", w.sleeper())
	w.untilLogged(id, "ready")
	if _, err := w.containers.StopContainer(w.ctx(), &berthv1.StopContainerRequest{Container: id}); err != nil {
		t.Fatal(err)
	}
	w.remove(id)
	for range 6 {
		recv()
	}
	if got := strings.Join(seen, " "); got != "create start kill die stop destroy" {
		t.Errorf("events: %s", got)
	}
	replay, err := w.events.SubscribeEvents(ctx, &berthv1.SubscribeEventsRequest{
		Since: w.begin, Filters: []*berthv1.Filter{{Key: "event", Values: []string{"die"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	message, err := replay.Recv()
	if err != nil || message.GetEvent().GetId() != id || message.GetEvent().GetAttributes()["exitCode"] != "0" {
		t.Errorf("the replayed event is %v, %v", message, err)
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("sh", "-c", "echo ready; while :; do :; done")
	spec.Resources = &berthv1.Resources{Memory: new(int64(32 << 20)), PidsLimit: new(int64(20))}
	id := w.run("busy", spec)
	w.untilLogged(id, "ready")
	stream, err := w.containers.StatsContainers(w.ctx(), &berthv1.StatsContainersRequest{Containers: []string{"busy"}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if first.GetMemory().GetLimit() != 32<<20 || first.GetPidsLimit() != 20 || first.GetPids() == 0 || first.GetMemory().GetUsage() == 0 || first.GetContainerId() != id {
		t.Errorf("the first sample: %v", first)
	}
	second, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if second.GetPreviousCpu().GetUsage() != first.GetCpu().GetUsage() || second.GetCpu().GetUsage() <= first.GetCpu().GetUsage() {
		t.Errorf("processor time went from %v to %v", first.GetCpu(), second.GetCpu())
	}
}
