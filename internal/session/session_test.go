package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

func v5(change func(*mqtt.Connect)) *mqtt.Connect {
	c := &mqtt.Connect{Version: mqtt.V5}
	if change != nil {
		change(c)
	}
	return c
}

func withExpiry(seconds uint32) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		c.Properties.Set(mqtt.SessionExpiry)
		c.Properties.SessionExpiry = seconds
	}
}

func publish(topic string, change func(*mqtt.Publish)) *mqtt.Publish {
	p := &mqtt.Publish{Topic: []byte(topic)}
	if change != nil {
		change(p)
	}
	return p
}

func withAlias(alias uint16) func(*mqtt.Publish) {
	return func(p *mqtt.Publish) {
		p.Properties.Set(mqtt.TopicAlias)
		p.Properties.TopicAlias = alias
	}
}

func subscribe(filter string) *mqtt.Subscribe {
	return &mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte(filter)}}}
}

func disconnect(r mqtt.Reason, expiry uint32) *mqtt.Disconnect {
	d := &mqtt.Disconnect{Reason: r}
	if expiry > 0 {
		d.Properties.Set(mqtt.SessionExpiry)
		d.Properties.SessionExpiry = expiry
	}
	return d
}

// TestViolations: packets for which the connection has to end, and what the client is told.
func TestViolations(t *testing.T) {
	// The session has one QoS 1 and one QoS 2 message in flight, with ids 1 and 2, and knows no alias.
	tests := []struct {
		name   string
		packet mqtt.Packet
		want   mqtt.Reason
	}{
		{"a second CONNECT", &mqtt.Connect{Version: mqtt.V5}, mqtt.ProtocolError}, // [MQTT-3.1.0-2]
		{"AUTH", &mqtt.Auth{Reason: mqtt.ReAuthenticate}, mqtt.ProtocolError},
		{"AUTH that goes on", &mqtt.Auth{Reason: mqtt.ContinueAuthentication}, mqtt.ProtocolError},
		{"CONNACK", &mqtt.Connack{}, mqtt.ProtocolError},
		{"SUBACK", &mqtt.Suback{ID: 1, Reasons: []mqtt.Reason{0}}, mqtt.ProtocolError},
		{"UNSUBACK", &mqtt.Unsuback{ID: 1, Reasons: []mqtt.Reason{0}}, mqtt.ProtocolError},
		{"PINGRESP", &mqtt.Ping{Type: mqtt.PINGRESP}, mqtt.ProtocolError},
		{"expiry raised from 0", disconnect(0, 5), mqtt.ProtocolError},                                                                      // [MQTT-3.14.2-2] and 3.14.2.2.2
		{"subscription identifier", publish("t", func(p *mqtt.Publish) { p.Properties.SubscriptionIDs = []uint32{1} }), mqtt.ProtocolError}, // [MQTT-3.3.4-6]
		{"no topic", publish("", nil), mqtt.TopicNameInvalid},
		{"wildcard in a topic", publish("a/+", nil), mqtt.TopicNameInvalid}, // [MQTT-3.3.2-2]
		{"wildcard in a response topic", publish("a", func(p *mqtt.Publish) {
			p.Properties.Set(mqtt.ResponseTopic)
			p.Properties.ResponseTopic = []byte("r/#")
		}), mqtt.ProtocolError}, // [MQTT-3.3.2-14]
		{"alias above the maximum", publish("t", withAlias(11)), mqtt.TopicAliasInvalid}, // [MQTT-3.3.2-9]
		{"unknown alias", publish("", withAlias(3)), mqtt.ProtocolError},
		{"misplaced wildcard", subscribe("a/b#"), mqtt.MalformedPacket},
		{"shared without a filter", subscribe("$share/g"), mqtt.MalformedPacket},            // [MQTT-4.8.2-1]
		{"shared with a wildcard group", subscribe("$share/+/a"), mqtt.MalformedPacket},     // [MQTT-4.8.2-2]
		{"PUBREC for QoS 1", &mqtt.Ack{Type: mqtt.PUBREC, ID: 1}, mqtt.ProtocolError},       // [MQTT-4.3.2-2]
		{"PUBCOMP for QoS 1", &mqtt.Ack{Type: mqtt.PUBCOMP, ID: 1}, mqtt.ProtocolError},     //
		{"PUBACK for QoS 2", &mqtt.Ack{Type: mqtt.PUBACK, ID: 2}, mqtt.ProtocolError},       //
		{"PUBCOMP before PUBREC", &mqtt.Ack{Type: mqtt.PUBCOMP, ID: 2}, mqtt.ProtocolError}, //
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := open(v5(nil), wide())
			deliver(t, s, Delivery{Message: message("t", 1, 0), QoS: 1}, Sent)
			deliver(t, s, Delivery{Message: message("t", 2, 0), QoS: 2}, Sent)
			bytesOf(s)
			_, err := s.Handle(test.packet, 10, noon)
			var e *mqtt.Error
			if !errors.As(err, &e) || e.Reason != test.want || e.Detail == "" {
				t.Errorf("got %v, want %s with a detail", err, test.want)
			}
			if b := bytesOf(s); len(b) > 0 {
				t.Errorf("it was answered: %x", b)
			}
		})
	}
}

// TestHarmless: late or needless packets are answered as the standard says, or not at all.
func TestHarmless(t *testing.T) {
	tests := []struct {
		name   string
		packet mqtt.Packet
		want   []mqtt.Ack
	}{
		{"PUBACK of nothing", &mqtt.Ack{Type: mqtt.PUBACK, ID: 9}, nil},
		{"PUBCOMP of nothing", &mqtt.Ack{Type: mqtt.PUBCOMP, ID: 9}, nil},
		{"PUBREC of nothing", &mqtt.Ack{Type: mqtt.PUBREC, ID: 9}, []mqtt.Ack{{Type: mqtt.PUBREL, ID: 9, Reason: mqtt.PacketIDNotFound}}},
		{"PUBREC with an error of nothing", &mqtt.Ack{Type: mqtt.PUBREC, ID: 9, Reason: mqtt.PacketIDNotFound}, nil},
		{"PUBREL of nothing", &mqtt.Ack{Type: mqtt.PUBREL, ID: 9}, []mqtt.Ack{{Type: mqtt.PUBCOMP, ID: 9, Reason: mqtt.PacketIDNotFound}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := open(v5(nil), wide())
			if _, err := s.Handle(test.packet, 4, noon); err != nil {
				t.Fatal(err)
			}
			if got := acks(t, sent(t, s)); fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestDisconnect: the will is discarded at reason 0 and kept at any other; expiry may be lowered, or raised if it was not 0.
func TestDisconnect(t *testing.T) {
	tests := []struct {
		name    string
		version mqtt.Version
		expiry  uint32
		packet  *mqtt.Disconnect
		will    bool
	}{
		{"normal", mqtt.V5, 0, disconnect(mqtt.Success, 0), false}, // [MQTT-3.14.4-3]
		{"with will", mqtt.V5, 0, disconnect(mqtt.DisconnectWithWill, 0), true},
		{"with an error", mqtt.V5, 0, disconnect(mqtt.UnspecifiedError, 0), true},
		{"expiry raised", mqtt.V5, 5, disconnect(mqtt.Success, 50), false},
		{"3.1.1", mqtt.V311, 0, disconnect(mqtt.Success, 0), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &mqtt.Connect{Version: test.version, HasWill: true, WillTopic: []byte("w")}
			withExpiry(test.expiry)(c)
			s := open(c, wide())
			a, _, err := handle(t, s, test.packet, noon)
			if err != nil || a.Kind != End || a.Reason != test.packet.Reason {
				t.Fatalf("%+v, %v", a, err)
			}
			w := s.TakeWill(noon)
			if (w != nil) != test.will {
				t.Errorf("will: %v, want %v", w != nil, test.will)
			}
			if again := s.TakeWill(noon); again != nil {
				t.Error("the will was handed over twice")
			}
			s.Close(nil)
		})
	}
}

// TestWill: what is published for a client is what it said at CONNECT. Its expiry counts from the publication (3.1.3.2.4),
// and the will delay is not the receivers' business (it is a property of CONNECT alone, 3.1.3.2.2).
func TestWill(t *testing.T) {
	tests := []struct {
		name   string
		change func(*mqtt.Properties)
		want   func(*mqtt.Properties)
	}{
		{"plain", func(*mqtt.Properties) {}, func(*mqtt.Properties) {}},
		{
			"expiry", func(p *mqtt.Properties) { p.Set(mqtt.MessageExpiry); p.MessageExpiry = 60 },
			func(p *mqtt.Properties) { p.Set(mqtt.MessageExpiry); p.MessageExpiry = 60 },
		},
		{"expiry 0", func(p *mqtt.Properties) { p.Set(mqtt.MessageExpiry) }, func(p *mqtt.Properties) { p.Set(mqtt.MessageExpiry) }},
		{"delay", func(p *mqtt.Properties) { p.Set(mqtt.WillDelay); p.WillDelay = 5 }, func(*mqtt.Properties) {}},
		{
			"user properties", func(p *mqtt.Properties) { p.User = []mqtt.UserProperty{{Key: []byte("b")}, {Key: []byte("a")}} },
			func(p *mqtt.Properties) { p.User = []mqtt.UserProperty{{Key: []byte("b")}, {Key: []byte("a")}} },
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := v5(func(c *mqtt.Connect) {
				c.HasWill, c.WillTopic, c.WillPayload, c.WillQoS, c.WillRetain = true, []byte("w"), []byte("gone"), 1, true
			})
			test.change(&c.WillProperties)
			from := open(c, wide())
			later := noon.Add(time.Hour)
			w := from.TakeWill(later)
			if w.QoS() != 1 || !w.Retain() || string(w.Topic()) != "w" || string(w.Payload()) != "gone" {
				t.Errorf("QoS %d, retain %v, %s, %s", w.QoS(), w.Retain(), w.Topic(), w.Payload())
			}
			to := open(v5(nil), wide())
			to.Deliver(&Delivery{Message: w}, later)
			want := publish("w", func(p *mqtt.Publish) { p.Payload = []byte("gone") })
			test.want(&want.Properties)
			if d := samePublish(want, sent(t, to)[0].(*mqtt.Publish)); d != "" {
				t.Error(d)
			}
			released(t, []*Message{w})
		})
	}
}

// TestConnack: what the client is told are the limits in force.
func TestConnack(t *testing.T) {
	l := wide()
	tests := []struct {
		name     string
		connect  *mqtt.Connect
		accepted Accepted
		want     string
	}{
		{"5.0", v5(nil), Accepted{}, "receive 100, packet 1048576, aliases 10"},
		{"5.0, assigned", v5(nil), Accepted{Assigned: true}, "receive 100, packet 1048576, aliases 10, client c"},
		{"5.0, expiry lowered", v5(withExpiry(60)), Accepted{Expiry: 50}, "receive 100, packet 1048576, aliases 10, expiry 50"},
		{"5.0, expiry as asked", v5(withExpiry(60)), Accepted{Expiry: 60}, "receive 100, packet 1048576, aliases 10"},
		{"5.0, default expiry", v5(nil), Accepted{Expiry: 60}, "receive 100, packet 1048576, aliases 10, expiry 60"},
		{"5.0, session present", v5(nil), Accepted{Present: true}, "receive 100, packet 1048576, aliases 10, present"},
		{"5.0, expiry 0", v5(withExpiry(0)), Accepted{}, "receive 100, packet 1048576, aliases 10"},
		{"3.1.1", &mqtt.Connect{Version: mqtt.V311}, Accepted{Expiry: 60}, ""},
		{"3.1.1, session present", &mqtt.Connect{Version: mqtt.V311}, Accepted{Present: true}, "present"},
		{"3.1", &mqtt.Connect{Version: mqtt.V31}, Accepted{Present: true}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := New(test.connect, "c", l, noon)
			if !s.Acceptable(test.accepted) {
				t.Fatal("it does not fit")
			}
			s.Accept(test.accepted)
			c := sent(t, s)[0].(*mqtt.Connack)
			var got []string
			p := &c.Properties
			if p.Has(mqtt.ReceiveMaximum) {
				got = append(got, fmt.Sprint("receive ", p.ReceiveMaximum))
			}
			if p.Has(mqtt.MaximumPacketSize) {
				got = append(got, fmt.Sprint("packet ", p.MaximumPacketSize))
			}
			if p.Has(mqtt.TopicAliasMaximum) {
				got = append(got, fmt.Sprint("aliases ", p.TopicAliasMaximum))
			}
			if p.Has(mqtt.AssignedClientID) {
				got = append(got, fmt.Sprintf("client %s", p.AssignedClientID))
			}
			if p.Has(mqtt.SessionExpiry) {
				got = append(got, fmt.Sprint("expiry ", p.SessionExpiry))
			}
			if c.SessionPresent {
				got = append(got, "present")
			}
			if s := strings.Join(got, ", "); s != test.want || c.Reason != 0 {
				t.Errorf("%s, want %s", s, test.want)
			}
		})
	}
	small := New(v5(func(c *mqtt.Connect) { c.Properties.Set(mqtt.MaximumPacketSize); c.Properties.MaximumPacketSize = 5 }), "c", l, noon)
	if small.Acceptable(Accepted{}) {
		t.Error("a CONNACK above Maximum Packet Size is acceptable") // [MQTT-3.1.2-24]
	}
}

// TestAliasesIn: an alias stands for the topic it was last sent with.
func TestAliasesIn(t *testing.T) {
	s := open(v5(nil), wide())
	for i, step := range []struct {
		topic string
		alias uint16
		want  string
	}{
		{"one", 1, "one"},
		{"", 1, "one"},
		{"ten", 10, "ten"},
		{"", 1, "one"},
		{"", 10, "ten"},
		{"longer", 1, "longer"},
		{"", 1, "longer"},
		{"x", 1, "x"},
		{"", 1, "x"},
		{"plain", 0, "plain"},
		{"", 10, "ten"},
	} {
		p := publish(step.topic, nil)
		if step.alias > 0 {
			withAlias(step.alias)(p)
		}
		a, got, err := handle(t, s, p, noon)
		if err != nil || a.Kind != Publish {
			t.Fatalf("%d: %+v, %v", i, a, err)
		}
		if topic := string(got.(*mqtt.Publish).Topic); topic != step.want {
			t.Errorf("%d: topic %q, want %q", i, topic, step.want)
		}
	}
	other := open(v5(nil), wide())
	if _, _, err := handle(t, other, publish("", withAlias(1)), noon); err == nil { // [MQTT-3.3.2-7]
		t.Error("an alias of another connection is known")
	}
}

// TestMaximumPacketSize: what is too large is dropped whole, takes no window, no packet id and no alias; an alias is given up
// where it would not fit.
func TestMaximumPacketSize(t *testing.T) {
	limit := uint32(2 + 2 + 3 + 2 + 1 + 10) // QoS 1, topic of 3 bytes, no property, 10 bytes of payload
	c := v5(func(c *mqtt.Connect) {
		c.Properties.Set(mqtt.MaximumPacketSize)
		c.Properties.MaximumPacketSize = limit
		c.Properties.Set(mqtt.TopicAliasMaximum)
		c.Properties.TopicAliasMaximum = 1
	})
	l := wide()
	l.Window = 1
	s := open(c, l)
	deliver(t, s, Delivery{Message: message("abc", 1, 11), QoS: 1}, TooLarge)
	deliver(t, s, Delivery{Message: message("abc", 1, 10), QoS: 1}, Sent)
	deliver(t, s, Delivery{Message: message("abc", 1, 11), QoS: 1}, Queued) // waits for the window and is too large then
	deliver(t, s, Delivery{Message: message("abc", 1, 7), QoS: 1}, Queued)
	first := published(sent(t, s))
	if len(first) != 1 || first[0].ID != 1 || first[0].Properties.Has(mqtt.TopicAlias) {
		t.Fatalf("%+v", first)
	}
	if _, _, err := handle(t, s, &mqtt.Ack{Type: mqtt.PUBACK, ID: 1}, noon); err != nil {
		t.Fatal(err)
	}
	second := published(sent(t, s))
	if len(second) != 1 || second[0].ID != 2 || second[0].Properties.TopicAlias != 1 || string(second[0].Topic) != "abc" {
		t.Fatalf("%+v", second)
	}
	if tally := s.TakeTally(); tally.TooLarge != 1 || tally.Sent != [3]uint32{0, 2, 0} {
		t.Errorf("%+v", tally)
	}
	s.Close(nil)
}

// TestExpiry: a message is sent with what is left of its time, rounded up, and not behind its end, waiting or not.
func TestExpiry(t *testing.T) {
	p := publish("t", func(p *mqtt.Publish) {
		p.QoS = 1
		p.Properties.Set(mqtt.MessageExpiry)
		p.Properties.MessageExpiry = 10
	})
	m := NewMessage(p, noon)
	for _, test := range []struct {
		after time.Duration
		want  Outcome
		left  uint32
	}{
		{0, Sent, 10},
		{time.Millisecond, Sent, 10},
		{time.Second, Sent, 9},
		{9500 * time.Millisecond, Sent, 1},
		{10 * time.Second, Sent, 0},
		{10*time.Second + 1, Expired, 0},
	} {
		s := open(v5(nil), wide())
		if got := s.Deliver(&Delivery{Message: m}, noon.Add(test.after)); got != test.want {
			t.Errorf("after %v: outcome %d, want %d", test.after, got, test.want)
		}
		for _, p := range published(sent(t, s)) {
			if !p.Properties.Has(mqtt.MessageExpiry) || p.Properties.MessageExpiry != test.left {
				t.Errorf("after %v: expiry %d, want %d", test.after, p.Properties.MessageExpiry, test.left)
			}
		}
		s.Close(nil)
	}
	l := wide()
	l.Window = 1
	s := open(&mqtt.Connect{Version: mqtt.V311}, l)
	deliver(t, s, Delivery{Message: message("t", 1, 0), QoS: 1}, Sent)
	s.Deliver(&Delivery{Message: m, QoS: 1}, noon)
	bytesOf(s)
	if _, _, err := handle(t, s, &mqtt.Ack{Type: mqtt.PUBACK, ID: 1}, noon.Add(11*time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := sent(t, s); len(got) > 0 || s.TakeTally().Expired != 1 || s.inflight.count != 0 {
		t.Errorf("sent %v behind its end", got)
	}
	released(t, []*Message{m})
}

// TestOrderBehindStored: a QoS 0 message does not overtake one that waited behind a retained message.
func TestOrderBehindStored(t *testing.T) {
	l := wide()
	l.Window = 1
	s := open(v5(nil), l)
	now := func(name string, q mqtt.QoS, stored bool) {
		m := message(name, q, 0)
		s.Deliver(&Delivery{Message: m, QoS: q, Stored: stored}, noon)
		m.Release()
	}
	now("fills the window", 1, false)
	now("stored", 1, true)
	now("waits for the window", 1, false)
	now("first", 0, false)
	var got []string
	take := func() {
		for _, p := range published(sent(t, s)) {
			if p.QoS == 0 {
				got = append(got, string(p.Topic))
			}
		}
	}
	ack := func(id uint16) {
		if _, _, err := handle(t, s, &mqtt.Ack{Type: mqtt.PUBACK, ID: id}, noon); err != nil {
			t.Fatal(err)
		}
		take()
	}
	take()
	ack(1) // now the stored one is sent, and "first" waits behind another
	now("second", 0, false)
	take()
	ack(2)
	ack(3)
	if want := []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("came as %q, want %q", got, want)
	}
}

// TestSubscriptions: the same filter is one subscription, with the newer options; the bounds are the session's.
func TestSubscriptions(t *testing.T) {
	l := wide()
	l.Subscriptions = 2
	s := open(v5(nil), l)
	if s.Subscribe("a", Options{QoS: 1}) || s.Subscribe("b", Options{}) || !s.Subscribe("a", Options{QoS: 2}) {
		t.Error("existed is wrong") // [MQTT-3.8.4-3]
	}
	for filter, want := range map[string]mqtt.Reason{
		"a": 0, "b": 0, "c": mqtt.QuotaExceeded, "1/2/3/4/5/6/7/8/9": mqtt.TopicFilterInvalid, strings.Repeat("x", 101): mqtt.TopicFilterInvalid,
	} {
		if got := s.Judge([]byte(filter)); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}
	got := map[string]Options{}
	s.Subscriptions(func(f string, o Options) { got[f] = o })
	if len(got) != 2 || got["a"].QoS != 2 {
		t.Errorf("%v", got)
	}
	if !s.Unsubscribe("a") || s.Unsubscribe("a") || s.Judge([]byte("c")) != 0 {
		t.Error("unsubscribing is wrong")
	}
}

// TestServerDisconnect: 5.0 is told the reason, with the detail if it fits; 3.x has no such packet ([MQTT-3.14.0-1]).
func TestServerDisconnect(t *testing.T) {
	for _, test := range []struct {
		connect *mqtt.Connect
		want    string
	}{
		{v5(nil), "Session taken over: by another"},
		{v5(func(c *mqtt.Connect) { c.Properties.Set(mqtt.MaximumPacketSize); c.Properties.MaximumPacketSize = 10 }), "Session taken over: "},
		{&mqtt.Connect{Version: mqtt.V311}, ""},
	} {
		s := New(test.connect, "c", wide(), noon)
		s.Disconnect(mqtt.SessionTakenOver, "by another")
		got := ""
		for _, p := range sent(t, s) {
			d := p.(*mqtt.Disconnect)
			got = fmt.Sprintf("%s: %s", d.Reason, d.Properties.ReasonString)
		}
		if got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
