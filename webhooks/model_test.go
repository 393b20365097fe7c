package webhooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestRegistryAgainstAModel makes random changes over a log that loses writes and
// replies, is compacted, and is taken over by one process after the other. What
// every process reads has to be what a map, which knows each fate, holds.
func TestRegistryAgainstAModel(t *testing.T) {
	keys := ring(t, testKey(1))
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, log: newMemory(), keys: keys, entries: map[string]Entry{}}
		m.takeOver(rt)
		defer func() {
			for _, p := range m.processes {
				p.stop()
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"create":    m.create,
			"replace":   m.replace,
			"set state": m.setState,
			"delete":    m.delete,
			"fate":      m.decree,
			"compact":   func(rt *rapid.T) { m.log.compact(rapid.Bool().Draw(rt, "tombstones")) },
			"take over": m.takeOver,
			"":          m.check,
		})
	})
}

type model struct {
	t         *testing.T
	log       *memory
	keys      *Keys
	processes []*process // the last one owns the log
	entries   map[string]Entry
	fate      fate // of the next append
	unsure    bool // the owner does not know what its last append came to
}

var (
	ids    = rapid.SampledFrom([]string{"a", "b", "c"})
	groups = rapid.SampledFrom([]string{"g", "h", "i", "j"})
)

// drawn is a webhook with one of few contents, so that some are the same.
func drawn(rt *rapid.T) Webhook {
	w := hook(ids.Draw(rt, "id"))
	w.GroupID = groups.Draw(rt, "group")
	w.MaxInFlight = rapid.IntRange(1, 2).Draw(rt, "in flight")
	return w
}

func (m *model) decree(rt *rapid.T) {
	m.fate = rapid.SampledFrom([]fate{notWritten, replyLost}).Draw(rt, "fate")
	m.log.decree(m.fate)
}

// settles tells whether the owner gets to decide: after a change of unknown fate
// it first writes a marker, which has a fate of its own.
func (m *model) settles() bool {
	if !m.unsure {
		return true
	}
	m.unsure = m.fate != written
	m.fate = written
	return !m.unsure
}

// appends tells what becomes of the change's own append.
func (m *model) appends() (isWritten, isAnswered bool) {
	f := m.fate
	m.fate = written
	m.unsure = f != written
	return f != notWritten, f == written
}

// owner is the process that may write.
func (m *model) owner() *process { return m.processes[len(m.processes)-1] }

func (m *model) takeOver(rt *rapid.T) {
	if len(m.processes) == 3 {
		m.processes[0].stop()
		m.processes = m.processes[1:]
	}
	m.processes = append(m.processes, start(m.t, m.log.open(), m.keys))
	m.unsure = false
}

// expect compares what a change came to with what it should.
func expect(rt *rapid.T, what string, got, want error) {
	if want == nil && got != nil || want != nil && !errors.Is(got, want) {
		rt.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func (m *model) create(rt *rapid.T) {
	w := drawn(rt)
	var want error
	_, exists := m.entries[w.ID]
	used := slices.ContainsFunc(slices.Collect(maps.Values(m.entries)), func(e Entry) bool { return e.Webhook.GroupID == w.GroupID })
	isWritten := false
	switch {
	case !m.settles():
		want = ErrUnavailable
	case exists:
		want = ErrExists
	case used:
		want = ErrGroupInUse
	default:
		var isAnswered bool
		if isWritten, isAnswered = m.appends(); !isAnswered {
			want = ErrUnavailable
		}
	}
	got, err := m.owner().Create(context.Background(), w)
	expect(rt, "Create", err, want)
	m.wrote(rt, isWritten, err, w.ID, got, w)
}

func (m *model) replace(rt *rapid.T) {
	w := drawn(rt)
	old, exists := m.entries[w.ID]
	var ifMatch *int64
	if rapid.Bool().Draw(rt, "if-match") {
		ifMatch = new(old.Revision - rapid.Int64Range(0, 1).Draw(rt, "behind"))
	}
	var want error
	isWritten, same, otherGroup := false, false, false
	switch {
	case !m.settles():
		want = ErrUnavailable
	case !exists:
		want = ErrNotFound
	case ifMatch != nil && *ifMatch != old.Revision:
		want = ErrPrecondition
	case old.Webhook.GroupID != w.GroupID:
		otherGroup = true
	case old.Webhook.MaxInFlight == w.MaxInFlight:
		same = true
	default:
		var isAnswered bool
		if isWritten, isAnswered = m.appends(); !isAnswered {
			want = ErrUnavailable
		}
	}
	got, changed, err := m.owner().Replace(context.Background(), w, ifMatch)
	if _, invalid := errors.AsType[*ValidationError](err); otherGroup {
		if !invalid {
			rt.Fatalf("Replace with another group: %v, want a *ValidationError", err)
		}
		return
	}
	expect(rt, "Replace", err, want)
	if want := isWritten && err == nil; changed != want {
		rt.Fatalf("Replace: changed is %v, want %v", changed, want)
	}
	if same && !cmp.Equal(got, old) {
		rt.Fatalf("Replace by the same:\n%s", cmp.Diff(old, got))
	}
	w.State = old.Webhook.State
	m.wrote(rt, isWritten, err, w.ID, got, w)
}

func (m *model) setState(rt *rapid.T) {
	id := ids.Draw(rt, "id")
	state := rapid.SampledFrom([]State{Active, Paused, Disabled}).Draw(rt, "state")
	old, exists := m.entries[id]
	var want error
	isWritten := false
	switch {
	case !m.settles():
		want = ErrUnavailable
	case !exists:
		want = ErrNotFound
	case old.Webhook.State == state:
	default:
		var isAnswered bool
		if isWritten, isAnswered = m.appends(); !isAnswered {
			want = ErrUnavailable
		}
	}
	got, err := m.owner().SetState(context.Background(), DefaultTenant, id, state, nil)
	expect(rt, "SetState", err, want)
	w := old.Webhook
	w.State = state
	m.wrote(rt, isWritten, err, id, got, w)
}

func (m *model) delete(rt *rapid.T) {
	id := ids.Draw(rt, "id")
	_, exists := m.entries[id]
	var want error
	isWritten := false
	switch {
	case !m.settles():
		want = ErrUnavailable
	case !exists:
		want = ErrNotFound
	default:
		var isAnswered bool
		if isWritten, isAnswered = m.appends(); !isAnswered {
			want = ErrUnavailable
		}
	}
	expect(rt, "Delete", m.owner().Delete(context.Background(), DefaultTenant, id), want)
	if isWritten {
		delete(m.entries, id)
	}
}

// wrote enters a change that was made. What its answer did not tell, because it
// was lost, is taken from the log, and only content and state are held against it.
func (m *model) wrote(rt *rapid.T, isWritten bool, err error, id string, got Entry, want Webhook) {
	if !isWritten {
		return
	}
	if err != nil {
		last := m.log.records[len(m.log.records)-1]
		var decodeErr error
		if got, decodeErr = decodeEntry(last.key, last.value, last.offset, m.keys); decodeErr != nil {
			rt.Fatalf("the last record, of %s: %v", last.key, decodeErr)
		}
	}
	if !sameContent(got.Webhook, want) || got.Webhook.State != want.State {
		rt.Fatalf("written (-want +got):\n%s", cmp.Diff(want, got.Webhook))
	}
	if old, exists := m.entries[id]; exists {
		if !cmp.Equal(old.Secret, got.Secret) || !old.Webhook.CreatedAt.Equal(got.Webhook.CreatedAt) || got.Revision <= old.Revision {
			rt.Fatalf("written over\n%+v\nwith\n%+v", old, got)
		}
	}
	m.entries[id] = got
}

// check holds what every process reads against the model, and tries that those
// before the last are fenced.
func (m *model) check(rt *rapid.T) {
	want := []Entry{}
	for _, id := range slices.Sorted(maps.Keys(m.entries)) {
		want = append(want, m.entries[id])
	}
	for i, p := range m.processes {
		if err := p.await(context.Background(), m.log.end()); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, p.List(DefaultTenant)); diff != "" {
			rt.Fatalf("process %d of %d reads (-want +got):\n%s", i+1, len(m.processes), diff)
		}
		if i == len(m.processes)-1 {
			continue
		}
		if _, err := p.Create(context.Background(), hook(fmt.Sprint("fenced-", i))); !errors.Is(err, ErrFenced) {
			rt.Fatalf("Create by process %d of %d: %v, want ErrFenced", i+1, len(m.processes), err)
		}
	}
}
