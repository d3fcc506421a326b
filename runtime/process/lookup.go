package process

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/runtime/launch"
)

// addLookup finds the program as a shell would, in the container and with the user's rights, and returns the slot with
// the address of its path. Who creates a container hears of a missing program then, and not only at its start.
func (c Config) addLookup(p *launch.Program) (launch.Arg, error) {
	name := c.program()
	if name == "" {
		return launch.Arg{}, errors.New("process.args: the program's name is empty")
	}
	found, denied, directory := p.NewLabel(), p.NewSlot(), p.NewSlot()
	candidate := p.NewSlot()
	p.Set(denied, launch.Int(0))
	p.Set(directory, launch.Int(0))
	stat := &unix.Statx_t{}
	buffer := launch.Pin(p, stat)
	base := uintptr(unsafe.Pointer(stat))
	mode := launch.Int(base + unsafe.Offsetof(stat.Gid)) // its upper half
	for _, file := range c.candidates(name) {
		next, refused, isDirectory := p.NewLabel(), p.NewLabel(), p.NewLabel()
		at := p.String(file)
		p.Call("look for", fmt.Sprintf("%q", file), unix.SYS_STATX, launch.Cwd, at, launch.Int(0), launch.Int(unix.STATX_TYPE), buffer).OnError(next)
		p.Expect("execute", fmt.Sprintf("%q", file), mode, launch.Masked{Mask: unix.S_IFMT << 32, Value: unix.S_IFREG << 32, Errno: unix.EISDIR}).OnError(isDirectory)
		p.Call("look for", fmt.Sprintf("%q", file), unix.SYS_FACCESSAT2, launch.Cwd, at, launch.Int(unix.X_OK), launch.Int(unix.AT_EACCESS)).OnError(refused)
		p.Set(candidate, at).Then(found)
		p.Place(isDirectory)
		p.Set(directory, launch.Int(1)).Then(next)
		p.Place(refused)
		p.Set(denied, launch.Int(1))
		p.Place(next)
	}
	c.addNotFound(p, name, denied, directory)
	p.Place(found)
	return candidate, nil
}

// addNotFound fails with the best reason there is.
func (c Config) addNotFound(p *launch.Program, name string, denied, directory launch.Arg) {
	memory := new(uint64)
	at := launch.Pin(p, memory)
	check := func(slot launch.Arg, errno unix.Errno) {
		p.Store(at, slot)
		p.Expect("find", fmt.Sprintf("%q", name), at, launch.Masked{Mask: 1, Value: 0, Errno: errno}).
			Explain(func(errno unix.Errno) error { return ExecutionFailed(name, errno) })
	}
	check(denied, unix.EACCES)
	if strings.Contains(name, "/") {
		check(directory, unix.EISDIR)
	}
	p.Fail("find", fmt.Sprintf("%q", name), unix.ENOENT).Explain(func(unix.Errno) error {
		if strings.Contains(name, "/") {
			return fmt.Errorf("cannot start the process: exec: %q: stat %s: no such file or directory", name, name)
		}
		return fmt.Errorf("cannot start the process: exec: %q: executable file not found in $PATH", name)
	})
}

func (c Config) program() string {
	if c.Program != "" {
		return c.Program
	}
	return c.Process.Args[0]
}

func (c Config) candidates(name string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var files []string
	for _, dir := range strings.Split(c.path(), ":") {
		if dir != "" { // the working directory, which nobody means
			files = append(files, path.Join(dir, name))
		}
	}
	return files
}

func (c Config) path() string {
	for i := len(c.Process.Env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(c.Process.Env[i], "PATH="); ok {
			return value
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
