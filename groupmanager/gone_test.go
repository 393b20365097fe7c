package groupmanager

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kpush/kpush/webhooks"
	"github.com/kpush/kpush/webhooks/delivery"
)

func entryOf(id string, revision int64, state webhooks.State) webhooks.Entry {
	w := webhooks.Default()
	w.ID, w.Tenant, w.State = id, webhooks.DefaultTenant, state
	return webhooks.Entry{Webhook: w, Revision: revision}
}

func TestGoneStopsAGroupAsItStandsNow(t *testing.T) {
	for _, test := range []struct {
		claim  string
		happen func(*group)
		paused bool
		untold bool
	}{
		{"a 410 pauses it and is to be told", func(g *group) { g.departed(delivery.Gone, 5) }, true, true},
		{"a 410 of before it was changed does neither", func(g *group) { g.departed(delivery.Gone, 4) }, false, false},
		{"what is told is not told again", func(g *group) { g.departed(delivery.Gone, 5); g.told(5) }, true, false},
		{"what was told of before does not count", func(g *group) { g.departed(delivery.Gone, 5); g.told(4) }, true, true},
		{"a change that leaves it active lets it go on", func(g *group) {
			g.departed(delivery.Gone, 5)
			g.update(entryOf("w", 6, webhooks.Active))
		}, false, false},
		{"the change that the leader makes of it leaves it paused", func(g *group) {
			g.departed(delivery.Gone, 5)
			g.told(5)
			g.update(entryOf("w", 6, webhooks.Disabled))
		}, true, false},
		{"after that and a resumption a 410 counts like the first", func(g *group) {
			g.departed(delivery.Gone, 5)
			g.told(5)
			g.update(entryOf("w", 6, webhooks.Disabled))
			g.update(entryOf("w", 7, webhooks.Active))
			g.departed(delivery.Gone, g.revision.Load())
		}, true, true},
		{"that it is ourselves pauses it and is to be told, too", func(g *group) { g.departed(delivery.Looped, 5) }, true, true},
		{"unless it was changed", func(g *group) { g.departed(delivery.Looped, 4) }, false, false},
		{"one that is stopped tells nothing", func(g *group) { g.departed(delivery.Gone, 5); g.stop() }, true, false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			m := &Manager{goneWake: make(chan struct{}, 1)}
			g := newGroup(&shared{logger: slog.New(slog.DiscardHandler), gone: m.noteGone}, entryOf("w", 5, webhooks.Active))
			test.happen(g)
			if _, untold := g.untold(); g.paused.Load() != test.paused || untold != test.untold {
				t.Errorf("paused %v, to be told %v; want %v, %v", g.paused.Load(), untold, test.paused, test.untold)
			}
		})
	}
}

// What the leader is asked to do tells a receiver that has gone from one that is this
// installation; a change in between ends the one and the other.
func TestTheLeaderIsToldWhichOfTheTwoItIs(t *testing.T) {
	g := newGroup(&shared{logger: slog.New(slog.DiscardHandler), gone: func() {}}, entryOf("w", 5, webhooks.Active))
	for revision, v := range map[int64]delivery.Verdict{6: delivery.Looped, 7: delivery.Gone} {
		g.update(entryOf("w", revision, webhooks.Active))
		g.departed(v, revision)
		want := disableRequest{quiesceRequest{webhookTarget{webhooks.DefaultTenant, "w"}, revision}, v == delivery.Looped}
		if in, ok := g.untold(); !ok || in != want {
			t.Errorf("the leader is asked for %+v (%v), want %+v", in, ok, want)
		}
	}
}

// All webhooks of one receiver answer 410 in the same moment, more than a queue of any
// size, and the leader cannot disable one of them: the others do not wait for it, and
// none is forgotten.
func TestEveryReceiverThatHasGoneIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, healed = 200, 10 * time.Minute
		n := newNetwork("b", "a", "b")
		var mu sync.Mutex
		disabled := map[string]time.Duration{}
		start := time.Now()
		register(n.seats["b"], operationDisable, func(ctx context.Context, in disableRequest) (change, error) {
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if since := time.Since(start); in.ID != "w-0" || since >= healed {
				disabled[in.ID] = since
				return change{Revision: in.Revision + 1}, nil
			}
			return change{}, webhooks.ErrUnavailable
		})
		m := &Manager{peers: n.seats["a"], groups: map[webhookKey]*group{}, goneWake: make(chan struct{}, 1)}
		m.shared = &shared{logger: slog.New(slog.DiscardHandler), gone: m.noteGone}
		for i := range many {
			e := entryOf(fmt.Sprint("w-", i), 5, webhooks.Active)
			m.groups[keyOf(e.Webhook)] = newGroup(m.shared, e)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.disableGone(ctx) })
		defer running.Wait()
		defer cancel()
		synctest.Wait()
		for _, g := range m.groups {
			g.departed(delivery.Gone, 5)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		if len(disabled) != many-1 {
			t.Errorf("%d webhooks disabled after a minute, want all but one of %d", len(disabled), many)
		}
		mu.Unlock()
		time.Sleep(healed)
		mu.Lock()
		defer mu.Unlock()
		if took := disabled["w-0"]; took < healed || took > healed+2*goneRetry {
			t.Errorf("the one that could not be told was disabled after %v, want soon after %v", took, healed)
		}
	})
}
