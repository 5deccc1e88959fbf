package conformance

import (
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

func TestMisplacedWildcards(t *testing.T) {
	each(t, func(w *world) {
		for _, f := range []string{"a#", "#/a", "a/#/b", "a/b#", "##"} {
			w.bad(encoded(w.v, subscribeTo(f)))
			w.bad(encoded(w.v, &mqtt.Unsubscribe{ID: 1, Filters: [][]byte{[]byte(f)}}))
		}
	}, both...)
}

func TestMisplacedPlus(t *testing.T) {
	each(t, func(w *world) {
		for _, f := range []string{"a+", "+a", "a/b+/c", "++"} {
			w.bad(encoded(w.v, subscribeTo(f)))
			w.bad(encoded(w.v, &mqtt.Unsubscribe{ID: 1, Filters: [][]byte{[]byte(f)}}))
		}
	}, both...)
}

// TestWildcards: which of these topics does a filter get.
func TestWildcards(t *testing.T) {
	each(t, func(w *world) {
		topics := []string{"a", "a/", "a/b", "a/b/c", "/a", "a//c", "b/b"}
		for f, want := range map[string][]string{
			"a":     {"a"},
			"a/#":   {"a", "a/", "a/b", "a/b/c", "a//c"},
			"+":     {"a"},
			"+/+":   {"a/", "a/b", "/a", "b/b"},
			"a/+":   {"a/", "a/b"},
			"a/+/c": {"a/b/c", "a//c"},
			"+/b/#": {"a/b", "a/b/c", "b/b"},
			"#":     topics,
		} {
			s, p := w.connect(), w.connect()
			s.subscribe(filter(w.topic(f), 1))
			for _, topic := range topics {
				p.publish(w.topic(topic), topic, 1)
			}
			for _, topic := range want {
				s.takes(w.topic(topic), topic, 1)
			}
			s.quiet()
		}
	}, both...)
}

func TestDollarTopics(t *testing.T) {
	each(t, func(w *world) {
		p, wild, exact := w.connect(), w.connect(), w.connect()
		topic := "$x/" + w.name
		wild.subscribe(filter("+/"+w.name, 1), filter("#", 0))
		exact.subscribe(filter("$x/+", 0))
		p.publish(topic, "m", 1)
		for { // others' come too
			if m := expect[*mqtt.Publish](exact); string(m.Topic) == topic {
				break
			}
		}
		p.publish("x/"+w.name, "mark", 1)
		for {
			m := expect[*mqtt.Publish](wild)
			wild.settle(m)
			if m.Topic[0] == '$' {
				w.Fatalf("a wildcard got %s", m.Topic)
			}
			if string(m.Topic) == "x/"+w.name {
				return
			}
		}
	}, both...)
}

func TestEmptyTopic(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.send(message("", "m", 0))
		p.ends(mqtt.ProtocolError)
		w.bad(encoded(w.v, subscribeTo("")))
		w.bad(encoded(w.v, &mqtt.Unsubscribe{ID: 1, Filters: [][]byte{nil}}))
	}, both...)
}

// TestTopicIdentity: these are all different topics, and each is its own.
func TestTopicIdentity(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		topics := []string{"a", "A", "/a", "a/", "a//b", "a/b", "a b", " a", "a.b", "a*b", "a>b", "*", ">", "..", "%61", "\u00e9", "e\u0301", "\ufeffa"}
		subscribers := make([]*peer, len(topics))
		for n, topic := range topics {
			subscribers[n] = w.connect()
			subscribers[n].subscribe(filter(w.topic(topic), 1))
		}
		for _, topic := range topics {
			p.publish(w.topic(topic), "of "+topic, 1, retain)
		}
		for n, topic := range topics {
			if m := subscribers[n].takes(w.topic(topic), "of "+topic, 1); string(m.Topic) != w.topic(topic) {
				w.Fatalf("topic %q", m.Topic)
			}
			subscribers[n].quiet()
			if got := w.retainedOf(w.topic(topic)); got != "of "+topic {
				w.Fatalf("%q has %q", topic, got)
			}
		}
	}, both...)
}

func share(group, f string) string { return "$share/" + group + "/" + f }

func TestSharedWithoutName(t *testing.T) {
	each(t, func(w *world) {
		for _, f := range []string{"$share//t", "$share/"} {
			w.bad(encoded(w.v, subscribeTo(f)))
		}
	})
}

func TestSharedNames(t *testing.T) {
	each(t, func(w *world) {
		for _, f := range []string{"$share/a+/t", "$share/#/t", "$share/g", "$share/g/", "$share/g/a#"} {
			w.bad(encoded(w.v, subscribeTo(f)))
		}
		p := w.connect()
		p.subscribe(filter(share("ünïcode g", w.topic("t")), 1))
	})
}

func TestSharedQoS(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for granted := range mqtt.QoS(3) {
			a, b := w.connect(), w.connect()
			f := filter(share("g", w.topic("t")), granted)
			a.subscribe(f)
			b.subscribe(f)
			for published := range mqtt.QoS(3) {
				for range 2 { // in turn
					p.publish(w.topic("t"), "m", published)
				}
				a.takes(w.topic("t"), "m", min(granted, published))
				b.takes(w.topic("t"), "m", min(granted, published))
			}
			a.leave()
			b.leave()
		}
	})
}

// member is the one of two peers that has the message, and the other.
func member(w *world, a, b *peer) (has *mqtt.Publish, one, other *peer) {
	w.Helper()
	for _, p := range []*peer{a, b} {
		p.send(&mqtt.Ping{Type: mqtt.PINGREQ})
		if m, ok := p.expectRaw().packet.(*mqtt.Publish); ok {
			if has != nil {
				w.Fatal("both have it")
			}
			expect[*mqtt.Ping](p)
			has, one = m, p
		} else {
			other = p
		}
	}
	if has == nil {
		w.Fatal("nobody has it")
	}
	return has, one, other
}

func TestSharedQoS2StaysWithItsClient(t *testing.T) {
	each(t, func(w *world) {
		p, a, b := w.connect(), w.connect(durable), w.connect(durable)
		f := filter(share("g", w.topic("t")), 2)
		a.subscribe(f)
		b.subscribe(f)
		p.publish(w.topic("t"), "m", 2)
		m, one, other := waitMember(w, a, b)
		one.drop()
		one = w.connect(durable, named(one.id))
		if again := one.takes(w.topic("t"), "m", 2); again.ID != m.ID || !again.Dup {
			w.Fatalf("identifier %d, was %d, DUP %v", again.ID, m.ID, again.Dup)
		}
		other.quiet()
	})
}

// waitMember is member for messages that come from the log, when they are there.
func waitMember(w *world, a, b *peer) (has *mqtt.Publish, one, other *peer) {
	w.Helper()
	select {
	case got := <-a.in:
		has, one, other = got.packet.(*mqtt.Publish), a, b
	case got := <-b.in:
		has, one, other = got.packet.(*mqtt.Publish), b, a
	case <-time.After(patience):
		w.Fatal("nobody has it")
	}
	return has, one, other
}

func TestSharedQoS2EndsWithItsSession(t *testing.T) {
	each(t, func(w *world) {
		p, a, b := w.connect(), w.connect(), w.connect()
		f := filter(share("g", w.topic("t")), 2)
		a.subscribe(f)
		b.subscribe(f)
		p.publish(w.topic("t"), "m", 2)
		_, one, other := member(w, a, b)
		one.leave()
		other.quiet()
		p.publish(w.topic("t"), "next", 2)
		other.takes(w.topic("t"), "next", 2)
	})
}

func TestSharedNack(t *testing.T) {
	each(t, func(w *world) {
		p, a, b := w.connect(), w.connect(), w.connect()
		f := filter(share("g", w.topic("t")), 2)
		a.subscribe(f)
		b.subscribe(f)
		for q, answer := range map[mqtt.QoS]mqtt.Type{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
			p.publish(w.topic("t"), "m", q)
			m, one, other := member(w, a, b)
			one.ack(answer, m.ID, mqtt.UnspecifiedError)
			one.quiet()
			other.quiet()
		}
	})
}

func TestSharedGetsNothingRetained(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		p.publish(w.topic("t"), "m", 1, retain)
		s.subscribe(filter(share("g", w.topic("t")), 1))
		s.quiet()
	})
}
