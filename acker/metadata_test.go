package acker

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestMetadataText(t *testing.T) {
	for _, test := range []struct {
		claim string
		m     Metadata
		text  string
	}{
		{"nothing to say is no text", Metadata{}, ""},
		{"attempts and the first one", Metadata{Attempts: 3, FirstAttempt: morning}, "k1;a=3;t=1790000000000"},
		{"attempts of which the first is not known", Metadata{Attempts: 3}, "k1;a=3"},
		{"acked runs", Metadata{Acked: []Run{{2, 3}, {5, 5}}}, "k1;r=AgEBAA"},
		{"all of it", Metadata{3, morning, []Run{{0, 0}, {300, 1000}}}, "k1;a=3;t=1790000000000;r=AACrArwF"},
		{"the highest offsets", Metadata{Acked: []Run{{math.MaxInt64 - 1, math.MaxInt64 - 1}}}, "k1;r=_v________9_AA"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			text, err := test.m.Append([]byte("x"))
			if got, want := string(text), "x"+test.text; got != want || err != nil {
				t.Errorf("append: got %q, %v; want %q", got, err, want)
			}
			got, err := ParseMetadata(test.text)
			if diff := cmp.Diff(test.m, got); diff != "" || err != nil {
				t.Errorf("parse: %v; -want +got:\n%s", err, diff)
			}
		})
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Metadata{Attempts: rapid.IntRange(0, math.MaxInt).Draw(t, "attempts")}
		if rapid.Bool().Draw(t, "first attempt known") {
			want.FirstAttempt = time.UnixMilli(rapid.Int64Range(0, math.MaxInt64).Draw(t, "first attempt")).UTC()
		}
		at := int64(0)
		for range rapid.IntRange(0, 50).Draw(t, "runs") {
			r := Run{First: at + rapid.Int64Range(0, 1<<50).Draw(t, "gap")}
			r.Last = r.First + rapid.Int64Range(0, 1<<50).Draw(t, "length")
			want.Acked = append(want.Acked, r)
			at = r.Last + 2
		}
		text, err := want.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMetadata(string(text))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%s: %v; -want +got:\n%s", text, err, diff)
		}
	})
}

func TestMetadataKeepsMilliseconds(t *testing.T) {
	text, err := Metadata{Attempts: 1, FirstAttempt: morning.Add(1999 * time.Microsecond).Local()}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseMetadata(string(text))
	if want := morning.Add(time.Millisecond); err != nil || got.FirstAttempt != want { // in UTC, too
		t.Errorf("first attempt: got %v, %v; want %v", got.FirstAttempt, err, want)
	}
}

func TestMetadataAppendRefused(t *testing.T) {
	for _, test := range []struct {
		claim string
		m     Metadata
	}{
		{"negative attempts", Metadata{Attempts: -1}},
		{"a negative offset", Metadata{Acked: []Run{{-1, 3}}}},
		{"a run that ends before it begins", Metadata{Acked: []Run{{3, 2}}}},
		{"runs that touch", Metadata{Acked: []Run{{0, 2}, {3, 4}}}},
		{"runs that overlap", Metadata{Acked: []Run{{0, 2}, {2, 4}}}},
		{"runs that descend", Metadata{Acked: []Run{{5, 6}, {0, 2}}}},
		{"the highest offset there is", Metadata{Acked: []Run{{5, math.MaxInt64}}}},
	} {
		t.Run(test.claim, func(t *testing.T) {
			text, err := test.m.Append([]byte("x"))
			if err == nil || errors.Is(err, ErrMetadataTooLarge) || string(text) != "x" {
				t.Errorf("got %q, %v; want x and an error of its own", text, err)
			}
		})
	}
}

func TestMetadataFillsACommitAndNoMore(t *testing.T) {
	var m Metadata
	dst := []byte("what is there does not count")
	for text := dst; ; {
		m.Acked = append(m.Acked, Run{int64(len(m.Acked)) * 2, int64(len(m.Acked)) * 2})
		longer, err := m.Append(dst)
		if err == nil {
			text = longer
			if _, err := ParseMetadata(string(text[len(dst):])); err != nil {
				t.Fatalf("parse %d bytes: %v", len(text)-len(dst), err)
			}
			continue
		}
		if !errors.Is(err, ErrMetadataTooLarge) || string(longer) != string(dst) {
			t.Errorf("got %q, %v; want what was there and %v", longer, err, ErrMetadataTooLarge)
		}
		// 1,534 runs of two bytes each, in base64, fill it to the last byte.
		if got, want := len(text)-len(dst), 4096; got != want {
			t.Errorf("largest metadata: got %d bytes, want %d", got, want)
		}
		return
	}
}

func TestMetadataRefused(t *testing.T) {
	for _, test := range []struct{ claim, text string }{
		{"a note of another tool", "committed by hand"},
		{"another version", "k2;a=3"},
		{"a version alone", "k1"},
		{"an empty field", "k1;"},
		{"a field not known", "k1;a=3;z=1"},
		{"a field twice", "k1;a=3;a=3"},
		{"fields out of order", "k1;t=1790000000000;a=3"},
		{"a field without a value", "k1;a"},
		{"no attempts, said", "k1;a=0"},
		{"negative attempts", "k1;a=-3"},
		{"a leading zero", "k1;a=03"},
		{"a plus sign", "k1;a=+3"},
		{"more attempts than a number holds", "k1;a=99999999999999999999"},
		{"a time that is no number", "k1;t=now"},
		{"runs that are not base64", "k1;r=A!"},
		{"runs with padding", "k1;r=AgEBAA=="},
		{"runs with a line break", "k1;r=AgEB\nAA"},
		{"no runs, said", "k1;r="},
		{"half a run", "k1;r=AgEB"},
		{"a run cut short", "k1;r=AoA"},
		{"runs that touch", "k1;r=AgEAAA"},
		{"a number longer than it need be", "k1;r=ggAB"},
		{"an offset beyond 63 bits", "k1;r=_v________9_AQ"},
		{"a length beyond 63 bits", "k1;r=Av___________wE"},
		{"more than a commit holds", "k1;r=" + strings.Repeat("AgAA", maxMetadata/4)},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got, err := ParseMetadata(test.text); err == nil || got.Attempts != 0 || !got.FirstAttempt.IsZero() || got.Acked != nil {
				t.Errorf("parse %.40q: got %+v, %v; want an error and nothing else", test.text, got, err)
			}
		})
	}
}

// FuzzMetadata holds that no text is a panic, and that a text accepted is the
// one that would be written.
func FuzzMetadata(f *testing.F) {
	for _, text := range []string{"", "k1;a=3", "k1;a=3;t=1790000000000;r=AACrArwF", "k1;r=AgEBAA", "k2;a=1", "note"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMetadata(text)
		if err != nil {
			return
		}
		if got, err := m.Append(nil); err != nil || string(got) != text {
			t.Fatalf("written again: got %q, %v; want %q", got, err, text)
		}
	})
}
