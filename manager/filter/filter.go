// Package filter selects objects as docker's --filter does. All kinds of objects are filtered here, so that a key means
// the same for each of them.
package filter

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Condition tells whether an object fits one value of a filter.
type Condition[T any] func(object T) bool

// Key makes a condition of a value. An error says what is wrong with the value.
type Key[T any] func(value string) (Condition[T], error)

// Parse makes one condition of all filters. Different keys must all fit. Of one key's values one must fit, but for
// label and label! all must: a query for two labels is for the objects that have both. A key without values fits
// everything. The objects' kind, in the plural, is for the error about an unknown key.
func Parse[T any](kind string, filters []*berthv1.Filter, keys map[string]Key[T]) (Condition[T], error) {
	var all []Condition[T]
	for _, filter := range filters {
		key := keys[filter.GetKey()]
		if key == nil {
			known := strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
			return nil, invalid("unknown filter %q for %s: want one of %s", filter.GetKey(), kind, known)
		}
		var conditions []Condition[T]
		for _, value := range filter.GetValues() {
			condition, err := key(value)
			if err != nil {
				return nil, fmt.Errorf("invalid filter %s=%q: %w", filter.GetKey(), value, err)
			}
			conditions = append(conditions, condition)
		}
		switch filter.GetKey() {
		case "label", "label!":
			all = append(all, conditions...)
		default:
			if len(conditions) > 0 {
				all = append(all, anyOf(conditions))
			}
		}
	}
	return func(object T) bool {
		return !slices.ContainsFunc(all, func(fits Condition[T]) bool { return !fits(object) })
	}, nil
}

func anyOf[T any](conditions []Condition[T]) Condition[T] {
	return func(object T) bool {
		return slices.ContainsFunc(conditions, func(fits Condition[T]) bool { return fits(object) })
	}
}

func invalid(format string, args ...any) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

// Label is NAME, which fits a label with any value, or NAME=VALUE.
func Label[T any](labels func(T) map[string]string) Key[T] {
	return func(value string) (Condition[T], error) {
		name, want, has := strings.Cut(value, "=")
		return func(object T) bool {
			got, there := labels(object)[name]
			return there && (!has || got == want)
		}, nil
	}
}

// NoLabel fits what Label does not.
func NoLabel[T any](labels func(T) map[string]string) Key[T] {
	return func(value string) (Condition[T], error) {
		has, err := Label(labels)(value)
		return func(object T) bool { return !has(object) }, err
	}
}

// Until is a time, or an age: it fits what was created before.
func Until[T any](created func(T) time.Time) Key[T] {
	return func(value string) (Condition[T], error) {
		limit, err := parseTime(value, time.Now())
		return func(object T) bool { return created(object).Before(limit) }, err
	}
}

func parseTime(value string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(value); err == nil {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, value, time.Local); err == nil {
			return at, nil
		}
	}
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return time.UnixMicro(int64(seconds * 1e6)), nil
	}
	return time.Time{}, invalid("want a duration as 24h, or a time as 2006-01-02T15:04:05Z")
}

// Matches is a regular expression that is found anywhere in one of the names. Docker's names of containers begin with a
// slash, which a pattern may have or not.
func Matches[T any](names func(T) []string) Key[T] {
	return func(value string) (Condition[T], error) {
		pattern, err := regexp.Compile(value)
		if err != nil {
			return nil, invalid("%v", err)
		}
		return func(object T) bool { return slices.ContainsFunc(names(object), pattern.MatchString) }, nil
	}
}

// Prefix is the beginning of an ID.
func Prefix[T any](id func(T) string) Key[T] {
	return func(value string) (Condition[T], error) {
		return func(object T) bool { return strings.HasPrefix(id(object), value) }, nil
	}
}

// Equals is one of the words that want names, or with none any word.
func Equals[T any](word func(T) string, want ...string) Key[T] {
	return func(value string) (Condition[T], error) {
		if len(want) > 0 && !slices.Contains(want, value) {
			return nil, invalid("want %s", strings.Join(want, " or "))
		}
		return func(object T) bool { return word(object) == value }, nil
	}
}

// Bool is true or false, also as 1 or 0.
func Bool[T any](property func(T) bool) Key[T] {
	return func(value string) (Condition[T], error) {
		want, err := strconv.ParseBool(value)
		if err != nil {
			return nil, invalid("want true or false")
		}
		return func(object T) bool { return property(object) == want }, nil
	}
}
