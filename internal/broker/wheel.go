package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

// wheelTick is how late a deadline may be noticed; [MQTT-3.1.2-22] allows us to be late, never early.
const wheelTick = 250 * time.Millisecond

// wheelSlots times wheelTick is how far a check is put off at most; later deadlines are looked at more than once.
const wheelSlots = 256

// watch is a connection's place in the wheel. An ended connection takes itself out of it, so that a flood of short ones
// leaves a word each behind, not all that they held.
type watch struct{ conn atomic.Pointer[conn] }

// wheel is a timer wheel: no packet resets a timer, a connection is looked at when its deadline may have come.
type wheel struct {
	mu    sync.Mutex
	slots [wheelSlots][]*watch
	at    int64 // tick that was served last; 0: none yet
}

// add has c looked at in the first tick that is not before when.
func (w *wheel) add(c *watch, when time.Time) {
	n := when.UnixNano()/int64(wheelTick) + 1
	w.mu.Lock()
	if w.at != 0 {
		n = min(max(n, w.at+1), w.at+wheelSlots-1)
	}
	w.slots[n%wheelSlots] = append(w.slots[n%wheelSlots], c)
	w.mu.Unlock()
}

// due empties the slots up to now.
func (w *wheel) due(now time.Time) []*watch {
	n := now.UnixNano() / int64(wheelTick)
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.at + 1
	if n-w.at >= wheelSlots {
		from = n - wheelSlots + 1
	}
	var all []*watch
	for i := from; i <= n; i++ {
		s := &w.slots[i%wheelSlots]
		all = append(all, *s...)
		clear(*s)
		*s = (*s)[:0]
	}
	w.at = max(w.at, n)
	return all
}
