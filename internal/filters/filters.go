// Package filters implements containerd's filter language, by which lists of blobs, leases and snapshots are narrowed.
//
// A filter is a comma-separated list of conditions that must all hold; of several filters one must match:
//
//	filter    = "" | condition { "," condition }      the empty one matches everything
//	condition = [ "!" ] field [ operator value ]      without an operator: the field is there
//	field     = name { "." name }                     a name that is no identifier is quoted: labels."io.x/y"
//	operator  = "==" | "!=" | "~="                    the last matches a regular expression, anywhere in the field
//	value     = word | quoted                         quoted as a Go string, or for ~= also between / or | characters
//
// Blanks may stand before a name, an operator and a value, and end a word. A field that is not there has the empty value
// for != and ~=, and equals nothing.
//
// What containerd accepts means the same here, except a regular expression that is none: containerd matches nothing, and
// it is refused here. test/filters compares the two. Beyond containerd there are "!", the characters - and / in names, and
// between / or | the escapes of regular expressions that Go strings don't have, such as \d.
package filters

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
)

// Object is what a filter looks at.
type Object interface {
	// Field returns the value at a path and whether it is there. The path has at least one name.
	Field(path []string) (value string, present bool)
}

// Label looks up what a filter wrote behind "labels.": a key may have dots, which need no quotes. Without a key,
// having any label is what counts.
func Label(labels map[string]string, path []string) (value string, present bool) {
	if len(path) == 0 {
		return "", len(labels) > 0
	}
	value, present = labels[strings.Join(path, ".")]
	return value, present
}

// Parse returns a function that says whether an object matches any of the filters. Without filters everything matches.
func Parse(filters []string) (func(Object) bool, error) {
	if len(filters) == 0 {
		return func(Object) bool { return true }, nil
	}
	var any []all
	for _, text := range filters {
		conditions, err := parse(text)
		if err != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot parse filter %q: %w", text, err))
		}
		any = append(any, conditions)
	}
	return func(o Object) bool {
		for _, conditions := range any {
			if conditions.match(o) {
				return true
			}
		}
		return false
	}, nil
}

type all []condition

func (a all) match(o Object) bool {
	for _, c := range a {
		if !c.match(o) {
			return false
		}
	}
	return true
}

type condition struct {
	path    []string
	absent  bool // "!field"
	compare func(value string, present bool) bool
}

func (c condition) match(o Object) bool {
	value, present := o.Field(c.path)
	if !present {
		value = ""
	}
	if c.compare != nil {
		return c.compare(value, present)
	}
	return present != c.absent
}

// comparison returns what an operator does. The value of a field that is not there is empty.
func comparison(operator, operand string) (func(string, bool) bool, error) {
	switch operator {
	case "==":
		return func(value string, present bool) bool { return present && value == operand }, nil
	case "!=":
		return func(value string, _ bool) bool { return value != operand }, nil
	}
	expression, err := regexp.Compile(operand)
	if err != nil {
		return nil, err
	}
	return func(value string, _ bool) bool { return expression.MatchString(value) }, nil
}
