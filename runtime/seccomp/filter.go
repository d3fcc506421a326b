// Package seccomp compiles the seccomp section of a config.json to a program for the kernel's classic BPF machine. It
// does in Go what libseccomp does in C, with the same outcome for every system call.
//
// A program looks at the architecture, then finds the system call in a binary tree over the sorted numbers, in which
// neighbours with the same outcome are one. Behind a leaf is an action, or the comparisons of arguments that lead to one:
//
//	load arch
//	arch == x86-64 ──► load nr ──► nr >= 100? ──► … ──► return ALLOW
//	arch == x86    ──► …                      └─► load argument 0 ─► … ─► return ERRNO
//	return KILL_THREAD
package seccomp

import "golang.org/x/sys/unix"

//go:generate go run ./generate

// Filter is a compiled profile, ready for the seccomp system call.
type Filter struct {
	// Program is the BPF program of struct sock_fprog.
	Program []unix.SockFilter
	// Flags are the SECCOMP_FILTER_FLAG_ bits for SECCOMP_SET_MODE_FILTER.
	Flags uint
	// Notify is true if a rule asks a listener. Then Flags has SECCOMP_FILTER_FLAG_NEW_LISTENER, the call returns the
	// listener's descriptor, and it has to be sent to the profile's listenerPath.
	Notify bool
}
