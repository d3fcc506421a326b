package inspect

import (
	"slices"
	"strconv"
	"strings"

	"github.com/berthd/berth/internal/confinement"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Config is what does not depend on the host: the process and what it is called.
type Config struct {
	Hostname   string
	Domainname string
	Process
	Image        string
	Labels       map[string]string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	Volumes      map[string]struct{}
	OnBuild      []string
	StopTimeout  *int64       `json:",omitempty"`
	Healthcheck  *Healthcheck `json:",omitempty"`
	Shell        []string     `json:",omitempty"`
}

// Process is what runs.
type Process struct {
	User       string
	Tty        bool
	OpenStdin  bool
	StdinOnce  bool
	Env        []string
	Cmd        []string
	WorkingDir string
	Entrypoint []string
}

// Healthcheck is a command that tells a container's health; durations are in nanoseconds.
type Healthcheck struct {
	Test          []string
	Interval      int64  `json:",omitempty"`
	Timeout       int64  `json:",omitempty"`
	StartPeriod   int64  `json:",omitempty"`
	StartInterval int64  `json:",omitempty"`
	Retries       uint32 `json:",omitempty"`
}

// HostConfig is what depends on the host: limits, isolation, connections.
type HostConfig struct {
	Binds []string
	Absent
	LogConfig     LogConfig
	RestartPolicy RestartPolicy
	AutoRemove    bool
	Init          bool
	Runtime       string
	ShmSize       int64
	Tmpfs         map[string]string `json:",omitempty"`
	Network
	Isolation
	Limits
}

// Absent are keys of docker that scripts read, for what berth does not have.
type Absent struct {
	ContainerIDFile string
	VolumesFrom     []string
	VolumeDriver    string
	Links           []string
}

// LogConfig says where output goes.
type LogConfig struct {
	Type   string
	Config map[string]string
}

// RestartPolicy says when a container is started again.
type RestartPolicy struct {
	Name              string
	MaximumRetryCount uint32
}

// Network is how a container was asked to be connected.
type Network struct {
	NetworkMode     string
	PortBindings    map[string][]PortBinding
	PublishAllPorts bool
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
}

// Isolation is what a container may see and do.
type Isolation struct {
	Privileged     bool
	ReadonlyRootfs bool
	CapAdd         []string
	CapDrop        []string
	SecurityOpt    []string
	Sysctls        map[string]string `json:",omitempty"`
	GroupAdd       []string
	PidMode        string
	IpcMode        string
	UTSMode        string
	UsernsMode     string
	CgroupnsMode   string
	MaskedPaths    []string
	ReadonlyPaths  []string
}

// Limits are the limits of resources.
type Limits struct {
	Memory            int64
	MemoryReservation int64
	MemorySwap        int64
	MemorySwappiness  *uint64
	OomKillDisable    *bool
	OomScoreAdj       int32
	PidsLimit         *int64
	CPU
	BlkioWeight       uint32
	Devices           []Device
	DeviceCgroupRules []string
	Ulimits           []Ulimit
	CgroupParent      string
}

// CPU are the limits of processor time.
type CPU struct {
	NanoCpus           int64
	CPUShares          uint64 `json:"CpuShares"`
	CPUPeriod          uint64 `json:"CpuPeriod"`
	CPUQuota           int64  `json:"CpuQuota"`
	CPURealtimePeriod  int64  `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime int64  `json:"CpuRealtimeRuntime"`
	CpusetCpus         string
	CpusetMems         string
}

// Device of the host in a container.
type Device struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string
}

// Ulimit is a limit of setrlimit(2).
type Ulimit struct {
	Name string
	Hard int64
	Soft int64
}

func newConfig(c *berthv1.Container) Config {
	spec, process := c.GetSpec(), c.GetProcess()
	config := Config{
		Hostname: spec.GetHostname(), Domainname: spec.GetDomainname(), Image: c.GetImage(), Labels: spec.GetLabels(),
		Process: Process{
			User: process.GetUser(), Tty: process.GetTty(), OpenStdin: process.GetStdin(), StdinOnce: process.GetStdinOnce(),
			Env: process.GetEnv(), Cmd: process.GetArgs(), WorkingDir: process.GetWorkingDir(), Entrypoint: process.GetEntrypoint().GetValues(),
		},
		StopSignal: spec.GetStopSignal(),
	}
	for _, mount := range c.GetMounts() {
		if mount.GetVolume() != "" && mount.GetMount().GetSource() == "" {
			if config.Volumes == nil {
				config.Volumes = map[string]struct{}{}
			}
			config.Volumes[mount.GetMount().GetTarget()] = struct{}{}
		}
	}
	if len(c.GetExposedPorts()) > 0 {
		config.ExposedPorts = map[string]struct{}{}
		for _, port := range c.GetExposedPorts() {
			config.ExposedPorts[port] = struct{}{}
		}
	}
	if spec.GetStopTimeout() != nil {
		config.StopTimeout = &spec.StopTimeout.Seconds
	}
	if check := spec.GetHealth(); check != nil {
		config.Healthcheck = &Healthcheck{
			Test: check.GetTest(), Retries: check.GetRetries(),
			Interval: int64(check.GetInterval().AsDuration()), Timeout: int64(check.GetTimeout().AsDuration()),
			StartPeriod: int64(check.GetStartPeriod().AsDuration()), StartInterval: int64(check.GetStartInterval().AsDuration()),
		}
	}
	return config
}

// defaultShmSize is the size of /dev/shm where nothing else was asked for.
const defaultShmSize = 64 << 20

func newHostConfig(spec *berthv1.ContainerSpec) HostConfig {
	config := HostConfig{
		LogConfig:     LogConfig{Type: spec.GetLog().GetDriver(), Config: spec.GetLog().GetOptions()},
		RestartPolicy: newRestartPolicy(spec.GetRestart()),
		AutoRemove:    spec.GetAutoRemove(), Init: spec.GetInit(), Runtime: spec.GetRuntime(), ShmSize: spec.GetShmSize(),
		Network: newNetwork(spec.GetNetwork()), Isolation: newIsolation(spec), Limits: newLimits(spec.GetResources()),
	}
	if config.ShmSize == 0 {
		config.ShmSize = defaultShmSize
	}
	if config.Runtime == "" {
		config.Runtime = "berth-runtime"
	}
	if config.LogConfig.Type == "" {
		config.LogConfig.Type = "json-file"
	}
	for _, mount := range spec.GetMounts() {
		switch {
		case mount.GetType() == berthv1.MountType_MOUNT_TYPE_TMPFS:
			if config.Tmpfs == nil {
				config.Tmpfs = map[string]string{}
			}
			config.Tmpfs[mount.GetTarget()] = strings.Join(mount.GetOptions(), ",")
		case mount.GetSource() != "" && mount.GetType() != berthv1.MountType_MOUNT_TYPE_IMAGE:
			config.Binds = append(config.Binds, bind(mount))
		}
	}
	return config
}

// bind returns a mount as it is written behind -v.
func bind(mount *berthv1.Mount) string {
	text := mount.GetSource() + ":" + mount.GetTarget()
	if mount.GetReadOnly() {
		text += ":ro"
	}
	return text
}

func newRestartPolicy(policy *berthv1.RestartPolicy) RestartPolicy {
	name := strings.TrimPrefix(policy.GetCondition().String(), "RESTART_CONDITION_")
	if policy.GetCondition() == berthv1.RestartCondition_RESTART_CONDITION_UNSPECIFIED {
		name = "no"
	}
	return RestartPolicy{Name: strings.ReplaceAll(strings.ToLower(name), "_", "-"), MaximumRetryCount: policy.GetMaxRetries()}
}

func newNetwork(network *berthv1.NetworkSpec) Network {
	mode := network.GetMode()
	if len(network.GetEndpoints()) > 0 {
		mode = network.GetEndpoints()[0].GetNetwork()
	}
	if mode == "" {
		mode = "bridge"
	}
	ports := map[string][]PortBinding{}
	for _, port := range network.GetPorts() {
		binding := PortBinding{HostIP: port.GetHostIp()}
		if port.GetHostPort() != 0 {
			binding.HostPort = strconv.FormatUint(uint64(port.GetHostPort()), 10)
		}
		ports[portKey(port)] = append(ports[portKey(port)], binding)
	}
	return Network{
		NetworkMode: mode, PortBindings: ports, PublishAllPorts: network.GetPublishAll(),
		DNS: network.GetDnsServers(), DNSOptions: network.GetDnsOptions(), DNSSearch: network.GetDnsSearch(), ExtraHosts: network.GetExtraHosts(),
	}
}

func newIsolation(spec *berthv1.ContainerSpec) Isolation {
	security, namespaces := spec.GetSecurity(), spec.GetNamespaces()
	isolation := Isolation{
		Privileged: security.GetPrivileged(), ReadonlyRootfs: security.GetReadOnlyRootfs(), CapAdd: security.GetCapAdd(), CapDrop: security.GetCapDrop(),
		Sysctls: security.GetSysctls(), GroupAdd: spec.GetProcess().GetAdditionalGroups(),
		PidMode: namespaces.GetPid(), IpcMode: namespaces.GetIpc(), UTSMode: namespaces.GetUts(),
		UsernsMode: namespaces.GetUser(), CgroupnsMode: namespaces.GetCgroup(),
		MaskedPaths: security.GetMaskedPaths().GetValues(), ReadonlyPaths: security.GetReadonlyPaths().GetValues(),
	}
	if !security.GetPrivileged() && security.GetMaskedPaths() == nil {
		isolation.MaskedPaths = confinement.MaskedPaths()
	}
	if !security.GetPrivileged() && security.GetReadonlyPaths() == nil {
		isolation.ReadonlyPaths = confinement.ReadonlyPaths()
	}
	if isolation.IpcMode == "" {
		isolation.IpcMode = "shareable"
	}
	if isolation.CgroupnsMode == "" {
		isolation.CgroupnsMode = "private"
	}
	if security.GetNoNewPrivileges() {
		isolation.SecurityOpt = append(isolation.SecurityOpt, "no-new-privileges")
	}
	for name, value := range map[string]string{"seccomp": security.GetSeccompProfile(), "apparmor": security.GetApparmorProfile()} {
		if value != "" {
			isolation.SecurityOpt = append(isolation.SecurityOpt, name+"="+value)
		}
	}
	for _, label := range security.GetSelinuxLabels() {
		isolation.SecurityOpt = append(isolation.SecurityOpt, "label="+label)
	}
	slices.Sort(isolation.SecurityOpt)
	return isolation
}

func newLimits(r *berthv1.Resources) Limits {
	limits := Limits{
		Memory: r.GetMemory(), MemoryReservation: r.GetMemoryReservation(), MemorySwap: r.GetMemorySwap(),
		OomScoreAdj: r.GetOomScoreAdj(), BlkioWeight: r.GetBlkioWeight(), DeviceCgroupRules: r.GetDeviceCgroupRules(), CgroupParent: r.GetCgroupParent(),
		Devices: []Device{}, Ulimits: []Ulimit{},
		CPU: CPU{
			NanoCpus: r.GetNanoCpus(), CPUShares: r.GetCpuShares(), CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(),
			CPURealtimePeriod: r.GetCpuRealtimePeriod(), CPURealtimeRuntime: r.GetCpuRealtimeRuntime(),
			CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		},
	}
	if r != nil {
		limits.MemorySwappiness, limits.OomKillDisable, limits.PidsLimit = r.MemorySwappiness, r.OomKillDisable, r.PidsLimit
	}
	for _, device := range r.GetDevices() {
		permissions := device.GetPermissions()
		if permissions == "" {
			permissions = "rwm"
		}
		limits.Devices = append(limits.Devices, Device{device.GetHostPath(), device.GetContainerPath(), permissions})
	}
	for _, limit := range r.GetUlimits() {
		limits.Ulimits = append(limits.Ulimits, Ulimit{Name: limit.GetName(), Hard: limit.GetHard(), Soft: limit.GetSoft()})
	}
	return limits
}
