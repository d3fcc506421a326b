// Package memory keeps a shim small. It is paid for each container, most of which do nothing that a shim sees for
// months after they were started, so that the Go collector's own rules cost more than they bring: its first run takes
// half a megabyte for good, and it runs every two minutes even if nothing happens.
//
//	busy ──no request for 2 s: collect if that is worth it──► idle: no collection
//	  ▲                                                          │
//	  └───────────────────────── request ────────────────────────┘
package memory

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// busyPercent starts collections of a busy shim when its heap has that part of 4 MiB.
	busyPercent = 50
	// limit starts them whatever the state is. Passing output on makes no garbage, so an idle shim does not get there.
	limit = 16 << 20
	// quiet is how long no request must have come: a container that lives shorter never pays for a collection.
	quiet = 2 * time.Second
	// worthwhile is more heap than a container leaves that was only created and started.
	worthwhile = 1 << 20
)

// Saver decides when to collect garbage. There is one in a process.
type Saver struct {
	mu    sync.Mutex
	timer *time.Timer
	idle  bool
}

// New takes over from Go's own rules.
func New() *Saver {
	debug.SetMemoryLimit(limit)
	debug.SetGCPercent(busyPercent)
	s := &Saver{}
	s.timer = time.AfterFunc(quiet, s.rest)
	return s
}

// Busy is called with each request.
func (s *Saver) Busy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle {
		s.idle = false
		debug.SetGCPercent(busyPercent)
	}
	s.timer.Reset(quiet)
}

func (s *Saver) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	if stats.HeapAlloc > worthwhile {
		debug.FreeOSMemory()
	}
	s.idle = true
	debug.SetGCPercent(-1)
}
