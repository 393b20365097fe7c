package records

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// plain is a record as a naive model keeps it.
type plain struct {
	offset     int64
	key, value []byte
	headers    [][2][]byte
}

func (p plain) String() string {
	return fmt.Sprintf("%d %#v %#v %#v", p.offset, p.key, p.value, p.headers)
}

func (p plain) size() int {
	n := len(p.key) + len(p.value)
	for _, h := range p.headers {
		n += len(h[0]) + len(h[1])
	}
	return n
}

// read takes record i out of b, with copies of its bytes.
func read(b *Batch, i int) plain {
	p := plain{b.Records[i].Offset, clone(b.Key(i)), clone(b.Value(i)), nil}
	for j := range b.Headers(i) {
		name, value := b.Header(i, j)
		p.headers = append(p.headers, [2][]byte{clone(name), clone(value)})
	}
	return p
}

// clone keeps null and empty apart.
func clone(p []byte) []byte {
	if p == nil {
		return nil
	}
	return append([]byte{}, p...)
}

func add(b *Batch, p plain) {
	b.Append(Record{Offset: p.offset}, p.key, p.value)
	for _, h := range p.headers {
		b.AppendHeader(h[0], h[1])
	}
}

// check compares b with the model.
func check(t interface{ Errorf(string, ...any) }, b *Batch, model []plain) {
	if b.Len() != len(model) {
		t.Errorf("the batch has %d records, want %d", b.Len(), len(model))
		return
	}
	total := 0
	for i, want := range model {
		if got := read(b, i); got.String() != want.String() {
			t.Errorf("record %d is %v, want %v", i, got, want)
		}
		if got := b.Size(i); got != want.size() {
			t.Errorf("record %d has %d bytes, want %d", i, got, want.size())
		}
		total += want.size()
	}
	if b.Bytes() != total {
		t.Errorf("the batch has %d bytes, want %d", b.Bytes(), total)
	}
	if len(model) > 0 && (b.First() != model[0].offset || b.Last() != model[len(model)-1].offset) {
		t.Errorf("the batch goes from %d to %d, want %d to %d", b.First(), b.Last(), model[0].offset, model[len(model)-1].offset)
	}
}

func TestBatchKeepsNullAndEmptyApart(t *testing.T) {
	b := new(Batch)
	model := []plain{
		{0, []byte{}, []byte{}, [][2][]byte{{{}, {}}, {{}, nil}}}, // in an arena that holds nothing yet
		{1, nil, nil, nil},
		{2, []byte("k"), []byte{}, nil},
		{5, []byte{}, []byte("v"), [][2][]byte{{[]byte("h"), []byte("1")}, {[]byte("h"), []byte("2")}}},
	}
	for _, p := range model {
		add(b, p)
	}
	check(t, b, model)
}

func TestBatchHandsOutBytesThatCannotGrowIntoTheNext(t *testing.T) {
	b := new(Batch)
	b.Append(Record{}, []byte("key"), []byte("value"))
	_ = append(b.Key(0), 'X')
	if got := b.Value(0); !bytes.Equal(got, []byte("value")) {
		t.Errorf("the value became %q by appending to the key", got)
	}
}

func TestFreeDropsALargeArena(t *testing.T) {
	b := new(Batch)
	b.Append(Record{}, nil, make([]byte, maxPooled+1))
	b.Free()
	if cap(b.arena) > maxPooled {
		t.Errorf("a free batch keeps %d bytes, want at most %d", cap(b.arena), maxPooled)
	}
}

// TestBatchModel runs random operations on a batch and on a slice of records.
func TestBatchModel(t *testing.T) {
	text := rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 20))
	name := rapid.SliceOfN(rapid.Byte(), 0, 5)
	rapid.Check(t, func(t *rapid.T) {
		b, offset := new(Batch), int64(0)
		var model []plain
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				offset += rapid.Int64Range(1, 3).Draw(t, "step")
				p := plain{offset: offset, key: text.Draw(t, "key"), value: text.Draw(t, "value")}
				for range rapid.IntRange(0, 3).Draw(t, "headers") {
					p.headers = append(p.headers, [2][]byte{name.Draw(t, "name"), text.Draw(t, "header")})
				}
				add(b, p)
				model = append(model, p)
			},
			"truncate": func(t *rapid.T) {
				n := rapid.IntRange(0, len(model)+1).Draw(t, "n")
				b.Truncate(n)
				model = model[:min(n, len(model))]
			},
			"copy": func(t *rapid.T) {
				from := rapid.IntRange(0, len(model)).Draw(t, "from")
				to := rapid.IntRange(from, len(model)).Draw(t, "to")
				dst := Get()
				b.CopyTo(dst, from, to)
				check(t, dst, model[from:to])
				dst.Free()
			},
			"reset": func(t *rapid.T) {
				b.Reset()
				model = nil
			},
			"": func(t *rapid.T) { check(t, b, model) },
		})
	})
}
