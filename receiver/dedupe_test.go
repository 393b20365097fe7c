package receiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// batch is a delivery of records at these offsets, each with a timestamp of its own.
func batch(offsets ...int64) *Delivery {
	d := &Delivery{WebhookID: "w", Topic: "t", Partition: 3, Generation: 42, FirstOffset: offsets[0], LastOffset: offsets[len(offsets)-1]}
	for _, offset := range offsets {
		d.Records = append(d.Records, Record{Offset: offset, Timestamp: time.UnixMilli(1790000000000 + offset)})
	}
	return d
}

func edited(d *Delivery, edit func(*Delivery)) *Delivery {
	edit(d)
	return d
}

// unseen are the offsets of d that m does not know.
func unseen(t *testing.T, m *Memory, d *Delivery) []int64 {
	t.Helper()
	seen, err := m.Seen(t.Context(), d)
	if err != nil || len(seen) != len(d.Records) {
		t.Fatalf("%d answers for %d records, %v", len(seen), len(d.Records), err)
	}
	var left []int64
	for i, r := range d.Records {
		if !seen[i] {
			left = append(left, r.Offset)
		}
	}
	return left
}

func TestMemoryKnowsARecordAgain(t *testing.T) {
	m := NewMemory(0)
	processed := batch(10, 11, 13)
	m.Processed(processed, processed.Records)
	tests := map[string]struct {
		d    *Delivery
		want []int64 // left
	}{
		"the same again":                          {batch(10, 11, 13), nil},
		"cut elsewhere":                           {batch(11, 13, 14, 15), []int64{14, 15}},
		"in the next generation":                  {edited(batch(10, 11, 13), func(d *Delivery) { d.Generation++ }), nil},
		"from a former owner":                     {edited(batch(10, 11, 13), func(d *Delivery) { d.Generation-- }), nil},
		"what was not there before, in a hole":    {batch(11, 12, 13), []int64{12}},
		"lower offsets, for order may be off":     {batch(7, 8, 9, 10), []int64{7, 8, 9}},
		"another partition":                       {edited(batch(10, 11), func(d *Delivery) { d.Partition++ }), []int64{10, 11}},
		"another topic":                           {edited(batch(10, 11), func(d *Delivery) { d.Topic = "u" }), []int64{10, 11}},
		"another webhook":                         {edited(batch(10, 11), func(d *Delivery) { d.WebhookID = "v" }), []int64{10, 11}},
		"the topic was made anew":                 {edited(batch(10, 11), func(d *Delivery) { d.Records[0].Timestamp = time.UnixMilli(1) }), []int64{10}},
		"records without timestamps are the same": {edited(batch(20), func(d *Delivery) { d.Records[0].Timestamp = time.Time{}; m.Processed(d, d.Records) }), nil},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if got := unseen(t, m, tests[name].d); !slices.Equal(got, tests[name].want) {
			t.Errorf("%s: left are %d, want %d", name, got, tests[name].want)
		}
	}
	m.Forget()
	if got := unseen(t, m, batch(10, 11, 13)); len(got) != 3 {
		t.Errorf("left are %d after all was forgotten", got)
	}
}

// TestMemoryIsBounded: of however many records it remembers the newest, half of the
// limit at least, and no more than the limit.
func TestMemoryIsBounded(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 100, 1000} {
		m := NewMemory(limit)
		var made []*Delivery
		for offset := range int64(5000) {
			d := edited(batch(offset), func(d *Delivery) { d.Partition = int32(offset % 7) })
			m.Processed(d, d.Records)
			m.Processed(d, d.Records) // once more does not count
			made = append(made, d)
			known := 0
			for _, of := range []marks{m.newer, m.older} {
				for _, marks := range of {
					known += len(marks)
				}
			}
			if known > max(limit, 2) {
				t.Fatalf("it remembers %d records, the limit is %d", known, limit)
			}
		}
		for _, d := range made[len(made)-max(1, limit/2):] {
			if got := unseen(t, m, d); len(got) > 0 {
				t.Fatalf("limit %d: offset %d is forgotten", limit, d.FirstOffset)
			}
		}
		if got := unseen(t, m, made[0]); len(got) == 0 {
			t.Errorf("limit %d: the first of 5000 is remembered", limit)
		}
	}
}

// TestMemoryAsAModel compares with a set that forgets nothing.
func TestMemoryAsAModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m, model := NewMemory(1<<20), map[string]bool{}
	for range 2000 {
		first := random.Int64N(1000)
		d := edited(batch(first, first+1+random.Int64N(3), first+5), func(d *Delivery) {
			d.Partition = random.Int32N(3)
			d.Generation = random.Int32()
		})
		var want []int64
		for _, r := range d.Records {
			if !model[fmt.Sprint(d.Partition, r.Offset)] {
				want = append(want, r.Offset)
			}
		}
		if got := unseen(t, m, d); !slices.Equal(got, want) {
			t.Fatalf("left are %d, want %d", got, want)
		}
		n := random.IntN(4)
		m.Processed(d, d.Records[:n])
		for _, r := range d.Records[:n] {
			model[fmt.Sprint(d.Partition, r.Offset)] = true
		}
	}
}

// TestMemoryTakesWhatItSays keeps the number of bytes in NewMemory's comment true.
func TestMemoryTakesWhatItSays(t *testing.T) {
	const records = 100_000
	used := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := used()
	m := NewMemory(4 * records)
	for offset := range int64(records) {
		d := batch(offset)
		m.Processed(d, d.Records)
	}
	took := int64(used()-before) / records
	runtime.KeepAlive(m)
	if took < 10 || took > 75 {
		t.Errorf("a record takes %d bytes, about 50 are promised", took)
	}
}

// TestWhatWasProcessedIsDropped runs a handler with a memory through deliveries that
// come again.
func TestWhatWasProcessedIsDropped(t *testing.T) {
	all := []int64{1200, 1203, 1204, 1206}
	failing := errors.New("no")
	tests := map[string]struct {
		ack    Ack
		err    error
		again  []int64 // what Deliver gets of the same delivery the next time
		answer string  // to that
	}{
		"all went well":                         {Ack{}, nil, nil, `{"ack":{"outcome":"ack"}}`},
		"all was acked":                         {AckAll(), nil, nil, `{"ack":{"outcome":"ack"}}`},
		"the head was acked":                    {AckUpTo(1203), nil, []int64{1204, 1206}, ``},
		"the head was acked, up to a hole":      {AckUpTo(1205), nil, []int64{1206}, ``},
		"some failed":                           {Partial(Failure{1203, ActionRetry, ""}, Failure{1206, ActionSkip, ""}), nil, []int64{1203, 1206}, ``},
		"nack":                                  {Nack(0, ""), nil, all, ``},
		"extend":                                {Extend(time.Minute), nil, all, ``},
		"reject":                                {Reject(""), nil, all, ``},
		"nobody knows yet":                      {Later(), nil, all, ``},
		"it failed":                             {Ack{}, failing, all, ``},
		"it failed, whatever it says besides":   {AckAll(), failing, all, ``},
		"an ack that does not fit is no ack":    {AckUpTo(9999), nil, all, ``},
		"an action that there is not is no ack": {Partial(Failure{1203, "pray", ""}), nil, all, ``},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got [][]int64
			h := &Handler{Secrets: secrets(t, whsec(ourKey)), Dedupe: NewMemory(0)}
			h.Deliver = func(_ context.Context, d *Delivery) (Ack, error) {
				var offsets []int64
				for _, r := range d.Records {
					offsets = append(offsets, r.Offset)
				}
				got = append(got, offsets)
				if d.RecordCount != 4 || d.FirstOffset != 1200 || d.LastOffset != 1206 {
					t.Errorf("the delivery is %d..%d, want it as it was sent", d.FirstOffset, d.LastOffset)
				}
				if len(got) == 1 {
					return tt.ack, tt.err
				}
				return Ack{}, nil
			}
			serve(h, post(t, envelopeText))
			next := strings.Replace(envelopeText, `"attempt": 2`, `"attempt": 3`, 1)
			w, reports := serve(h, post(t, strings.Replace(next, `"generation": 42`, `"generation": 43`, 1)))
			want := [][]int64{all}
			if tt.again != nil {
				want = append(want, tt.again)
			}
			if !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("Deliver got %d, want %d", got, want)
			}
			if w.Code != 200 || w.Body.String() != tt.answer || len(reports) > 0 {
				t.Errorf("the second time is answered %d %s, %v, want 200 %s", w.Code, w.Body, reports, tt.answer)
			}
		})
	}
}

// wrong is a Dedupe that does not work.
type wrong struct {
	seen []bool
	err  error
}

func (w wrong) Seen(context.Context, *Delivery) ([]bool, error) { return w.seen, w.err }

func TestADedupeThatDoesNotWorkFailsTheDelivery(t *testing.T) {
	broken := errors.New("the database is down")
	for name, tt := range map[string]struct {
		dedupe Dedupe
		want   error
	}{
		"an error":           {wrong{err: broken}, broken},
		"an answer too few":  {wrong{seen: make([]bool, 3)}, errSeen},
		"an answer too many": {wrong{seen: make([]bool, 5)}, errSeen},
	} {
		h := &Handler{Secrets: secrets(t, whsec(ourKey)), Dedupe: tt.dedupe, Deliver: func(context.Context, *Delivery) (Ack, error) {
			t.Errorf("%s: it is delivered", name)
			return Ack{}, nil
		}}
		if w, reports := serve(h, post(t, envelopeText)); w.Code != 500 || len(reports) != 1 || !errors.Is(reports[0].err, tt.want) {
			t.Errorf("%s: status %d, reported %v, want %v", name, w.Code, reports, tt.want)
		}
	}
}

func TestADedupeOfOnesOwnNeedNotRecord(t *testing.T) {
	var got int
	h := &Handler{Secrets: secrets(t, whsec(ourKey)), Dedupe: wrong{seen: []bool{true, false, true, false}}, Deliver: func(_ context.Context, d *Delivery) (Ack, error) {
		got = len(d.Records)
		return Ack{}, nil
	}}
	if w, _ := serve(h, post(t, envelopeText)); w.Code != 200 || got != 2 {
		t.Errorf("status %d, %d records, want 200, 2", w.Code, got)
	}
}
