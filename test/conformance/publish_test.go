package conformance

import (
	"bytes"
	"testing"

	"cloudsignal/internal/mqtt"
)

func dup(m *mqtt.Publish) { m.Dup = true }

func TestDupAtQoS0(t *testing.T) {
	each(t, func(w *world) {
		w.bad(packet(0x38, text("t"), w.props()))
		p := w.connect()
		p.subscribe(filter(w.topic("t"), 0))
		m := message(w.topic("t"), "m", 1, dup)
		m.ID = 9
		p.send(m)
		for range 2 {
			if a := p.expectRaw(); a.packet.Kind() == mqtt.PUBLISH && a.raw[0] != 0x30 {
				w.Fatalf("PUBLISH % x", a.raw)
			}
		}
	}, both...)
}

func TestDupIsNotPassedOn(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		for _, q := range []mqtt.QoS{1, 2} {
			p.publish(w.topic("t"), "m", q, dup)
			if s.takes(w.topic("t"), "m", q).Dup {
				w.Fatal("DUP 1 on a first delivery")
			}
		}
	}, both...)
}

func TestQoS3(t *testing.T) {
	each(t, func(w *world) { w.bad(packet(0x36, text("t"), []byte{0, 1}, w.props())) }, both...)
}

// retainedOf is what a new subscriber gets of a topic, "" for nothing.
func (w *world) retainedOf(topic string) string {
	w.Helper()
	p := w.connect()
	p.subscribe(filter(topic, 0))
	p.send(&mqtt.Ping{Type: mqtt.PINGREQ})
	payload := ""
	for {
		switch m := p.expectRaw().packet.(type) {
		case *mqtt.Publish:
			if !m.Retain {
				w.Fatal("a retained message without the flag")
			}
			payload += string(m.Payload)
		case *mqtt.Ping:
			return payload
		}
	}
}

func TestRetainReplaces(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for n, q := range []mqtt.QoS{1, 0, 2} {
			payload := string('a' + rune(n))
			p.publish(w.topic("t"), payload, q, retain)
			if got := w.retainedOf(w.topic("t")); got != payload {
				w.Fatalf("retained: %q, want %q", got, payload)
			}
		}
	}, both...)
}

func TestEmptyRetained(t *testing.T) {
	each(t, func(w *world) {
		p, live := w.connect(), w.connect()
		live.subscribe(filter(w.topic("t"), 1))
		p.publish(w.topic("t"), "m", 1, retain)
		live.takes(w.topic("t"), "m", 1)
		p.publish(w.topic("t"), "", 1, retain)
		live.takes(w.topic("t"), "", 1) // it is a message like any other
		s := w.connect()
		s.subscribe(filter(w.topic("t"), 0))
		s.quiet() // not even the empty one is kept
	}, both...)
}

func TestNotRetained(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.publish(w.topic("none"), "m", 1)
		p.publish(w.topic("t"), "kept", 1, retain)
		p.publish(w.topic("t"), "live", 1)
		p.publish(w.topic("t"), "", 1)
		if none, kept := w.retainedOf(w.topic("none")), w.retainedOf(w.topic("t")); none != "" || kept != "kept" {
			w.Fatalf("retained %q and %q", none, kept)
		}
	}, both...)
}

// TestRetainedForNewSubscriptions: all that match, wildcards too, the last of each topic.
func TestRetainedForNewSubscriptions(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		for _, topic := range []string{"a", "a/b", "a/b/c"} {
			p.publish(w.topic(topic), "old", 1, retain)
			p.publish(w.topic(topic), topic, 1, retain)
		}
		for f, n := range map[string]int{"a": 1, "a/#": 3, "+/b": 1, "+/+/c": 1, "#": 3, "b": 0} {
			s := w.connect()
			s.subscribe(filter(w.topic(f), 1))
			for range n {
				m := expect[*mqtt.Publish](s)
				if !m.Retain || w.topic(string(m.Payload)) != string(m.Topic) || m.QoS != 1 {
					w.Fatalf("%s: got %s %s", f, m.Topic, m.Payload)
				}
				s.settle(m)
			}
			s.quiet()
		}
	}, both...)
}

func TestRetainFlagLive(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 1))
		p.publish(w.topic("t"), "m", 1, retain)
		if s.takes(w.topic("t"), "m", 1).Retain {
			w.Fatal("RETAIN 1 on a live message")
		}
	}, both...)
}

func TestRetainAsPublished(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		f := filter(w.topic("t"), 1)
		f.RetainAsPublished = true
		s.subscribe(f)
		p.publish(w.topic("t"), "m", 1, retain)
		if !s.takes(w.topic("t"), "m", 1).Retain {
			w.Fatal("RETAIN 0 with retain as published")
		}
		p.publish(w.topic("t"), "m", 1)
		if s.takes(w.topic("t"), "m", 1).Retain {
			w.Fatal("RETAIN 1 on a message that was published without it")
		}
	})
}

func TestRetainHandling(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.publish(w.topic("t"), "m", 1, retain)
		s := w.connect()
		sub := func(h mqtt.RetainHandling) {
			s.subscribe(mqtt.Subscription{Filter: []byte(w.topic("t")), RetainHandling: h})
		}
		sub(mqtt.RetainDoNotSend)
		s.quiet()
		sub(mqtt.RetainSendIfNew)
		s.quiet()
		for range 2 {
			sub(mqtt.RetainSend)
			s.gets(w.topic("t"), "m", 0)
		}
		s = w.connect()
		sub(mqtt.RetainSendIfNew)
		s.gets(w.topic("t"), "m", 0)
		s.quiet()
		// Nothing when a session goes on.
		s = w.connect(durable)
		sub(mqtt.RetainSend)
		s.gets(w.topic("t"), "m", 0)
		s.leave()
		s = w.connect(durable, named(s.id))
		s.quiet()
		sub(mqtt.RetainSendIfNew)
		s.quiet()
	})
}

func TestTopicIsFirst(t *testing.T) {
	each(t, func(w *world) {
		w.bad(packet(0x30))
		w.bad(packet(0x30, []byte{0}))
		w.bad(packet(0x30, []byte{0, 5}, []byte("abc")))
	}, both...)
}

func TestWildcardInTopic(t *testing.T) {
	each(t, func(w *world) {
		for _, topic := range []string{"a/+", "#", "a+", "a#b"} {
			p := w.connect()
			p.send(message(topic, "m", 0))
			p.ends(mqtt.TopicNameInvalid)
		}
	}, both...)
}

func TestTopicMatchesFilter(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("a/+"), 1))
		for _, topic := range []string{"a", "b/x", "a/b/c", "A/b"} {
			p.publish(w.topic(topic), "m", 1)
		}
		s.quiet()
		p.publish(w.topic("a/b"), "m", 1)
		if m := s.takes(w.topic("a/b"), "m", 1); string(m.Topic) != w.topic("a/b") {
			w.Fatalf("topic %q", m.Topic)
		}
	}, both...)
}

// TestPropertiesAreUnaltered: through memory, through the log, and as a retained message.
func TestPropertiesAreUnaltered(t *testing.T) {
	each(t, func(w *world) {
		p, live, stored := w.connect(), w.connect(), w.connect(durable)
		f := filter(w.topic("t"), 1)
		live.subscribe(f)
		stored.subscribe(f)
		stored.leave()
		user := []mqtt.UserProperty{
			{Key: []byte("z"), Value: []byte("1")}, {Key: []byte("a"), Value: []byte("2")}, {Key: []byte("z"), Value: []byte("1")}, {Key: []byte(""), Value: []byte("")},
		}
		p.publish(w.topic("t"), "m", 1, retain, func(m *mqtt.Publish) {
			m.Properties.Set(mqtt.PayloadFormat)
			m.Properties.PayloadFormat = 1
			m.Properties.Set(mqtt.ContentType)
			m.Properties.ContentType = []byte("text/ünusual")
			m.Properties.Set(mqtt.ResponseTopic)
			m.Properties.ResponseTopic = []byte("/answers//here/")
			m.Properties.Set(mqtt.CorrelationData)
			m.Properties.CorrelationData = []byte{0, 255, 0, 1}
			m.Properties.User = user
		})
		stored = w.connect(durable, named(stored.id))
		late := w.connect()
		late.subscribe(f)
		for _, s := range []*peer{live, stored, late} {
			got := s.takes(w.topic("t"), "m", 1).Properties
			if !got.Has(mqtt.PayloadFormat) || got.PayloadFormat != 1 || string(got.ContentType) != "text/ünusual" ||
				string(got.ResponseTopic) != "/answers//here/" || !bytes.Equal(got.CorrelationData, []byte{0, 255, 0, 1}) {
				w.Fatalf("got %+v", got)
			}
			sameUser(w, got.User, user)
		}
	})
}

func expiry(seconds uint32) func(*mqtt.Publish) {
	return func(m *mqtt.Publish) {
		m.Properties.Set(mqtt.MessageExpiry)
		m.Properties.MessageExpiry = seconds
	}
}

// TestMessageExpiry uses the server's own time: what expires in a second is over when the will comes whose delay is two.
func TestMessageExpiry(t *testing.T) {
	each(t, func(w *world) {
		p, s, clock := w.connect(), w.connect(durable), w.connect()
		clock.subscribe(filter(w.topic("clock"), 0))
		s.subscribe(filter(w.topic("t"), 2))
		s.leave()
		p.publish(w.topic("t"), "over", 1, expiry(1))
		p.publish(w.topic("t"), "over", 2, expiry(1))
		p.publish(w.topic("kept"), "over", 1, expiry(1), retain)
		p.publish(w.topic("t"), "stays", 1, expiry(100))
		p.publish(w.topic("kept2"), "stays", 1, expiry(100), retain)
		w.connect(durable, will(w.topic("clock"), "2 s"), willDelay(2)).drop()
		clock.gets(w.topic("clock"), "2 s", 0)
		s = w.connect(durable, named(s.id))
		m := s.takes(w.topic("t"), "stays", 1)
		if left := m.Properties.MessageExpiry; left > 98 || left < 70 {
			w.Fatalf("%d s are left of 100, after 2", left)
		}
		s.quiet()
		s.subscribe(filter(w.topic("kept"), 1))
		s.quiet()
		s.subscribe(filter(w.topic("kept2"), 1))
		if left := s.takes(w.topic("kept2"), "stays", 1).Properties.MessageExpiry; left > 98 || left < 70 {
			w.Fatalf("%d s are left of the retained one's 100, after 2", left)
		}
	})
}

func alias(n uint16) func(*mqtt.Publish) {
	return func(m *mqtt.Publish) {
		m.Properties.Set(mqtt.TopicAlias)
		m.Properties.TopicAlias = n
	}
}

func TestTopicAliasIn(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("#"), 0))
		for n := uint16(1); n <= 32; n++ { // all that were announced
			topic := w.topic(string(rune('A' + n)))
			p.send(message(topic, "1", 0, alias(n)))
			s.gets(topic, "1", 0)
			p.send(message("", "2", 0, alias(n)))
			if m := s.gets(topic, "2", 0); m.Properties.Has(mqtt.TopicAlias) || string(m.Topic) != topic {
				w.Fatal("the publisher's alias is passed on")
			}
		}
		p.send(message(w.topic("new"), "3", 0, alias(1)), message("", "4", 0, alias(1)))
		s.gets(w.topic("new"), "3", 0)
		s.gets(w.topic("new"), "4", 0)
		// They end with the connection, the session goes on or not.
		p = w.connect(named(p.id))
		p.send(message("", "m", 0, alias(1)))
		p.ends(mqtt.ProtocolError)
		s.quiet()
	})
}

func TestTopicAliasOutOfRange(t *testing.T) {
	each(t, func(w *world) {
		for _, n := range []uint16{0, 33, 65535} {
			p := w.connect()
			p.send(message("t", "m", 0, alias(n)))
			p.ends(mqtt.TopicAliasInvalid)
		}
	})
}

func TestTopicAliasOut(t *testing.T) {
	each(t, func(w *world) {
		p, s, none := w.connect(), w.connect(aliases(2)), w.connect(aliases(0))
		s.subscribe(filter(w.topic("#"), 0))
		none.subscribe(filter(w.topic("#"), 0))
		known := make(map[uint16]string)
		used := 0
		for range 2 {
			for _, topic := range []string{"a", "b", "c"} {
				p.publish(w.topic(topic), topic, 0)
				m := s.gets(w.topic(topic), topic, 0)
				if m.Properties.Has(mqtt.TopicAlias) {
					n := m.Properties.TopicAlias
					if n < 1 || n > 2 {
						w.Fatalf("alias %d", n)
					}
					if len(m.Topic) > 0 {
						known[n] = string(m.Topic)
					} else if used++; known[n] != w.topic(topic) {
						w.Fatalf("alias %d is %q, want %q", n, known[n], w.topic(topic))
					}
				}
				if m := none.gets(w.topic(topic), topic, 0); m.Properties.Has(mqtt.TopicAlias) || len(m.Topic) == 0 {
					w.Fatal("an alias for who takes none")
				}
			}
		}
		if used == 0 {
			w.Fatal("no alias is used")
		}
		// A new connection knows none: the topic comes first.
		s = w.connect(aliases(2), named(s.id))
		s.subscribe(filter(w.topic("#"), 0))
		p.publish(w.topic("a"), "new", 0)
		if m := s.gets(w.topic("a"), "new", 0); len(m.Topic) == 0 {
			w.Fatal("an alias of the connection before")
		}
	})
}

func TestResponseTopic(t *testing.T) {
	each(t, func(w *world) {
		for _, topic := range []string{"a/+", "#", ""} {
			p := w.connect()
			p.send(message("t", "m", 0, func(m *mqtt.Publish) {
				m.Properties.Set(mqtt.ResponseTopic)
				m.Properties.ResponseTopic = []byte(topic)
			}))
			p.ends(mqtt.ProtocolError)
		}
	})
}

func TestResponseTopicIsText(t *testing.T) {
	each(t, func(w *world) {
		w.bad(packet(0x30, text("t"), w.props([]byte{byte(mqtt.ResponseTopic)}, text("a\xff"))))
	})
}

func TestContentTypeIsText(t *testing.T) {
	each(t, func(w *world) {
		w.bad(packet(0x30, text("t"), w.props([]byte{byte(mqtt.ContentType)}, text("a\xff"))))
	})
}

// TestAnswers: nothing at QoS 0, PUBACK at 1, PUBREC at 2.
func TestAnswers(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.publish(w.topic("t"), "m", 0)
		p.publish(w.topic("t"), "m", 1)
		p.publish(w.topic("t"), "m", 2)
		p.quiet()
	}, both...)
}

func identified(id uint32, subs ...mqtt.Subscription) *mqtt.Subscribe {
	return &mqtt.Subscribe{Subscriptions: subs, Properties: mqtt.Properties{SubscriptionIDs: []uint32{id}}}
}

func TestOverlap(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("a/+"), 0), filter(w.topic("a/b"), 2), filter(w.topic("#"), 1))
		for q := range mqtt.QoS(3) {
			p.publish(w.topic("a/b"), "m", q)
			s.takes(w.topic("a/b"), "m", q)
			s.quiet() // one copy
		}
	}, both...)
}

func TestSubscriptionIdentifiers(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribed(identified(7, filter(w.topic("a/+"), 0)))
		s.subscribed(identified(268435455, filter(w.topic("a/b"), 1)))
		s.subscribed(&mqtt.Subscribe{Subscriptions: []mqtt.Subscription{filter(w.topic("#"), 1)}})
		p.publish(w.topic("a/b"), "m", 1, retain)
		ids := s.takes(w.topic("a/b"), "m", 1).Properties.SubscriptionIDs
		if len(ids) != 2 || ids[0]+ids[1] != 7+268435455 {
			w.Fatalf("identifiers %v", ids)
		}
		p.publish(w.topic("c"), "m", 1)
		if ids := s.takes(w.topic("c"), "m", 1).Properties.SubscriptionIDs; len(ids) != 0 {
			w.Fatalf("identifiers %v", ids)
		}
		// A retained message carries that of the SUBSCRIBE which asked for it.
		s.send(identifiedAs(9, identified(8, filter(w.topic("a/b"), 1))))
		expect[*mqtt.Suback](s)
		if ids := s.takes(w.topic("a/b"), "m", 1).Properties.SubscriptionIDs; len(ids) != 1 || ids[0] != 8 {
			w.Fatalf("identifiers %v of a retained message", ids)
		}
		s.quiet()
	})
}

func identifiedAs(id uint16, s *mqtt.Subscribe) *mqtt.Subscribe {
	s.ID = id
	return s
}

// TestSharedIsADeliveryOfItsOwn: of several deliveries each has its own identifier.
func TestSharedIsADeliveryOfItsOwn(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribed(identified(1, filter(w.topic("t"), 1)))
		s.subscribed(identified(2, filter("$share/g/"+w.topic("t"), 1)))
		p.publish(w.topic("t"), "m", 1)
		sum := uint32(0)
		for range 2 {
			ids := s.takes(w.topic("t"), "m", 1).Properties.SubscriptionIDs
			if len(ids) != 1 {
				w.Fatalf("identifiers %v", ids)
			}
			sum += ids[0]
		}
		if sum != 3 {
			w.Fatal("the same identifier twice")
		}
		s.quiet()
	})
}

func TestSubscriptionIdentifierOfAClient(t *testing.T) {
	each(t, func(w *world) {
		s := w.connect()
		s.subscribe(filter(w.topic("t"), 0))
		p := w.connect()
		p.raw(packet(0x30, text(w.topic("t")), w.props([]byte{11, 5}), []byte("m")))
		p.ends(mqtt.ProtocolError)
		s.quiet()
		p = w.connect()
		p.raw(packet(0x82, []byte{0, 1}, w.props([]byte{11, 0}), text("t"), []byte{0}))
		p.ends(mqtt.ProtocolError)
		p = w.connect()
		p.raw(packet(0x82, []byte{0, 1}, w.props([]byte{11, 1, 11, 2}), text("t"), []byte{0}))
		p.ends(mqtt.ProtocolError)
	})
}
