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
	current *os.File // the file that Follow is reading
	partial []byte   // the beginning of a line whose end has not been written
}

// Open prepares to read the log at path. It need not exist yet.
func Open(path string) *Reader { return &Reader{path: path} }

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
	if query.Tail < 0 {
		return r.scan(files, deliver)
	}
	last := newRing(query.Tail)
	err := r.scan(files, func(line Line) error {
		if query.wants(line) {
			last.add(line)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return last.each(send)
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

func (r *Reader) scan(files []*os.File, deliver func(Line) error) error {
	for _, file := range files {
		if err := r.scanFile(file, deliver); err != nil {
			return err
		}
	}
	return nil
}

// scanFile reads from where the file is to where its end is now, and remembers the beginning of a line that is not
// complete. Who writes faster than the reader reads would never let it come to the end otherwise.
func (r *Reader) scanFile(file *os.File, deliver func(Line) error) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("cannot read the log: %w", err)
	}
	position, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("cannot read the log: %w", err)
	}
	reader := bufio.NewReaderSize(io.LimitReader(file, info.Size()-position), 64<<10)
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

// ring keeps the last lines. The parts of a long line count as one.
type ring struct {
	limit int64
	count int64 // of complete lines and a beginning one at the end
	lines []Line
}

func newRing(limit int64) *ring { return &ring{limit: limit} }

func (r *ring) add(line Line) {
	if r.limit == 0 {
		return
	}
	if len(r.lines) == 0 || complete(r.lines[len(r.lines)-1]) {
		r.count++
	}
	r.lines = append(r.lines, line)
	for r.count > r.limit {
		if complete(r.lines[0]) {
			r.count--
		}
		r.lines = r.lines[1:]
	}
}

func complete(line Line) bool { return bytes.HasSuffix(line.Text, []byte("\n")) }

func (r *ring) each(send func(Line) error) error {
	for _, line := range r.lines {
		if err := send(line); err != nil {
			return err
		}
	}
	return nil
}
