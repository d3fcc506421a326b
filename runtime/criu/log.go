package criu

import (
	"bufio"
	"os"
	"strings"
)

// Complaints returns the first errors that criu has written to its log: the others mostly follow from them.
func Complaints(file string) []string {
	const enough = 3
	log, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = log.Close() }()
	var found []string
	lines := bufio.NewScanner(log)
	for lines.Scan() && len(found) < enough {
		if strings.Contains(lines.Text(), errorMark) {
			found = append(found, complaint(lines.Text()))
		}
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
