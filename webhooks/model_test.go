package webhooks

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestRegistryAgainstAModel makes random changes by processes that take the log
// over from each other, back and forth, while it loses writes and replies and is
// compacted. What every process reads has to be what a map, which knows each fate,
// holds.
func TestRegistryAgainstAModel(t *testing.T) {
	keys := ring(t, testKey(1))
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{log: newMemory(), keys: keys, entries: map[string]Entry{}, deletions: map[string]Deletion{}, leader: -1}
		for range 3 {
			m.processes = append(m.processes, follow(t, m.log.open(), keys, slog.DiscardHandler))
		}
		defer func() {
			for _, p := range m.processes {
				p.stop()
			}
		}()
		m.lead(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"create":    m.create,
			"replace":   m.replace,
			"set state": m.setState,
			"rotate":    m.rotate,
			"delete":    m.delete,
			"begin":     m.beginDelete,
			"confirm":   m.confirm,
			"fate":      m.decree,
			"compact":   func(rt *rapid.T) { m.log.compact(rapid.Bool().Draw(rt, "tombstones")) },
			"lead":      m.lead,
			"resign":    m.resign,
			"restart":   func(rt *rapid.T) { m.restart(rt, t) },
			"":          m.check,
		})
	})
}

type model struct {
	log       *memory
	keys      *Keys
	processes []*process
	entries   map[string]Entry
	deletions map[string]Deletion
	leader    int  // index of the process that took the log over last; -1: it has resigned
	fate      fate // of the next append
	unsure    bool // the leader does not know what was written before
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

func (m *model) process(rt *rapid.T) int {
	return rapid.IntRange(0, len(m.processes)-1).Draw(rt, "process")
}

// lead lets a process take the log over, maybe anew. The one before is not told.
func (m *model) lead(rt *rapid.T) {
	m.leader = m.process(rt)
	m.processes[m.leader].lead()
	m.unsure = true
}

func (m *model) resign(rt *rapid.T) {
	i := m.process(rt)
	err := m.processes[i].resign()
	if i == m.leader {
		m.leader = -1
		expect(rt, "Lead of the leader", err, nil)
	}
}

// restart replaces a process by one that has to read the log anew.
func (m *model) restart(rt *rapid.T, t *testing.T) {
	i := m.process(rt)
	m.processes[i].stop()
	m.processes[i] = follow(t, m.log.open(), m.keys, slog.DiscardHandler)
	if i == m.leader {
		m.leader = -1
	}
}

// play is the registry's part in a change that comes to decided, and to a write if
// writes: at a process that does not lead it is refused; after anything of unknown
// fate a marker comes before it; and an answer rests on a write in any case. Each
// append has its fate.
func (m *model) play(process int, decided error, writes bool) (isWritten bool, want error) {
	if process != m.leader {
		return false, ErrNotLeader
	}
	proven := m.unsure
	if m.unsure && !m.answered() {
		return false, ErrUnavailable
	}
	if writes {
		isWritten = m.fate != notWritten
	}
	if (writes || !proven) && !m.answered() {
		return isWritten, ErrUnavailable
	}
	return isWritten, decided
}

// answered tells whether the next append is.
func (m *model) answered() bool {
	m.unsure = m.fate != written
	m.fate = written
	return !m.unsure
}

// expect compares what a change came to with what it should.
func expect(rt *rapid.T, what string, got, want error) {
	if want == nil && got != nil || want != nil && !errors.Is(got, want) {
		rt.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func (m *model) create(rt *rapid.T) {
	w, i := drawn(rt), m.process(rt)
	pinned := map[string]Pinned{"orders": {TopicID: strings.Repeat("0f", 16), Partitions: rapid.Int32Range(1, 9).Draw(rt, "partitions")}}
	var decided error
	_, exists := m.entries[w.ID]
	_, going := m.deletions[w.ID]
	used := slices.ContainsFunc(slices.Collect(maps.Values(m.entries)), func(e Entry) bool { return e.Webhook.GroupID == w.GroupID }) ||
		slices.ContainsFunc(slices.Collect(maps.Values(m.deletions)), func(d Deletion) bool { return d.GroupID == w.GroupID })
	switch {
	case exists:
		decided = ErrExists
	case going:
		decided = ErrUnavailable
	case used:
		decided = ErrGroupInUse
	}
	isWritten, want := m.play(i, decided, decided == nil)
	got, err := m.processes[i].Create(context.Background(), w, pinned)
	expect(rt, "Create", err, want)
	m.wrote(rt, isWritten, err, w.ID, got, Entry{Webhook: w, Pinned: pinned})
}

func (m *model) replace(rt *rapid.T) {
	w, i := drawn(rt), m.process(rt)
	old, exists := m.entries[w.ID]
	var ifMatch *int64
	if rapid.Bool().Draw(rt, "if-match") {
		ifMatch = new(old.Revision - rapid.Int64Range(0, 1).Draw(rt, "behind"))
	} else if rapid.Bool().Draw(rt, "if any") {
		ifMatch = new(AnyRevision)
	}
	var decided error
	same, otherGroup := false, false
	switch {
	case !exists:
		decided = ErrNotFound
	case ifMatch != nil && *ifMatch != old.Revision && *ifMatch != AnyRevision:
		decided = ErrPrecondition
	case old.Webhook.GroupID != w.GroupID:
		otherGroup = true
	case old.Webhook.MaxInFlight == w.MaxInFlight:
		same = true
	}
	isWritten, want := m.play(i, decided, decided == nil && !same && !otherGroup)
	got, changed, err := m.processes[i].Replace(context.Background(), w, ifMatch)
	if _, invalid := errors.AsType[*ValidationError](err); otherGroup && want == nil {
		if !invalid {
			rt.Fatalf("Replace with another group: %v, want a *ValidationError", err)
		}
		return
	}
	expect(rt, "Replace", err, want)
	if want := isWritten && err == nil; changed != want {
		rt.Fatalf("Replace: changed is %v, want %v", changed, want)
	}
	if same && err == nil && !cmp.Equal(got, old) {
		rt.Fatalf("Replace by the same:\n%s", cmp.Diff(old, got))
	}
	w.State = old.Webhook.State
	m.wrote(rt, isWritten, err, w.ID, got, Entry{Webhook: w, Pinned: old.Pinned})
}

func (m *model) setState(rt *rapid.T) {
	id, i := ids.Draw(rt, "id"), m.process(rt)
	state := rapid.SampledFrom([]State{Active, Paused, Disabled}).Draw(rt, "state")
	old, exists := m.entries[id]
	var decided error
	if !exists {
		decided = ErrNotFound
	}
	isWritten, want := m.play(i, decided, exists && old.Webhook.State != state)
	got, err := m.processes[i].SetState(context.Background(), DefaultTenant, id, state, nil)
	expect(rt, "SetState", err, want)
	w := old.Webhook
	w.State = state
	m.wrote(rt, isWritten, err, id, got, Entry{Webhook: w, Pinned: old.Pinned})
}

func (m *model) rotate(rt *rapid.T) {
	id, i := ids.Draw(rt, "id"), m.process(rt)
	n := Rotation{Secret: secretOf(rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "secret")), Overlap: time.Hour}
	old, exists := m.entries[id]
	var decided error
	if !exists {
		decided = ErrNotFound
	}
	same := cmp.Equal(old.Secret, n.Secret)
	isWritten, want := m.play(i, decided, exists && !same)
	got, err := m.processes[i].Rotate(context.Background(), DefaultTenant, id, n)
	expect(rt, "Rotate", err, want)
	if same && err == nil && !cmp.Equal(got, old) {
		rt.Fatalf("Rotate to the same:\n%s", cmp.Diff(old, got))
	}
	if isWritten {
		old.Secret = n.Secret
		m.entries[id] = old
	}
	m.wrote(rt, isWritten, err, id, got, Entry{Webhook: old.Webhook, Pinned: old.Pinned})
}

func (m *model) delete(rt *rapid.T) {
	id, i := ids.Draw(rt, "id"), m.process(rt)
	var decided error
	_, exists := m.entries[id]
	_, going := m.deletions[id]
	if !exists && !going {
		decided = ErrNotFound
	}
	isWritten, want := m.play(i, decided, exists || going)
	expect(rt, "Delete", m.processes[i].Delete(context.Background(), DefaultTenant, id, AnyRevision), want)
	if isWritten {
		delete(m.entries, id)
		delete(m.deletions, id)
	}
}

func (m *model) beginDelete(rt *rapid.T) {
	id, i := ids.Draw(rt, "id"), m.process(rt)
	offsets := rapid.Bool().Draw(rt, "offsets")
	var decided error
	e, exists := m.entries[id]
	before, going := m.deletions[id]
	want := Deletion{Tenant: DefaultTenant, ID: id, GroupID: e.Webhook.GroupID, Offsets: offsets}
	switch {
	case going:
		want.GroupID, want.Offsets = before.GroupID, before.Offsets || offsets
	case !exists:
		decided = ErrNotFound
	}
	isWritten, wantErr := m.play(i, decided, exists || going && want.Offsets != before.Offsets)
	got, err := m.processes[i].BeginDelete(context.Background(), DefaultTenant, id, offsets)
	expect(rt, "BeginDelete", err, wantErr)
	if isWritten {
		want.Revision = m.log.end()
		delete(m.entries, id)
		m.deletions[id] = want
	} else if going {
		want.Revision = before.Revision
	}
	if got.Since = (time.Time{}); err == nil && got != want {
		rt.Fatalf("BeginDelete: %+v, want %+v", got, want)
	}
}

func (m *model) confirm(rt *rapid.T) {
	i := m.process(rt)
	_, want := m.play(i, nil, false)
	expect(rt, "Confirm", m.processes[i].Confirm(context.Background()), want)
}

// wrote enters a change that was made. What its answer did not tell, because it
// was lost, is taken from the log, and only what the change was about is held
// against it.
func (m *model) wrote(rt *rapid.T, isWritten bool, err error, id string, got, want Entry) {
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
	if !sameContent(got.Webhook, want.Webhook) || got.Webhook.State != want.Webhook.State || !cmp.Equal(got.Pinned, want.Pinned) {
		rt.Fatalf("written (-want +got):\n%s", cmp.Diff(want, got))
	}
	if old, exists := m.entries[id]; exists {
		if !cmp.Equal(old.Secret, got.Secret) || !old.Webhook.CreatedAt.Equal(got.Webhook.CreatedAt) || got.Revision <= old.Revision {
			rt.Fatalf("written over\n%+v\nwith\n%+v", old, got)
		}
	}
	m.entries[id] = got
}

// check holds what every process reads against the model.
func (m *model) check(rt *rapid.T) {
	want := []Entry{}
	for _, id := range slices.Sorted(maps.Keys(m.entries)) {
		want = append(want, m.entries[id])
	}
	for i, p := range m.processes {
		if err := p.Await(context.Background(), m.log.end()); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, p.List(DefaultTenant)); diff != "" {
			rt.Fatalf("process %d reads (-want +got):\n%s", i, diff)
		}
		deletions := map[string]Deletion{}
		for _, d := range p.Deletions() {
			d.Since = time.Time{}
			deletions[d.ID] = d
		}
		if diff := cmp.Diff(m.deletions, deletions); diff != "" {
			rt.Fatalf("process %d reads deletions (-want +got):\n%s", i, diff)
		}
	}
}
