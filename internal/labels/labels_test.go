package labels

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

func TestCheck(t *testing.T) {
	for _, labels := range []map[string]string{
		nil,
		{"key": ""},
		{"key": strings.Repeat("v", MaxSize-3), "other": strings.Repeat("v", MaxSize-5)},
	} {
		if err := Check(labels); err != nil {
			t.Errorf("%d labels: %v", len(labels), err)
		}
	}
	many := map[string]string{}
	for i := range MaxTotal/MaxSize + 1 {
		many[strings.Repeat("k", i+1)] = strings.Repeat("v", MaxSize-i-1)
	}
	if err := Check(many); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%d large labels: %v", len(many), err)
	}
	long := strings.Repeat("k", 100)
	for want, labels := range map[string]map[string]string{
		`a label (value "v") has no key`:                                          {"": "v"},
		`label "key" is too large: key and value have 4097 bytes together`:        {"key": strings.Repeat("v", MaxSize-2)},
		`label "` + long[:64] + `…" is too large: key and value have 4100 bytes `: {long: strings.Repeat("v", MaxSize-96)},
	} {
		if err := Check(labels); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an invalid argument: %s", err, want)
		}
	}
}

func TestUpdate(t *testing.T) {
	current := map[string]string{"a": "1", "b": "2"}
	for _, test := range []struct {
		what   string
		wanted map[string]string
		mask   []string
		want   map[string]string
	}{
		{"no mask replaces all", map[string]string{"c": "3"}, nil, map[string]string{"c": "3"}},
		{"no mask, nothing wanted", nil, nil, map[string]string{}},
		{"labels replaces all", map[string]string{"c": "3"}, []string{"labels"}, map[string]string{"c": "3"}},
		{"an empty value is no label", map[string]string{"c": ""}, nil, map[string]string{}},
		{"one label", map[string]string{"a": "9", "b": "ignored"}, []string{"labels.a"}, map[string]string{"a": "9", "b": "2"}},
		{"a new label", map[string]string{"c": "3"}, []string{"labels.c"}, map[string]string{"a": "1", "b": "2", "c": "3"}},
		{"a key with dots", map[string]string{"x.y": "3"}, []string{"labels.x.y"}, map[string]string{"a": "1", "b": "2", "x.y": "3"}},
		{"an empty value removes", map[string]string{"a": ""}, []string{"labels.a"}, map[string]string{"b": "2"}},
		{"an absent value removes", nil, []string{"labels.a", "labels.x"}, map[string]string{"b": "2"}},
	} {
		got, err := Update(current, test.wanted, test.mask)
		if err != nil || !maps.Equal(got, test.want) {
			t.Errorf("%s: got %v, %v, want %v", test.what, got, err, test.want)
		}
	}
	if got, err := Update(nil, map[string]string{"a": "1"}, []string{"labels.a"}); err != nil || got["a"] != "1" {
		t.Errorf("without labels before: %v, %v", got, err)
	}
	if want := map[string]string{"a": "1", "b": "2"}; !maps.Equal(current, want) {
		t.Errorf("the labels before were changed to %v", current)
	}
}

func TestUpdateRefuses(t *testing.T) {
	for _, test := range []struct {
		wanted map[string]string
		mask   []string
		want   string
	}{
		{map[string]string{"a": "1"}, []string{"labels.a", "size"}, `cannot change field "size": only labels can be changed`},
		{map[string]string{"a": "1"}, []string{"labelsa"}, `cannot change field "labelsa"`},
		{map[string]string{"a": strings.Repeat("v", MaxSize)}, nil, `label "a" is too large`},
		{map[string]string{"": "v"}, []string{"labels."}, "has no key"},
	} {
		if _, err := Update(nil, test.wanted, test.mask); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v %v: got %v, want an invalid argument: %s", test.wanted, test.mask, err, test.want)
		}
	}
}
