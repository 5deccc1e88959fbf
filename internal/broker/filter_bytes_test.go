package broker

import (
	"fmt"
	"strings"
	"testing"

	"cloudsignal/internal/mqtt"
)

// TestFilterBytes: an organization's subscriptions take no more memory than they may, over all connections and with the durable filters
// of sessions that are away; what has no room is refused and counted, and who leaves gives room. A session that goes on and has no
// room loses nothing.
func TestFilterBytes(t *testing.T) {
	deep := strings.Repeat("/x", 63)
	filter := func(i int) string { return fmt.Sprintf("%02d%s", i, deep) }
	most := 10 * filterBytes(filter(0))
	s := newServer(t, func(c *Config) {
		c.Limits = DefaultLimits()
		c.Limits.FilterBytes = most
	})
	fill := func(c *conn, q mqtt.QoS, from int) {
		for i := range 10 {
			feed(t, c, subscribe(q, filter(from+i)))
		}
	}
	has := func(c *conn, want int) {
		t.Helper()
		if len(c.subscriptions) != want {
			t.Errorf("%d subscriptions, want %d", len(c.subscriptions), want)
		}
		if got := s.home(t).filtered.Load(); got > most {
			t.Errorf("%d bytes are held, of at most %d", got, most)
		}
	}
	first, _ := s.dial(t, "any", "first")
	fill(first, 0, 0)
	has(first, 10)
	second, _ := s.dial(t, "any", "second")
	feed(t, second, subscribe(1, "a"))
	has(second, 0)
	feed(t, first, subscribe(1, filter(3))) // it is there: nothing is added
	if n := s.Stats().Subscribes[reasonLabel(mqtt.QuotaExceeded)]; n != 1 {
		t.Errorf("%d refusals are counted, want 1", n)
	}
	first.Closed(nil)

	keep := func() (*conn, *sink, error) {
		p := s.connectPacket("any", "keeper", mqtt.V5)
		p.CleanStart, p.Properties.SessionExpiry = false, 600
		p.Properties.Set(mqtt.SessionExpiry)
		out := new(sink)
		c := s.Accept(out).(*conn)
		return c, out, c.Feed(p.Append(nil, mqtt.V5))
	}
	keeper, _, err := keep()
	if err != nil {
		t.Fatal(err)
	}
	fill(keeper, 1, 20)
	has(keeper, 5) // each with a durable filter
	keeper.Closed(nil)
	s.settle()
	fill(second, 0, 40)
	has(second, 5) // the durable filters have the other half
	again, out, err := keep()
	if err == nil || !out.ended.Load() {
		t.Error("a session goes on that has no room")
	}
	again.Closed(nil)
	if n := s.Stats().Logins[overSubscriptions]; n != 1 {
		t.Errorf("%d refused log-ins are counted, want 1", n)
	}
	second.Closed(nil)
	again, _, _ = keep()
	has(again, 5)
	again.Closed(nil)
	clean, _ := s.dial(t, "any", "keeper") // it ends the session
	clean.Closed(nil)
	s.checkEmpty(t)
}
