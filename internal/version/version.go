// Package version tells which berth a binary was built from, out of the build information that the Go linker records.
package version

import (
	"runtime/debug"
	"strings"
)

// Release is the version of the next release. A build from a modified or untagged tree adds its commit to it.
const Release = "0.1.0"

// Commit returns the VCS revision of the build, with "-dirty" behind it if the tree was modified, or "unknown".
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	return revision + dirty
}

// String returns one line for --version: "0.1.0, commit 0123456789ab".
func String() string {
	commit := Commit()
	hash, suffix, _ := strings.Cut(commit, "-")
	if len(hash) > 12 {
		hash = hash[:12]
	}
	if suffix != "" {
		hash += "-" + suffix
	}
	return Release + ", commit " + hash
}
