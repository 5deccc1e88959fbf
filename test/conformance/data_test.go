package conformance

import (
	"bytes"
	"testing"

	"cloudsignal/internal/mqtt"
)

// badConnect wants a CONNECT refused for its form: with 0x81 on 5.0, without a word on 3.x.
func (w *world) badConnect(b []byte) {
	w.Helper()
	p := w.dial()
	p.raw(b)
	if w.v == mqtt.V5 {
		p.refused(mqtt.MalformedPacket)
	} else {
		p.closed()
	}
}

// bad wants a connection ended as malformed for these bytes.
func (w *world) bad(b []byte) {
	w.Helper()
	p := w.connect()
	p.raw(b)
	p.ends(mqtt.MalformedPacket)
}

func encoded(v mqtt.Version, p mqtt.Packet) []byte { return p.Append(nil, v) }

func subscribeTo(f string) *mqtt.Subscribe {
	return &mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{filter(f, 0)}}
}

// badText puts a text into every field that is one: it is refused wherever it is.
func badText(w *world, s string) {
	w.badConnect(encoded(w.v, w.hello(named(s))))
	w.badConnect(encoded(w.v, w.hello(as(login{s, "x"}))))
	w.badConnect(encoded(w.v, w.hello(will(s, "x"))))
	w.bad(encoded(w.v, message(s, "", 0)))
	w.bad(encoded(w.v, subscribeTo(s)))
	w.bad(encoded(w.v, &mqtt.Unsubscribe{ID: 1, Filters: [][]byte{[]byte(s)}}))
	if w.v != mqtt.V5 {
		return
	}
	for _, id := range []mqtt.Property{mqtt.ContentType, mqtt.ResponseTopic} {
		w.bad(packet(0x30, text("t"), w.props([]byte{byte(id)}, text(s))))
	}
	w.bad(packet(0x30, text("t"), w.props([]byte{byte(mqtt.UserPropertyID)}, text("k"), text(s))))
}

func TestIllFormedText(t *testing.T) {
	each(t, func(w *world) {
		badText(w, "\xed\xa0\x80") // a surrogate
		badText(w, "a\xc3(")
	}, both...)
}

func TestNullInText(t *testing.T) { each(t, func(w *world) { badText(w, "a\x00b") }, both...) }

func TestByteOrderMark(t *testing.T) {
	each(t, func(w *world) {
		with, without := w.topic("\ufeffx"), w.topic("x")
		p := w.connect()
		p.subscribe(filter(with, 0))
		p.publish(without, "not this", 1)
		p.send(message(with, "\ufeff", 0))
		if m := p.gets(with, "\ufeff", 0); string(m.Topic) != with {
			w.Fatalf("topic %q", m.Topic)
		}
	}, both...)
}

// TestTextOfSixteenBits shows that a topic is bounded by what its length can say: the longest one that the broker takes comes
// whole, a filter above its bound is refused by itself.
func TestTextOfSixteenBits(t *testing.T) {
	each(t, func(w *world) {
		long := w.topic(bytesOf(4096 - len(w.topic(""))))
		p := w.connect()
		p.subscribe(filter(long, 0))
		p.send(message(long, "m", 0))
		p.gets(long, "m", 0)
		if r := p.subscribed(&mqtt.Subscribe{Subscriptions: []mqtt.Subscription{filter(bytesOf(65535), 0)}}); !r[0].Failed() {
			w.Fatal("a filter of 65,535 bytes was granted")
		}
		p.quiet()
	}, both...)
}

func TestShortestVarint(t *testing.T) {
	each(t, func(w *world) {
		w.bad([]byte{0xc0, 0x80, 0x00})
		w.bad([]byte{0xc0, 0xff, 0xff, 0xff, 0xff, 0x01})
		if w.v == mqtt.V5 {
			w.bad(packet(0x30, text("t"), []byte{0x80, 0x00}))
			w.bad(packet(0x82, []byte{0, 1, 3, 11, 0x81, 0x00}, text("t"), []byte{0}))
		}
		// What the server sends is read by a decoder that refuses longer forms: here with a length of two bytes.
		p := w.connect()
		p.subscribe(filter(w.topic("t"), 0))
		p.send(message(w.topic("t"), bytesOf(120), 0))
		want := packet(0x30, text(w.topic("t")), w.props(), []byte(bytesOf(120)))
		if a := p.expectRaw(); !bytes.Equal(a.raw, want) {
			w.Fatalf("got % x", a.raw)
		}
	}, both...)
}

func TestTextPair(t *testing.T) {
	each(t, func(w *world) {
		for _, s := range []string{"\xed\xa0\x80", "\x00"} {
			w.bad(packet(0x30, text("t"), w.props([]byte{byte(mqtt.UserPropertyID)}, text(s), text("v"))))
			w.bad(packet(0x30, text("t"), w.props([]byte{byte(mqtt.UserPropertyID)}, text("k"), text(s))))
		}
	})
}

func TestReservedFlags(t *testing.T) {
	each(t, func(w *world) {
		b := encoded(w.v, w.hello())
		b[0] |= 1
		w.badConnect(b)
		for _, first := range []byte{0x41, 0x51, 0x60, 0x71, 0xc1} {
			if first == 0xc1 {
				w.bad(packet(first))
			} else {
				w.bad(packet(first, []byte{0, 1}))
			}
		}
		w.bad([]byte{0, 0}) // a reserved type
	}, both...)
}

func TestPubrelFlags(t *testing.T) {
	each(t, func(w *world) {
		for _, first := range []byte{0x60, 0x61, 0x63, 0x6a} {
			w.bad(packet(first, []byte{0, 1}))
		}
	}, both...)
}

func TestSubscribeFlags(t *testing.T) {
	each(t, func(w *world) {
		for _, first := range []byte{0x80, 0x83, 0x8a} {
			w.bad(packet(first, []byte{0, 1}, w.props(), text("t"), []byte{0}))
		}
	}, both...)
}

func TestUnsubscribeFlags(t *testing.T) {
	each(t, func(w *world) {
		for _, first := range []byte{0xa0, 0xa3, 0xaa} {
			w.bad(packet(first, []byte{0, 1}, w.props(), text("t")))
		}
	}, both...)
}

func TestDisconnectFlags(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 0))
		p := w.connect(will(w.topic("will"), "malformed"))
		p.raw(packet(0xe1))
		p.ends(mqtt.MalformedPacket)
		seen.gets(w.topic("will"), "malformed", 0) // it was not a DISCONNECT
	}, both...)
}

func TestAuthFlags(t *testing.T) {
	each(t, func(w *world) { w.bad(packet(0xf2)) })
}

func TestNoIdentifierAtQoS0(t *testing.T) {
	each(t, func(w *world) {
		topic := w.topic("t")
		p := w.connect()
		p.subscribe(filter(topic, 0))
		m := message(topic, "m", 1)
		m.ID = 77
		p.send(m)
		for range 2 { // the message and the acknowledgement, in any order
			if a := p.expectRaw(); a.packet.Kind() == mqtt.PUBLISH {
				if want := packet(0x30, text(topic), w.props(), []byte("m")); !bytes.Equal(a.raw, want) {
					w.Fatalf("got % x, want % x", a.raw, want)
				}
			}
		}
	}, both...)
}

func TestIdentifierZero(t *testing.T) {
	each(t, func(w *world) {
		zero := []byte{0, 0}
		w.bad(packet(0x32, text("t"), zero, w.props()))
		w.bad(packet(0x34, text("t"), zero, w.props()))
		w.bad(packet(0x82, zero, w.props(), text("t"), []byte{0}))
		w.bad(packet(0xa2, zero, w.props(), text("t")))
	}, both...)
}

// TestIdentifiersInFlight keeps messages in flight while others come and go: an identifier in use is not given again.
func TestIdentifiersInFlight(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		used := make(map[uint16]bool)
		for n := range 60 {
			q := mqtt.QoS(1 + n%2)
			p.publish(w.topic("t"), "m", q)
			m := s.gets(w.topic("t"), "m", q)
			if m.ID == 0 || used[m.ID] || m.Dup {
				w.Fatalf("message %d: identifier %d, in use %v, DUP %v", n, m.ID, used, m.Dup)
			}
			if n%4 < 2 {
				used[m.ID] = true
			} else {
				s.settle(m)
			}
		}
		s.quiet()
	}, both...)
}

func TestAcknowledgementsHaveTheIdentifier(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		for _, id := range []uint16{1, 4711, 65535} {
			for _, q := range []mqtt.QoS{1, 2} {
				p.publish(w.topic("t"), "m", q, func(m *mqtt.Publish) { m.ID = id })
				s.takes(w.topic("t"), "m", q) // PUBREL has the identifier of its PUBLISH
			}
		}
	}, both...)
}

func TestSubackHasTheIdentifier(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for _, id := range []uint16{1, 4711, 65535} {
			s := subscribeTo(w.topic("t"))
			s.ID = id
			p.send(s)
			if a := expect[*mqtt.Suback](p); a.ID != id {
				w.Fatalf("SUBACK %d for SUBSCRIBE %d", a.ID, id)
			}
			p.send(&mqtt.Unsubscribe{ID: id, Filters: [][]byte{[]byte(w.topic("t")), []byte("none")}})
			if a := expect[*mqtt.Unsuback](p); a.ID != id {
				w.Fatalf("UNSUBACK %d for UNSUBSCRIBE %d", a.ID, id)
			}
		}
	}, both...)
}

func TestNoPropertiesIsLengthZero(t *testing.T) {
	each(t, func(w *world) {
		w.bad(packet(0x30, text("t")))                          // no length at all
		w.bad(packet(0x82, []byte{0, 1}, text("t"), []byte{0})) // the same: 0 is taken for it, and the rest makes no sense
		p := w.connect()
		p.send(subscribeTo(w.topic("t")))
		if a := p.expectRaw(); !bytes.Equal(a.raw, []byte{0x90, 4, 0, 1, 0, 0}) {
			w.Fatalf("SUBACK % x", a.raw)
		}
		p.send(message(w.topic("t"), "m", 0))
		if a := p.expectRaw(); !bytes.Equal(a.raw, packet(0x30, text(w.topic("t")), []byte{0}, []byte("m"))) {
			w.Fatalf("PUBLISH % x", a.raw)
		}
	})
}

// TestProperties: each once but user properties, each where it belongs, no unknown ones (2.2.2.2).
func TestProperties(t *testing.T) {
	each(t, func(w *world) {
		twice := w.props([]byte{2, 0, 0, 0, 9}, []byte{2, 0, 0, 0, 9})
		p := w.connect()
		p.raw(packet(0x30, text("t"), twice))
		p.ends(mqtt.ProtocolError)
		for _, props := range [][]byte{{17, 0, 0, 0, 9}, {99, 1}} {
			p := w.connect()
			p.raw(packet(0x30, text("t"), w.props(props)))
			if d := expect[*mqtt.Disconnect](p); d.Reason != mqtt.MalformedPacket && d.Reason != mqtt.ProtocolError {
				w.Fatalf("DISCONNECT %s", d.Reason)
			}
			p.closed()
		}
	})
}
