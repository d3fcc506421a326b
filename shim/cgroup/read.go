package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The files of a controller that the cgroup does not have read as empty: what is not counted is 0.

func content(dir, file string) string {
	if dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return string(data)
}

// number reads a file of one number. "max" is the largest number, as in version 1.
func number(dir, file string) uint64 { return parseNumber(strings.TrimSpace(content(dir, file))) }

func parseNumber(text string) uint64 {
	if text == "max" {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// pairs reads a file of lines of a name and a number.
func pairs(dir, file string) map[string]uint64 {
	found := map[string]uint64{}
	for line := range strings.Lines(content(dir, file)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			found[fields[0]] = parseNumber(fields[1])
		}
	}
	return found
}

// device splits "major:minor".
func device(text string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(text, ":")
	if !ok {
		return 0, 0, false
	}
	return parseNumber(a), parseNumber(b), true
}
