package replica

import (
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestNoncesAreTakenOnceForAsLongAsTheirSignatureIsGood checks the buckets against
// a list that forgets nothing.
func TestNoncesAreTakenOnceForAsLongAsTheirSignatureIsGood(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNonces(1 << 10)
		now := time.Unix(1_790_000_000, 0)
		type use struct {
			nonce  [nonceBytes]byte
			signed int64
		}
		used := map[use]bool{}
		for range rapid.IntRange(1, 200).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			signed := now.Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "skew")) * time.Second)
			var nonce [nonceBytes]byte
			binary.BigEndian.PutUint64(nonce[:], rapid.Uint64Range(0, 5).Draw(t, "nonce"))
			u := use{nonce, signed.Unix() / nonceMinute} // the time is signed, so a replay has the same
			if got, want := n.add(nonce, signed, now), !used[u]; got != want {
				t.Fatalf("add(%v, signed %v, now %v) = %v, want %v", nonce[:8], signed.Unix(), now.Unix(), got, want)
			}
			used[u] = true
			count := 0
			for _, those := range n.seen {
				count += len(those)
			}
			if count != n.count || len(n.seen) > 4 {
				t.Fatalf("%d nonces counted as %d, in %d minutes", count, n.count, len(n.seen))
			}
		}
	})
}

func TestNoncesAreBoundedAndForgotten(t *testing.T) {
	n := newNonces(10)
	now := time.Unix(1_790_000_000, 0)
	add := func(i uint64, at time.Time) bool {
		var nonce [nonceBytes]byte
		binary.BigEndian.PutUint64(nonce[:], i)
		return n.add(nonce, at, at)
	}
	for i := range uint64(20) {
		if got, want := add(i, now), i < 10; got != want {
			t.Errorf("nonce %d was taken: %v, want %v", i, got, want)
		}
	}
	if !add(30, now.Add(2*clockTolerance+time.Second)) {
		t.Error("there is no room after all of them could be forgotten")
	}
}

func TestSignatures(t *testing.T) {
	first, second, foreign := []byte("first key"), []byte("second key"), []byte("foreign key")
	words, body := callWords("r-1", "POST", "/internal/v1/ack", "1790000000", "00"), []byte(`{"a":1}`)
	signature := keys{first}.sign(aCall, words, body)
	for name, tt := range map[string]struct {
		keys      keys
		signature string
		what      string
		words     []string
		body      string
		want      bool
	}{
		"the same":             {keys{first}, signature, aCall, words, string(body), true},
		"a key being rotated":  {keys{second, first}, signature, aCall, words, string(body), true},
		"another key":          {keys{foreign, second}, signature, aCall, words, string(body), false},
		"another body":         {keys{first}, signature, aCall, words, `{"a":2}`, false},
		"an answer":            {keys{first}, signature, anAnswer, words, string(body), false},
		"another replica":      {keys{first}, signature, aCall, callWords("r-2", "POST", "/internal/v1/ack", "1790000000", "00"), string(body), false},
		"another operation":    {keys{first}, signature, aCall, callWords("r-1", "POST", "/internal/v1/del", "1790000000", "00"), string(body), false},
		"another time":         {keys{first}, signature, aCall, callWords("r-1", "POST", "/internal/v1/ack", "1790000001", "00"), string(body), false},
		"another nonce":        {keys{first}, signature, aCall, callWords("r-1", "POST", "/internal/v1/ack", "1790000000", "01"), string(body), false},
		"no version":           {keys{first}, signature[3:], aCall, words, string(body), false},
		"a later version":      {keys{first}, "v2," + signature[3:], aCall, words, string(body), false},
		"nothing":              {keys{first}, "", aCall, words, string(body), false},
		"a version and no mac": {keys{first}, "v1,", aCall, words, string(body), false},
		"not base64":           {keys{first}, "v1,!", aCall, words, string(body), false},
	} {
		if got := tt.keys.verify(tt.signature, tt.what, tt.words, []byte(tt.body)); got != tt.want {
			t.Errorf("%s: verify = %v, want %v", name, got, tt.want)
		}
	}
}
