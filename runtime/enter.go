package main

import "github.com/berthd/berth/runtime/selfexe"

// enter begins what brings a process of the runtime into a container, where traced says whether a process there may trace
// it. The runtime is then executed again from a protected file, with the same arguments. So this is the only place that
// does so, and a verb must have no effect before it: it may have read regular files, and nothing else. A socket that it
// connected to would be connected to twice, and of a pipe the second execution would find the end.
func enter(traced bool, begin func() (int, error)) (int, error) {
	if traced {
		if err := selfexe.Protect(); err != nil {
			return 1, err
		}
	}
	return begin()
}
