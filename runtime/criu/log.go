package criu

import (
	"bufio"
	"os"
	"strings"
)

// Complaints returns the first errors that criu has written to its log: the others mostly follow from them, as that all
// of it has failed.
func Complaints(file string) []string {
	const enough = 3
	log, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = log.Close() }()
	var found, results []string
	lines := bufio.NewScanner(log)
	for lines.Scan() && len(found) < enough {
		if strings.Contains(lines.Text(), errorMark) {
			what := complaint(lines.Text())
			if strings.HasSuffix(what, "FAILED.") {
				results = append(results, what)
				continue
			}
			found = append(found, what)
		}
	}
	if found == nil {
		return results
	}
	return found
}

const errorMark = "Error ("

// complaint is what a line says behind the place in criu's source: "(00.012345) 12: Error (criu/mount.c:123): what".
func complaint(line string) string {
	if _, behind, ok := strings.Cut(line, errorMark); ok {
		if _, what, ok := strings.Cut(behind, "): "); ok {
			line = what
		}
	}
	return strings.TrimSpace(line)
}
