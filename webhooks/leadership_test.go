package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhoDoesNotLeadChangesNothing(t *testing.T) {
	log := newMemory()
	leader := start(t, log.open(), nil)
	create(t, leader, hook("a"))
	follower := follow(t, log.open(), nil, slog.DiscardHandler)
	if _, err := follower.Create(t.Context(), hook("b"), nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Create: %v, want ErrNotLeader", err)
	}
	if _, _, err := follower.Replace(t.Context(), hook("a"), nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Replace: %v, want ErrNotLeader", err)
	}
	if err := follower.Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Confirm: %v, want ErrNotLeader", err)
	}
	get(t, follower, "a")
	if err := leader.resign(); err != nil {
		t.Errorf("Lead ended with %v, want nil", err)
	}
	if err := leader.Delete(t.Context(), DefaultTenant, "a", AnyRevision); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Delete by one that has resigned: %v, want ErrNotLeader", err)
	}
	follower.lead()
	create(t, follower, hook("b"))
}

func TestOneThatWasFencedLeadsAgainOnWhatTheOtherHasWritten(t *testing.T) {
	log := newMemory()
	first := start(t, log.open(), nil)
	created := create(t, first, hook("a"))
	second := start(t, log.open(), nil)
	w := hook("a")
	w.MaxInFlight = 7
	if _, _, err := second.Replace(t.Context(), w, &created.Revision); err != nil {
		t.Fatalf("Replace by the second: %v", err)
	}
	if err := first.Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("Confirm by the first: %v, want ErrNotLeader", err)
	}
	if err := first.resign(); !errors.Is(err, ErrFenced) {
		t.Errorf("Lead of the first ended with %v, want ErrFenced", err)
	}
	first.lead()
	if _, _, err := first.Replace(t.Context(), hook("a"), &created.Revision); !errors.Is(err, ErrPrecondition) {
		t.Errorf("Replace of what the second has replaced: %v, want ErrPrecondition", err)
	}
}

// Its reader hangs, so that the first change is being decided and the second waits
// in line when the leadership ends.
func TestChangesThatWaitWhenTheLeadershipEndsAreNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		r := start(t, log.open(), nil)
		log.hold(true)
		answers := make(chan error, 2)
		for _, id := range []string{"a", "b"} {
			go func() {
				_, err := r.Create(t.Context(), hook(id), nil)
				answers <- err
			}()
		}
		synctest.Wait()
		begin := time.Now()
		r.resign()
		for range cap(answers) {
			if err := <-answers; !errors.Is(err, ErrNotLeader) {
				t.Errorf("Create: %v, want ErrNotLeader", err)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %v, want no time", took)
		}
		log.hold(false)
		r.stop()
		for _, record := range log.records {
			if record.key != markerKey {
				t.Errorf("%s was written", record.key)
			}
		}
	})
}

func TestAChangeThatWasWrittenWhenTheLeadershipEndsIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		r := start(t, log.open(), nil)
		create(t, r, hook("a"))
		log.hold(true)
		answered := make(chan error, 1)
		go func() {
			_, err := r.Create(t.Context(), hook("b"), nil)
			answered <- err
		}()
		synctest.Wait()
		r.resign()
		log.hold(false)
		if err := <-answered; err != nil {
			t.Errorf("Create: %v, want nil", err)
		}
		get(t, r, "b")
		r.stop()
	})
}

func TestARegistryIsLedOnceItHasBeenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		r := NewRegistry(log.open(), ring(t, testKey(1)), slog.New(slog.DiscardHandler))
		// Each has a context of its own: a leadership whose reading ends first fails.
		leading, resign := context.WithCancel(t.Context())
		reading, halt := context.WithCancel(t.Context())
		led, read := make(chan error, 1), make(chan error, 1)
		go func() { led <- r.Lead(leading) }()
		synctest.Wait()
		if log.epoch != 0 {
			t.Error("it took the log over before it had read it")
		}
		go func() { read <- r.Run(reading) }()
		synctest.Wait()
		if err := r.Confirm(t.Context()); err != nil {
			t.Errorf("Confirm: %v", err)
		}
		if err := r.Lead(leading); err == nil {
			t.Error("a second Lead at the same time ended with nil")
		}
		resign()
		if err := <-led; err != nil {
			t.Errorf("Lead ended with %v, want nil", err)
		}
		halt()
		if err := <-read; err != nil {
			t.Errorf("Run ended with %v, want nil", err)
		}
	})
}

func TestALeadershipEndsWithTheReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newMemory().open(), nil)
		create(t, r, hook("a"))
		r.halt()
		synctest.Wait()
		if err := r.resign(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Lead ended with %v, want ErrUnavailable", err)
		}
		if err := r.Lead(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Lead again: %v, want ErrUnavailable", err)
		}
	})
}

func TestAwaitReturnsOnceTheRevisionHasBeenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		leader := start(t, log.open(), nil)
		follower := follow(t, log.open(), nil, slog.DiscardHandler)
		created := create(t, leader, hook("a"))
		if err := follower.Await(t.Context(), created.Revision); err != nil {
			t.Errorf("Await: %v", err)
		}
		get(t, follower, "a")

		next := created.Revision + 1
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := follower.Await(ctx, next); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Await of what is still to come: %v, want the context's error", err)
		}
		awaited := make(chan error, 1)
		go func() { awaited <- follower.Await(t.Context(), next) }()
		synctest.Wait()
		follower.stop()
		if err := <-awaited; !errors.Is(err, ErrUnavailable) {
			t.Errorf("Await when it is not read any more: %v, want ErrUnavailable", err)
		}
		if err := follower.Await(t.Context(), created.Revision); err != nil {
			t.Errorf("Await of what has been read: %v", err)
		}
		leader.stop()
	})
}

func TestX8_ChangesAtManyProcessesAreMadeOneAfterTheOther(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &contest{t: t, log: newMemory(), random: rand.New(rand.NewPCG(seed, 0))}
				c.log.delay = func() time.Duration {
					if c.below(10) == 0 {
						return c.upTo(time.Second)
					}
					return c.upTo(10 * time.Millisecond)
				}
				c.run()
				c.check()
			})
		})
	}
}

// contest is a history of changes that clients ask of several processes, each of
// which leads now and then, whatever the others do: at times several believe that
// they lead, and at times none does.
type contest struct {
	t         *testing.T
	log       *memory
	processes []*process

	mu     sync.Mutex
	random *rand.Rand
	played []attempt
}

// attempt is one change that a client has asked for.
type attempt struct {
	kind       string // create, replace, same or delete
	id         string
	tag        string // description of the webhook it would write
	ifMatch    int64  // revision; 0 for none
	begin, end time.Time
	entry      Entry // the answer
	err        error
}

const (
	contestClients  = 4
	contestAttempts = 40 // of each client
)

func (c *contest) upTo(most time.Duration) time.Duration { return time.Duration(c.below(int(most))) }

func (c *contest) below(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *contest) run() {
	for range 3 {
		c.processes = append(c.processes, follow(c.t, c.log.open(), nil, slog.DiscardHandler))
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	var leaders, clients sync.WaitGroup
	for _, p := range c.processes {
		leaders.Go(func() { c.leadNowAndThen(ctx, p) })
	}
	for client := range contestClients {
		clients.Go(func() {
			for n := range contestAttempts {
				time.Sleep(c.upTo(50 * time.Millisecond))
				if c.below(8) == 0 {
					c.log.decree([]fate{notWritten, replyLost}[c.below(2)])
				}
				c.attempt(fmt.Sprintf("%d.%d", client, n))
			}
		})
	}
	clients.Wait()
	cancel()
	leaders.Wait()
	for _, p := range c.processes {
		p.stop()
	}
}

func (c *contest) leadNowAndThen(ctx context.Context, p *process) {
	for ctx.Err() == nil {
		time.Sleep(c.upTo(100 * time.Millisecond))
		term, end := context.WithTimeout(ctx, c.upTo(time.Second))
		if err := p.Lead(term); err != nil && !errors.Is(err, ErrFenced) {
			c.t.Errorf("Lead: %v", err)
		}
		end()
	}
}

// attempt makes a random change, with what some process has read, at the first
// process that leads, or believes so.
func (c *contest) attempt(tag string) {
	a := attempt{id: []string{"a", "b"}[c.below(2)], tag: tag, kind: []string{"create", "replace", "delete"}[c.below(3)]}
	seen, err := c.processes[c.below(len(c.processes))].Get(DefaultTenant, a.id)
	if err == nil && c.below(4) > 0 {
		a.ifMatch = seen.Revision
		a.kind = []string{"replace", "same"}[c.below(2)]
	}
	for tries := 0; tries == 0 || tries < 10 && errors.Is(a.err, ErrNotLeader); tries++ {
		a.begin = time.Now()
		c.play(&a, c.processes[c.below(len(c.processes))], seen.Webhook)
		a.end = time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.played = append(c.played, a)
}

func (c *contest) play(a *attempt, p *process, seen Webhook) {
	w := hook(a.id)
	w.Description = a.tag
	var ifMatch *int64
	if a.ifMatch != 0 {
		ifMatch = &a.ifMatch
	}
	var changed bool
	switch a.kind {
	case "create":
		a.entry, a.err = p.Create(c.t.Context(), w, nil)
	case "replace":
		a.entry, _, a.err = p.Replace(c.t.Context(), w, ifMatch)
	case "same":
		if a.entry, changed, a.err = p.Replace(c.t.Context(), seen, ifMatch); changed {
			c.t.Errorf("attempt %s: the same at the same revision was a change", a.tag)
		}
	case "delete":
		a.err = p.Delete(c.t.Context(), DefaultTenant, a.id, AnyRevision)
	}
}

// standing is what one id was, from one record to the next.
type standing struct {
	exists      bool
	revision    int64
	tag         string
	secret      []byte
	since, till time.Time
}

// check holds the log and the answers against each other.
func (c *contest) check() {
	byTag := map[string]attempt{}
	for _, a := range c.played {
		byTag[a.tag] = a
	}
	histories := map[string][]standing{}
	for _, id := range []string{"a", "b"} {
		histories[id] = c.history(id, byTag)
	}
	made := 0
	for _, a := range c.played {
		if a.err == nil && (a.kind == "create" || a.kind == "replace") {
			made++
		}
		c.checkAnswer(a, histories[a.id])
	}
	if made == 0 {
		c.t.Error("not one change was made")
	}
}

// history is what an id was over time. Each record has to be right after the one before.
func (c *contest) history(id string, byTag map[string]attempt) []standing {
	history := []standing{{}}
	written := map[string]bool{}
	for _, r := range c.log.records {
		if r.key != key(DefaultTenant, id) {
			continue
		}
		before := &history[len(history)-1]
		before.till = r.at
		now := standing{since: r.at, revision: r.offset}
		if r.value != nil {
			e, err := decodeEntry(r.key, r.value, r.offset, c.processes[0].keys)
			if err != nil {
				c.t.Fatal(err)
			}
			now.exists, now.tag, now.secret = true, e.Webhook.Description, e.Secret
		}
		a := byTag[now.tag]
		switch {
		case now.exists && written[a.tag]:
			c.t.Errorf("attempt %s wrote %d, and another before", a.tag, r.offset)
		case !now.exists && !before.exists:
			c.t.Errorf("%s was deleted at %d and was not there", id, r.offset)
		case now.exists && errors.Is(a.err, ErrNotLeader):
			c.t.Errorf("attempt %s wrote %d and was answered %v", a.tag, r.offset, a.err)
		case now.exists && a.kind == "create" && before.exists:
			c.t.Errorf("attempt %s wrote %d: created over %d", a.tag, r.offset, before.revision)
		case now.exists && a.kind == "replace" && (!before.exists || !slices.Equal(before.secret, now.secret)):
			c.t.Errorf("attempt %s wrote %d: replaced what was not there any more", a.tag, r.offset)
		case now.exists && a.ifMatch != 0 && a.kind == "replace" && a.ifMatch != before.revision:
			c.t.Errorf("attempt %s wrote %d: replaced %d, asked for %d", a.tag, r.offset, before.revision, a.ifMatch)
		}
		written[now.tag] = true
		history = append(history, now)
	}
	history[len(history)-1].till = time.Now()
	return history
}

// checkAnswer tries whether an answer was true at some time while its caller waited.
func (c *contest) checkAnswer(a attempt, history []standing) {
	var isTrue func(s standing) bool
	switch {
	case errors.Is(a.err, ErrNotLeader), errors.Is(a.err, ErrUnavailable):
		return
	case a.err == nil && a.kind == "delete":
		isTrue = func(s standing) bool { return !s.exists && !s.since.Before(a.begin) }
	case a.err == nil:
		isTrue = func(s standing) bool {
			return s.exists && s.revision == a.entry.Revision && s.tag == a.entry.Webhook.Description && cmp.Equal(s.secret, a.entry.Secret)
		}
	case errors.Is(a.err, ErrExists):
		isTrue = func(s standing) bool { return s.exists }
	case errors.Is(a.err, ErrNotFound):
		isTrue = func(s standing) bool { return !s.exists }
	case errors.Is(a.err, ErrPrecondition):
		isTrue = func(s standing) bool { return s.exists && s.revision != a.ifMatch }
	default:
		c.t.Errorf("attempt %s to %s: %v", a.tag, a.kind, a.err)
		return
	}
	if !slices.ContainsFunc(history, func(s standing) bool {
		return !s.since.After(a.end) && !s.till.Before(a.begin) && isTrue(s)
	}) {
		c.t.Errorf("attempt %s to %s %s (if-match %d) was answered revision %d, %v, which was never so between %v and %v:\n%+v",
			a.tag, a.kind, a.id, a.ifMatch, a.entry.Revision, a.err, a.begin, a.end, history)
	}
}
