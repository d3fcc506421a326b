package terminal

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		"":              "\x10\x11",
		"ctrl-p,ctrl-q": "\x10\x11",
		"ctrl-@":        "\x00",
		"CTRL-[,a":      "\x1ba",
		"ctrl-_":        "\x1f",
		"x":             "x",
	} {
		got, err := ParseDetachKeys(text)
		if err != nil || string(got) != want {
			t.Errorf("ParseDetachKeys(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "ctrl-pp", "a,,b", "shift-a", ","} {
		if got, err := ParseDetachKeys(text); err == nil {
			t.Errorf("ParseDetachKeys(%q) = %q, want an error", text, got)
		}
	}
}

func TestDetachReader(t *testing.T) {
	for _, test := range []struct {
		keys, input, want string
		detached          bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "hello\x10\x11rest", "hello", true},
		{"\x10\x11", "a\x10b\x10\x11", "a\x10b", true},
		{"\x10\x11", "a\x10\x10\x11", "a\x10", true},
		{"\x10\x11", "a\x10", "a\x10", false},
		{"aab", "aaab", "a", true},
		{"aab", "aaac", "aaac", false},
		{"x", "x", "", true},
		{"x", "", "", false},
	} {
		for name, source := range map[string]io.Reader{
			"at once":     strings.NewReader(test.input),
			"key by key":  iotest.OneByteReader(strings.NewReader(test.input)),
			"err at once": iotest.DataErrReader(strings.NewReader(test.input)),
		} {
			var got bytes.Buffer
			_, err := io.CopyBuffer(&got, struct{ io.Reader }{NewDetachReader(source, []byte(test.keys))}, make([]byte, 4))
			if got.String() != test.want || errors.Is(err, ErrDetached) != test.detached {
				t.Errorf("keys %q, input %q %s: got %q, %v; want %q, detached %v", test.keys, test.input, name, got.String(), err, test.want, test.detached)
			}
		}
	}
}
