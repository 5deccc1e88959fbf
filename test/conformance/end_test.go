package conformance

import (
	"net/http"
	"testing"

	"github.com/lxzan/gws"

	"cloudsignal/internal/mqtt"
)

func TestNoDisconnectBeforeConnack(t *testing.T) {
	each(t, func(w *world) {
		for _, b := range [][]byte{{0xc0, 0}, {0, 0}, packet(0x30, text("t"), w.props())} {
			p := w.dial()
			p.raw(b)
			p.closed()
		}
		p := w.dial()
		p.send(w.hello(wrongly))
		expect[*mqtt.Connack](p)
		p.closed() // and no DISCONNECT
	})
}

// TestDisconnectReasons: each violation has its own; all are codes that DISCONNECT has.
func TestDisconnectReasons(t *testing.T) {
	each(t, func(w *world) {
		for want, b := range map[mqtt.Reason][]byte{
			mqtt.MalformedPacket:   packet(0xc1),
			mqtt.ProtocolError:     encoded(w.v, w.hello()),
			mqtt.TopicNameInvalid:  encoded(w.v, message("#", "", 0)),
			mqtt.TopicAliasInvalid: encoded(w.v, message("t", "", 0, alias(33))),
			mqtt.PacketTooLarge:    {0x30, 0xff, 0xff, 0x7f},
		} {
			p := w.connect()
			p.raw(b)
			p.ends(want)
		}
	})
}

func TestDisconnectHasNoExpiry(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect(durable)
		w.connect(durable, named(p.id))
		if d := expect[*mqtt.Disconnect](p); d.Properties.Has(mqtt.SessionExpiry) {
			w.Fatal("the server sends a session expiry")
		}
		p.closed()
	})
}

// TestLastPacket: behind the server's DISCONNECT comes nothing, whatever waits.
func TestLastPacket(t *testing.T) {
	each(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 0))
		s.send(&mqtt.Ping{Type: mqtt.PINGREQ}, w.hello(), &mqtt.Ping{Type: mqtt.PINGREQ}, message(w.topic("t"), "m", 0))
		expect[*mqtt.Ping](s)
		s.ends(mqtt.ProtocolError)
		p.publish(w.topic("t"), "m", 1)
	})
}

func TestNothingBehindDisconnect(t *testing.T) {
	each(t, func(w *world) {
		seen, p := w.connect(), w.connect()
		seen.subscribe(filter(w.topic("t"), 0))
		p.send(&mqtt.Disconnect{}, message(w.topic("t"), "behind", 0), &mqtt.Ping{Type: mqtt.PINGREQ})
		p.closed()
		seen.quiet()
	}, both...)
}

func TestExpiryAtDisconnect(t *testing.T) {
	each(t, func(w *world) {
		raise := &mqtt.Disconnect{}
		raise.Properties.Set(mqtt.SessionExpiry)
		raise.Properties.SessionExpiry = 100
		p := w.connect()
		p.send(raise)
		p.ends(mqtt.ProtocolError)
		end := &mqtt.Disconnect{}
		end.Properties.Set(mqtt.SessionExpiry)
		p = w.connect(durable)
		p.send(end)
		p.closed()
		if _, ack := w.try(durable, named(p.id)); ack.SessionPresent {
			w.Fatal("the session has not ended")
		}
	})
}

func expires(seconds uint32) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		durable(c)
		c.Properties.SessionExpiry = seconds
	}
}

func TestSessionStaysWhileConnected(t *testing.T) {
	each(t, func(w *world) {
		p := w.connect(expires(1))
		p.subscribe(filter(w.topic("t"), 1))
		w.pass(2)
		p.quiet()
		p, ack := w.try(expires(1), named(p.id)) // never without a connection
		if !ack.SessionPresent {
			w.Fatal("the session was discarded while its client was connected")
		}
		p.send(message(w.topic("t"), "still subscribed", 0))
		p.gets(w.topic("t"), "still subscribed", 0)
	})
}

func TestSessionEnds(t *testing.T) {
	each(t, func(w *world) {
		p, other := w.connect(expires(1)), w.connect()
		p.subscribe(filter(w.topic("t"), 1))
		p.leave()
		other.publish(w.topic("t"), "m", 1)
		w.pass(2)
		p, ack := w.try(expires(1), named(p.id))
		if ack.SessionPresent {
			w.Fatal("the session is there behind its expiry")
		}
		p.quiet()
	})
}

func TestAuthMethodRefused(t *testing.T) {
	each(t, func(w *world) {
		p := w.dial()
		p.send(w.hello(wrongly))
		p.refused(mqtt.BadAuthMethod)
	})
}

func TestAuthWithoutMethod(t *testing.T) {
	each(t, func(w *world) {
		for _, r := range []mqtt.Reason{mqtt.Success, mqtt.ContinueAuthentication, mqtt.ReAuthenticate} {
			p, ack := w.try()
			if ack.Properties.Has(mqtt.AuthMethod) || ack.Properties.Has(mqtt.AuthData) {
				w.Fatal("CONNACK has an authentication method")
			}
			p.send(&mqtt.Auth{Reason: r})
			p.ends(mqtt.ProtocolError)
		}
		p := w.dial()
		p.raw([]byte{0xf0, 0})
		p.closed()
	})
}

func TestAuthReasons(t *testing.T) {
	each(t, func(w *world) { w.bad(packet(0xf0, []byte{0x80})) })
}

// TestViolationsClose: whatever is not MQTT ends the connection, and nobody else's.
func TestViolationsClose(t *testing.T) {
	each(t, func(w *world) {
		still := w.connect()
		for _, b := range [][]byte{
			packet(0x20, []byte{0, 0}, w.props()), packet(0xd0), packet(0x90, []byte{0, 1}, w.props(), []byte{0}), packet(0xb0, []byte{0, 1}, w.props(), []byte{0}),
			packet(0x40, []byte{0}), packet(0x62, []byte{0}), packet(0x32, text("t"), []byte{0}), packet(0xc0, []byte{0}),
			{0, 0},
		} {
			p := w.connect()
			p.raw(b)
			if w.v == mqtt.V5 {
				if d := expect[*mqtt.Disconnect](p); d.Reason != mqtt.MalformedPacket && d.Reason != mqtt.ProtocolError {
					w.Fatalf("DISCONNECT %s", d.Reason)
				}
			}
			p.closed()
		}
		still.quiet()
	}, both...)
}

// TestRefusedPublish311: there is no refusal in 3.1.1: it is acknowledged, and nobody gets it.
func TestRefusedPublish311(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		topic := "refused/" + w.name
		seen.subscribe(filter(topic, 0))
		p := w.connect(as(w.server.agent))
		p.publish(topic, "m", 0)
		p.publish(topic, "m", 1)
		p.publish(topic, "m", 2)
		p.quiet()
		seen.quiet()
	}, mqtt.V311)
}

func TestSplitAndJoined(t *testing.T) {
	everywhere(t, func(w *world) {
		p := w.dial()
		m := message(w.topic("t"), "m", 1)
		m.ID = 7
		b := encoded(w.v, w.hello())
		b = append(b, encoded(w.v, subscribeTo(w.topic("t")))...)
		b = append(b, encoded(w.v, m)...)
		b = append(b, 0xc0, 0)
		for i := range b { // over WebSocket each byte is a message
			p.raw(b[i : i+1])
		}
		wantAll(p)
		p = w.dial()
		m.Topic = []byte(w.topic("t"))
		b = append(encoded(w.v, w.hello()), encoded(w.v, subscribeTo(w.topic("t")))...)
		b = append(b, encoded(w.v, m)...)
		p.raw(append(b, 0xc0, 0))
		wantAll(p)
	})
}

// wantAll is CONNACK, SUBACK, and in any order PUBACK and PUBLISH, then PINGRESP.
func wantAll(p *peer) {
	p.w.Helper()
	expect[*mqtt.Connack](p)
	expect[*mqtt.Suback](p)
	for range 2 {
		switch a := p.expectRaw(); a.packet.Kind() {
		case mqtt.PUBACK, mqtt.PUBLISH:
		default:
			p.w.Fatalf("got % x", a.raw)
		}
	}
	expect[*mqtt.Ping](p)
}

// everywhere is each over all three transports, or those that are named, whatever was asked for.
func everywhere(t *testing.T, f func(*world), over ...string) {
	t.Parallel()
	noteRun(t, both)
	if len(over) == 0 {
		over = []string{overTCP, overTLS, overWSS}
	}
	for _, transport := range over {
		for _, v := range both {
			t.Run(transport+"/"+v.String(), func(t *testing.T) {
				t.Parallel()
				f(newWorld(t, transport, v))
			})
		}
	}
}

func TestTransports(t *testing.T) {
	everywhere(t, func(w *world) {
		p, s := w.connect(), w.connect()
		s.subscribe(filter(w.topic("t"), 2))
		for q := range mqtt.QoS(3) {
			p.publish(w.topic("t"), bytesOf(70000), q)
			s.takes(w.topic("t"), bytesOf(70000), q)
		}
	})
}

func TestTextFrame(t *testing.T) {
	everywhere(t, func(w *world) {
		p := w.dial()
		if err := p.link.(*webLink).ws.WriteMessage(gws.OpcodeText, encoded(w.v, w.hello())); err != nil {
			w.Fatal(err)
		}
		p.closed()
		p = w.connect()
		if err := p.link.(*webLink).ws.WriteMessage(gws.OpcodeText, []byte{0xc0, 0}); err != nil {
			w.Fatal(err)
		}
		p.closed()
	}, overWSS)
}

func TestSubprotocol(t *testing.T) {
	everywhere(t, func(w *world) {
		for offered, want := range map[string]string{"mqtt": "mqtt", "chat, mqtt": "mqtt", "chat": "", "": ""} {
			header := http.Header{}
			if offered != "" {
				header.Set("Sec-Websocket-Protocol", offered)
			}
			config := w.server.tls.Clone()
			config.ServerName = "127.0.0.1"
			ws, response, err := gws.NewClient(gws.BuiltinEventHandler{}, &gws.ClientOption{
				Addr: "wss://" + w.server.addresses["wss"] + "/mqtt", RequestHeader: header, TlsConfig: config,
			})
			if want == "" {
				if err == nil || response == nil || response.StatusCode != http.StatusBadRequest {
					w.Fatalf("offered %q: %v", offered, err)
				}
				continue
			}
			if err != nil {
				w.Fatal(err)
			}
			if got := response.Header.Get("Sec-Websocket-Protocol"); got != want {
				w.Fatalf("offered %q, got %q", offered, got)
			}
			ws.NetConn().Close()
		}
	}, overWSS)
}
