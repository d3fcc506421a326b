package testenv

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Daemon is a berthd of a test's own: directories, socket, bridge, addresses and nftables table are private.
type Daemon struct {
	Root, State string
	// Host is the address of its socket, as $BERTH_HOST has it.
	Host string
	// Bridge, Table and Cgroup are its interface, its nftables table and the parent of its containers' cgroups.
	Bridge, Table, Cgroup string

	t       testing.TB
	dir     string
	subnet  string
	args    []string
	process *exec.Cmd
	exited  chan error
}

// StartDaemon starts berthd with further arguments and returns when it answers. After the test its containers are
// removed and it is stopped; the test fails if anything is left behind then.
func StartDaemon(t testing.TB, args ...string) *Daemon {
	t.Helper()
	NeedRoot(t)
	dir := ShortDir(t)
	unique := filepath.Ext(dir)[1:]
	d := &Daemon{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Host: "unix://" + filepath.Join(dir, "s"),
		Bridge: "bd" + unique, Table: "berth-test-" + unique, Cgroup: "berth-test-" + unique, t: t, dir: dir, args: args,
	}
	d.subnet = d.freeSubnet()
	t.Cleanup(d.end)
	d.Start()
	return d
}

// DaemonFails runs berthd, which must end by itself with an error, and returns what it said.
func DaemonFails(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience(stopPatience))
	defer cancel()
	output, err := exec.CommandContext(ctx, Binary(t, "berthd"), args...).CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("berthd did not fail: %v\n%s", err, output)
	}
	return string(output)
}

// freeSubnet is one of 32768 of 30 addresses in 10.208.0.0/12, so that tests can run side by side, and none that an interface of
// the host has already: berthd refuses those.
func (d *Daemon) freeSubnet() string {
	d.t.Helper()
	taken, err := net.InterfaceAddrs()
	if err != nil {
		d.t.Fatal(err)
	}
	hash := fnv.New32()
	_, _ = hash.Write([]byte(d.dir))
	const subnets = 1 << 15
	for i := range uint32(subnets) {
		// An odd step reaches each subnet once, and a neighbour that is taken too seldom twice.
		n := (hash.Sum32() + i*10007) % subnets
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 208 + byte(n>>11), byte(n >> 3), byte(n<<5) & 0xe0}), 27)
		if !slices.ContainsFunc(taken, func(a net.Addr) bool {
			other, err := netip.ParsePrefix(a.String())
			return err == nil && other.Overlaps(subnet)
		}) {
			return subnet.String()
		}
	}
	d.t.Fatal("all of 10.208.0.0/12 is in use")
	return ""
}

// LogFile is where berthd logs to.
func (d *Daemon) LogFile() string { return filepath.Join(d.dir, "berthd.log") }

// Start starts berthd again after Kill or Stop, and returns when it answers.
func (d *Daemon) Start() {
	d.t.Helper()
	log, err := os.OpenFile(d.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	args := append([]string{
		"--root", d.Root, "--state", d.State, "--address", d.Host, "--bridge-name", d.Bridge, "--bridge-subnet", d.subnet,
		"--nft-table", d.Table, "--cgroup-parent", d.Cgroup,
	}, d.args...)
	d.process = exec.Command(Binary(d.t, "berthd"), args...)
	d.process.Stdout, d.process.Stderr = log, log
	// As a service does: a shim must not get the signals of the test's terminal.
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.exited = make(chan error, 1)
	go func(process *exec.Cmd, exited chan<- error) { exited <- process.Wait() }(d.process, d.exited)
	d.await()
}

func (d *Daemon) await() {
	d.t.Helper()
	conn, err := d.dial()
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	Until(d.t, 30*time.Second, "berthd answers", func() error {
		select {
		case err := <-d.exited:
			d.exited <- err
			d.t.Fatalf("berthd ended at its start: %v\n%s", err, d.log())
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience(time.Second))
		defer cancel()
		conn.ResetConnectBackoff() // or else it tries once a second only
		_, err := berthv1.NewContainersServiceClient(conn).ListContainers(ctx, &berthv1.ListContainersRequest{})
		return err
	})
}

func (d *Daemon) dial() (*grpc.ClientConn, error) {
	// A test waits for the daemon more often than it bothers it.
	quick := backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}
	return grpc.NewClient(d.Host, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// Dial returns a connection to berthd that is closed after the test. It survives Kill and Start.
func (d *Daemon) Dial() *grpc.ClientConn {
	d.t.Helper()
	conn, err := d.dial()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Pid is berthd's process ID.
func (d *Daemon) Pid() int { return d.process.Process.Pid }

// Kill ends berthd with SIGKILL and returns when it is gone.
func (d *Daemon) Kill() {
	d.t.Helper()
	_ = d.signal(syscall.SIGKILL)
}

// Stop asks berthd to end, and fails the test if it does not do so well.
func (d *Daemon) Stop() {
	d.t.Helper()
	if err := d.signal(syscall.SIGTERM); err != nil {
		d.t.Errorf("berthd did not end well: %v", err)
	}
}

// stopPatience is more than berthd gives its clients when it ends.
const stopPatience = 20 * time.Second

func (d *Daemon) signal(signal syscall.Signal) error {
	if d.process == nil {
		return nil
	}
	process := d.process
	d.process = nil
	if err := process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-d.exited:
		return err
	case <-time.After(Patience(stopPatience)):
		_ = process.Process.Kill()
		return fmt.Errorf("it was still there %v after %v: %w", stopPatience, signal, <-d.exited)
	}
}

// end removes what the test has left, and complains about what should not be there any more.
func (d *Daemon) end() {
	if d.process == nil && len(d.records()) > 0 {
		d.Start() // a test that ended with the daemon killed: its containers are still to be removed
	}
	if d.process != nil {
		d.removeContainers()
		d.Stop()
	}
	left := d.leftovers()
	for _, what := range left {
		d.t.Errorf("left behind: %s", what)
	}
	d.scrub()
	if d.t.Failed() {
		d.t.Logf("berthd's log:\n%s", d.log())
	}
}

func (d *Daemon) records() []os.DirEntry {
	entries, _ := os.ReadDir(filepath.Join(d.Root, "containers"))
	return entries
}

func (d *Daemon) removeContainers() {
	conn, err := d.dial()
	if err != nil {
		d.t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), Patience(time.Minute))
	defer cancel()
	client := berthv1.NewContainersServiceClient(conn)
	list, err := client.ListContainers(ctx, &berthv1.ListContainersRequest{All: true})
	if err != nil {
		d.t.Errorf("cannot list the containers that are left: %v", err)
	}
	for _, container := range list.GetContainers() {
		if _, err := client.RemoveContainer(ctx, &berthv1.RemoveContainerRequest{Container: container.GetId(), Force: true, Volumes: true}); err != nil {
			d.t.Errorf("cannot remove container %s: %v", container.GetName(), err)
		}
	}
}

// leftovers lists what there must not be once all containers are removed and berthd has ended. Shims may take a moment
// to end.
func (d *Daemon) leftovers() []string {
	deadline := time.Now().Add(Patience(5 * time.Second))
	for {
		left := d.Traces()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Traces lists the mounts, processes, interfaces, cgroups and tables of berthd and its containers.
func (d *Daemon) Traces() []string {
	var found []string
	for _, mount := range d.mounts() {
		found = append(found, "mount "+mount)
	}
	for _, pid := range d.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
	}
	if _, err := os.Stat("/sys/class/net/" + d.Bridge); err == nil {
		found = append(found, "interface "+d.Bridge)
	}
	if d.hasTable() {
		found = append(found, "nftables table "+d.Table)
	}
	return append(found, d.cgroups()...)
}

func (d *Daemon) mounts() []string {
	below, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.dir))
	if err != nil {
		d.t.Fatal(err)
	}
	found := make([]string, 0, len(below))
	for _, mount := range below {
		found = append(found, mount.Mountpoint)
	}
	return found
}

// processes are those that name our directory in their command line.
func (d *Daemon) processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.t.Fatal(err)
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.Contains(string(line), d.dir+"/") {
			found = append(found, pid)
		}
	}
	return found
}

func (d *Daemon) hasTable() bool {
	output, err := exec.Command("nft", "list", "tables").Output()
	return err == nil && strings.Contains(string(output), " "+d.Table)
}

func (d *Daemon) cgroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, _ := filepath.Glob(pattern + d.Cgroup)
		found = append(found, dirs...)
	}
	return found
}

// scrub takes away by force what berthd should have, so that a failed test does not disturb the next.
func (d *Daemon) scrub() {
	for _, pid := range d.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	mounts := d.mounts()
	slices.Reverse(mounts)
	for _, mount := range mounts {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	if _, err := os.Stat("/sys/class/net/" + d.Bridge); err == nil {
		_ = exec.Command("ip", "link", "delete", d.Bridge).Run()
	}
	if d.hasTable() {
		for _, family := range []string{"inet", "ip", "ip6", "bridge"} {
			_ = exec.Command("nft", "delete", "table", family, d.Table).Run()
		}
	}
	for _, cgroup := range d.cgroups() {
		removeCgroup(cgroup)
	}
}

// removeCgroup removes a cgroup whose processes were killed, and what is below it.
func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() {
			removeCgroup(filepath.Join(dir, entry.Name()))
		}
	}
	deadline := time.Now().Add(Patience(time.Second)) // the processes may take a moment to end
	for errors.Is(syscall.Rmdir(dir), syscall.EBUSY) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
}

func (d *Daemon) log() string {
	content, err := os.ReadFile(d.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(content)
}
