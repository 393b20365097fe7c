package server

import (
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// maxStrangers is how many client addresses are remembered, twice at most.
const maxStrangers = 4096

// siteBits are those of an IPv6 address that count: who has one has all below it.
const siteBits = 64

// hold is how long nothing is read of an address that has reached its bound, and
// the time within which that counts as reached. It is what Retry-After tells.
const hold = time.Second

// strangers bounds the work that acks without a valid credential make: an address
// that has sent so many of them within a second is not listened to for a second. Only
// what failed for its credential counts, so an address that sends none of it is never
// held up. Safe for concurrent use.
type strangers struct {
	most int // 0: no bound

	mu sync.Mutex
	// Who failed lately. When young is full it becomes old, and what was old is
	// forgotten: memory is bounded, and who goes on failing stays known.
	young, old map[netip.Addr]tally
}

// tally is how many failures of an address count, and until when.
type tally struct {
	failures int
	until    time.Time
}

func newStrangers(most int) *strangers {
	return &strangers{most: most, young: map[netip.Addr]tally{}}
}

// refuses tells whether nothing of an address is read now.
func (s *strangers) refuses(a netip.Addr, now time.Time) bool {
	if s.most == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(a, now).failures >= s.most
}

// failed counts one ack of an address that had no valid credential.
func (s *strangers) failed(a netip.Addr, now time.Time) {
	if s.most == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.of(a, now)
	had.failures++
	if had.failures == 1 || had.failures == s.most {
		had.until = now.Add(hold)
	}
	if _, known := s.young[a]; !known && len(s.young) == maxStrangers {
		s.young, s.old = map[netip.Addr]tally{}, s.young
	}
	s.young[a] = had
}

// of is what counts of an address now; s.mu is held.
func (s *strangers) of(a netip.Addr, now time.Time) tally {
	had, known := s.young[a]
	if !known {
		had = s.old[a]
	}
	if !now.Before(had.until) {
		return tally{}
	}
	return had
}

// addressOf is the address that a request counts for: its client's, as the listener
// saw it. What headers say of others before it anybody can write.
func addressOf(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a := from.Addr().Unmap().WithZone("")
	if a.Is6() {
		site, _ := a.Prefix(siteBits) // fails for lengths there are not
		return site.Addr()
	}
	return a
}
