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

// addLookup finds the program as a shell would, in the container and with the user's rights, and returns where its path
// is. Who creates a container hears of a missing program then, and not only at its start.
func (c Config) addLookup(p *launch.Program) (launch.Arg, error) {
	name := c.program()
	if name == "" {
		return launch.Arg{}, errors.New("process.args: the program's name is empty")
	}
	l := lookup{program: p, stat: &unix.Statx_t{}}
	l.buffer = launch.Pin(p, l.stat)
	if strings.Contains(name, "/") {
		return l.check(name), nil
	}
	return l.search(name, c.candidates(name)), nil
}

// lookup adds looks at files. All of them go to the same memory.
type lookup struct {
	program *launch.Program
	stat    *unix.Statx_t
	buffer  launch.Arg
}

func (l *lookup) look(file string, at launch.Arg) launch.Op {
	return l.program.Call("look for", fmt.Sprintf("%q", file), unix.SYS_STATX, launch.Cwd, at, launch.Int(0), launch.Int(unix.STATX_TYPE), l.buffer)
}

// isA adds a check of what was looked at.
func (l *lookup) isA(kind uint64, file string, errno unix.Errno) launch.Op {
	mode := launch.Int(uintptr(unsafe.Pointer(l.stat)) + unsafe.Offsetof(l.stat.Gid)) // in its upper half
	return l.program.Expect("execute", fmt.Sprintf("%q", file), mode, launch.Masked{Mask: unix.S_IFMT << 32, Value: kind << 32, Errno: errno})
}

func (l *lookup) mayExecute(file string, at launch.Arg) launch.Op {
	return l.program.Call("look for", fmt.Sprintf("%q", file), unix.SYS_FACCESSAT2, launch.Cwd, at, launch.Int(unix.X_OK), launch.Int(unix.AT_EACCESS))
}

// check adds a look at a program that is called by its path.
func (l *lookup) check(name string) launch.Arg {
	failed := func(errno unix.Errno) error { return ExecutionFailed(name, errno) }
	p := l.program
	at, file := p.String(name), p.NewLabel()
	l.look(name, at).Explain(func(errno unix.Errno) error {
		return fmt.Errorf("cannot start the process: exec: %q: stat %s: %w", name, name, errno)
	})
	l.isA(unix.S_IFDIR, name, unix.ENOTDIR).OnError(file)
	p.Fail("execute", fmt.Sprintf("%q", name), unix.EISDIR).Explain(failed)
	p.Place(file)
	l.mayExecute(name, at).Explain(failed)
	return at
}

// search adds a search among files, which is the value of a slot then. If there is none, one that may not be executed
// is the best reason there is.
func (l *lookup) search(name string, files []string) launch.Arg {
	p := l.program
	found, denied, candidate := p.NewLabel(), p.NewSlot(), p.NewSlot()
	p.Set(denied, launch.Int(0))
	for _, file := range files {
		next, refused := p.NewLabel(), p.NewLabel()
		at := p.String(file)
		l.look(file, at).OnError(next)
		l.isA(unix.S_IFREG, file, unix.EISDIR).OnError(next)
		l.mayExecute(file, at).OnError(refused)
		p.Set(candidate, at).Then(found)
		p.Place(refused)
		p.Set(denied, launch.Int(1))
		p.Place(next)
	}
	memory := launch.Pin(p, new(uint64))
	p.Store(memory, denied)
	p.Expect("find", fmt.Sprintf("%q", name), memory, launch.Masked{Mask: 1, Value: 0, Errno: unix.EACCES}).
		Explain(func(errno unix.Errno) error { return ExecutionFailed(name, errno) })
	p.Fail("find", fmt.Sprintf("%q", name), unix.ENOENT).Explain(func(unix.Errno) error {
		return fmt.Errorf("cannot start the process: exec: %q: executable file not found in $PATH", name)
	})
	p.Place(found)
	return candidate
}

func (c Config) program() string {
	if c.Program != "" {
		return c.Program
	}
	return c.Process.Args[0]
}

func (c Config) candidates(name string) []string {
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
