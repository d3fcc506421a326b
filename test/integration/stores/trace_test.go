package stores_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// tracedCalls are the system calls by which a store changes files.
const tracedCalls = "openat,mkdirat,renameat,renameat2,unlinkat,write,pwrite64,ftruncate,fsync,fdatasync,syncfs"

// startTraced starts a store whose system calls go to a file, and returns the file's path.
func startTraced(t testing.TB, program, dir string, args ...string) (*service, string) {
	t.Helper()
	strace := testenv.Peer(t, "strace")
	log, script := filepath.Join(dir, "trace"), filepath.Join(dir, "traced")
	// With -D the program is this process's child, and strace ends with it.
	content := fmt.Sprintf("#!/bin/sh\nexec %s -D -f -y -xx -ttt -s 10000000 -e trace=%s -o %s -- %s \"$@\"\n",
		strace, tracedCalls, log, testenv.Binary(t, program))
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return startProgram(t, script, program, dir, args...), log
}

// call is one system call that has succeeded.
type call struct {
	at     time.Time // its begin
	name   string
	args   string
	result int
}

var (
	traceLine = regexp.MustCompile(`^(\d+) +(\d+)\.(\d{6}) (.*)$`)
	callLine  = regexp.MustCompile(`^(\w+)\((.*)\) += (\d+)`)
)

// readTrace returns the calls of a trace whose program has ended, in the order of their ends.
func readTrace(t testing.TB, log string) []call {
	t.Helper()
	var content []byte
	testenv.Until(t, startLimit, "strace has written all", func() (err error) {
		if content, err = os.ReadFile(log); err == nil && !regexp.MustCompile(`\+\+\+ (exited|killed)[^\n]*\n$`).Match(content) {
			err = fmt.Errorf("it has not ended")
		}
		return err
	})
	begun := map[string]call{} // calls that another thread's interrupt in the trace
	var calls []call
	for line := range bytes.Lines(content) {
		part := traceLine.FindStringSubmatch(strings.TrimSpace(string(line)))
		if part == nil {
			continue
		}
		seconds, _ := strconv.ParseInt(part[2], 10, 64)
		micros, _ := strconv.ParseInt(part[3], 10, 64)
		c, text := call{at: time.UnixMicro(seconds*1e6 + micros)}, part[4]
		if head, unfinished := strings.CutSuffix(text, " <unfinished ...>"); unfinished {
			begun[part[1]] = call{at: c.at, args: head}
			continue
		}
		if _, tail, resumed := strings.Cut(text, " resumed>"); resumed {
			c, text = begun[part[1]], begun[part[1]].args+tail
		}
		if found := callLine.FindStringSubmatch(text); found != nil {
			c.name, c.args = found[1], found[2]
			c.result, _ = strconv.Atoi(found[3])
			calls = append(calls, c)
		}
	}
	return calls
}

var escaped = regexp.MustCompile(`(?:\\x[0-9a-f]{2})+`)

// unescape decodes what strace -xx has made of a string.
func unescape(text string) string {
	return escaped.ReplaceAllStringFunc(text, func(s string) string {
		decoded, _ := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
		return string(decoded)
	})
}

var (
	quoted     = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
	descriptor = regexp.MustCompile(`(?:AT_FDCWD|\d+)<([^>]*)>`)
)

// replay applies calls to a disk.
type replay struct {
	disk *disk
	root string
	ends map[string]int // where write(2) goes on, by the file's path
}

// path returns a path below the root as the disk names it.
func (r *replay) path(at, name string) (string, bool) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(at, name)
	}
	name, below := strings.CutPrefix(filepath.Clean(name), r.root)
	return strings.TrimPrefix(name, "/"), below && (name == "" || name[0] == '/')
}

func (r *replay) apply(c call) {
	var dirs, texts []string
	for _, match := range descriptor.FindAllStringSubmatch(c.args, -1) {
		dirs = append(dirs, strings.TrimSuffix(unescape(match[1]), " (deleted)"))
	}
	for _, match := range quoted.FindAllStringSubmatch(c.args, -1) {
		texts = append(texts, unescape(match[1]))
	}
	if len(dirs) == 0 {
		return
	}
	file, below := r.path(dirs[0], "")
	if len(texts) > 0 && !strings.Contains(c.name, "write") {
		file, below = r.path(dirs[0], texts[0])
	}
	if !below {
		return
	}
	numbers := strings.Split(c.args, ", ")
	number, _ := strconv.Atoi(numbers[len(numbers)-1])
	switch c.name {
	case "openat":
		if strings.Contains(c.args, "O_CREAT") {
			r.disk.create(file)
		}
		r.ends[file] = 0
	case "mkdirat":
		r.disk.mkdir(file)
	case "renameat", "renameat2":
		to, _ := r.path(dirs[1], texts[1])
		r.disk.rename(file, to)
	case "unlinkat":
		r.disk.unlink(file)
	case "write":
		r.disk.write(file, r.ends[file], []byte(texts[0])[:c.result])
		r.ends[file] += c.result
	case "pwrite64":
		r.disk.write(file, number, []byte(texts[0])[:c.result])
	case "ftruncate":
		r.disk.truncate(file, number)
	case "fsync", "fdatasync":
		r.disk.sync(file)
	case "syncfs":
		r.disk.syncAll()
	}
}
