package launch

import (
	"syscall"
	"unsafe"
)

// Search finds a field in a file of lines whose fields are separated by colons, as in /etc/passwd. The child searches while
// it reads the file: what the file is may depend on mounts that only the child has made.
type Search struct {
	key, value, fields int // the numbers of two fields, from 0, and how many a line has at least
	wanted             [24]byte
	wantedLength       int

	left              int // bytes that are still to be read at most
	field, at         int // where in the line the next byte is
	differs           bool
	length            int
	candidate, result [4096]byte
	prefixLength      int
	buffer            [4096]byte
}

// Columns says which fields a Search looks at: a line with Wanted in field Key, and in no fewer than Fields, has the result
// in field Value.
type Columns struct {
	Key, Value, Fields int
	Wanted             string
}

// NewSearch returns a search that results in prefix and the value, or in prefix and otherwise if there is no such line, or
// if the value is empty or longer than a path may be.
func NewSearch(c Columns, prefix, otherwise string) *Search {
	const enough = 1 << 20
	s := &Search{key: c.Key, value: c.Value, fields: c.Fields, left: enough, prefixLength: len(prefix)}
	s.wantedLength = copy(s.wanted[:], c.Wanted)
	copy(s.result[:], prefix+otherwise)
	return s
}

// Search adds the search through an open file. The result is at the address that is returned, with a terminating zero. A
// file that can't be read to its end is one that ends there.
func (p *Program) Search(file Arg, s *Search) Arg {
	at := Pin(p, s)
	more, done := p.NewLabel(), p.NewLabel()
	p.Place(more)
	n := p.Call("read", "a file", syscall.SYS_READ, file, address(unsafe.Pointer(&s.buffer)), Int(len(s.buffer))).OnError(done).Result()
	p.Call("search", "a file", opSearch, at, n).OnError(more).Then(done)
	p.Place(done)
	return address(unsafe.Pointer(&s.result))
}

// feed takes the next n bytes of the file, and tells whether it wants more.
//
//go:nosplit
//go:norace
func (s *Search) feed(n int) bool {
	if n <= 0 {
		s.endLine()
		return false
	}
	for i := 0; i < n && i < len(s.buffer); i++ {
		if s.take(s.buffer[i]) {
			return false
		}
	}
	s.left -= n
	return s.left > 0
}

// take takes one byte, and tells whether the line that it ends is the wanted one.
//
//go:nosplit
//go:norace
func (s *Search) take(c byte) bool {
	switch c {
	case '\n':
		return s.endLine()
	case ':':
		s.endField()
	default:
		if s.field == s.key && (s.at >= s.wantedLength || s.at >= len(s.wanted) || s.wanted[s.at] != c) {
			s.differs = true
		}
		if s.field == s.value {
			if s.at < len(s.candidate) {
				s.candidate[s.at] = c
			}
			s.length = s.at + 1
		}
		s.at++
	}
	return false
}

//go:nosplit
//go:norace
func (s *Search) endField() {
	if s.field == s.key && s.at != s.wantedLength {
		s.differs = true
	}
	s.field++
	s.at = 0
}

// endLine takes over the value of a line that is the wanted one.
//
//go:nosplit
//go:norace
func (s *Search) endLine() bool {
	s.endField()
	found := s.field >= s.fields && !s.differs && s.length > 0 && s.prefixLength+s.length < len(s.result) && s.length <= len(s.candidate)
	if found {
		end := s.prefixLength
		for i := 0; i < s.length; i++ {
			s.result[end] = s.candidate[i]
			end++
		}
		s.result[end] = 0
	}
	s.field, s.length, s.differs = 0, 0, false
	return found
}
