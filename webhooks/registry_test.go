package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a registry that runs.
type process struct {
	*Registry
	log    *memoryLog
	resign func() error // ends the latest leadership, and returns what Lead did
	halt   func()       // ends the reading
	stop   func()
}

// start runs a registry over log, waits until it is ready, and lets it lead. Given
// no keys it has key 1.
func start(t testing.TB, log *memoryLog, keys *Keys) *process {
	t.Helper()
	p := follow(t, log, keys, slog.DiscardHandler)
	p.lead()
	return p
}

// follow runs a registry that does not lead.
func follow(t testing.TB, log *memoryLog, keys *Keys, h slog.Handler) *process {
	t.Helper()
	if keys == nil {
		var err error
		if keys, err = NewKeys(testKey(1)); err != nil {
			t.Fatal(err)
		}
	}
	r := NewRegistry(log, keys, slog.New(h))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-r.Ready()
	p := &process{Registry: r, log: log, resign: func() error { return nil }}
	p.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	p.stop = func() {
		p.resign()
		p.halt()
	}
	t.Cleanup(p.stop)
	return p
}

// lead returns when the process has taken the log over.
func (p *process) lead() {
	p.resign()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Lead(ctx) }()
	<-p.log.took
	p.resign = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

func hook(id string) Webhook {
	w := valid()
	w.ID, w.GroupID = id, "group-of-"+id
	return w
}

func create(t *testing.T, r *process, w Webhook) Entry {
	t.Helper()
	e, err := r.Create(t.Context(), w, nil)
	if err != nil {
		t.Fatalf("Create(%s): %v", w.ID, err)
	}
	return e
}

func get(t *testing.T, r *process, id string) Entry {
	t.Helper()
	e, err := r.Get(DefaultTenant, id)
	if err != nil {
		t.Fatalf("Get(%s): %v", id, err)
	}
	return e
}

func TestWhatWasCreatedIsThereAtOnceAndAfterARestart(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), nil)
	created := create(t, r, hook("a"))
	if len(created.Secret) != 32 || created.Webhook.State != Active || created.Webhook.CreatedAt.IsZero() {
		t.Errorf("created %+v", created)
	}
	if diff := cmp.Diff(created, get(t, r, "a")); diff != "" {
		t.Errorf("Get (-created +got):\n%s", diff)
	}
	r.stop()
	if diff := cmp.Diff(created, get(t, start(t, log.open(), nil), "a")); diff != "" {
		t.Errorf("Get after a restart (-created +got):\n%s", diff)
	}
}

func TestCreateRefuses(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	create(t, r, hook("a"))
	if _, err := r.Create(t.Context(), hook("a"), nil); !errors.Is(err, ErrExists) {
		t.Errorf("the same id: %v, want ErrExists", err)
	}
	b := hook("b")
	b.GroupID = hook("a").GroupID
	if _, err := r.Create(t.Context(), b, nil); !errors.Is(err, ErrGroupInUse) {
		t.Errorf("the same group: %v, want ErrGroupInUse", err)
	}
	b.Tenant = "another"
	if _, err := r.Create(t.Context(), b, nil); !errors.Is(err, ErrGroupInUse) {
		t.Errorf("the same group, another tenant: %v, want ErrGroupInUse", err)
	}
	b = hook("b")
	b.URL = "ftp://example.com"
	if _, err := r.Create(t.Context(), b, nil); pointers(t, err) == nil {
		t.Error("an invalid webhook was created")
	}
	if err := r.Delete(t.Context(), DefaultTenant, "a", AnyRevision); err != nil {
		t.Fatal(err)
	}
	create(t, r, hook("a")) // and its group is free again
}

func TestReplaceKeepsWhatIsNotTheOwners(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	created := create(t, r, hook("a"))
	reason := "gone"
	disabled, err := r.SetState(t.Context(), DefaultTenant, "a", Disabled, &reason)
	if err != nil {
		t.Fatal(err)
	}

	w := hook("a")
	w.URL, w.MaxInFlight = "https://elsewhere.example.com/", 7
	e, changed, err := r.Replace(t.Context(), w, &disabled.Revision)
	if err != nil || !changed {
		t.Fatalf("Replace: changed %v, %v", changed, err)
	}
	want := w.Clone()
	want.State, want.StateReason, want.CreatedAt, want.UpdatedAt = Disabled, &reason, created.Webhook.CreatedAt, e.Webhook.UpdatedAt
	if diff := cmp.Diff(Entry{Webhook: want, Secret: created.Secret, Revision: e.Revision}, e); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e.Revision <= disabled.Revision {
		t.Errorf("revision went from %d to %d", disabled.Revision, e.Revision)
	}
	if diff := cmp.Diff(e, get(t, r, "a")); diff != "" {
		t.Errorf("Get (-replaced +got):\n%s", diff)
	}
}

// A receiver's 410 is about the webhook as it was sent to: one that its owner has
// changed in the meantime, in whatever way, goes on.
func TestAStateForARevisionThatHasGoneIsRefused(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	created := create(t, r, hook("a"))
	reason := "gone"
	changed := hook("a")
	changed.URL = "https://elsewhere.example.com/"
	now, _, err := r.Replace(t.Context(), changed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetStateOf(t.Context(), DefaultTenant, "a", created.Revision, Disabled, &reason); !errors.Is(err, ErrPrecondition) {
		t.Errorf("for the revision before: %v, want ErrPrecondition", err)
	}
	if diff := cmp.Diff(now, get(t, r, "a")); diff != "" {
		t.Errorf("the webhook changed (-want +got):\n%s", diff)
	}
	e, err := r.SetStateOf(t.Context(), DefaultTenant, "a", now.Revision, Disabled, &reason)
	if err != nil || e.Webhook.State != Disabled {
		t.Errorf("for the revision that stands: %s, %v", e.Webhook.State, err)
	}
}

func TestTheSameContentAgainChangesNothing(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), nil)
	created := create(t, r, hook("a"))
	paused, err := r.SetState(t.Context(), DefaultTenant, "a", Paused, nil)
	if err != nil {
		t.Fatal(err)
	}
	if paused.Webhook.State != Paused || paused.Revision <= created.Revision {
		t.Errorf("paused: %+v", paused)
	}

	e, changed, err := r.Replace(t.Context(), hook("a"), nil)
	if err != nil || changed || !cmp.Equal(e, paused) {
		t.Errorf("Replace: changed %v, %v:\n%s", changed, err, cmp.Diff(paused, e))
	}
	e, err = r.SetState(t.Context(), DefaultTenant, "a", Paused, nil)
	if err != nil || !cmp.Equal(e, paused) {
		t.Errorf("SetState: %v:\n%s", err, cmp.Diff(paused, e))
	}
	for _, r := range log.records {
		if r.key != markerKey && r.offset > paused.Revision {
			t.Errorf("%s was written again", r.key)
		}
	}
}

func TestReplaceRefuses(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	created := create(t, r, hook("a"))
	if _, _, err := r.Replace(t.Context(), hook("b"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown id: %v, want ErrNotFound", err)
	}
	stale := created.Revision - 1
	if _, _, err := r.Replace(t.Context(), hook("a"), &stale); !errors.Is(err, ErrPrecondition) {
		t.Errorf("another revision: %v, want ErrPrecondition", err)
	}
	w := hook("a")
	w.GroupID = "another"
	_, _, err := r.Replace(t.Context(), w, nil)
	if got, want := pointers(t, err), []string{"/group_id"}; !cmp.Equal(got, want) {
		t.Errorf("another group: complaints about %q, want %q", got, want)
	}
	if diff := cmp.Diff(created, get(t, r, "a")); diff != "" {
		t.Errorf("it changed all the same (-want +got):\n%s", diff)
	}
}

func TestUnknownIDsAreNotFound(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	create(t, r, hook("a"))
	if _, err := r.Get("another", "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get for another tenant: %v, want ErrNotFound", err)
	}
	if _, err := r.SetState(t.Context(), DefaultTenant, "b", Paused, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("SetState: %v, want ErrNotFound", err)
	}
	if err := r.Delete(t.Context(), DefaultTenant, "b", AnyRevision); !errors.Is(err, ErrNotFound) {
		t.Errorf("Delete: %v, want ErrNotFound", err)
	}
	if _, err := r.SetState(t.Context(), DefaultTenant, "a", Failed, nil); err == nil {
		t.Error("failed was stored")
	}
}

func TestListIsOneTenantsInOrder(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	for _, id := range []string{"c", "a", "b-1", "b"} {
		create(t, r, hook(id))
	}
	other := hook("z")
	other.Tenant = "another"
	create(t, r, other)
	var got []string
	for _, e := range r.List(DefaultTenant) {
		got = append(got, e.Webhook.ID)
	}
	if want := []string{"a", "b", "b-1", "c"}; !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEntriesAreTheCallers(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	w := hook("a")
	w.Labels["k"] = "v"
	pinned := map[string]Pinned{"orders": {Partitions: 3}}
	created, err := r.Create(t.Context(), w, pinned)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{created, get(t, r, "a"), r.List(DefaultTenant)[0]} {
		e.Webhook.Topics[0], e.Webhook.Labels["k"], e.Secret[0] = "changed", "changed", e.Secret[0]^1
		delete(e.Pinned, "orders")
	}
	w.Labels["k"] = "changed"
	delete(pinned, "orders")
	got := get(t, r, "a")
	if got.Webhook.Topics[0] != "orders" || got.Webhook.Labels["k"] != "v" || got.Pinned["orders"].Partitions != 3 {
		t.Errorf("a caller changed what is stored: %+v", got)
	}
}

func TestBeforeItIsReadTheRegistryIsUnavailable(t *testing.T) {
	keys := ring(t, testKey(1))
	r := NewRegistry(newMemory().open(), keys, slog.New(slog.DiscardHandler))
	if _, err := r.Get(DefaultTenant, "a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Get: %v, want ErrUnavailable", err)
	}
	if _, err := r.Create(t.Context(), hook("a"), nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Create: %v, want ErrUnavailable", err)
	}
	if got := r.List(DefaultTenant); len(got) != 0 {
		t.Errorf("List: %d entries, want none", len(got))
	}
}

func TestAfterItHasStoppedTheRegistryIsUnavailableForChanges(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	create(t, r, hook("a"))
	r.stop()
	if _, err := r.Create(t.Context(), hook("b"), nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Create: %v, want ErrUnavailable", err)
	}
	get(t, r, "a")
}

func TestAFencedRegistryReadsOn(t *testing.T) {
	log := newMemory()
	first := start(t, log.open(), nil)
	create(t, first, hook("a"))
	second := start(t, log.open(), nil)
	if _, err := first.Create(t.Context(), hook("b"), nil); !errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnavailable) {
		t.Errorf("Create by the first: %v, want ErrNotLeader", err)
	}
	if err := first.Delete(t.Context(), DefaultTenant, "a", AnyRevision); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Delete by the first: %v, want ErrNotLeader", err)
	}
	if err := first.resign(); !errors.Is(err, ErrFenced) {
		t.Errorf("Lead of the first ended with %v, want ErrFenced", err)
	}
	changed, stop := first.Watch()
	defer stop()
	create(t, second, hook("b"))
	<-changed
	get(t, first, "b")
}

func TestAChangeIsAnsweredOnceItWasReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		r := start(t, log.open(), nil)
		create(t, r, hook("b"))
		log.hold(true)
		answered := make(chan error, 1)
		go func() {
			_, err := r.Create(t.Context(), hook("a"), nil)
			answered <- err
		}()
		synctest.Wait()
		select {
		case err := <-answered:
			t.Fatalf("answered before it was read back: %v", err)
		default:
		}
		log.hold(false)
		if err := <-answered; err != nil {
			t.Errorf("Create: %v", err)
		}
		r.stop()
	})
}

func TestAReaderThatHangsHoldsAChangeUpForABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemory()
		r := start(t, log.open(), nil)
		create(t, r, hook("c"))
		log.hold(true)
		begin := time.Now()
		if _, err := r.Create(t.Context(), hook("a"), nil); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Create: %v, want ErrUnavailable", err)
		}
		if took := time.Since(begin); took != writeTimeout {
			t.Errorf("it took %v, want %v", took, writeTimeout)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if _, err := r.Create(ctx, hook("b"), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Create: %v, want the caller's deadline", err)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("it took %v, want a second", took)
		}
		log.hold(false)
		r.stop()
	})
}

// A change whose reply was lost has been made. Were the next one decided on what
// had been read until then, one group would get two webhooks.
func TestAChangeOfUnknownFateIsKnownBeforeTheNext(t *testing.T) {
	log := newMemory()
	r := start(t, log.open(), nil)
	create(t, r, hook("c"))
	log.decree(replyLost)
	log.hold(true)
	if _, err := r.Create(t.Context(), hook("a"), nil); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Create with its reply lost: %v, want ErrUnavailable", err)
	}
	b := hook("b")
	b.GroupID = hook("a").GroupID
	answered := make(chan error, 1)
	go func() {
		_, err := r.Create(t.Context(), b, nil)
		answered <- err
	}()
	log.hold(false)
	if err := <-answered; !errors.Is(err, ErrGroupInUse) {
		t.Errorf("Create of another webhook with its group: %v, want ErrGroupInUse", err)
	}
	get(t, r, "a")
}

func TestWatchTellsOfChangesManyAsOne(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	changed, stop := r.Watch()
	for _, id := range []string{"a", "b", "c"} {
		create(t, r, hook(id))
	}
	<-changed
	select {
	case <-changed:
		t.Error("told twice of changes that nobody had waited for")
	default:
	}
	if err := r.Delete(t.Context(), DefaultTenant, "a", AnyRevision); err != nil {
		t.Fatal(err)
	}
	<-changed
	stop()
	stop()
	create(t, r, hook("d"))
	select {
	case <-changed:
		t.Error("told after the watch had ended")
	default:
	}
}

func TestWatchTellsWhenTheRegistryIsReady(t *testing.T) {
	log := newMemory()
	r := NewRegistry(log.open(), ring(t, testKey(1)), slog.New(slog.DiscardHandler))
	changed, stop := r.Watch()
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { r.Run(ctx) })
	<-changed
	if !r.isReady() {
		t.Error("told of a change before the registry was ready")
	}
	cancel()
	run.Wait()
}

func TestManyCallersAtOnceMakeOneWebhook(t *testing.T) {
	r := start(t, newMemory().open(), nil)
	var callers sync.WaitGroup
	var mu sync.Mutex
	made := map[string]int{}
	for i := range 20 {
		callers.Go(func() {
			w := hook(fmt.Sprint("w", i%4))
			w.GroupID = "one"
			_, err := r.Create(t.Context(), w, nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made["ok"]++
			case errors.Is(err, ErrExists), errors.Is(err, ErrGroupInUse):
				made["refused"]++
			default:
				t.Errorf("Create: %v", err)
			}
		})
	}
	callers.Wait()
	if want := map[string]int{"ok": 1, "refused": 19}; !cmp.Equal(made, want) {
		t.Errorf("got %v, want %v", made, want)
	}
}
