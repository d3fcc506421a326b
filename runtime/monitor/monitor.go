// Package monitor makes the thread with which Go watches over the others rest.
package monitor

import "golang.org/x/sys/unix"

// slack is by how many nanoseconds the monitor may oversleep.
const slack = "10000000"

// Quiet lets the monitor sleep for milliseconds. By default it wakes up every
// 20 microseconds at first, to find goroutines that have blocked or should be preempted. Here one goroutine does the work
// of a start, and those hundred wake-ups took a tenth of the processor's time for it. Only that thread's timer slack is
// raised: the others sleep for microseconds when they wait for each other.
func Quiet() {
	id, ok := thread()
	if !ok {
		return // it only saves time
	}
	fd, err := unix.Open("/proc/"+id+"/timerslack_ns", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Write(fd, []byte(slack)) // takes CAP_SYS_NICE
	_ = unix.Close(fd)
}

// thread returns the thread that Go's runtime starts first: threads are listed in the order of their births.
func thread() (id string, ok bool) {
	fd, err := unix.Open("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer func() { _ = unix.Close(fd) }()
	var entries [512]byte
	n, err := unix.ReadDirent(fd, entries[:])
	if err != nil {
		return "", false
	}
	_, _, ids := unix.ParseDirent(entries[:n], 2, nil)
	if len(ids) < 2 {
		return "", false
	}
	return ids[1], true
}
