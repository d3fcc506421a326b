package server

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// quiet is how long no request must have come before memory is given back: a container that lives shorter than that
// never pays for it.
const quiet = 2 * time.Second

// A trimmer gives memory back to the system when requests have ceased. Between them a shim needs next to nothing, and
// may have nothing to do for months, so that the collector's own pace is never reached.
type trimmer struct {
	mu    sync.Mutex
	timer *time.Timer
}

// touch is called with each request.
func (t *trimmer) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		t.timer = time.AfterFunc(quiet, trim)
		return
	}
	t.timer.Reset(quiet)
}

// worthwhile is the size of the heap that a container needs which was only created and started. A collection costs
// half a megabyte of the collector's own: below this size it would take more memory than it gives.
const worthwhile = 1 << 20

func trim() {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	if stats.HeapAlloc > worthwhile {
		debug.FreeOSMemory()
	}
}
