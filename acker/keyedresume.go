package acker

import "sort"

// ResumeAcked tells which runs above the committed offset an earlier tenure settled,
// as [Ledger.ResumeAcked] does. It is meant for books in which nothing was entered yet.
func (k *KeyedLedger) ResumeAcked(runs []Run) { k.resumed = resumedRuns(runs) }

// resumedFrom is the index of the first resumed run that ends at or above offset.
func (k *KeyedLedger) resumedFrom(offset int64) int {
	return sort.Search(len(k.resumed), func(i int) bool { return k.resumed[i].Last >= offset })
}

// pass lets go of the resumed runs that Next has reached. With nothing open Next goes
// over them; the last of them may still have to be read.
func (k *KeyedLedger) pass() {
	for len(k.resumed) > 0 && k.resumed[0].First <= k.Next() {
		if len(k.records) == 0 {
			k.passed = k.resumed[0].Run
			k.position = max(k.position, k.passed.Last+1)
		}
		k.resumed = k.resumed[1:]
	}
}

// Gap says whether anything above Next is settled: whether Acked has something to tell.
func (k *KeyedLedger) Gap() bool { return k.above > 0 || len(k.resumed) > 0 }

// Acked appends to dst the runs above Next that are settled, now or by an earlier
// tenure, as [Ledger.Acked] does. A run goes on over offsets that carry no record.
func (k *KeyedLedger) Acked(dst []Run) []Run {
	apart := true // something open or not read lies behind the run added last
	for i := range k.records {
		switch r := &k.records[i]; {
		case !r.settled:
			apart = true
		case apart:
			dst = append(dst, Run{r.offset, r.offset})
			apart = false
		default:
			dst[len(dst)-1].Last = r.offset
		}
	}
	known := max(k.end, k.position) // no record lies between the last one entered and here
	for _, r := range k.resumed[k.resumedFrom(known):] {
		if apart || r.First > known {
			dst = append(dst, r.Run)
		} else {
			dst[len(dst)-1].Last = r.Last
		}
		apart, known = false, max(known, r.Last+1)
	}
	return dst
}

// Room is how many records one more delivery may have so that the acked runs always
// fit into the metadata of a commit, depending on what is acked when. With 0 there is
// room for one of the record at Next alone, if that is in none.
func (k *KeyedLedger) Room() int {
	spare := maxPacked - k.worst(splitsOfHead)
	if spare <= 0 {
		return 0
	}
	return spare / (2 * varintLen(max(0, k.end-k.Next()))) // two distances a record at the worst
}

// Full says that there is no Room. The head of the books may be cut in half even then.
func (k *KeyedLedger) Full() bool { return k.Room() == 0 }

// worst is the most bytes that the distances of the acked runs can have from now on,
// with so many more records that begin, in whatever order what is in a delivery is acked.
//
// A run begins at a record that begins, or is one resumed. The distances of the former
// lie side by side between Next and the end of what was read: at most width/128 of them need a second byte, width/128² a third,
// and so on. The first of all is an offset. The runs resumed have the distances they
// had, or parts of them; runs that join have less to tell than two. What waits is open
// and adds nothing.
func (k *KeyedLedger) worst(more int) int {
	numbers := 2 * (k.starts + more)
	n := 4*longestVarint + numbers
	for width := (k.end - k.Next()) >> 7; width > 0; width >>= 7 {
		n += int(min(int64(numbers), width))
	}
	if len(k.resumed) > 0 {
		n += k.resumed[0].rest
	}
	return n
}
