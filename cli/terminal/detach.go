package terminal

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultDetachKeys leave a container without stopping it.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is what a DetachReader answers once the keys were typed.
var ErrDetached = errors.New("detached")

// ParseDetachKeys reads keys as "ctrl-p,ctrl-q" or "a,ctrl-@". Empty means the default.
func ParseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		text = DefaultDetachKeys
	}
	var keys []byte
	for name := range strings.SplitSeq(text, ",") {
		key, err := parseKey(name)
		if err != nil {
			return nil, fmt.Errorf("invalid detach keys %q: %w", text, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseKey(name string) (byte, error) {
	if len(name) == 1 {
		return name[0], nil
	}
	letter, found := strings.CutPrefix(strings.ToLower(name), "ctrl-")
	if found && len(letter) == 1 {
		switch c := letter[0]; {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 1, nil
		case c == '@' || c >= '[' && c <= '_':
			return c - '@', nil
		}
	}
	return 0, fmt.Errorf("%q is no key: want one character, or ctrl- with a letter or one of @[\\]^_", name)
}

// DetachReader passes input on, and ends with ErrDetached when the keys were typed one after another. Keys that turn
// out not to be the whole sequence are passed on late, but whole.
type DetachReader struct {
	source  io.Reader
	keys    []byte
	matched int    // how many of keys are held back
	pending []byte // what is decided and was not yet read
	err     error
}

// NewDetachReader watches source for keys; there must be at least one.
func NewDetachReader(source io.Reader, keys []byte) *DetachReader {
	return &DetachReader{source: source, keys: keys}
}

// Read implements io.Reader.
func (r *DetachReader) Read(p []byte) (int, error) {
	for len(r.pending) == 0 && r.err == nil {
		n, err := r.source.Read(p)
		r.scan(p[:n])
		if err != nil && r.err == nil {
			r.pending = append(r.pending, r.keys[:r.matched]...)
			r.matched, r.err = 0, err
		}
	}
	n := copy(p, r.pending)
	r.pending = r.pending[n:]
	if len(r.pending) > 0 || n > 0 {
		return n, nil
	}
	return 0, r.err
}

func (r *DetachReader) scan(input []byte) {
	decided := make([]byte, 0, len(input)+len(r.keys))
	for _, c := range input {
		held := append(append([]byte(nil), r.keys[:r.matched]...), c)
		// The longest end of what is held that can still become the sequence.
		start := 0
		for start < len(held) && string(held[start:]) != string(r.keys[:len(held)-start]) {
			start++
		}
		decided = append(decided, held[:start]...)
		r.matched = len(held) - start
		if r.matched == len(r.keys) {
			r.err = ErrDetached
			break
		}
	}
	r.pending = decided
}
