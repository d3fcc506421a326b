// Package filters_test compares internal/filters with containerd's own filters. Nothing but this test needs containerd's code.
package filters_test

import (
	"errors"
	"math/rand/v2"
	"regexp/syntax"
	"strings"
	"testing"

	theirs "github.com/containerd/containerd/v2/pkg/filters"

	ours "github.com/berthd/berth/internal/filters"
)

// object is what the filters look at: fields by their joined path.
type object map[string]string

func (o object) Field(path []string) (string, bool) {
	value, present := o[strings.Join(path, ".")]
	return value, present
}

// objects have each field with a value, empty and not at all.
var objects = []object{
	{"name": "foo", "labels.a": "b", "labels.c d": `\d"/|`},
	{"name": "", "labels.a": ""},
	{"labels.a": "foo"},
	{},
}

// parts make filters, most of them legal.
var parts = []string{
	"name", "labels", "a", "b", "foo", "labels.a", `"labels"."c d"`, `labels."a"`, ".", ",", "==", "!=", "~=", "!", " ", "\t", `""`, `"foo"`, `"fo\x6f"`,
	"/^f/", "|o*$|", `/\//`, `/\\d/`, `/\x66/`, `/\u0066oo/`, `"^$"`, "^f*", "[", "é", `\`, "/", `"`, "-", "==foo", "!=\"\"", "~=/o+/", "1",
}

func random(r *rand.Rand) string {
	var text strings.Builder
	for range 1 + r.IntN(8) {
		text.WriteString(parts[r.IntN(len(parts))])
	}
	return text.String()
}

// compare checks that a filter that containerd accepts is accepted, and matches the same objects.
func compare(t *testing.T, text string) (accepted bool) {
	t.Helper()
	want, err := theirs.ParseAll(text)
	if err != nil {
		return false
	}
	got, err := ours.Parse([]string{text})
	if err != nil {
		var broken *syntax.Error
		if !errors.As(err, &broken) { // containerd takes a regular expression that is none, and matches nothing
			t.Errorf("filter %q is refused: %v", text, err)
		}
		return false
	}
	for _, o := range objects {
		if a, b := got(o), want.Match(o); a != b {
			t.Errorf("filter %q on %v: %v, containerd says %v", text, o, a, b)
		}
	}
	return true
}

func TestSameAsContainerd(t *testing.T) {
	accepted := 0
	r := rand.New(rand.NewPCG(1, 2))
	for range 300_000 {
		if compare(t, random(r)) {
			accepted++
		}
		if t.Failed() {
			break
		}
	}
	if accepted < 5_000 {
		t.Errorf("only %d filters were compared", accepted)
	}
	t.Logf("%d filters were compared", accepted)
}

func FuzzSameAsContainerd(f *testing.F) {
	for _, text := range []string{"", "name== foo", "name ==foo", "a, b", `parent!="",labels."a"==b`, `name~=^f*`, `name~=/\\d/`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { compare(t, text) })
}
