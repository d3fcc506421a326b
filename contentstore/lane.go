package contentstore

import "sync"

// lane does one kind of work on the chunks of an ingest, in their order, beside whoever receives them and beside other
// lanes. Hashing a chunk, writing it and receiving the next one so take the time of the slowest, not the sum.
type lane struct {
	chunks  chan []byte
	pending sync.WaitGroup
	done    chan struct{}

	mu  sync.Mutex
	err error // the first failure: nothing is worked on after it
}

// laneDepth bounds the chunks in flight, and so the memory of an ingest.
const laneDepth = 2

func newLane(work func([]byte) error) *lane {
	l := &lane{chunks: make(chan []byte, laneDepth), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for chunk := range l.chunks {
			if l.failure() == nil {
				if err := work(chunk); err != nil {
					l.mu.Lock()
					l.err = err
					l.mu.Unlock()
				}
			}
			l.pending.Done()
		}
	}()
	return l
}

func (l *lane) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// push hands over a chunk, which the caller may not change from then on.
func (l *lane) push(chunk []byte) error {
	if err := l.failure(); err != nil {
		return err
	}
	l.pending.Add(1)
	l.chunks <- chunk
	return nil
}

// flush waits until all chunks are worked on.
func (l *lane) flush() error {
	l.pending.Wait()
	return l.failure()
}

func (l *lane) stop() {
	close(l.chunks)
	<-l.done
}
