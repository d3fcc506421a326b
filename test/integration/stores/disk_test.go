package stores_test

import (
	"bytes"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// disk is a model of a file system below one directory: what processes see, and what a power failure leaves of it.
//
// A file's data is durable when the file has been synced. A name is durable when its directory has been synced; a rename
// is so as a whole, with either directory, as journals keep it. What is not durable may be there after a power failure or not.
type disk struct {
	seen, durable names
	pending       []change
	data          map[int]*data // by inode
	last          int
}

// names are the inodes by their paths, "" for the top. Directories have the inode 0.
type names map[string]int

type data struct{ seen, durable []byte }

// change is of names, in the directories dirs.
type change struct {
	dirs  []string
	apply func(names)
}

func newDisk() *disk {
	return &disk{seen: names{"": 0}, durable: names{"": 0}, data: map[int]*data{}}
}

func parent(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

func (d *disk) change(apply func(names), changed ...string) {
	apply(d.seen)
	c := change{apply: apply}
	for _, name := range changed {
		c.dirs = append(c.dirs, parent(name))
	}
	d.pending = append(d.pending, c)
}

func (d *disk) mkdir(name string) { d.change(func(n names) { n[name] = 0 }, name) }

func (d *disk) create(name string) {
	if _, there := d.seen[name]; there {
		return
	}
	d.last++
	inode := d.last
	d.data[inode] = &data{}
	d.change(func(n names) { n[name] = inode }, name)
}

func (d *disk) unlink(name string) { d.change(func(n names) { delete(n, name) }, name) }

func (d *disk) rename(from, to string) {
	inode := d.seen[from]
	d.change(func(n names) {
		moved := names{}
		for name, i := range n {
			if strings.HasPrefix(name, from+"/") {
				moved[to+name[len(from):]] = i
				delete(n, name)
			}
		}
		delete(n, from)
		maps.Copy(n, moved)
		n[to] = inode
	}, from, to)
}

func (d *disk) write(name string, at int, content []byte) {
	file := d.data[d.seen[name]]
	if file == nil {
		return
	}
	seen := make([]byte, max(len(file.seen), at+len(content)))
	copy(seen, file.seen)
	copy(seen[at:], content)
	file.seen = seen
}

func (d *disk) truncate(name string, size int) {
	if file := d.data[d.seen[name]]; file != nil {
		seen := make([]byte, size)
		copy(seen, file.seen)
		file.seen = seen
	}
}

// sync makes a file's data or a directory's names durable.
func (d *disk) sync(name string) {
	if file := d.data[d.seen[name]]; file != nil {
		file.durable = file.seen
		return
	}
	d.pending = slices.DeleteFunc(d.pending, func(c change) bool {
		durable := slices.Contains(c.dirs, name)
		if durable {
			c.apply(d.durable)
		}
		return durable
	})
}

// syncAll is syncfs.
func (d *disk) syncAll() {
	for _, c := range d.pending {
		c.apply(d.durable)
	}
	d.pending = nil
	for _, file := range d.data {
		file.durable = file.seen
	}
}

// state is what may be there after a power failure: the content of files by their names, nil for directories.
type state map[string][]byte

// states returns the states from least to most: only what is durable, all names with the data that is durable, and all.
func (d *disk) states() []state {
	build := func(n names, durable bool) state {
		s := state{}
		for name, inode := range n {
			if !n.reachable(name) {
				continue
			}
			if file := d.data[inode]; file == nil {
				s[name] = nil
			} else if durable {
				s[name] = append([]byte{}, file.durable...)
			} else {
				s[name] = append([]byte{}, file.seen...)
			}
		}
		return s
	}
	return []state{build(d.durable, true), build(d.seen, true), build(d.seen, false)}
}

// reachable tells whether all directories above a name are there.
func (n names) reachable(name string) bool {
	for name != "" {
		name = parent(name)
		if inode, there := n[name]; !there || inode != 0 {
			return false
		}
	}
	return true
}

func (s state) equal(other state) bool { return maps.EqualFunc(s, other, bytes.Equal) }

// restore makes the files of a state in dir.
func (s state) restore(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		var err error
		target := filepath.Join(dir, name)
		if s[name] == nil {
			err = os.MkdirAll(target, 0o711)
		} else {
			err = os.WriteFile(target, s[name], 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
