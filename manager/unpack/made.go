package unpack

import (
	"crypto/sha256"
	"path"
)

// made remembers what a layer has made, which its own whiteouts do not hide. It keeps hashes: names can be 4 KiB long.
// The value is false for directories that are only above something made.
type made map[[16]byte]bool

func nameHash(name string) (key [16]byte) {
	sum := sha256.Sum256([]byte(name))
	copy(key[:], sum[:])
	return key
}

// add remembers name with all above it, and returns how many entries that were which were not remembered before.
func (m made) add(name string) (added int64) {
	key := nameHash(name)
	if _, there := m[key]; !there {
		added++
	}
	m[key] = true
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		key := nameHash(dir)
		if _, there := m[key]; there {
			return added // and so is all above it
		}
		m[key] = false
		added++
	}
	return added
}

// find tells whether the layer has made name itself, and whether it has made that or something below it.
func (m made) find(name string) (itself, below bool) {
	itself, below = m[nameHash(name)]
	return itself, below
}
