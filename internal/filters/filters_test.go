package filters

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

// blob is what the filters of these tests look at.
type blob struct {
	digest string
	labels map[string]string
}

func (b blob) Field(path []string) (string, bool) {
	switch {
	case path[0] == "digest" && len(path) == 1:
		return b.digest, true
	case path[0] == "labels":
		return Label(b.labels, path[1:])
	}
	return "", false
}

// blobs have names that say what is special about them.
func blobs() map[string]blob {
	return map[string]blob{
		"bare":   {digest: "sha256:00"},
		"layer":  {digest: "sha256:11", labels: map[string]string{"kind": "layer", "io.x/size": "10"}},
		"config": {digest: "sha512:22", labels: map[string]string{"kind": "config", "note": `a,b"c/d`}},
		"empty":  {digest: "sha256:33", labels: map[string]string{"kind": ""}},
	}
}

func TestFilters(t *testing.T) {
	for _, test := range []struct {
		filters []string
		want    string // names in order
	}{
		{nil, "bare config empty layer"},
		{[]string{"digest==sha256:11"}, "layer"},
		{[]string{"digest!=sha256:11"}, "bare config empty"},
		{[]string{"digest"}, "bare config empty layer"},
		{[]string{"!digest"}, ""},
		{[]string{"nothing"}, ""},
		{[]string{"!nothing"}, "bare config empty layer"},
		{[]string{"nothing!=x"}, "bare config empty layer"},
		{[]string{"nothing==x"}, ""},
		{[]string{"nothing~=.*"}, "bare config empty layer"},
		{[]string{`nothing!=""`}, ""},
		{[]string{""}, "bare config empty layer"},
		{[]string{"digest == sha256:11", "digest== \tsha256:00"}, "bare layer"},
		{[]string{"labels.kind==layer, digest"}, "layer"},
		{[]string{`labels.note~=/c\/\x64$/`}, "config"},

		{[]string{"labels"}, "config empty layer"},
		{[]string{"!labels"}, "bare"},
		{[]string{"labels.kind"}, "config empty layer"},
		{[]string{"!labels.kind"}, "bare"},
		{[]string{"labels.kind==layer"}, "layer"},
		{[]string{`labels.kind=="layer"`}, "layer"},
		{[]string{`labels.kind==""`}, "empty"},
		{[]string{"labels.kind!=layer"}, "bare config empty"},
		{[]string{`labels."io.x/size"==10`}, "layer"},
		{[]string{"labels.io.x/size==10"}, "layer"},
		{[]string{`"labels"."kind"==config`}, "config"},
		{[]string{`labels.note=="a,b\"c/d"`}, "config"},
		{[]string{`labels.note=="\x61,b\"c/d"`}, "config"},

		{[]string{"digest~=sha256"}, "bare empty layer"},
		{[]string{"digest~=^256"}, ""},
		{[]string{"digest~=/:[12]/"}, "config layer"},
		{[]string{"digest~=|^sha512|"}, "config"},
		{[]string{`digest~="2{2}$"`}, "config"},
		{[]string{`labels.note~=/c\/d/`}, "config"},
		{[]string{`labels.note~=/^a\Wb/`}, "config"},
		{[]string{`labels.note~=/a,b/,digest~=512`}, "config"},

		{[]string{"labels.kind==layer,digest==sha256:11"}, "layer"},
		{[]string{"labels.kind==layer,digest==sha256:00"}, ""},
		{[]string{"labels.kind==layer", "digest==sha256:00"}, "bare layer"},
		{[]string{"labels.kind,!labels.note", "labels.kind==config"}, "config empty layer"},
	} {
		matches, err := Parse(test.filters)
		if err != nil {
			t.Errorf("%q: %v", test.filters, err)
			continue
		}
		var got []string
		for name, b := range blobs() {
			if matches(b) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %q, want %q", test.filters, got, test.want)
		}
	}
}

func TestBadFilters(t *testing.T) {
	for filter, want := range map[string]string{
		"==x":                  "at byte 0: expected the name of a field",
		"!":                    "at byte 1: expected the name of a field",
		"!==x":                 "at byte 0: expected the name of a field",
		"digest==":             "at byte 8: expected a value",
		"digest==,labels":      "at byte 8: expected a value",
		"digest=x":             "at byte 6: expected an operator, a comma or the end",
		"digest<3":             "at byte 6: expected an operator, a comma or the end",
		"digest,":              "at byte 7: expected the name of a field",
		"digest,,labels":       "at byte 7: expected the name of a field",
		"labels.":              "at byte 7: expected the name of a field",
		"labels..x":            "at byte 7: expected the name of a field",
		"!digest==x":           "at byte 7: expected a comma or the end",
		`digest=="x`:           "a quoted string does not end",
		`digest=="\q"`:         "a quoted string does not end, or has a bad escape",
		`digest=="x"y`:         "at byte 11: expected a comma or the end",
		`labels."x==y`:         "a quoted string does not end",
		"digest~=/x":           "does not end",
		`digest~=/x\/`:         "does not end",
		`digest~=/x\`:          "does not end",
		"digest~=/x/y":         "at byte 11: expected a comma or the end",
		"digest~=(":            "missing closing )",
		"digest~=/[/":          "missing closing ]",
		"digest==x,labels~=|*": "does not end",
		"dïgest==x":            "at byte 1: expected an operator, a comma or the end",
	} {
		_, err := Parse([]string{"digest", filter})
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an invalid argument: %s", filter, err, want)
		}
	}
}

// Whatever a client sends is answered, and what is parsed can be asked about any object.
func FuzzParse(f *testing.F) {
	for _, filter := range []string{`labels."a.b"==c,!d`, `digest~=/x\/y/`, "a~=|b|", `a=="\u00e4"`, "!a.b.c", "a!=b"} {
		f.Add(filter)
	}
	objects := slices.Collect(maps.Values(blobs()))
	f.Fuzz(func(t *testing.T, filter string) {
		matches, err := Parse([]string{filter})
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v is no invalid argument", filter, err)
			}
			return
		}
		for _, object := range objects {
			matches(object)
		}
	})
}
