// Package logs reads what the shim logs of a container: Docker's json-file format, one JSON object a line, rotated
// from PATH to PATH.1, from that to PATH.2, and so on.
package logs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Line is one line that was logged, or a part of a long one.
type Line struct {
	Stream berthv1.Stream
	Time   time.Time
	Text   []byte
}

// Query says which lines are wanted.
type Query struct {
	Follow         bool
	Stdout, Stderr bool // neither: both
	Since, Until   time.Time
	// Tail is how many lines from the end. Negative: all.
	Tail int64
}

func (q Query) wants(line Line) bool {
	both := !q.Stdout && !q.Stderr
	switch {
	case line.Stream == berthv1.Stream_STREAM_STDOUT && !q.Stdout && !both:
		return false
	case line.Stream == berthv1.Stream_STREAM_STDERR && !q.Stderr && !both:
		return false
	case !q.Since.IsZero() && line.Time.Before(q.Since):
		return false
	}
	return q.Until.IsZero() || !line.Time.After(q.Until)
}

// Reader reads one log.
type Reader struct {
	path    string
	watcher *Watcher
	current *os.File // the file that Follow is reading
	partial []byte   // the beginning of a line whose end has not been written
}

// Open prepares to read the log at path. It need not exist yet. The watcher is for Follow.
func Open(path string, watcher *Watcher) *Reader { return &Reader{path: path, watcher: watcher} }

// Close lets go of the log.
func (r *Reader) Close() {
	if r.current != nil {
		_ = r.current.Close()
	}
}

// Read calls send with the lines that are there, the oldest first.
func (r *Reader) Read(query Query, send func(Line) error) error {
	files, err := r.open()
	if err != nil {
		return err
	}
	defer closeAll(files)
	return r.readFiles(files, query, send)
}

// readFiles reads rotated files and the current one, in that order.
func (r *Reader) readFiles(files []*os.File, query Query, send func(Line) error) error {
	deliver := func(line Line) error {
		if !query.wants(line) {
			return nil
		}
		return send(line)
	}
	ends, err := sizes(files)
	if err != nil {
		return err
	}
	first := 0
	if query.Tail >= 0 {
		var offset int64
		if first, offset, err = tailStart(files, ends, query); err != nil {
			return err
		}
		if len(files) > 0 {
			if _, err := files[first].Seek(offset, io.SeekStart); err != nil {
				return fmt.Errorf("cannot read the log: %w", err)
			}
		}
	}
	for i := first; i < len(files); i++ {
		r.partial = nil // a line does not go on in the next file
		if err := r.scanTo(files[i], ends[i], deliver); err != nil {
			return err
		}
	}
	return nil
}

// sizes are where the files end now. A program that writes faster than the reader reads would never let it come to the
// end otherwise.
func sizes(files []*os.File) ([]int64, error) {
	ends := make([]int64, len(files))
	for i, file := range files {
		info, err := file.Stat()
		if err != nil {
			return nil, fmt.Errorf("cannot read the log: %w", err)
		}
		ends[i] = info.Size()
	}
	return ends, nil
}

// open opens the files of the log, the oldest first. Rotations meanwhile move them to higher numbers one by one, which
// leaves a gap, and may make one appear several times: those are told apart by what they are, not by their names, and
// where one appeared last tells its age. None is missed, as the numbers are gone through upwards until there is none.
func (r *Reader) open() ([]*os.File, error) {
	var found []opened // the oldest last
	for number := 0; ; number++ {
		path := r.path
		if number > 0 {
			path += "." + strconv.Itoa(number)
		}
		next, err := openFile(path)
		if errors.Is(err, os.ErrNotExist) {
			var last int
			if last, err = r.lastNumber(); err == nil && number <= last {
				continue
			}
			if err == nil {
				return oldestFirst(found), nil
			}
		}
		if err != nil {
			closeAll(oldestFirst(found))
			return nil, fmt.Errorf("cannot open the log: %w", err)
		}
		found = append(slices.DeleteFunc(found, next.replaces), next)
	}
}

// opened is an open file and what it is.
type opened struct {
	file *os.File
	info os.FileInfo
}

func openFile(path string) (opened, error) {
	file, err := os.Open(path)
	if err != nil {
		return opened{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return opened{}, errors.Join(err, file.Close())
	}
	return opened{file, info}, nil
}

// replaces closes former and says so if it is the same file.
func (o opened) replaces(former opened) bool {
	if !os.SameFile(o.info, former.info) {
		return false
	}
	_ = former.file.Close()
	return true
}

func oldestFirst(found []opened) []*os.File {
	var files []*os.File
	for _, one := range slices.Backward(found) {
		files = append(files, one.file)
	}
	return files
}

// lastNumber returns the highest number that a file of the log has; the current one has 0, as has a log without files.
func (r *Reader) lastNumber() (int, error) {
	entries, err := os.ReadDir(filepath.Dir(r.path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	last := 0
	for _, entry := range entries {
		if suffix, ok := strings.CutPrefix(entry.Name(), filepath.Base(r.path)+"."); ok {
			if number, err := strconv.Atoi(suffix); err == nil {
				last = max(last, number)
			}
		}
	}
	return last, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// scanFile reads from where the file is to where its end is now.
func (r *Reader) scanFile(file *os.File, deliver func(Line) error) error {
	ends, err := sizes([]*os.File{file})
	if err != nil {
		return err
	}
	return r.scanTo(file, ends[0], deliver)
}

// scanTo reads from where the file is to end, and remembers the beginning of a line that is not complete there.
func (r *Reader) scanTo(file *os.File, end int64, deliver func(Line) error) error {
	position, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("cannot read the log: %w", err)
	}
	reader := bufio.NewReaderSize(io.LimitReader(file, end-position), 64<<10)
	for {
		text, err := reader.ReadBytes('\n')
		if len(r.partial) > 0 {
			text = append(r.partial, text...)
			r.partial = nil
		}
		if errors.Is(err, io.EOF) {
			r.partial = text
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the log: %w", err)
		}
		line, ok := parse(text)
		if !ok {
			continue // damaged by a power failure: what is behind it is still worth reading
		}
		if err := deliver(line); err != nil {
			return err
		}
	}
}

func parse(text []byte) (Line, bool) {
	var entry struct {
		Log    string    `json:"log"`
		Stream string    `json:"stream"`
		Time   time.Time `json:"time"`
	}
	if json.Unmarshal(bytes.TrimLeft(text, "\x00"), &entry) != nil {
		return Line{}, false
	}
	line := Line{Stream: berthv1.Stream_STREAM_STDOUT, Time: entry.Time, Text: []byte(entry.Log)}
	if entry.Stream == "stderr" {
		line.Stream = berthv1.Stream_STREAM_STDERR
	}
	return line, true
}

func complete(line Line) bool { return bytes.HasSuffix(line.Text, []byte("\n")) }
