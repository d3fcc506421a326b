package process

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

const homePrefix = "HOME="

// lacksHome tells whether the environment has no HOME. One that is empty is none.
func (c Config) lacksHome() bool {
	for i := len(c.Process.Env) - 1; i >= 0 && !c.Bare; i-- {
		if value, is := strings.CutPrefix(c.Process.Env[i], homePrefix); is {
			return value == ""
		}
	}
	return !c.Bare
}

// addHome adds the search for the user's home directory in the container's /etc/passwd, and returns the address of the
// variable, whose value is "/" if it is not found. The process itself looks, when it is in the container's root: what is
// mounted there, or in the mount namespace that it joins, is what its program will see.
func (c Config) addHome(p *launch.Program) launch.Arg {
	const name = "/etc/passwd"
	path := p.String(name)
	open := func(flags uint64) launch.Op {
		how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
		return p.Call("open", strconv.Quote(name), unix.SYS_OPENAT2, launch.Cwd, path, launch.Pin(p, how), launch.Int(unsafe.Sizeof(*how)))
	}
	columns := launch.Columns{Key: 2, Value: 5, Fields: 7, Wanted: strconv.FormatUint(uint64(c.Process.User.UID), 10)}
	search := launch.NewSearch(columns, homePrefix, "/")
	none, passed, sized := p.NewLabel(), p.NewLabel(), p.NewLabel()
	// To open a device may do something to the host, and so may reading the kernel's own files, which have no size. A process
	// that shares the mount namespace can still exchange the file between the look and the opening: then the rules for the
	// container's devices, O_NONBLOCK and the search's limit bound the harm.
	seen := open(unix.O_PATH).OnError(none).Result()
	stat := &unix.Statx_t{}
	buffer := launch.Pin(p, stat)
	p.Call("look at", strconv.Quote(name), unix.SYS_STATX, seen, p.String(""), launch.Int(unix.AT_EMPTY_PATH), launch.Int(unix.STATX_TYPE|unix.STATX_SIZE), buffer).
		OnError(passed)
	mode := launch.Int(uintptr(unsafe.Pointer(stat)) + unsafe.Offsetof(stat.Gid)) // 64 bits, with the mode in their upper half
	p.Expect("use", strconv.Quote(name), mode, launch.Masked{Mask: unix.S_IFMT << 32, Value: unix.S_IFREG << 32, Errno: unix.EINVAL}).OnError(passed)
	size := launch.Int(uintptr(unsafe.Pointer(stat)) + unsafe.Offsetof(stat.Size))
	p.Expect("use", strconv.Quote(name), size, launch.Masked{Mask: ^uint64(0), Value: 0, Errno: unix.EINVAL}).Then(passed).OnError(sized)
	p.Place(sized)
	file := open(unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY).OnError(passed).Result()
	variable := p.Search(file, search)
	p.Close(file)
	p.Place(passed)
	p.Close(seen)
	p.Place(none)
	return variable
}
