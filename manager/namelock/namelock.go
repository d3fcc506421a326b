// Package namelock has mutexes by name.
package namelock

import (
	"context"
	"sync"
)

// Locks are mutexes by name. The zero value is ready to use.
type Locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the name is let go
}

// Lock waits until nobody else has name, or ctx is done.
func (l *Locks) Lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		held := l.held[name]
		if held == nil {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			l.held[name] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, name)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
