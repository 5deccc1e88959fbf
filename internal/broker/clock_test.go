package broker

import (
	"strings"
	"testing"
	"time"
)

// Deadlines count by the monotonic clock, which no step of the wall clock moves: the start has its reading, and so has
// every time that is made of it.
func TestDeadlinesAreMonotonic(t *testing.T) {
	b := newServer(t, nil).Broker
	for name, at := range map[string]time.Time{
		"the start": b.start, "a deadline": b.at(b.elapsed()), "one to come": b.at(b.elapsed() + int64(time.Hour)),
	} {
		if !strings.Contains(at.String(), " m=") {
			t.Errorf("%s has no monotonic reading: %s", name, at)
		}
	}
}
