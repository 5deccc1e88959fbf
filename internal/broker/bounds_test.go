package broker

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// TestRetainedBounds: count and bytes are never above the bounds, and are those of what is stored; what is refused changes
// nothing; replacing and clearing give room and references back.
func TestRetainedBounds(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		limits := &Limits{Retained: rapid.IntRange(1, 5).Draw(t, "retained"), RetainedBytes: rapid.IntRange(200, 2000).Draw(t, "bytes")}
		var r retained
		model := make(map[string]*session.Message)
		var all []*session.Message
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "a/b", "c/d", "e", "f/g/h"}).Draw(t, "topic")
				size := rapid.SampledFrom([]int{0, 1, 1, 50, 200, 300}).Draw(t, "size")
				m := session.NewMessage(retainedMessage(name, size, 0), now)
				all = append(all, m)
				count, bytes := len(model), cost(m)
				if model[name] == nil {
					count++
				}
				for n, old := range model {
					if n != name {
						bytes += cost(old)
					}
				}
				want := size == 0 || count <= limits.Retained && bytes <= limits.RetainedBytes
				got := r.room(m, limits.Retained, limits.RetainedBytes)
				if got {
					r.retain(m, "", now)
				}
				if got != want {
					t.Fatalf("%d messages of %d bytes: stored %v, want %v", count, bytes, got, want)
				}
				if size == 0 {
					delete(model, name)
				} else if want {
					model[name] = m
				}
			},
			"": func(t *rapid.T) {
				bytes, disk := 0, int64(0)
				for name, m := range model {
					bytes += cost(m)
					disk += entryBytes(m)
					if got, had := r.names.Get([]byte(name)); !had || got.Message != m {
						t.Fatalf("%s is not what was stored last", name)
					}
				}
				if r.bytes != bytes || r.disk.Load() != disk || r.names.Len() != len(model) {
					t.Fatalf("%d messages of %d bytes, %d on disk, want %d, %d and %d", r.names.Len(), r.bytes, r.disk.Load(), len(model), bytes, disk)
				}
			},
		})
		for name := range model {
			r.retain(session.NewMessage(retainedMessage(name, 0, 0), now), "", now)
		}
		for _, m := range all { // the last reference: one more is a panic of Message
			m.Release()
			func() {
				defer func() {
					if recover() == nil {
						t.Fatal("a message that was cleared is still held")
					}
				}()
				m.Release()
			}()
		}
	})
}

// TestRetainedExpires: a message whose time is over is not sent, and is dropped when a subscription meets it.
func TestRetainedExpires(t *testing.T) {
	var later atomic.Int64
	from := time.Now()
	s := newServer(t, func(c *Config) { c.Now = func() time.Time { return from.Add(time.Duration(later.Load())) } })
	defer s.Close()
	c, out := s.dial(t, "any", "one")
	defer c.Closed(nil)
	feed(t, c, retainedMessage("a", 10, 5), retainedMessage("b", 10, 50))
	r := &s.home(t).retained
	before := out.bytes.Load()
	later.Store(int64(6 * time.Second))
	feed(t, c, subscribe(0, "#"))
	if r.names.Len() != 1 || r.bytes == 0 {
		t.Errorf("%d messages are stored, want one", r.names.Len())
	}
	packet := retainedMessage("b", 10, 44).Append(nil, mqtt.V5)
	suback := (&mqtt.Suback{ID: 1, Reasons: make([]mqtt.Reason, 1)}).Append(nil, mqtt.V5)
	if got, want := out.bytes.Load()-before, int64(len(packet)+len(suback)); got != want {
		t.Errorf("%d bytes came, want %d", got, want)
	}
	later.Store(int64(60 * time.Second))
	feed(t, c, subscribe(0, "#"))
	if r.names.Len() != 0 || r.bytes != 0 {
		t.Errorf("%d messages, %d bytes are stored", r.names.Len(), r.bytes)
	}
}

// TestLogBudget: a connection writes so many refusals to the log in a second; the next line says how many there were.
func TestLogBudget(t *testing.T) {
	var l logBudget
	now := time.Unix(1_700_000_000, 0)
	take := func(want string) {
		t.Helper()
		n, ok := l.take(now)
		if got := fmt.Sprint(n, " ", ok); got != want {
			t.Errorf("at %v: %s, want %s", now.Format("05.000"), got, want)
		}
	}
	for range maxRefusalLines {
		take("0 true")
	}
	take("0 false")
	now = now.Add(999 * time.Millisecond)
	take("0 false")
	now = now.Add(time.Millisecond)
	take("2 true")
	for range maxRefusalLines - 1 {
		take("0 true")
	}
	take("0 false")
	now = now.Add(time.Hour)
	take("1 true")
}

// TestExpiredRetainedMakesRoom: what has expired does not keep an organization from storing, whoever asks for it or not.
func TestExpiredRetainedMakesRoom(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newServer(t, func(c *Config) {
		c.Limits = DefaultLimits()
		c.Limits.Retained = 2
	})
	o := s.home(t)
	r := &o.retained
	store := func(name string, expiry uint32, now time.Time) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		m := session.NewMessage(retainedMessage(name, 10, expiry), now)
		defer m.Release()
		if o.roomFor(new(reader), m, now) != none {
			return false
		}
		r.retain(m, "", now)
		return true
	}
	if !store("$a", 10, now) || !store("b", 0, now) || store("c", 0, now.Add(5*time.Second)) {
		t.Fatal("the bound of 2 is not kept")
	}
	if !store("c", 0, now.Add(20*time.Second)) {
		t.Error("an expired message takes the room of another")
	}
	if store("d", 0, now.Add(40*time.Second)) {
		t.Error("the bound of 2 is not kept")
	}
	if r.names.Len() != 2 || len(r.expiring) != 0 {
		t.Errorf("%d messages, %d expiring", r.names.Len(), len(r.expiring))
	}
}
