package webhooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// leadership is one time in which this process leads the registry: it alone
// changes anything, one change after the other.
//
// A process that was stopped for a while may believe that it leads when another
// does. So every answer rests on an append of this leadership, which the log
// refuses once it is another's: what is written is its own proof, and an answer
// that writes nothing is proven by a marker.
type leadership struct {
	*Registry
	changes chan change   // callers → run
	over    chan struct{} // closed when no change is taken any more

	// Owned by run.
	last   int64 // offset of the last record known to be written
	unsure bool  // records may have been written of which this leadership does not know
}

// writeTimeout bounds one change from its turn to its write, and again from there
// to its read-back, so that callers behind it do not wait for a broker that is gone.
const writeTimeout = 15 * time.Second

// Lead waits until the registry has been read and then leads it: changes are made
// here until ctx ends, when Lead returns nil, or until it cannot lead any more. It
// may then be called again; one call at a time. Errors are ErrFenced, when another
// process has taken over, ErrUnavailable, when Run has returned, and whatever else
// keeps the log from being led now.
func (r *Registry) Lead(ctx context.Context) error {
	select {
	case <-r.ready:
	case <-r.done:
		return errStopped
	case <-ctx.Done():
		return nil
	}
	// Other leaders may have written until now: it begins unsure.
	l := &leadership{Registry: r, changes: make(chan change), over: make(chan struct{}), last: -1, unsure: true}
	if !r.leading.CompareAndSwap(nil, l) {
		return errors.New("the registry is led by this process already")
	}
	defer r.leading.Store(nil)

	// A change that is under way when ctx ends has as long as the log gives it.
	working, cut := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cut()
		if err := r.log.Lead(ctx); err != nil {
			return fmt.Errorf("leading the registry: %w", err)
		}
		return nil
	})
	g.Go(func() error { return l.run(ctx, working) })
	return g.Wait()
}

// run takes changes until ctx ends or the registry is not read any more.
func (l *leadership) run(ctx, working context.Context) error {
	defer close(l.over)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.done:
			return errStopped
		case c := <-l.changes:
			c.reply <- l.serve(working, c)
		}
	}
}

// serve makes one change. The leadership's context, not the caller's, bounds the
// writing: a client that hangs up must not cost the log its transaction.
func (l *leadership) serve(working context.Context, c change) outcome {
	ctx, cancel := context.WithTimeout(working, writeTimeout)
	defer cancel()
	proven, err := l.settle(ctx)
	if err != nil {
		if working.Err() != nil {
			err = ErrNotLeader // nothing of the change has been written
		}
		return outcome{err: unavailable(err)}
	}
	v, refusal := c.decide(l.lookup(c.key))
	if refusal == nil && v.write {
		return l.carryOut(ctx, c.key, v)
	}
	if !proven {
		if err := l.append(ctx, markerKey, nil); err != nil {
			return outcome{err: unavailable(err)}
		}
	}
	return outcome{entry: v.entry, deletion: v.deletion, err: refusal}
}

// carryOut writes what a change has come to.
func (l *leadership) carryOut(ctx context.Context, recordKey string, v verdict) outcome {
	v.entry = v.entry.withoutEnded(now())
	value, err := v.value(l.keys)
	if err != nil {
		return outcome{err: err}
	}
	if err := l.append(ctx, recordKey, value); err != nil {
		return outcome{err: unavailable(err)}
	}
	v.entry.Revision = l.last
	if v.deletion != nil {
		v.deletion.Revision = l.last
	}
	return outcome{entry: v.entry, deletion: v.deletion, revision: l.last, changed: true}
}

// value is what is written of a verdict; nil is a tombstone.
func (v *verdict) value(keys *Keys) ([]byte, error) {
	switch {
	case v.remove:
		return nil, nil
	case v.deletion != nil:
		return encodeDeletion(v.deletion)
	default:
		return encode(v.entry, keys)
	}
}

// settle makes sure that everything written so far has been read back, so that a
// decision is never made on what is no longer so. Where it is not known what was
// written, a marker is, which proves the leadership besides: once that is read
// back, so is all that stands before it.
func (l *leadership) settle(ctx context.Context) (proven bool, err error) {
	if l.unsure {
		if err := l.append(ctx, markerKey, nil); err != nil {
			return false, err
		}
		proven = true
	}
	return proven, l.Await(ctx, l.last)
}

func (l *leadership) append(ctx context.Context, recordKey string, value []byte) error {
	offset, err := l.log.Append(ctx, recordKey, value)
	l.unsure = err != nil
	if err != nil {
		return fmt.Errorf("writing to the registry: %w", err)
	}
	l.last = offset
	return nil
}

// unavailable makes ErrUnavailable of an error that is neither that nor ErrNotLeader.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotLeader) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
