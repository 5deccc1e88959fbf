package access

import (
	"net/netip"
	"sync"
	"time"
)

// maxFailureEntries is the number of addresses of one window whose failures are counted. When there are more, the one
// with the fewest failures of a few is forgotten.
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

// failures counts refused log-ins in a sliding window, approximated by two fixed ones.
type failures struct {
	limit  int // none if negative
	window time.Duration

	mu      sync.Mutex
	start   time.Time // of current
	current map[origin]int
	last    map[origin]int
}

func newFailures(limit int, window time.Duration) *failures {
	return &failures{limit: limit, window: window, current: make(map[origin]int), last: make(map[origin]int)}
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

// blocked says whether o has had its failures for now.
func (f *failures) blocked(o origin, now time.Time) bool {
	if f.limit < 0 || !o.address.IsValid() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	rest := f.window - now.Sub(f.start)
	return float64(f.current[o])+float64(f.last[o])*float64(rest)/float64(f.window) >= float64(f.limit)
}

// count adds one failure of o.
func (f *failures) count(o origin, now time.Time) {
	if f.limit < 0 || !o.address.IsValid() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	if _, ok := f.current[o]; !ok && len(f.current) >= maxFailureEntries {
		f.evict()
	}
	f.current[o]++
}

// turn makes current the window that now lies in. A clock that went back starts anew.
func (f *failures) turn(now time.Time) {
	switch d := now.Sub(f.start); {
	case d >= 0 && d < f.window:
		return
	case d >= f.window && d < 2*f.window:
		f.last, f.start = f.current, f.start.Add(f.window)
	default:
		f.last, f.start = make(map[origin]int), now
	}
	f.current = make(map[origin]int)
}

func (f *failures) evict() {
	var least origin
	seen := 0
	for o, n := range f.current { // in random order
		if seen == 0 || n < f.current[least] {
			least = o
		}
		if seen++; seen == evictionSample {
			break
		}
	}
	delete(f.current, least)
}
