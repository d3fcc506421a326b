// Package nofile remembers how many files the runtime's caller may have open. Package syscall raises its process's soft
// limit when the program starts, puts it back for processes that it starts itself, and tells nobody what it was: a
// container would get the raised limit.
//
// Packages are initialized when all that they import are, in the order of their paths. This one imports nothing, and
// "github.com" comes before "syscall".
package nofile

import "unsafe"

//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(number, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

// Limit is struct rlimit64.
type Limit struct{ Soft, Hard uint64 }

// resource is RLIMIT_NOFILE.
const resource = 7

var original = current()

func current() Limit {
	var limit Limit
	_, _, errno := rawSyscall6(prlimit64, 0, resource, 0, uintptr(unsafe.Pointer(&limit)), 0, 0)
	if errno != 0 {
		return Limit{}
	}
	return limit
}

// Raised returns the caller's limit, if it is not the process's limit any more.
func Raised() (limit Limit, raised bool) {
	const tellsOfGo = 1 // package syscall takes the hard limit less this
	return original, original.Soft+tellsOfGo < original.Hard
}
