package script

import (
	"bytes"
	"testing"

	"cloudsignal/internal/mqtt"
)

// wires are packets that nobody can mean, and what a 5.0 client is told, whatever it came by.
var wires = []struct {
	name  string
	login bool
	bytes []byte
	want  string
}{
	{"CONNECT with its reserved flag", false, edit(connect(mqtt.Connect{Version: mqtt.V5}), 9, 0x03), "CONNACK Malformed Packet"},
	{"CONNECT with reserved bits", false, edit(connect(mqtt.Connect{Version: mqtt.V5}), 0, 0x11), "CONNACK Malformed Packet"},
	{"CONNECT with a property twice", false, []byte{0x10, 23, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 10, 17, 0, 0, 0, 1, 17, 0, 0, 0, 1, 0, 0}, "CONNACK Protocol Error"},
	{"CONNECT of 256 MB", false, []byte{0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 0}, "CONNACK Packet too large"},
	{"a length of five bytes", true, []byte{0xc0, 0x80, 0x80, 0x80, 0x80, 0x00}, "DISCONNECT Malformed Packet"},
	{"a length of more bytes than it needs", true, []byte{0xc0, 0x80, 0x00}, "DISCONNECT Malformed Packet"},
	{"a length above the limit", true, []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "DISCONNECT Packet too large"},
	{"a second CONNECT", true, connect(mqtt.Connect{Version: mqtt.V5}), "DISCONNECT Protocol Error"},
	{"PINGREQ with reserved bits", true, []byte{0xc1, 0}, "DISCONNECT Malformed Packet"},
	{"SUBSCRIBE with reserved bits", true, []byte{0x80, 7, 0, 1, 0, 0, 1, 'a', 0}, "DISCONNECT Malformed Packet"},
	{"PUBREL with reserved bits", true, []byte{0x60, 2, 0, 1}, "DISCONNECT Malformed Packet"},
	{"PUBLISH at QoS 3", true, []byte{0x36, 6, 0, 1, 'a', 0, 1, 0}, "DISCONNECT Malformed Packet"},
	{"SUBSCRIBE without an options byte", true, []byte{0x82, 6, 0, 1, 0, 0, 1, 'a'}, "DISCONNECT Malformed Packet"},
	{"SUBSCRIBE without a filter", true, []byte{0x82, 3, 0, 1, 0}, "DISCONNECT Protocol Error"},
	{"SUBSCRIBE with reserved options", true, []byte{0x82, 7, 0, 1, 0, 0, 1, 'a', 0xc0}, "DISCONNECT Malformed Packet"},
	{"PUBLISH with a property twice", true, []byte{0x30, 12, 0, 1, 'a', 8, 3, 0, 1, 'x', 3, 0, 1, 'x'}, "DISCONNECT Protocol Error"},
	{"PUBLISH with alias 0", true, []byte{0x30, 7, 0, 1, 'a', 3, 35, 0, 0}, "DISCONNECT Topic Alias invalid"},
	{"PUBLISH with an alias above the maximum", true, []byte{0x30, 7, 0, 1, 'a', 3, 35, 0, 33}, "DISCONNECT Topic Alias invalid"},
	{"PUBLISH without a topic and with an unknown alias", true, []byte{0x30, 6, 0, 0, 3, 35, 0, 1}, "DISCONNECT Protocol Error"},
	{"PUBLISH with 1,001 user properties", true, manyProperties(1001), "DISCONNECT Quota exceeded"},
	{"properties longer than the packet", true, []byte{0x30, 5, 0, 1, 'a', 9, 3}, "DISCONNECT Malformed Packet"},
}

func edit(b []byte, at int, to byte) []byte {
	b[at] = to
	return b
}

func manyProperties(n int) []byte {
	p := mqtt.Publish{Topic: []byte("a")}
	for range n {
		p.Properties.User = append(p.Properties.User, mqtt.UserProperty{Key: []byte("n"), Value: []byte("v")})
	}
	return publish(p)
}

// TestWire: the answer to what is malformed is the same over TCP, TLS and WebSocket; what stands behind a refused CONNECT is not
// looked at.
func TestWire(t *testing.T) {
	s := newTarget(t, "--mqtt", "127.0.0.1:0")
	for _, listener := range []string{"mqtt", "mqtts", "wss"} {
		for _, w := range wires {
			t.Run(listener+"/"+w.name, func(t *testing.T) {
				a, err := s.dial(listener)
				if err != nil {
					t.Fatal(err)
				}
				defer a.conn.Close()
				if w.login {
					if err := s.login(a, mqtt.V5); err != nil {
						t.Fatal(err)
					}
				}
				if err := a.send(w.bytes); err != nil {
					t.Fatal(err)
				}
				if got := a.ended(mqtt.V5); got != w.want {
					t.Errorf("the end was %q, want %q", got, w.want)
				}
			})
		}
		t.Run(listener+"/behind a refused CONNECT", func(t *testing.T) { s.behindRefused(t, listener) })
		t.Run(listener+"/memory of a declared length", func(t *testing.T) { s.declared(t, listener) })
	}
}

// behindRefused: a retained message that comes in one piece with a CONNECT with a wrong password is nowhere.
func (s *target) behindRefused(t *testing.T, listener string) {
	u := s.credentials.Users[0]
	topic := []byte("agents/agent-01/inbox")
	c := mqtt.Connect{Version: mqtt.V5, CleanStart: true, HasUsername: true, Username: []byte(u.Username), HasPassword: true, Password: []byte("wrong")}
	b := append(connect(c), publish(mqtt.Publish{Topic: topic, Payload: []byte("x"), Retain: true})...)
	a, err := s.dial(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer a.conn.Close()
	if err := a.send(b); err != nil {
		t.Fatal(err)
	}
	if got := a.ended(mqtt.V5); got != "CONNACK Bad User Name or Password" {
		t.Errorf("the end was %q", got)
	}
	w, err := s.dial(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer w.conn.Close()
	if err := s.login(w, mqtt.V5); err != nil {
		t.Fatal(err)
	}
	sub := mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: topic}}}
	ask := append(sub.Append(nil, mqtt.V5), 0xc0, 0)
	if err := w.send(ask); err != nil {
		t.Fatal(err)
	}
	for _, want := range []mqtt.Type{mqtt.SUBACK, mqtt.PINGRESP} {
		p, err := w.packet(mqtt.V5)
		if err != nil || p.Kind() != want {
			t.Fatalf("got %+v %v, want %s", p, err, want)
		}
	}
}

// declared: connections that announce a CONNECT as large as one may be take no more memory than those that announce nothing.
func (s *target) declared(t *testing.T, listener string) {
	const many, each = 400, 60 << 10
	held := func(began, more []byte) int {
		const made = "go_memstats_alloc_bytes_total" // what is taken and not used is not resident
		before := s.metric(t, made)
		var all []*attacker
		for range many {
			a, err := s.dial(listener)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
			if _, err := a.conn.Write(began); err != nil {
				t.Fatal(err)
			}
		}
		open := func(n float64) {
			if err := await(func() (bool, error) { return s.metric(t, "cloudsignal_connections") == n, nil }); err != nil {
				t.Fatal(err)
			}
		}
		open(many)
		for _, a := range all {
			if _, err := a.conn.Write(more); err != nil { // of what has begun
				t.Fatal(err)
			}
		}
		s.behindRefused(t, listener) // who comes after is answered after
		taken := int(s.metric(t, made) - before)
		for _, a := range all {
			a.conn.Close()
		}
		open(0)
		return taken
	}
	announced := append([]byte{0x10, 0x80 | each&0x7f, 0x80 | each>>7&0x7f, each >> 14}, bytes.Repeat([]byte{0}, 10)...)
	nothing := []byte{0x10}
	if listener == "wss" {
		announced, nothing = append(frameHeader(2, each), announced...), frameHeader(2, each)[:2]
	}
	quiet := held(nothing, []byte{0x80})
	if loud := held(announced, make([]byte, 100)); loud > quiet+many*each/2 {
		t.Errorf("%d connections that announced %d bytes each took %d MiB, and %d MiB that announced nothing", many, each, loud>>20, quiet>>20)
	} else {
		t.Logf("%d MiB announced, %d MiB not", loud>>20, quiet>>20)
	}
}
