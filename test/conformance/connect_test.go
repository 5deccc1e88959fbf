package conformance

import (
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

func TestFirstPacketIsConnect(t *testing.T) {
	each(t, func(w *world) {
		for _, first := range [][]byte{
			{0xc0, 0},
			{0xe0, 0},
			{0x40, 2, 0, 1},
			encoded(w.v, message("t", "m", 0)), encoded(w.v, subscribeTo("t")), packet(0x20, []byte{0, 0}, w.props()),
		} {
			p := w.dial()
			p.raw(first)
			p.closed()
		}
	}, both...)
}

func TestSecondConnect(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect()
		p.send(w.hello())
		p.ends(mqtt.ProtocolError)
	}, both...)
}

func TestProtocolName(t *testing.T) {
	each(t, func(w *world) {
		for _, name := range []string{"MQTX", "mqtt", "MQTTT", "", "MQIsdp"} {
			p := w.dial()
			p.raw(packet(0x10, text(name), []byte{byte(w.v), 2, 0, 0}, w.props(), text("")))
			p.refused(mqtt.UnsupportedProtocolVersion)
		}
	}, both...)
}

func TestProtocolLevel(t *testing.T) {
	each(t, func(w *world) {
		for level, in := range map[byte]mqtt.Version{0: mqtt.V311, 2: mqtt.V311, 6: mqtt.V5, 255: mqtt.V5} {
			p := w.dial()
			p.v = in
			p.raw(packet(0x10, text("MQTT"), []byte{level, 2, 0, 0}, text("")))
			p.refused(mqtt.UnsupportedProtocolVersion)
		}
	}, both...)
}

func TestConnectReservedFlag(t *testing.T) {
	each(t, func(w *world) { w.badConnect(w.connectBytes(3, text(w.name))) }, both...)
}

// TestCleanStart: nothing of the older session is left, on the server and for the client.
func TestCleanStart(t *testing.T) {
	each(t, func(w *world) {
		other, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 1))
		other.publish(w.topic("t"), "in flight", 1)
		s.gets(w.topic("t"), "in flight", 1)
		s.leave()
		other.publish(w.topic("t"), "waits", 1)
		s, ack := w.try(named(s.id))
		if ack.SessionPresent || ack.Reason != mqtt.Success {
			w.Fatalf("CONNACK %+v", ack)
		}
		s.quiet()
		other.publish(w.topic("t"), "new", 1)
		s.quiet()
		s.leave()
		if _, ack = w.try(named(s.id), durable); ack.SessionPresent {
			w.Fatal("the session of a clean start is present")
		}
	}, both...)
}

func TestSessionGoesOn(t *testing.T) {
	each(t, func(w *world) {
		other := w.connect()
		s, ack := w.try(durable)
		if ack.SessionPresent {
			w.Fatal("session present before there was one")
		}
		s.subscribe(filter(w.topic("t"), 2))
		s.drop()
		other.publish(w.topic("t"), "1", 1)
		other.publish(w.topic("t"), "2", 2)
		s, ack = w.try(named(s.id), durable)
		if !ack.SessionPresent {
			w.Fatal("session not present")
		}
		s.takes(w.topic("t"), "1", 1)
		s.takes(w.topic("t"), "2", 2)
		other.publish(w.topic("t"), "3", 1)
		s.takes(w.topic("t"), "3", 1)
	}, both...)
}

func TestNewSession(t *testing.T) {
	each(t, func(w *world) {
		s, ack := w.try(durable)
		if ack.SessionPresent || ack.Reason != mqtt.Success {
			w.Fatalf("CONNACK %+v", ack)
		}
		s.subscribe(filter(w.topic("t"), 1))
		s.publish(w.topic("other"), "m", 1)
		s.quiet()
	}, both...)
}

func TestConnectPayloadOrder(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 1))
		p := w.dial()
		l := w.server.all
		p.raw(w.connectBytes(0xce, text(w.name+"id"), w.props(), text(w.topic("will")), text("payload"), text(l.Username), text(l.Password)))
		if ack := expect[*mqtt.Connack](p); ack.Reason != mqtt.Success {
			w.Fatalf("CONNACK %s", ack.Reason)
		}
		p.drop()
		seen.gets(w.topic("will"), "payload", 1)
	}, both...)
}

// connectFields are CONNECTs whose flags and fields do not fit.
func connectFields(w *world) map[string][]byte {
	id, empty := text(w.name), w.props()
	return map[string][]byte{
		"no client identifier":          w.connectBytes(2),
		"a will without fields":         w.connectBytes(0x06, id),
		"a will without a payload":      w.connectBytes(0x06, id, empty, text("t")),
		"fields of a will without one":  w.connectBytes(0x02, id, empty, text("t"), text("p")),
		"will QoS without a will":       w.connectBytes(0x0a, id),
		"will QoS 3":                    w.connectBytes(0x1e, id, empty, text("t"), text("p")),
		"will retain without a will":    w.connectBytes(0x22, id),
		"a user name without its flag":  w.connectBytes(0x02, id, text("u")),
		"no user name with its flag":    w.connectBytes(0x82, id),
		"a password without its flag":   w.connectBytes(0x82, id, text("u"), text("p")),
		"no password with its flag":     w.connectBytes(0xc2, id, text("u")),
		"it ends inside the keep alive": packet(0x10, text("MQTT"), []byte{byte(w.v), 2, 0}),
		"bytes behind the last field":   w.connectBytes(0x02, id, []byte{0}),
	}
}

func TestConnectFields(t *testing.T) {
	each(t, func(w *world) {
		for name, b := range connectFields(w) {
			w.Run(name, func(t *testing.T) {
				in := *w
				in.T = t
				in.badConnect(b)
			})
		}
	}, both...)
}

func TestPasswordWithoutUserName(t *testing.T) {
	each(t, func(w *world) { w.badConnect(w.connectBytes(0x42, text(w.name), text("p"))) }, mqtt.V311)
}

// TestKeepAlive waits for the real time: never before 1.5 times the keep alive. That it is at most a second later is shown on
// fake time, by scenario/keep_alive.
func TestKeepAlive(t *testing.T) {
	each(t, func(w *world) {
		begin := time.Now()
		p, ack := w.try(func(c *mqtt.Connect) { c.KeepAlive = 1 })
		if ack.Properties.Has(mqtt.ServerKeepAlive) {
			w.Fatal("the client's keep alive is not taken")
		}
		still := w.connect() // it has none
		p.ends(mqtt.KeepAliveTimeout)
		if after := time.Since(begin); after < 1500*time.Millisecond {
			w.Fatalf("closed after %v", after)
		}
		still.quiet()
	}, both...)
}

func TestClientIdentifierIsTheSession(t *testing.T) {
	each(t, func(w *world) {
		other := w.connect()
		a, b := w.connect(durable), w.connect(durable)
		a.subscribe(filter(w.topic("a"), 1))
		b.subscribe(filter(w.topic("b"), 1))
		a.leave()
		b.leave()
		other.publish(w.topic("a"), "for a", 1)
		other.publish(w.topic("b"), "for b", 1)
		b, a = w.connect(durable, named(b.id)), w.connect(durable, named(a.id))
		a.takes(w.topic("a"), "for a", 1)
		b.takes(w.topic("b"), "for b", 1)
		a.quiet()
		b.quiet()
	}, both...)
}

func TestClientIdentifiersOf23(t *testing.T) {
	each(t, func(w *world) {
		all := "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		for from := 0; from < len(all); from += 10 {
			id := w.name + all[from:min(from+10, len(all))] + all
			w.connect(named(id[:23])).leave()
		}
		_, ack := w.try(named(string(all[worlds.Add(1)%int64(len(all))])))
		if ack.Reason != mqtt.Success {
			w.Fatalf("CONNACK %s for an identifier of one character", ack.Reason)
		}
	}, both...)
}

func TestAssignedClientIdentifier(t *testing.T) {
	each(t, func(w *world) {
		a, first := w.try(named(""))
		b, second := w.try(named(""))
		a.quiet() // neither has taken the other over
		b.quiet()
		if w.v != mqtt.V5 {
			return
		}
		one, two := string(first.Properties.AssignedClientID), string(second.Properties.AssignedClientID)
		if one == "" || two == "" || one == two {
			w.Fatalf("assigned %q and %q", one, two)
		}
		_, third := w.try(named(""), durable)
		id := string(third.Properties.AssignedClientID)
		if _, ack := w.try(named(id), durable); !ack.SessionPresent || ack.Properties.Has(mqtt.AssignedClientID) {
			w.Fatalf("the session of %q: CONNACK %+v", id, ack)
		}
	}, both...)
}

func TestEmptyClientIdentifierRefused(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello(named(""), func(c *mqtt.Connect) { c.CleanStart = false }))
		p.refused(mqtt.ClientIDNotValid)
	}, mqtt.V311)
}

func TestClientIdentifierIsText(t *testing.T) {
	each(t, func(w *world) { w.badConnect(encoded(w.v, w.hello(named("\xff")))) }, both...)
}

func TestWillTopicIsText(t *testing.T) {
	each(t, func(w *world) { w.badConnect(encoded(w.v, w.hello(will("a/\xff", "m")))) }, both...)
}

func TestUserNameIsText(t *testing.T) {
	each(t, func(w *world) { w.badConnect(encoded(w.v, w.hello(as(login{"\xff@\xff", "x"})))) }, both...)
}

func TestLoginFails(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello(as(login{w.server.agent.Username, "wrong"})))
		p.refused(mqtt.BadUserNameOrPassword)
	}, both...)
}

func TestTakeOver(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 0))
		first := w.connect(will(w.topic("will"), "taken over"))
		second := w.connect(named(first.id))
		first.ends(mqtt.SessionTakenOver)
		seen.gets(w.topic("will"), "taken over", 0)
		second.quiet()
		second.subscribe(filter(w.topic("t"), 0))
		second.send(message(w.topic("t"), "mine", 0))
		second.gets(w.topic("t"), "mine", 0)
	}, both...)
}

func TestConnackAccepts(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello())
		a := p.expectRaw()
		if a.packet.Kind() != mqtt.CONNACK || a.raw[0] != 0x20 || a.raw[2] != 0 || a.raw[3] != 0 {
			w.Fatalf("got % x", a.raw)
		}
		p.quiet()
	}, both...)
}

// wrongly makes a CONNECT that is refused: for its authentication method on 5.0, which takes no time, else for its password.
func wrongly(c *mqtt.Connect) {
	if c.Version == mqtt.V5 {
		c.Properties.Set(mqtt.AuthMethod)
		c.Properties.AuthMethod = []byte("SCRAM-SHA-1")
	} else {
		c.Password = []byte("wrong")
	}
}

func TestNothingBehindARefusal(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("t"), 1))
		for _, edit := range []func(*mqtt.Connect){wrongly, func(c *mqtt.Connect) { c.Password = []byte("wrong") }} {
			p := w.dial()
			m := message(w.topic("t"), "never", 1)
			m.ID = 1
			p.send(w.hello(edit), m, subscribeTo("t"), message(w.topic("t"), "nor this", 0, retain))
			if ack := expect[*mqtt.Connack](p); !ack.Reason.Failed() {
				w.Fatal("accepted")
			}
			p.closed()
		}
		seen.send(message(w.topic("t"), "last", 0))
		seen.gets(w.topic("t"), "last", 0)
	}, both...)
}

func TestConnackIsFirst(t *testing.T) {
	each(t, func(w *world) {
		other, s := w.connect(), w.connect(durable)
		s.subscribe(filter(w.topic("t"), 1))
		s.leave()
		for range 20 {
			other.publish(w.topic("t"), "m", 1)
		}
		p := w.dial()
		p.send(w.hello(named(s.id), durable), &mqtt.Ping{Type: mqtt.PINGREQ})
		if a := p.expectRaw(); a.packet.Kind() != mqtt.CONNACK {
			w.Fatalf("first comes % x", a.raw)
		}
	}, both...)
}

func TestConnackFlags(t *testing.T) {
	each(t, func(w *world) {
		id := w.name + "s"
		for n, want := range []byte{0, 1} {
			p := w.dial()
			p.send(w.hello(named(id), durable))
			if a := p.expectRaw(); a.raw[2] != want {
				w.Fatalf("connection %d: flags %#x", n, a.raw[2])
			}
			p.leave()
		}
	}, both...)
}

func TestRefusalHasNoSession(t *testing.T) {
	each(t, func(w *world) {
		s := w.connect(durable)
		s.leave()
		p := w.dial()
		p.send(w.hello(durable, named(s.id), wrongly))
		a := p.expectRaw()
		if a.raw[2] != 0 || a.raw[3] == 0 {
			w.Fatalf("CONNACK % x", a.raw)
		}
		p.closed()
		if _, ack := w.try(durable, named(s.id)); !ack.SessionPresent {
			w.Fatal("the refusal has ended the session")
		}
	}, both...)
}

func TestRefusals(t *testing.T) {
	each(t, func(w *world) {
		for want, edit := range map[mqtt.Reason]func(*mqtt.Connect){
			mqtt.BadAuthMethod:    wrongly,
			mqtt.TopicNameInvalid: will("a/+", "m"),
			mqtt.NotAuthorized: func(c *mqtt.Connect) {
				as(w.server.agent)(c)
				will("not/mine", "m")(c)
			},
			mqtt.PacketTooLarge: func(c *mqtt.Connect) { will("t", bytesOf(65000))(c); c.ClientID = []byte(bytesOf(2000)) },
		} {
			p := w.dial()
			p.send(w.hello(edit))
			p.refused(want)
		}
	})
}

func TestRefusals311(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello(as(w.server.agent), will("not/mine", "m")))
		if a := p.expectRaw(); len(a.raw) != 4 || a.raw[2] != 0 || a.raw[3] != 5 {
			w.Fatalf("CONNACK % x", a.raw)
		}
		p.closed()
		// No return code fits a will topic with a wildcard.
		p = w.dial()
		p.send(w.hello(will("a/+", "m")))
		p.closed()
	}, mqtt.V311)
}

// TestAllQoS: no Maximum QoS is announced, and all of it is there.
func TestAllQoS(t *testing.T) {
	each(t, func(w *world) {
		p, ack := w.try()
		if ack.Properties.Has(mqtt.MaximumQoS) || ack.Properties.Has(mqtt.RetainAvailable) {
			w.Fatal("CONNACK announces less than is there")
		}
		for q := range mqtt.QoS(3) {
			f := w.topic(string('a' + rune(q)))
			p.subscribe(filter(f, q))
			other := w.connect()
			other.publish(f, "m", q)
			p.takes(f, "m", q)
		}
	})
}

// TestTooLargePacket: the largest packet that was announced is taken, and one byte more is not.
func TestTooLargePacket(t *testing.T) {
	each(t, func(w *world) {
		p, ack := w.try()
		limit := 1 << 20
		if w.v == mqtt.V5 {
			limit = int(ack.Properties.MaximumPacketSize)
		}
		seen := w.connect()
		seen.subscribe(filter(w.topic("t"), 0))
		head := len(packet(0x30, text(w.topic("t")), w.props(), make([]byte, limit/2))) - limit/2
		largest := packet(0x30, text(w.topic("t")), w.props(), make([]byte, limit-head))
		if len(largest) != limit {
			w.Fatalf("%d bytes, want %d", len(largest), limit)
		}
		p.raw(largest)
		if m := expect[*mqtt.Publish](seen); len(m.Payload) != limit-head {
			w.Fatalf("%d bytes came", len(m.Payload))
		}
		p.raw(mqtt.AppendVarint([]byte{0x30}, limit-4+1))
		p.ends(mqtt.PacketTooLarge)
	}, both...)
}

func TestConnackFits(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello(wrongly, maximumPacketSize(8)))
		a := p.expectRaw()
		if ack := a.packet.(*mqtt.Connack); len(a.raw) > 8 || ack.Reason != mqtt.BadAuthMethod {
			w.Fatalf("CONNACK of %d bytes, %s", len(a.raw), ack.Reason)
		}
		p.closed()
		p = w.dial() // without the limit there is a reason string
		p.send(w.hello(wrongly))
		if ack := p.refused(mqtt.BadAuthMethod); !ack.Properties.Has(mqtt.ReasonString) {
			w.Fatal("no reason string, so nothing was left out")
		}
	})
}

func TestNoResponseInformation(t *testing.T) {
	each(t, func(w *world) {
		for n := range uint8(2) {
			_, ack := w.try(func(c *mqtt.Connect) {
				c.Properties.Set(mqtt.RequestResponseInfo)
				c.Properties.RequestResponseInfo = n
			})
			if ack.Properties.Has(mqtt.ResponseInfo) {
				w.Fatal("response information")
			}
		}
	})
}

// TestCapabilities: the limits that CONNACK announces are those that hold.
func TestCapabilities(t *testing.T) {
	each(t, func(w *world) {
		_, ack := w.try()
		p := &ack.Properties
		if p.ReceiveMaximum != 1000 || p.TopicAliasMaximum != 32 || p.MaximumPacketSize != 1<<20 {
			w.Fatalf("CONNACK %+v", p)
		}
	})
}

// TestConnectProperties: values that no one may send, properties twice or in the wrong place.
func TestConnectProperties(t *testing.T) {
	each(t, func(w *world) {
		for name, c := range map[string]struct {
			props []byte
			want  mqtt.Reason
		}{
			"receive maximum 0":                  {[]byte{33, 0, 0}, mqtt.ProtocolError},
			"maximum packet size 0":              {[]byte{39, 0, 0, 0, 0}, mqtt.ProtocolError},
			"request problem information 2":      {[]byte{23, 2}, mqtt.ProtocolError},
			"request response information 2":     {[]byte{25, 2}, mqtt.ProtocolError},
			"session expiry twice":               {[]byte{17, 0, 0, 0, 1, 17, 0, 0, 0, 1}, mqtt.ProtocolError},
			"topic alias maximum twice":          {[]byte{34, 0, 1, 34, 0, 1}, mqtt.ProtocolError},
			"authentication data without method": {[]byte{22, 0, 1, 'x'}, mqtt.ProtocolError},
			"will delay outside the will":        {[]byte{24, 0, 0, 0, 1}, mqtt.MalformedPacket},
			"a property of PUBLISH":              {[]byte{1, 0}, mqtt.MalformedPacket},
			"a property that does not exist":     {[]byte{127, 0}, mqtt.MalformedPacket},
			"a property that is cut":             {[]byte{17, 0, 0}, mqtt.MalformedPacket},
			"an identifier in a long form":       {[]byte{0x91, 0, 0, 0, 0, 1}, mqtt.MalformedPacket},
			"a user property without its value":  {[]byte{38, 0, 1, 'k'}, mqtt.MalformedPacket},
			"a length beyond the packet's":       {nil, mqtt.MalformedPacket},
		} {
			p := w.dial()
			props := w.props(c.props)
			if c.props == nil {
				props = []byte{200, 1}
			}
			p.raw(packet(0x10, text("MQTT"), []byte{5, 2, 0, 0}, props, text(w.name)))
			if ack := expect[*mqtt.Connack](p); ack.Reason != c.want {
				w.Errorf("%s: CONNACK %s, want %s", name, ack.Reason, c.want)
			}
			p.closed()
		}
	})
}
