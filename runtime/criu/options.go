package criu

// Field is the number of a field in criu's messages.
type Field uint64

// What criu is told of a dump or restore. The numbers are those of criu_opts in criu's rpc.proto.
const (
	ImagesDirFD     Field = 1
	Pid             Field = 2
	LeaveRunning    Field = 3
	ExternalSockets Field = 4
	TCPEstablished  Field = 5
	EvasiveDevices  Field = 6
	ShellJob        Field = 7
	FileLocks       Field = 8
	LogLevel        Field = 9
	LogFile         Field = 10
	pageServer      Field = 11
	NotifyScripts   Field = 12
	Root            Field = 13
	ParentImages    Field = 14
	TrackMemory     Field = 15
	AutoDedup       Field = 16
	WorkDirFD       Field = 17
	LinkRemap       Field = 18
	ExternalMount   Field = 23
	ManageCgroups   Field = 24
	CgroupRoot      Field = 25
	RestoreSibling  Field = 26
	inheritFD       Field = 27
	CgroupsMode     Field = 34
	External        Field = 37
	EmptyNamespaces Field = 38
	JoinNamespace   Field = 39
	FreezeCgroup    Field = 44
	TCPSkipInFlight Field = 46
	LazyPages       Field = 48
	OrphanPtsMaster Field = 50
	ConfigFile      Field = 51
	TCPClose        Field = 52
	LSMProfile      Field = 53
	LSMMountContext Field = 63
)

// CgroupMode is how much of the cgroups criu restores.
type CgroupMode int

// The modes: what to do about cgroups that are there already, or don't matter.
const (
	CgroupsIgnore  CgroupMode = 0
	CgroupsSoft    CgroupMode = 3
	CgroupsFull    CgroupMode = 4
	CgroupsStrict  CgroupMode = 5
	CgroupsDefault CgroupMode = 6
)

// Options are what criu is told. Of an option that is set twice the last one counts.
type Options struct{ content message }

// Flag sets an option that is on or off.
func (o *Options) Flag(field Field, on bool) { o.content.truth(field, on) }

// Number sets an option that is a number.
func (o *Options) Number(field Field, value int) { o.content.number(field, uint64(value)) }

// Text sets an option that is a text, or adds to one that is a list of them.
func (o *Options) Text(field Field, value string) { o.content.text(field, value) }

// Pair adds to a list of pairs: ExternalMount (in the container, outside), CgroupRoot (controller, path), and
// JoinNamespace (type, file).
func (o *Options) Pair(field Field, key, value string) {
	var pair message
	pair.text(1, key)
	pair.text(2, value)
	o.content.text(field, string(pair))
}

// Inherit makes criu use one of its descriptors for what had the name at the dump.
func (o *Options) Inherit(name string, fd int) {
	var pair message
	pair.text(1, name)
	pair.number(2, uint64(fd))
	o.content.text(inheritFD, string(pair))
}

// PageServer makes criu send the memory to a page server, or fetch it from there.
func (o *Options) PageServer(address string, port int) {
	var server message
	server.text(1, address)
	server.number(2, uint64(port))
	o.content.text(pageServer, string(server))
}

// Append adds all options of another one.
func (o *Options) Append(other Options) { o.content = append(o.content, other.content...) }
