package pacing

import "sync/atomic"

// Share divides the bytes that may be under way among the webhooks that have some
// under way: with n of them each may have an (n+1)th part, so that there is always
// room for one more. A webhook that has less than its part may begin a delivery,
// however large, while less than the whole is under way; and one that has nothing
// under way always may. So there is at most the whole under way, and one delivery for
// each webhook besides. Safe for concurrent use.
type Share struct {
	whole  int64
	flying atomic.Int64 // bytes under way
	active atomic.Int64 // webhooks that have some
}

// NewShare divides so many bytes.
func NewShare(bytes int64) *Share { return &Share{whole: bytes} }

// may tells whether a webhook that has so many bytes under way may begin a delivery.
func (s *Share) may(own int64) bool {
	return own == 0 || own < s.whole/(s.active.Load()+1) && s.flying.Load() < s.whole
}

// take adds bytes to a webhook that has own of them. Without bytes it does nothing.
func (s *Share) take(own, bytes int64) {
	if bytes == 0 {
		return
	}
	if own == 0 {
		s.active.Add(1)
	}
	s.flying.Add(bytes)
}

// giveBack takes bytes from a webhook to which that leaves own. Without bytes it does
// nothing.
func (s *Share) giveBack(own, bytes int64) {
	if bytes == 0 {
		return
	}
	if own == 0 {
		s.active.Add(-1)
	}
	s.flying.Add(-bytes)
}
