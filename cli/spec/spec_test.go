package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// parse returns the specification for a command line of flags, an image and arguments.
func parse(line ...string) (*berthv1.ContainerSpec, error) {
	var flags Flags
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	set.SetInterspersed(false)
	flags.Register(set)
	if err := set.Parse(line); err != nil {
		return nil, err
	}
	return flags.Spec(set, set.Arg(0), set.Args()[1:])
}

// TestFlags says what each flag adds to the specification of a container without flags.
func TestFlags(t *testing.T) {
	for _, test := range []struct {
		name, flags, want string
	}{
		{"nothing", "", ``},
		{"terminal", "-it", `process {tty: true stdin: true}`},
		{"environment", "-e A=1 -e B=", `process {env: "A=1" env: "B="}`},
		{"identity", "-w /srv -u 1000:2000 --group-add audio -h box --domainname local", `process {working_dir: "/srv" user: "1000:2000"
			additional_groups: "audio"} hostname: "box" domainname: "local"`},
		{"entrypoint", "--entrypoint /bin/sh", `process {entrypoint {values: "/bin/sh"}}`},
		{"privileged", "--privileged --read-only", `security {privileged: true read_only_rootfs: true}`},
		{
			"capabilities", "--cap-add net_admin,SYS_PTRACE --cap-drop CAP_CHOWN --cap-drop all",
			`security {cap_add: "NET_ADMIN" cap_add: "SYS_PTRACE" cap_drop: "CHOWN" cap_drop: "ALL"}`,
		},
		{
			"security options", "--security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt apparmor:mine --security-opt label=disable",
			`security {no_new_privileges: true seccomp_profile: "unconfined" apparmor_profile: "mine" selinux_labels: "disable"}`,
		},
		{"system paths", "--security-opt systempaths=unconfined", `security {masked_paths {} readonly_paths {}}`},
		{"sysctl", "--sysctl net.core.somaxconn=1024", `security {sysctls {key: "net.core.somaxconn" value: "1024"}}`},
		{"namespaces", "--pid host --ipc container:a --uts host --cgroupns private --userns host", `namespaces {pid: "host" ipc: "container:a" uts: "host" user: "host"}`},
		{"bind", "-v /srv:/data:ro,rshared", `mounts {type: MOUNT_TYPE_BIND source: "/srv" target: "/data" read_only: true propagation: "rshared" create_source: true}`},
		{"volume", "-v data:/data:nocopy", `mounts {type: MOUNT_TYPE_VOLUME source: "data" target: "/data" no_copy: true}`},
		{"anonymous volume", "-v /data/", `mounts {type: MOUNT_TYPE_VOLUME target: "/data"}`},
		{"mount", "--mount type=bind,src=/a,dst=/b,readonly", `mounts {type: MOUNT_TYPE_BIND source: "/a" target: "/b" read_only: true}`},
		{"mount tmpfs", "--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770", `mounts {type: MOUNT_TYPE_TMPFS target: "/t" options: "size=1048576" options: "mode=1770"}`},
		{"tmpfs", "--tmpfs /run:size=64m,noexec,ro", `mounts {type: MOUNT_TYPE_TMPFS target: "/run" options: "size=64m" options: "noexec" read_only: true}`},
		{"memory", "-m 512m --memory-swap -1 --memory-reservation 1g", `resources {memory: 536870912 memory_swap: -1 memory_reservation: 1073741824}`},
		{"cpu", "--cpus 1.5 -c 512 --cpuset-cpus 0-1", `resources {nano_cpus: 1500000000 cpu_shares: 512 cpuset_cpus: "0-1"}`},
		{"pids", "--pids-limit 100", `resources {pids_limit: 100}`},
		{"shm", "--shm-size 1m", `shm_size: 1048576`},
		{"ulimit", "--ulimit nofile=1024:2048 --ulimit core=unlimited", `resources {ulimits {name: "nofile" soft: 1024 hard: 2048} ulimits {name: "core" soft: -1 hard: -1}}`},
		{"device", "--device /dev/fuse --device /dev/sda:/dev/xvda:r", `resources {devices {host_path: "/dev/fuse" container_path: "/dev/fuse"}
			devices {host_path: "/dev/sda" container_path: "/dev/xvda" permissions: "r"}}`},
		{"port", "-p 80", `network {ports {container_port: 80 protocol: "tcp"}}`},
		{"port of host", "-p 8080:80/udp", `network {ports {host_port: 8080 container_port: 80 protocol: "udp"}}`},
		{"port of address", "-p 127.0.0.1::80", `network {ports {host_ip: "127.0.0.1" container_port: 80 protocol: "tcp"}}`},
		{"port of IPv6 address", "-p [::1]:81:80", `network {ports {host_ip: "::1" host_port: 81 container_port: 80 protocol: "tcp"}}`},
		{"port in the long syntax", "-p published=8080,target=80,protocol=udp -p target=81", `network {ports {host_port: 8080 container_port: 80 protocol: "udp"}
			ports {container_port: 81 protocol: "tcp"}}`},
		{"driver of volumes", "--volume-driver local", ``},
		{"driver of a volume", "--mount source=a,target=/b,volume-driver=local", `mounts {type: MOUNT_TYPE_VOLUME source: "a" target: "/b"}`},
		{"no limit of CPUs", "--cpus 0", `resources {nano_cpus: 0}`},
		{"port range", "-p 8000-8001:80-81", `network {ports {host_port: 8000 container_port: 80 protocol: "tcp"} ports {host_port: 8001 container_port: 81 protocol: "tcp"}}`},
		{"expose", "--expose 80 --expose 90-91/udp -P", `network {exposed_ports: "80/tcp" exposed_ports: "90/udp" exposed_ports: "91/udp" publish_all: true}`},
		{"dns", "--dns 1.1.1.1 --dns-search lan --dns-option ndots:1 --add-host db:10.0.0.1", `network {dns_servers: "1.1.1.1" dns_search: "lan" dns_options: "ndots:1" extra_hosts: "db:10.0.0.1"}`},
		{"no network", "--network none", `network {mode: "none"}`},
		{"default network", "--network bridge", ``},
		{"network of a container", "--network container:web", `network {mode: "container:web"}`},
		{"networks", "--network name=front --network back --ip 10.1.0.9", `network {mode: "networks"
			endpoints {network: "front" ipv4_address: "10.1.0.9"} endpoints {network: "back"}}`},
		{"removal", "--rm --init --stop-signal INT --stop-timeout 3", `auto_remove: true init: true stop_signal: "INT" stop_timeout {seconds: 3}`},
		{"restart", "--restart on-failure:3", `restart {condition: RESTART_CONDITION_ON_FAILURE max_retries: 3}`},
		{"labels", "-l a=1 --label b", `labels {key: "a" value: "1"} labels {key: "b" value: ""}`},
		{"logs", "--log-driver json-file --log-opt max-size=10m", `log {driver: "json-file" options {key: "max-size" value: "10m"}}`},
		{"ipc", "--ipc shareable", `namespaces {ipc: "shareable"}`},
		{"one architecture", "--platform arm64", `platform {os: "linux" architecture: "arm64"}`},
		{"no health", "--no-healthcheck", `health {test: "NONE"}`},
		{"platform", "--platform linux/arm64/v8", `platform {os: "linux" architecture: "arm64" variant: "v8"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(append(strings.Fields(test.flags), "busybox", "echo", "-n")...)
			if err != nil {
				t.Fatal(err)
			}
			base, err := parse("busybox", "echo", "-n")
			if err != nil {
				t.Fatal(err)
			}
			difference := &berthv1.ContainerSpec{}
			if err := prototext.Unmarshal([]byte(test.want), difference); err != nil {
				t.Fatal(err)
			}
			if difference.GetRestart() != nil {
				base.Restart = nil
			}
			proto.Merge(base, difference)
			if diff := cmp.Diff(base, got, protocmp.Transform()); diff != "" {
				t.Errorf("berth run %s: unexpected specification (-want +got):\n%s", test.flags, diff)
			}
		})
	}
}

func TestRefusedFlags(t *testing.T) {
	for flags, want := range map[string]string{
		"-e =1":                              `invalid value "=1" for --env: want NAME=value or NAME`,
		"-v a:b:c:d":                         `invalid value "a:b:c:d" for --volume: want [source:]target[:options]`,
		"-v /a:b":                            `invalid value "/a:b" for --volume: the target "b" must be an absolute path`,
		"-v /a:/":                            `invalid value "/a:/" for --volume: the target can't be the root directory`,
		"-v /a:/b:fast":                      `invalid value "/a:/b:fast" for --volume: unknown option "fast"`,
		"-v /a:/b --tmpfs /b":                `duplicate mount point "/b"`,
		"--mount type=disk,target=/a":        `invalid value "type=disk,target=/a" for --mount: unknown type "disk": want bind, volume or tmpfs`,
		"--mount type=bind,target=/a":        `invalid value "type=bind,target=/a" for --mount: source=… is missing`,
		"--mount volume-opt=a=b,target=/a":   `invalid value "volume-opt=a=b,target=/a" for --mount: volume-opt is not implemented`,
		"-p 0":                               `invalid value "0" for --publish: "0" is no port (1 to 65535)`,
		"-p host:1:2":                        `invalid value "host:1:2" for --publish: "host" is no IP address of the host`,
		"-p 1:2/ipx":                         `invalid value "1:2/ipx" for --publish: unknown protocol "ipx": want tcp, udp or sctp`,
		"-p 1-3:1":                           `invalid value "1-3:1" for --publish: choosing a free port of the range 1-3 is not implemented`,
		"-p published=1,goal=2":              `invalid value "published=1,goal=2" for --publish: unknown key "goal": want published, target or protocol`,
		"-p published=1":                     `invalid value "published=1" for --publish: "" is no port (1 to 65535)`,
		"-v /a:/b:ro,rw":                     `invalid value "/a:/b:ro,rw" for --volume: ro and rw exclude each other`,
		"-v /a:/b:rw,ro":                     `invalid value "/a:/b:rw,ro" for --volume: ro and rw exclude each other`,
		"--volume-driver nfs":                `invalid value "nfs" for --volume-driver: the volume driver "nfs" is not implemented`,
		"-p 1-3:1-2":                         `invalid value "1-3:1-2" for --publish: the ranges 1-3 and 1-2 differ in size`,
		"-m lots":                            `invalid value "lots" for --memory: want a size, as 512m or 2g`,
		"--cpus -1":                          `invalid value "-1" for --cpus: want a number of processors, as 1.5`,
		"--cpus 1 --cpu-quota 1":             `conflicting options: --cpus sets the period and the quota, give it or --cpu-period and --cpu-quota`,
		"--ulimit nofile=2:1":                `invalid value "nofile=2:1" for --ulimit: the soft limit is above the hard limit`,
		"--device fuse":                      `invalid value "fuse" for --device: paths of devices must be absolute`,
		"--security-opt magic":               `invalid value "magic" for --security-opt: want no-new-privileges, seccomp=…, apparmor=…, label=… or systempaths=unconfined`,
		"--security-opt seccomp=/none":       `cannot read the seccomp profile: open /none: no such file or directory`,
		"--sysctl a":                         `invalid value "a" for --sysctl: want NAME=value`,
		"--pid mine":                         `invalid value "mine" for --pid: want private or host or container:NAME`,
		"--network none --ip 10.0.0.1":       `conflicting options: --network none has no addresses of its own`,
		"--network host --network bridge":    `conflicting options: --network host can't be combined with another network`,
		"--ip fd00::1":                       `invalid value "fd00::1" for --ip: want an address of IPv4`,
		"--dns name":                         `invalid value "name" for --dns: want an IP address`,
		"--add-host db":                      `invalid value "db" for --add-host: want name:address`,
		"--mac-address 1":                    `invalid value "1" for --mac-address: want an address as 92:d0:c6:0a:29:33`,
		"--restart sometimes":                `invalid value "sometimes" for --restart: want no, on-failure[:retries], always or unless-stopped`,
		"--restart always:3":                 `invalid value "always:3" for --restart: a number of retries goes with on-failure only, as on-failure:3`,
		"--restart always --rm":              `conflicting options: --restart starts the container again, --rm removes it`,
		"--platform linux/arm64/v8/more":     `invalid value "linux/arm64/v8/more" for --platform: want os/arch[/variant], as linux/arm64`,
		"--env-file /none":                   `cannot read --env-file: open /none: no such file or directory`,
		"--blkio-weight 5":                   `invalid value "5" for --blkio-weight: want 10 to 1000`,
		"--oom-score-adj 2000":               `invalid value "2000" for --oom-score-adj: want -1000 to 1000`,
		"--memory-swappiness 101":            `invalid value "101" for --memory-swappiness: want 0 to 100`,
		"--device-read-bps sda:1m":           `invalid value "sda:1m" for --device-read-bps: want device:rate, as /dev/sda:1mb`,
		"--platform foo":                     `invalid value "foo" for --platform: it is neither an operating system nor an architecture that is known`,
		"--health-cmd true":                  `--health-cmd is not implemented: berth has no health checks yet`,
		"--health-interval 3s":               `--health-interval is not implemented: berth has no health checks yet`,
		"--network-alias www":                `--network-alias is not implemented: berth has no names of containers in networks yet`,
		"--net-alias www":                    `--net-alias is not implemented: berth has no names of containers in networks yet`,
		"--network name=a,alias=www":         `invalid value "name=a,alias=www" for --network: alias is not implemented`,
		"--network name=a,driver-opt=b=c":    `invalid value "name=a,driver-opt=b=c" for --network: driver-opt is not implemented`,
		"--ip6 fd00::1":                      `--ip6 is not implemented: berth has no addresses of IPv6 yet`,
		"--volumes-from a":                   `--volumes-from is not implemented: berth has no volumes of another container yet`,
		"--use-api-socket":                   `--use-api-socket is not implemented: berth has no way to the API from containers yet`,
		"--gpus all":                         `--gpus is not implemented: berth has no GPUs yet`,
		"--userns auto":                      `invalid value "auto" for --userns: want host; user namespaces of containers are not implemented`,
		"--mount type=image,source=a,dst=/a": `invalid value "type=image,source=a,dst=/a" for --mount: type image is not implemented`,
		"--isolation hyperv":                 `invalid value "hyperv" for --isolation: want default; others are of Windows`,
		"--ipc sideways":                     `invalid value "sideways" for --ipc: want private or host or container:NAME, or shareable or none`,
		"--network name=a,colour=red":        `invalid value "name=a,colour=red" for --network: unknown key "colour"`,
		"--mount type=volume,src=a,fast=yes": `invalid value "type=volume,src=a,fast=yes" for --mount: unknown key "fast"`,
	} {
		_, err := parse(append(strings.Fields(flags), "busybox")...)
		if err == nil || err.Error() != want {
			t.Errorf("berth run %s:\n got %v\nwant %s", flags, err, want)
		}
	}
}

func TestEnvironmentFiles(t *testing.T) {
	t.Setenv("BERTH_TEST_PASSED_ON", "yes")
	path := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(path, []byte("# a comment\nA=1\n\n  B=two words\nBERTH_TEST_PASSED_ON\nBERTH_TEST_NOT_SET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := parse("--env-file", path, "-e", "A=2", "busybox")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "B=two words", "BERTH_TEST_PASSED_ON=yes", "A=2"}
	if diff := cmp.Diff(want, spec.GetProcess().GetEnv()); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(path, []byte("A=1\nB C=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = parse("--env-file", path, "busybox")
	if err == nil || !strings.HasSuffix(err.Error(), `line 2: the name "B C" contains white space`) {
		t.Errorf("the wrong line is not named: %v", err)
	}
}

func TestSubnets(t *testing.T) {
	got, err := Subnets([]string{"10.1.0.0/16", "fd00::/64"}, []string{"10.1.2.0/24"}, []string{"fd00::1", "10.1.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	want := []*berthv1.Subnet{{Cidr: "10.1.0.0/16", Range: "10.1.2.0/24", Gateway: "10.1.0.1"}, {Cidr: "fd00::/64", Gateway: "fd00::1"}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	_, err = Subnets([]string{"10.1.0.0/16"}, nil, []string{"10.2.0.1"})
	if err == nil || err.Error() != `invalid value "10.2.0.1" for --gateway: it is in none of the subnets given with --subnet` {
		t.Errorf("a gateway outside the subnet: %v", err)
	}
}

// Scripts pass flags of docker that change nothing on Linux.
func TestFlagsWithoutEffect(t *testing.T) {
	var flags Flags
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	flags.Register(set)
	if err := set.Parse([]string{"--disable-content-trust", "--isolation", "default", "--kernel-memory", "8m"}); err != nil {
		t.Fatal(err)
	}
	if _, err := flags.Spec(set, "busybox", nil); err != nil {
		t.Fatal(err)
	}
	if got := flags.Warnings(); len(got) != 1 || !strings.HasPrefix(got[0], "--kernel-memory is ignored") {
		t.Errorf("warnings %q", got)
	}
	for _, name := range []string{"kernel-memory", "health-cmd", "network-alias", "gpus"} {
		if !set.Lookup(name).Hidden {
			t.Errorf("help lists --%s, which does not work", name)
		}
	}
}
