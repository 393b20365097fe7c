package groupmanager

import (
	"context"
	"sync"
)

// keyLocks are locks by name, held over I/O: whoever waits for one gives up with
// its context. The zero value is ready. Safe for concurrent use.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the holder lets go
}

// lock waits for the lock of a name. unlock is called once.
func (l *keyLocks) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, taken := l.held[name]
		if !taken {
			if l.held == nil {
				l.held = make(map[string]chan struct{})
			}
			free := make(chan struct{})
			l.held[name] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, name)
				l.mu.Unlock()
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
