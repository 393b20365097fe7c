package pacing

import "time"

const windowSlots = 10 // of a second each

// window counts the attempts of the last ten seconds.
type window struct {
	slots [windowSlots]struct {
		second      int64
		all, failed int
	}
}

func (w *window) add(now time.Time, failed bool) {
	second := now.Unix()
	s := &w.slots[second%windowSlots]
	if s.second != second {
		s.second, s.all, s.failed = second, 0, 0
	}
	s.all++
	if failed {
		s.failed++
	}
}

func (w *window) count(now time.Time) (all, failed int) {
	oldest := now.Unix() - windowSlots
	for _, s := range w.slots {
		if s.second > oldest {
			all, failed = all+s.all, failed+s.failed
		}
	}
	return all, failed
}
