package conformance

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"cloudsignal/internal/mqtt"
)

func TestFilterIsText(t *testing.T) {
	each(t, func(w *world) { w.bad(packet(0x82, []byte{0, 1}, w.props(), text("a\xff"), []byte{0})) }, both...)
}

func TestUnsubscribeFilterIsText(t *testing.T) {
	each(t, func(w *world) { w.bad(packet(0xa2, []byte{0, 1}, w.props(), text("a\xff"))) }, both...)
}

func TestSubscribeWithoutFilter(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.raw(packet(0x82, []byte{0, 1}, w.props()))
		p.ends(mqtt.ProtocolError)
		w.bad(packet(0x82, []byte{0, 1}, w.props(), text("t"))) // no options
	}, both...)
}

func TestUnsubscribeWithoutFilter(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.raw(packet(0xa2, []byte{0, 1}, w.props()))
		p.ends(mqtt.ProtocolError)
	}, both...)
}

func TestSubscriptionOptions(t *testing.T) {
	each(t, func(w *world) {
		reserved := []byte{3, 0x40, 0x80, 0xc1}
		if w.v != mqtt.V5 {
			reserved = append(reserved, 4, 8, 0x10, 0x20)
		}
		for _, o := range reserved {
			w.bad(packet(0x82, []byte{0, 1}, w.props(), text("t"), []byte{o}))
		}
		if w.v == mqtt.V5 {
			p := w.connect()
			p.raw(packet(0x82, []byte{0, 1}, w.props(), text("t"), []byte{0x30})) // retain handling 3
			p.ends(mqtt.ProtocolError)
		}
	}, both...)
}

func TestNoLocal(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.subscribe(mqtt.Subscription{Filter: []byte(w.topic("t")), QoS: 1, NoLocal: true}, filter(w.topic("own"), 1))
		p.publish(w.topic("t"), "mine", 1)
		p.quiet()
		w.connect().publish(w.topic("t"), "another's", 1)
		p.takes(w.topic("t"), "another's", 1)
		p.send(message(w.topic("own"), "m", 0))
		p.gets(w.topic("own"), "m", 0)
	})
}

func TestNoLocalShared(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte("$share/g/t"), NoLocal: true}}})
		p.ends(mqtt.ProtocolError)
	})
}

func TestSubackComes(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.subscribe(filter(w.topic("t"), 1))
		p.send(message(w.topic("t"), "from here on", 0))
		p.gets(w.topic("t"), "from here on", 0)
	}, both...)
}

// TestResubscribe: the new options hold, there is one subscription, and no message is lost meanwhile.
func TestResubscribe(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(receiveMaximum(65535))
		s.subscribe(filter(w.topic("t"), 0))
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "m", 2)
		s.takes(w.topic("t"), "m", 2)
		s.quiet()
		const n = 300
		for i := range n {
			m := message(w.topic("t"), strconv.Itoa(i), 1)
			m.ID = uint16(i + 1)
			p.send(m)
			if i%10 == 0 {
				s.send(&mqtt.Subscribe{ID: 7, Subscriptions: []mqtt.Subscription{filter(w.topic("t"), 1)}})
			}
		}
		subacks := 0
		for got := 0; got < n || subacks < n/10; {
			switch m := s.expectRaw().packet.(type) {
			case *mqtt.Publish:
				if string(m.Payload) != strconv.Itoa(got) {
					w.Fatalf("got %s, want %d", m.Payload, got)
				}
				got++
				s.settle(m)
			case *mqtt.Suback:
				subacks++
			}
		}
		s.quiet()
	}, both...)
}

// TestResubscribeSendsRetained: again what is retained, and the subscription goes on.
func TestResubscribeSendsRetained(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		p.publish(w.topic("t"), "m", 1, retain)
		for range 2 {
			s.subscribe(filter(w.topic("t"), 1))
			s.takes(w.topic("t"), "m", 1)
		}
		s.quiet()
	}, both...)
}

// mixed are filters that the user dashboard may and may not have.
var mixed = []mqtt.Subscription{
	filter("agents/a", 1), filter("not/allowed", 2), filter("agents/b/#", 2), filter("agents/+/c", 0), filter("#", 1),
}

func TestSubackForEachFilter(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect(as(w.server.dashboard))
		got := p.subscribed(&mqtt.Subscribe{Subscriptions: mixed})
		no := mqtt.NotAuthorized
		if w.v != mqtt.V5 {
			no = mqtt.UnspecifiedError // 0x80
		}
		if want := []mqtt.Reason{1, no, 2, 0, no}; !slices.Equal(got, want) {
			w.Fatalf("SUBACK % x, want % x", got, want)
		}
	}, both...)
}

// TestManyFilters: one SUBSCRIBE with several filters does what several do, with one answer; the same of UNSUBSCRIBE.
func TestManyFilters(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		p.publish(w.topic("a"), "m", 1, retain)
		s.subscribe(filter(w.topic("a"), 0), filter(w.topic("b"), 1), filter(w.topic("a"), 1))
		if r := w.v; r == mqtt.V311 || r == mqtt.V5 { // the retained one comes for each that asks for it
			first, second := s.gets(w.topic("a"), "m", 0), s.takes(w.topic("a"), "m", 1)
			if !first.Retain || !second.Retain {
				w.Fatal("retain flag")
			}
		}
		p.publish(w.topic("a"), "1", 1)
		s.takes(w.topic("a"), "1", 1) // the last one holds
		p.publish(w.topic("b"), "2", 1)
		s.takes(w.topic("b"), "2", 1)
		s.send(&mqtt.Unsubscribe{ID: 9, Filters: [][]byte{[]byte(w.topic("a")), []byte(w.topic("a")), []byte(w.topic("b"))}})
		u := expect[*mqtt.Unsuback](s)
		if want := []mqtt.Reason{0, mqtt.NoSubscriptionExisted, 0}; w.v == mqtt.V5 && !slices.Equal(u.Reasons, want) {
			w.Fatalf("UNSUBACK % x", u.Reasons)
		}
		p.publish(w.topic("a"), "3", 1)
		p.publish(w.topic("b"), "4", 1)
		s.quiet()
	}, both...)
}

func TestQoSOfADelivery(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for granted := range mqtt.QoS(3) {
			s := w.connect()
			s.subscribe(filter(w.topic("t"), granted))
			for published := range mqtt.QoS(3) {
				p.publish(w.topic("t"), "m", published)
				s.takes(w.topic("t"), "m", min(granted, published))
			}
		}
	}, both...)
}

func TestSubackReasons(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		got := p.subscribed(&mqtt.Subscribe{Subscriptions: []mqtt.Subscription{
			filter(w.topic("a"), 0), filter(w.topic("a"), 1), filter(w.topic("a"), 2), filter(bytesOf(5000), 0),
		}})
		bad := mqtt.TopicFilterInvalid
		if w.v != mqtt.V5 {
			bad = mqtt.UnspecifiedError
		}
		if want := []mqtt.Reason{0, 1, 2, bad}; !slices.Equal(got, want) {
			w.Fatalf("SUBACK % x, want % x", got, want)
		}
	}, both...)
}

func (p *peer) unsubscribed(filters ...string) []mqtt.Reason {
	p.w.Helper()
	u := &mqtt.Unsubscribe{ID: p.nextID()}
	for _, f := range filters {
		u.Filters = append(u.Filters, []byte(f))
	}
	p.send(u)
	a := expect[*mqtt.Unsuback](p)
	if a.ID != u.ID || p.v == mqtt.V5 && len(a.Reasons) != len(filters) || p.v != mqtt.V5 && len(a.Reasons) != 0 {
		p.w.Fatalf("UNSUBACK %d % x", a.ID, a.Reasons)
	}
	return a.Reasons
}

func TestUnsubscribeIsExact(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("a/+"), 1))
		for _, f := range []string{"a/#", "a/b", "+/+", "A/+", "a/+/"} {
			if r := s.unsubscribed(w.topic(f)); w.v == mqtt.V5 && r[0] != mqtt.NoSubscriptionExisted {
				w.Fatalf("UNSUBACK %s for %s", r[0], f)
			}
		}
		p.publish(w.topic("a/b"), "m", 1)
		s.takes(w.topic("a/b"), "m", 1)
		if r := s.unsubscribed(w.topic("a/+")); w.v == mqtt.V5 && r[0] != mqtt.Success {
			w.Fatalf("UNSUBACK %s", r[0])
		}
		p.publish(w.topic("a/b"), "m", 1)
		s.quiet()
	}, both...)
}

func TestUnsubscribeStops(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 1))
		s.unsubscribed(w.topic("t"))
		p.publish(w.topic("t"), "m", 1)
		s.quiet()
		s.leave()
		p.publish(w.topic("t"), "m", 1)
		s = w.connect(durable, named(s.id))
		s.publish(w.topic("x"), "m", 1)
		s.quiet()
	}, both...)
}

func TestUnsubscribeCompletes(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "1", 1)
		p.publish(w.topic("t"), "2", 2)
		one, two := s.gets(w.topic("t"), "1", 1), s.gets(w.topic("t"), "2", 2)
		s.unsubscribed(w.topic("t"))
		s.drop()
		s = w.connect(durable, named(s.id))
		if m := s.takes(w.topic("t"), "1", 1); m.ID != one.ID {
			w.Fatalf("identifier %d, was %d", m.ID, one.ID)
		}
		if m := s.takes(w.topic("t"), "2", 2); m.ID != two.ID {
			w.Fatalf("identifier %d, was %d", m.ID, two.ID)
		}
		s.quiet()
	}, both...)
}

func TestUnsubackReasons(t *testing.T) {
	each(t, func(w *world) {
		s := w.connect()
		s.subscribe(filter("a/"+w.name, 1), filter("b/"+w.name, 1))
		got := s.unsubscribed("none", "b/"+w.name, "#", "a/"+w.name, "none")
		no := mqtt.NoSubscriptionExisted
		if want := []mqtt.Reason{no, 0, no, 0, no}; w.v == mqtt.V5 && !slices.Equal(got, want) {
			w.Fatalf("UNSUBACK % x", got)
		}
	}, both...)
}

func TestPing(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for range 3 {
			p.raw([]byte{0xc0, 0})
			if a := p.expectRaw(); !bytes.Equal(a.raw, []byte{0xd0, 0}) {
				w.Fatalf("got % x", a.raw)
			}
		}
	}, both...)
}
