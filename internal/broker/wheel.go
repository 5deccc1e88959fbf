package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

// wheelTick is how exact deadlines are: one is noticed at most two ticks late, and never early ([MQTT-3.1.2-22]).
const wheelTick = 250 * time.Millisecond

// wheelSlots times wheelTick is how far a check is put off at most; later deadlines are looked at more than once.
const wheelSlots = 256

// watch is a connection's place in the wheel. An ended connection takes itself out of it, so that a flood of short ones
// leaves a word each behind, not all that they held.
type watch struct {
	conn atomic.Pointer[conn]
	tick int64 // when it is looked at next: it has one place, the one it was given last; 0: none. Guarded by the wheel's lock
}

// wheel is a timer wheel: no packet resets a timer, a connection is looked at when its deadline may have come.
type wheel struct {
	mu    sync.Mutex
	slots [wheelSlots][]*watch
	at    int64 // tick that was served last; 0: none yet
	start time.Time
}

// add has c looked at in the first tick that is not before when, or earlier if that was asked for before.
func (w *wheel) add(c *watch, when time.Time) {
	w.mu.Lock()
	n := w.number(when) + 1
	if w.at != 0 {
		n = min(max(n, w.at+1), w.at+wheelSlots-1)
	}
	if c.tick <= w.at || n < c.tick { // else it is looked at before that anyhow
		c.tick = n
		w.slots[n%wheelSlots] = append(w.slots[n%wheelSlots], c)
	}
	w.mu.Unlock()
}

// number is the tick of a time, counted by the monotonic clock where the time has one. The caller holds mu.
func (w *wheel) number(t time.Time) int64 {
	if w.start.IsZero() {
		w.start = t.Add(-72 * time.Hour) // the first time may be a deadline: what lies before it has a number too
	}
	return max(1, int64(t.Sub(w.start)/wheelTick))
}

// due empties the slots up to now.
func (w *wheel) due(now time.Time) []*watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.number(now)
	from := w.at + 1
	if n-w.at >= wheelSlots {
		from = n - wheelSlots + 1
	}
	var all []*watch
	for i := from; i <= n; i++ {
		s := &w.slots[i%wheelSlots]
		kept := (*s)[:0]
		for _, c := range *s {
			switch {
			case c.tick != 0 && c.tick <= n:
				all = append(all, c)
				c.tick = 0 // if it has an older place too, it is not taken twice
			case c.tick != 0 && c.tick%wheelSlots == i%wheelSlots:
				kept = append(kept, c) // it is here for the next time round
			}
		}
		clear((*s)[len(kept):])
		*s = kept
	}
	w.at = max(w.at, n)
	return all
}
