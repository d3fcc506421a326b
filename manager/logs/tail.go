package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// tailStart finds where the last lines of a log begin that the query asks for: the index of a file and an offset in it.
// It reads backwards from the end, so that a short tail of a long log costs little, and keeps no lines, so that a long
// tail takes no memory. The parts of a long line count as one.
func tailStart(files []*os.File, ends []int64, query Query) (first int, offset int64, err error) {
	var lines int64
	last := true // no line has been seen behind the current one
	for i := len(files) - 1; i >= 0; i-- {
		reader := &backwardReader{file: files[i], start: ends[i]}
		for {
			text, start, err := reader.previous()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, 0, fmt.Errorf("cannot read the log: %w", err)
			}
			if !bytes.HasSuffix(text, []byte("\n")) {
				continue // its end has not been written yet
			}
			line, ok := parse(text)
			if !ok || !query.wants(line) {
				continue
			}
			if last || complete(line) {
				lines++
			}
			last = false
			if lines > query.Tail {
				return i, start + int64(len(text)), nil
			}
		}
	}
	return 0, 0, nil
}

// backwardReader reads the lines of a file from its end to its beginning.
type backwardReader struct {
	file   *os.File
	start  int64  // offset of the first byte in buffer
	buffer []byte // what was read and not returned yet
}

const backwardStep = 64 << 10

// previous returns the line before the one that it returned last, and its offset. The line is valid until the next call.
func (r *backwardReader) previous() (line []byte, offset int64, err error) {
	for {
		if count := len(r.buffer); count > 0 {
			end := bytes.LastIndexByte(r.buffer[:count-1], '\n')
			if end >= 0 || r.start == 0 {
				line, r.buffer = r.buffer[end+1:], r.buffer[:end+1]
				return line, r.start + int64(end+1), nil
			}
		} else if r.start == 0 {
			return nil, 0, io.EOF
		}
		step := min(r.start, max(backwardStep, int64(len(r.buffer)))) // a line longer than a step is read in growing steps
		longer := make([]byte, step+int64(len(r.buffer)))
		if _, err := r.file.ReadAt(longer[:step], r.start-step); err != nil {
			return nil, 0, err
		}
		copy(longer[step:], r.buffer)
		r.start, r.buffer = r.start-step, longer
	}
}
