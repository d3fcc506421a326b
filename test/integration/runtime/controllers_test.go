package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/test/testenv"
)

// inVM skips the test outside of the virtual machine, which may be changed as one likes, and executes a script there.
func inVM(t *testing.T, script string) {
	t.Helper()
	if os.Getenv("VMRUN") == "" {
		t.Skip("changes the machine: it runs in the virtual one, by make test-vm")
	}
	if output, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

// legacy is a machine with some controllers of cgroup v1, that the runtime and the container's cgroup are shown.
const legacy = `mount -t tmpfs none /sys/fs/cgroup
	for controller in %s; do mkdir /sys/fs/cgroup/$controller && mount -t cgroup -o $controller none /sys/fs/cgroup/$controller; done
	"$@"; status=$?; for file in %s; do cat /sys/fs/cgroup/$file; done; rmdir /sys/fs/cgroup/*/berth-test* 2>/dev/null; exit $status`

// limitsOf creates the container with controllers of v1, and returns the contents of files below /sys/fs/cgroup.
func (c *container) limitsOf(controllers string, files ...string) string {
	c.t.Helper()
	c.writeConfig()
	for i, file := range files {
		controller, name, _ := strings.Cut(file, "/")
		files[i] = filepath.Join(controller, c.Spec.Linux.CgroupsPath, name)
	}
	script := fmt.Sprintf(legacy, controllers, strings.Join(files, " "))
	inside := func(script string, verb ...string) testenv.Outcome {
		return testenv.Execute(c.t, exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh"}, c.command(verb...).Args...)...))
	}
	r := inside(script, "run", "--detach", "--bundle", c.Bundle, c.ID)
	if left := inside(fmt.Sprintf(legacy, controllers, ""), "delete", "--force", c.ID); r.Status != 0 || left.Status != 0 {
		c.t.Fatalf("%+v, %+v", r, left)
	}
	return r.Stdout
}

// detached makes the program leave the descriptors that a test reads.
func (c *container) detached() *container { return c.shell("exec sleep 1000 > /dev/null 2>&1") }

func huge() []specs.LinuxHugepageLimit {
	return []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB", Limit: 0}}
}

// TestHugepages allocates pages by way of files.
func TestHugepages(t *testing.T) {
	inVM(t, "echo 8 > /proc/sys/vm/nr_hugepages")
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources.HugepageLimits = huge()
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/huge", Type: "hugetlbfs", Source: "none", Options: []string{"pagesize=2M"}})
	c.start()
	c.checkLimits([]limited{
		{v2: "hugetlb.2MB.max", wantV2: "4194304"},
		{v2: "hugetlb.2MB.rsvd.max", wantV2: "4194304"},
		{v2: "hugetlb.1GB.max", wantV2: "0"},
		{v2: "hugetlb.1GB.rsvd.max", wantV2: "0"},
	})
	wantEqual(t, c.must("exec", c.ID, "sh", "-c", "fallocate -l 4M /huge/a && echo enough; fallocate -l 2M /huge/b 2>&1 || echo too much"),
		"enough\nfallocate: fallocate '/huge/b': No space left on device\ntoo much\n")
	c.must("delete", "--force", c.ID)
}

func TestRdma(t *testing.T) {
	inVM(t, "modprobe -a rdma_rxe dummy; ip link add rdmadummy type dummy; ip link set rdmadummy up; rdma link add rxe0 type rxe netdev rdmadummy")
	t.Cleanup(func() { inVM(t, "rdma link delete rxe0; ip link delete rdmadummy") })
	c := newContainer(t, "sleep", "1000")
	c.Spec.Linux.Resources.Rdma = map[string]specs.LinuxRdma{"rxe0": {HcaHandles: pointer(uint32(3))}}
	c.start()
	c.checkLimits([]limited{{v2: "rdma.max", wantV2: "rxe0 hca_handle=3 hca_object=max"}})
	command := c.command("update", "-r", "-", c.ID)
	command.Stdin = strings.NewReader(`{"rdma": {"rxe0": {"hcaHandles": 4, "hcaObjects": 5}}}`)
	if r := testenv.Execute(t, command); r.Status != 0 {
		t.Errorf("%+v", r)
	}
	c.checkLimits([]limited{{v2: "rdma.max", wantV2: "rxe0 hca_handle=4 hca_object=5"}})
}

// weights are those of the group, and of a disk.
func weights(t *testing.T) (io *specs.LinuxBlockIO, number string) {
	inVM(t, "modprobe -a null_blk bfq; echo bfq > /sys/block/nullb0/queue/scheduler")
	device := specs.LinuxWeightDevice{Weight: pointer(uint16(400))}
	number = readFile(t, "/sys/block/nullb0/dev")
	if _, err := fmt.Sscanf(number, "%d:%d", &device.Major, &device.Minor); err != nil {
		t.Fatal(err)
	}
	return &specs.LinuxBlockIO{Weight: pointer(uint16(300)), WeightDevice: []specs.LinuxWeightDevice{device}}, number
}

// TestBlockWeights has a disk with the scheduler BFQ, and then one whose time the cgroup's controller itself deals out.
func TestBlockWeights(t *testing.T) {
	io, number := weights(t)
	start := func() *container {
		c := newContainer(t, "sleep", "1000")
		c.Spec.Linux.Resources.BlockIO = io
		c.start()
		return c
	}
	c := start()
	c.checkLimits([]limited{{v2: "io.bfq.weight", wantV2: "default 300\n" + number + " 400"}})
	c.must("update", "--blkio-weight", "500", c.ID)
	c.checkLimits([]limited{{v2: "io.bfq.weight", wantV2: "default 500"}}) // the kernel forgets what the disks had
	c.must("delete", "--force", c.ID)
	inVM(t, "echo none > /sys/block/nullb0/queue/scheduler; rmmod bfq; echo '"+number+" enable=1' > /sys/fs/cgroup/io.cost.qos")
	c = start()
	c.checkLimits([]limited{{v2: "io.weight", wantV2: "default 2930\n" + number + " 3940"}})
}

// TestControllersOfV1 has those that this machine's v2 has not, or can do without.
func TestControllersOfV1(t *testing.T) {
	io, number := weights(t)
	for name, test := range map[string]struct {
		resources specs.LinuxResources
		files     []string
		want      string
	}{
		"net_cls": {specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: pointer(uint32(0x100001))}}, []string{"net_cls/net_cls.classid"}, "1048577\n"},
		"net_prio": {
			specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 7}}}},
			[]string{"net_prio/net_prio.ifpriomap"},
			"lo 7\n",
		},
		"hugetlb": {
			specs.LinuxResources{HugepageLimits: huge()},
			[]string{"hugetlb/hugetlb.2MB.limit_in_bytes", "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb/hugetlb.1GB.limit_in_bytes"},
			"4194304\n4194304\n0\n",
		},
		"blkio": {
			specs.LinuxResources{BlockIO: io},
			[]string{"blkio/blkio.bfq.weight", "blkio/blkio.bfq.weight_device"},
			"300\ndefault 300\n" + number + " 400\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			// The controller has to leave v2 first, which takes until its last cgroup there is gone.
			parent := testenv.CgroupParent[1:]
			inVM(t, fmt.Sprintf(`cd /sys/fs/cgroup; mkdir -p %[1]s; for d in %[1]s .; do echo "-io -hugetlb" > $d/cgroup.subtree_control; done`, parent))
			// And back: a hierarchy of v1 goes away with a mount, if the last cgroup in it has gone before.
			const back = `for i in $(seq 100); do
				grep -q '^[1-9]' /proc/self/cgroup || exec sh -c 'echo "+io +hugetlb" > /sys/fs/cgroup/cgroup.subtree_control'
				for controller in devices freezer %[1]s; do mount -t cgroup -o $controller none %[2]s && umount %[2]s; done; sleep 0.05
			done; exit 1`
			dir := t.TempDir()
			t.Cleanup(func() { inVM(t, fmt.Sprintf(back, name, dir)) })
			c := newContainer(t).detached()
			c.Spec.Linux.Resources = &test.resources
			c.Spec.Linux.Namespaces = withoutNamespace(c.Spec, specs.CgroupNamespace)
			if got := c.limitsOf("devices freezer "+name, test.files...); !strings.HasPrefix(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
