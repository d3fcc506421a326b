package stdio

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"time"
	"unicode/utf8"
)

// A jsonLog writes output in the format of Docker's json-file logs, one object a line:
//
//	{"log":"text of a line\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}
//
// A longer line than maxLine is written in parts, of which only the last ends in \n. A file that would grow over its
// limit is renamed to path.1, that to path.2 and so on. The nil log drops everything.
type jsonLog struct {
	path    string
	maxSize int64 // 0: no limit
	maxFile int64
	file    *os.File
	size    int64
	torn    bool      // the file ends in a part of an entry
	partial [3][]byte // by stream, what has come of an unfinished line
	entry   []byte
}

const maxLine = 16 << 10

func openLog(path string, query url.Values) (*jsonLog, error) {
	l := &jsonLog{path: path}
	var err error
	if l.maxSize, err = number(query, "max-size", 0); err != nil {
		return nil, err
	}
	if l.maxFile, err = number(query, "max-file", 1); err != nil {
		return nil, err
	}
	if err := l.open(0); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *jsonLog) open(flag int) error {
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|flag, 0o640)
	if err != nil {
		return fmt.Errorf("cannot open log file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("cannot open log file: %w", err)
	}
	l.file, l.size, l.torn = file, info.Size(), false
	if l.size > 0 {
		// A shim that was killed, or a host that lost its power, leaves half an entry.
		var last [1]byte
		_, err := file.ReadAt(last[:], l.size-1)
		l.torn = err == nil && last[0] != '\n'
	}
	return nil
}

// write logs output. It has no error to return: a full disk must not stop the process, and its lines are lost.
func (l *jsonLog) write(stream byte, p []byte) {
	if l == nil {
		return
	}
	now := time.Now()
	for len(p) > 0 {
		line := p[:min(len(p), maxLine-len(l.partial[stream]))]
		end := indexNewline(line)
		if end >= 0 {
			line = line[:end+1]
		}
		p = p[len(line):]
		rest := l.partial[stream]
		switch {
		case end < 0 && len(rest)+len(line) < maxLine:
			l.partial[stream] = append(rest, line...)
		case len(rest) > 0:
			l.append(stream, append(rest, line...), now)
			l.partial[stream] = nil // an idle container keeps no buffer
		default:
			l.append(stream, line, now)
		}
	}
}

func indexNewline(p []byte) int {
	for i, c := range p {
		if c == '\n' {
			return i
		}
	}
	return -1
}

// flush logs unfinished lines.
func (l *jsonLog) flush() {
	if l == nil {
		return
	}
	for stream := range l.partial {
		if rest := l.partial[stream]; len(rest) > 0 {
			l.append(byte(stream), rest, time.Now())
			l.partial[stream] = nil
		}
	}
}

func (l *jsonLog) append(stream byte, line []byte, now time.Time) {
	name := "stdout"
	if stream == 2 {
		name = "stderr"
	}
	b := append(l.entry[:0], `{"log":`...)
	b = appendString(b, line)
	b = append(b, `,"stream":"`...)
	b = append(b, name...)
	b = append(b, `","time":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, "\"}\n"...)
	l.entry = nil
	if cap(b) <= 1<<10 { // keep a small one only
		l.entry = b
	}
	if l.maxSize > 0 && l.size > 0 && l.size+int64(len(b)) > l.maxSize {
		if l.rotate() != nil {
			return
		}
	}
	if l.file == nil && l.open(0) != nil {
		return
	}
	if l.torn {
		// The part is a line of its own, which readers skip, and takes no other with it.
		if n, _ := l.file.Write([]byte{'\n'}); n == 0 {
			return
		}
		l.size++
		l.torn = false
	}
	n, err := l.file.Write(b)
	if err != nil && n > 0 && l.file.Truncate(l.size) == nil {
		return
	}
	l.size += int64(n)
	l.torn = err != nil && n > 0
}

// rotate moves the files on by one. With a single file it starts that one anew. If it fails there is no open file:
// the next line tries again.
func (l *jsonLog) rotate() error {
	if l.file != nil {
		err := l.file.Close()
		l.file = nil
		if err != nil {
			return err
		}
	}
	if l.maxFile < 2 {
		return l.open(os.O_TRUNC)
	}
	last := int64(1) // up to the first number that is free: as many files as there are, however many are allowed
	for ; last < l.maxFile-1; last++ {
		if _, err := os.Lstat(l.numbered(last)); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	for i := last; i > 1; i-- {
		err := os.Rename(l.numbered(i-1), l.numbered(i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(l.path, l.numbered(1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return l.open(0)
}

func (l *jsonLog) numbered(i int64) string { return l.path + "." + strconv.FormatInt(i, 10) }

func (l *jsonLog) close() error {
	if l == nil || l.file == nil {
		return nil
	}
	return l.file.Close()
}

// appendString appends text as a JSON string. encoding/json would make a copy first, and this runs for each line.
func appendString(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for len(text) > 0 {
		c := text[0]
		if c < utf8.RuneSelf {
			text = text[1:]
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, `\n`...)
			case c == '\r':
				b = append(b, `\r`...)
			case c == '\t':
				b = append(b, `\t`...)
			case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f:
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, `\ufffd`...)
		case r == '\u2028' || r == '\u2029': // line ends to some readers of JSON
			b = append(b, `\u202`...)
			b = append(b, hex[r&15])
		default:
			b = append(b, text[:size]...)
		}
		text = text[size:]
	}
	return append(b, '"')
}
