package access

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// maxFailureEntries is the number of addresses, of users, and of users from an address, of one window whose failures are counted.
// When there are more, the one with the fewest failures of a few is forgotten.
const (
	maxFailureEntries = 1 << 16
	evictionSample    = 8
)

// origin is who is counted: an address (IPv6: its /64, which is what one customer has) and an organization, so that a
// stray device of one organization does not shut out another one's behind the same address.
type origin struct {
	address      netip.Prefix
	organization string // as it was asked for, whether there is one or not: a limit says nothing about that
}

// events counts events by what they belong to, in a sliding window, approximated by two fixed ones.
type events[K comparable] struct {
	window time.Duration

	mu      sync.Mutex
	start   time.Time // of current
	current map[K]int
	last    map[K]int
}

func newEvents[K comparable](window time.Duration) *events[K] {
	return &events[K]{window: window, current: make(map[K]int), last: make(map[K]int)}
}

func newOrigin(a netip.Addr, organization string) origin {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // of no address: the zero prefix
	return origin{p, organization}
}

// of is how many events k has had in the window that ends now.
func (e *events[K]) of(k K, now time.Time) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn(now)
	rest := e.window - now.Sub(e.start)
	return float64(e.current[k]) + float64(e.last[k])*float64(rest)/float64(e.window)
}

// count adds one event of k.
func (e *events[K]) count(k K, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn(now)
	if _, ok := e.current[k]; !ok && len(e.current) >= maxFailureEntries {
		e.evict()
	}
	e.current[k]++
}

// turn makes current the window that now lies in. A clock that went back starts anew.
func (e *events[K]) turn(now time.Time) {
	switch d := now.Sub(e.start); {
	case d >= 0 && d < e.window:
		return
	case d >= e.window && d < 2*e.window:
		e.last, e.start = e.current, e.start.Add(e.window)
	default:
		e.last, e.start = make(map[K]int), now
	}
	e.current = make(map[K]int)
}

func (e *events[K]) evict() {
	var least K
	seen := 0
	for k, n := range e.current { // in random order
		if seen == 0 || n < e.current[least] {
			least = k
		}
		if seen++; seen == evictionSample {
			break
		}
	}
	delete(e.current, least)
}

// turns gives each user, of those whose password many guess at, so many verifications a second, about evenly apart: whoever comes next
// has the next one, and who has the password comes next now and then. In one second's lot, or at even times, those who guess
// in step with it would have them all.
type turns struct {
	apart time.Duration
	seed  maphash.Seed

	mu   sync.Mutex
	took uint64
	next map[uint64]time.Time // at most maxFailureEntries
}

func newTurns(perSecond int) *turns {
	return &turns{apart: time.Second / time.Duration(max(1, perSecond)), next: make(map[uint64]time.Time), seed: maphash.MakeSeed()}
}

// take says whether it is user's turn, and takes it.
func (t *turns) take(user uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, ok := t.next[user]
	if ok && now.Before(next) && next.Sub(now) <= 2*t.apart { // else the clock went back
		return false
	}
	if !ok && len(t.next) >= maxFailureEntries {
		t.evict()
	}
	t.took++
	uneven := maphash.Comparable(t.seed, t.took) % uint64(t.apart) // half to one and a half times apart
	t.next[user] = now.Add(t.apart/2 + time.Duration(uneven))
	return true
}

// evict forgets the earliest of a few: its turn comes a little early.
func (t *turns) evict() {
	var first uint64
	seen := 0
	for user, at := range t.next { // in random order
		if seen == 0 || at.Before(t.next[first]) {
			first = user
		}
		if seen++; seen == evictionSample {
			break
		}
	}
	delete(t.next, first)
}
