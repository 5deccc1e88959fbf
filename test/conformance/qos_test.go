package conformance

import (
	"slices"
	"strconv"
	"testing"

	"cloudsignal/internal/mqtt"
)

// pass lets time go by on the server, by a will of that delay; never less, at most a second more.
func (w *world) pass(seconds uint32) {
	w.Helper()
	clock := w.connect()
	topic := w.topic("clock" + strconv.Itoa(int(worlds.Add(1))))
	clock.subscribe(filter(topic, 0))
	u := *w
	u.v = mqtt.V5
	u.connect(durable, will(topic, "over"), willDelay(seconds)).drop()
	clock.gets(topic, "over", 0)
}

func TestQoS0Out(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 0))
		for q := range mqtt.QoS(3) {
			p.publish(w.topic("t"), "m", q)
			if a := s.expectRaw(); a.raw[0] != 0x30 {
				w.Fatalf("PUBLISH % x", a.raw)
			}
		}
	}, both...)
}

// TestNewIsNew: QoS 1 and 2 go out with their bits and DUP 0.
func TestNewIsNew(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		for q, first := range map[mqtt.QoS]byte{1: 0x32, 2: 0x34} {
			p.publish(w.topic("t"), "m", q)
			if a := s.expectRaw(); a.raw[0] != first {
				w.Fatalf("PUBLISH % x", a.raw)
			}
		}
	}, both...)
}

func TestQoS1In(t *testing.T) {
	each(t, func(w *world) {
		p, s, away := w.connect(), w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 0))
		away.subscribe(filter(w.topic("t"), 1))
		away.drop()
		id := func(m *mqtt.Publish) { m.ID = 5 }
		p.publish(w.topic("t"), "1", 1, id)
		p.publish(w.topic("t"), "1", 1, id, dup) // the identifier is free, whatever DUP says
		for range 2 {
			s.gets(w.topic("t"), "1", 0)
		}
		away = w.connect(durable, named(away.id))
		for range 2 {
			away.takes(w.topic("t"), "1", 1)
		}
	}, both...)
}

func TestQoS2In(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(durable), w.connect()
		s.subscribe(filter(w.topic("t"), 0))
		m := message(w.topic("t"), "1", 2)
		m.ID = 5
		p.send(m)
		p.acked(mqtt.PUBREC, 5)
		s.gets(w.topic("t"), "1", 0)
		m.Dup = true
		p.send(m)
		p.acked(mqtt.PUBREC, 5)
		p.drop()
		p = w.connect(durable, named(p.id))
		p.send(m)
		p.acked(mqtt.PUBREC, 5)
		s.quiet()
		for range 2 { // a lost PUBCOMP: asked again, answered again
			p.ack(mqtt.PUBREL, 5)
			p.answered(mqtt.PUBCOMP, 5)
		}
		s.quiet()
		p.publish(w.topic("t"), "2", 2, func(m *mqtt.Publish) { m.ID = 5 }, dup) // new now
		s.gets(w.topic("t"), "2", 0)
	}, both...)
}

func (w *world) agentTopic() string { return "agents/agent-01/" + w.name }

// TestRefusedIdentifierIsFree: a PUBREC of 0x80 and above ends the exchange.
func TestRefusedIdentifierIsFree(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(as(w.server.agent)), w.connect(as(w.server.dashboard))
		s.subscribe(filter(w.agentTopic(), 0))
		m := message("not/allowed", "m", 2)
		m.ID = 5
		p.send(m)
		if r := p.answered(mqtt.PUBREC, 5); r != mqtt.NotAuthorized {
			w.Fatalf("PUBREC %s", r)
		}
		p.publish(w.agentTopic(), "new", 2, func(m *mqtt.Publish) { m.ID = 5 })
		s.gets(w.agentTopic(), "new", 0)
	})
}

func TestQoS2Out(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "m", 2)
		m := s.gets(w.topic("t"), "m", 2)
		for range 2 {
			s.ack(mqtt.PUBREC, m.ID)
			s.acked(mqtt.PUBREL, m.ID)
		}
		s.quiet()
		s.drop()
		s = w.connect(durable, named(s.id)) // PUBREL until PUBCOMP, and no PUBLISH
		s.acked(mqtt.PUBREL, m.ID)
		s.quiet()
		s.ack(mqtt.PUBCOMP, m.ID)
		s.quiet()
		s.drop()
		s = w.connect(durable, named(s.id))
		s.publish(w.topic("other"), "m", 1)
		s.quiet()
	}, both...)
}

// TestRedelivery: what is not acknowledged comes again after a reconnect, with its identifiers, and not before.
func TestRedelivery(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 2))
		var sent []*mqtt.Publish
		for n := range 6 {
			q, payload := mqtt.QoS(1+n%2), strconv.Itoa(n)
			p.publish(w.topic("t"), payload, q)
			sent = append(sent, s.gets(w.topic("t"), payload, q))
		}
		s.quiet()
		s.ack(mqtt.PUBACK, sent[2].ID)
		s.ack(mqtt.PUBREC, sent[3].ID)
		s.acked(mqtt.PUBREL, sent[3].ID)
		for range 2 {
			s.drop()
			s = w.connect(durable, named(s.id))
			for n, old := range sent {
				switch n {
				case 2:
				case 3:
					s.acked(mqtt.PUBREL, old.ID)
				default:
					if m := s.gets(w.topic("t"), string(old.Payload), old.QoS); m.ID != old.ID || !m.Dup {
						w.Fatalf("message %d again: identifier %d, was %d, DUP %v", n, m.ID, old.ID, m.Dup)
					}
				}
			}
			s.quiet()
		}
	}, both...)
}

func TestNack(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable, receiveMaximum(1))
		s.subscribe(filter(w.topic("t"), 2))
		for n, q := range []mqtt.QoS{1, 2, 1} { // the slot is free each time
			p.publish(w.topic("t"), strconv.Itoa(n), q)
			m := s.gets(w.topic("t"), strconv.Itoa(n), q)
			s.ack(map[mqtt.QoS]mqtt.Type{1: mqtt.PUBACK, 2: mqtt.PUBREC}[q], m.ID, mqtt.UnspecifiedError)
		}
		s.quiet()
		s.drop()
		s = w.connect(durable, named(s.id))
		p.publish(w.topic("t"), "mark", 1)
		s.takes(w.topic("t"), "mark", 1) // nothing of it comes again
	})
}

// TestNoExpiryOfWhatWasSent: a QoS 2 exchange that has begun goes to its end.
func TestNoExpiryOfWhatWasSent(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "released", 2, expiry(3))
		p.publish(w.topic("t"), "sent", 2, expiry(3))
		released, sent := s.gets(w.topic("t"), "released", 2), s.gets(w.topic("t"), "sent", 2)
		s.ack(mqtt.PUBREC, released.ID)
		s.acked(mqtt.PUBREL, released.ID)
		s.drop()
		w.pass(4)
		s = w.connect(durable, named(s.id))
		s.acked(mqtt.PUBREL, released.ID)
		s.ack(mqtt.PUBCOMP, released.ID)
		if m := s.takes(w.topic("t"), "sent", 2); m.ID != sent.ID || !m.Dup {
			w.Fatalf("identifier %d, was %d", m.ID, sent.ID)
		}
		s.quiet()
	})
}

func TestReceiveMaximumOut(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(receiveMaximum(2))
		s.subscribe(filter(w.topic("t"), 2))
		for n, q := range []mqtt.QoS{1, 2, 1, 2, 1, 0} {
			p.publish(w.topic("t"), strconv.Itoa(n), q)
		}
		m0, m1 := s.gets(w.topic("t"), "0", 1), s.gets(w.topic("t"), "1", 2)
		s.gets(w.topic("t"), "5", 0) // takes no place
		s.quiet()
		s.ack(mqtt.PUBREC, m1.ID)
		s.acked(mqtt.PUBREL, m1.ID)
		s.quiet() // not before PUBCOMP
		s.ack(mqtt.PUBCOMP, m1.ID)
		m2 := s.gets(w.topic("t"), "2", 1)
		s.quiet()
		s.ack(mqtt.PUBACK, m0.ID)
		m3 := s.gets(w.topic("t"), "3", 2)
		s.quiet()
		s.ack(mqtt.PUBREC, m3.ID, mqtt.QuotaExceeded)
		s.gets(w.topic("t"), "4", 1)
		s.ack(mqtt.PUBACK, m2.ID)
		s.quiet()
	})
}

func TestQuotaZero(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(receiveMaximum(1))
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "1", 1)
		p.publish(w.topic("t"), "waits", 1)
		s.gets(w.topic("t"), "1", 1)
		s.quiet()
		s.subscribe(filter(w.topic("other"), 1))
		s.publish(w.topic("nobody"), "m", 1)
		s.publish(w.topic("nobody"), "m", 2)
		s.send(&mqtt.Unsubscribe{ID: 9, Filters: [][]byte{[]byte(w.topic("other"))}})
		expect[*mqtt.Unsuback](s)
		s.quiet()
	})
}

func TestReceiveMaximumIn(t *testing.T) {
	each(t, func(w *world) {
		p, ack := w.try()
		most := ack.Properties.ReceiveMaximum
		for id := uint16(1); id <= most; id++ {
			m := message(w.topic("t"), "m", 2)
			m.ID = id
			p.send(m)
		}
		for id := uint16(1); id <= most; id++ {
			p.acked(mqtt.PUBREC, id)
		}
		p.quiet()
		m := message(w.topic("t"), "m", 1)
		m.ID = most + 1
		p.send(m)
		p.ends(mqtt.ReceiveMaximumExceeded)
	})
}

// TestOrder: of each publisher, at each QoS, to who is there and to who was away, and again after a reconnect.
func TestOrder(t *testing.T) {
	each(t, func(w *world) {
		p, here, away := w.connect(), w.connect(), w.connect(durable)
		here.subscribe(filter(w.topic("t"), 2))
		away.subscribe(filter(w.topic("t"), 2))
		away.leave()
		const n = 60
		var all []mqtt.Packet
		for i := range n {
			m := message(w.topic("t"), strconv.Itoa(i), mqtt.QoS(1+i%2))
			m.ID = p.nextID()
			all = append(all, m)
		}
		p.send(all...)
		for _, m := range all {
			p.acked(map[mqtt.QoS]mqtt.Type{1: mqtt.PUBACK, 2: mqtt.PUBREC}[m.(*mqtt.Publish).QoS], m.(*mqtt.Publish).ID)
		}
		inOrder(w, n, here)
		away = w.connect(durable, named(away.id))
		inOrder(w, n, away)
		away.drop()
		away = w.connect(durable, named(away.id))
		inOrder(w, n, away)
	}, both...)
}

// inOrder reads n messages, of QoS 1 and 2, whose payloads count up at each QoS.
func inOrder(w *world, n int, s *peer) {
	w.Helper()
	var got [3][]int
	for range n {
		m := expect[*mqtt.Publish](s)
		i, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			w.Fatal(err)
		}
		got[m.QoS] = append(got[m.QoS], i)
	}
	for q := 1; q <= 2; q++ {
		if len(got[q]) != n/2 || !slices.IsSorted(got[q]) {
			w.Fatalf("at QoS %d: %v", q, got[q])
		}
	}
}

// TestAcknowledgementOrder: PUBACK and PUBREC in the order of the messages, PUBREL in that of the PUBRECs.
func TestAcknowledgementOrder(t *testing.T) {
	each(t, func(w *world) {
		s := w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		for q, answer := range map[mqtt.QoS]mqtt.Type{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
			p := w.connect()
			var all []mqtt.Packet
			order := []uint16{9, 3, 7, 1, 65535, 2}
			for n, id := range order {
				// Stored and not, retained and not: an answer that could come sooner does not.
				m := message(w.topic("o"), "m", q)
				m.ID, m.Retain = id, n%2 == 0
				all = append(all, m)
			}
			p.send(all...)
			for _, id := range order {
				p.acked(answer, id)
			}
			p.publish(w.topic("o"), "", 1, retain)
		}
		p := w.connect()
		var got []*mqtt.Publish
		for n := range 4 {
			p.publish(w.topic("t"), strconv.Itoa(n), 2)
			got = append(got, s.gets(w.topic("t"), strconv.Itoa(n), 2))
		}
		order := []int{2, 0, 3, 1}
		for _, n := range order {
			s.ack(mqtt.PUBREC, got[n].ID)
		}
		for _, n := range order {
			s.acked(mqtt.PUBREL, got[n].ID)
		}
	}, both...)
}

func TestPubackReasons(t *testing.T) {
	each(t, func(w *world) { answers(w, 1, mqtt.PUBACK) })
}

func TestPubrecReasons(t *testing.T) {
	each(t, func(w *world) { answers(w, 2, mqtt.PUBREC) })
}

// answers wants each reason of PUBACK or PUBREC where it belongs.
func answers(w *world, q mqtt.QoS, answer mqtt.Type) {
	w.Helper()
	p, s := w.connect(as(w.server.agent)), w.connect(as(w.server.dashboard))
	s.subscribe(filter(w.agentTopic(), 0))
	for topic, want := range map[string]mqtt.Reason{
		w.agentTopic():                     mqtt.Success,
		w.agentTopic() + "/none":           mqtt.NoMatchingSubscribers,
		"not/allowed":                      mqtt.NotAuthorized,
		"agents/agent-01/" + bytesOf(5000): mqtt.TopicNameInvalid,
	} {
		m := message(topic, "m", q)
		m.ID = p.nextID()
		p.send(m)
		if r := p.answered(answer, m.ID); r != want {
			w.Fatalf("%s: %s, want %s", topic[:min(len(topic), 40)], r, want)
		}
	}
}

func TestPubrelReasons(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		p.publish(w.topic("t"), "m", 2)
		m := s.gets(w.topic("t"), "m", 2)
		s.ack(mqtt.PUBREC, m.ID)
		if r := s.answered(mqtt.PUBREL, m.ID); r != mqtt.Success {
			w.Fatalf("PUBREL %s", r)
		}
		s.ack(mqtt.PUBREC, 999)
		if r := s.answered(mqtt.PUBREL, 999); r != mqtt.PacketIDNotFound {
			w.Fatalf("PUBREL %s", r)
		}
	})
}

func TestPubcompReasons(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.publish(w.topic("t"), "m", 2)
		p.ack(mqtt.PUBREL, 999)
		if r := p.answered(mqtt.PUBCOMP, 999); r != mqtt.PacketIDNotFound {
			w.Fatalf("PUBCOMP %s", r)
		}
	})
}

// tight is a client that takes no packet above so many bytes; every packet that comes is measured.
func (p *peer) within(limit int) arrived {
	p.w.Helper()
	a := p.expectRaw()
	if len(a.raw) > limit {
		p.w.Fatalf("%s of %d bytes, above %d", a.packet.Kind(), len(a.raw), limit)
	}
	return a
}

// bare wants an acknowledgement that fits, without a reason string and user properties.
func (p *peer) bare(t mqtt.Type, limit int) {
	p.w.Helper()
	a := p.within(limit)
	if a.packet.Kind() != t {
		p.w.Fatalf("got %s, want %s", a.packet.Kind(), t)
	}
	var props *mqtt.Properties
	switch packet := a.packet.(type) {
	case *mqtt.Ack:
		props = &packet.Properties
	case *mqtt.Suback:
		props = &packet.Properties
	case *mqtt.Unsuback:
		props = &packet.Properties
	case *mqtt.Disconnect:
		props = &packet.Properties
	}
	if props.Has(mqtt.ReasonString) || len(props.User) > 0 {
		p.w.Fatalf("%s with %+v", t, props)
	}
}

const tightest = 21 // CONNACK has room

// unwanted are the two kinds of clients that are not to be sent reason strings: who takes only small packets, and who has asked
// for no problem information. Both get refusals of each kind.
func unwanted(w *world, f func(p *peer)) {
	f(w.connect(as(w.server.agent), maximumPacketSize(tightest)))
	f(w.connect(as(w.server.agent), noProblems))
}

func noProblems(c *mqtt.Connect) {
	c.Properties.Set(mqtt.RequestProblemInfo)
	c.Properties.RequestProblemInfo = 0
}

func TestPubackFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			m := message("no", "m", 1)
			m.ID = 1
			p.send(m)
			p.bare(mqtt.PUBACK, tightest)
		})
	})
}

func TestPubrecFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			m := message("no", "m", 2)
			m.ID = 1
			p.send(m)
			p.bare(mqtt.PUBREC, tightest)
		})
	})
}

func TestPubrelFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			p.ack(mqtt.PUBREC, 77)
			p.bare(mqtt.PUBREL, tightest)
		})
	})
}

func TestPubcompFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			p.ack(mqtt.PUBREL, 77)
			p.bare(mqtt.PUBCOMP, tightest)
		})
	})
}

func TestSubackFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			p.send(subscribeTo("no"))
			p.bare(mqtt.SUBACK, tightest)
		})
	})
}

func TestUnsubackFits(t *testing.T) {
	each(t, func(w *world) {
		unwanted(w, func(p *peer) {
			p.send(&mqtt.Unsubscribe{ID: 1, Filters: [][]byte{[]byte("no")}})
			p.bare(mqtt.UNSUBACK, tightest)
		})
	})
}

func TestDisconnectFits(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect(maximumPacketSize(tightest))
		p.raw(packet(0xc1))
		p.bare(mqtt.DISCONNECT, tightest)
		p.closed()
		p = w.connect()
		p.raw(packet(0xc1))
		if d := expect[*mqtt.Disconnect](p); !d.Properties.Has(mqtt.ReasonString) {
			w.Fatal("no reason string, so nothing was left out")
		}
	})
}

// TestMaximumPacketSizeOut: what is too large is not sent, and takes no place.
func TestMaximumPacketSizeOut(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect(maximumPacketSize(60), receiveMaximum(1))
		s.subscribe(filter(w.topic("t"), 2))
		fits := bytesOf(60 - 2 - 2 - len(w.topic("t")) - 2 - 1)
		for q := range mqtt.QoS(3) {
			p.publish(w.topic("t"), fits+"x", max(q, 1))
			p.publish(w.topic("t"), bytesOf(500), q)
			p.publish(w.topic("t"), fits, 1)
			if m := s.takes(w.topic("t"), fits, 1); len(m.Payload) != len(fits) {
				w.Fatal("not whole")
			}
		}
		s.quiet()
	})
}
