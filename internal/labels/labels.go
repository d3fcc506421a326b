// Package labels keeps containerd's rules for the labels of blobs, leases and snapshots.
package labels

import (
	"fmt"
	"maps"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
)

// MaxSize is the most that a label's key and value may have together, in bytes.
const MaxSize = 4096

// MaxTotal is the most that all labels of one object may have together, in bytes. The object has to fit into a message of
// gRPC, of which a client takes 4 MiB by default.
const MaxTotal = 3 << 20

// Check returns an error of class ErrInvalidArgument if a label is larger than MaxSize or has no key, or if there are more
// than MaxTotal.
func Check(labels map[string]string) error {
	total := 0
	for key, value := range labels {
		if key == "" {
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("a label (value %q) has no key", shorten(value)))
		}
		if n := len(key) + len(value); n > MaxSize {
			return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(
				"label %q is too large: key and value have %d bytes together, the maximum is %d", shorten(key), n, MaxSize))
		}
		total += len(key) + len(value)
	}
	if total > MaxTotal {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("too many labels: they have %d bytes together, the maximum is %d", total, MaxTotal))
	}
	return nil
}

// Update returns what becomes of the labels current when an update with the given field mask brings the labels
// wanted. Without a mask, or with "labels" in it, wanted replaces them all; "labels.<key>" replaces one. An empty value
// removes its label. Any other field is refused, because only labels can be changed.
func Update(current, wanted map[string]string, mask []string) (map[string]string, error) {
	result := maps.Clone(current)
	if result == nil {
		result = map[string]string{}
	}
	if len(mask) == 0 {
		mask = []string{"labels"}
	}
	for _, path := range mask {
		key, single := strings.CutPrefix(path, "labels.")
		switch {
		case single:
			result[key] = wanted[key]
		case path == "labels":
			clear(result)
			maps.Copy(result, wanted)
		default:
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot change field %q: only labels can be changed", path))
		}
	}
	maps.DeleteFunc(result, func(_, value string) bool { return value == "" })
	return result, Check(result)
}

func shorten(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
