package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

var errText = errors.New("the server sent a WebSocket message that is not binary")

// both are the versions whose statements are in the tables.
var both = []mqtt.Version{mqtt.V311, mqtt.V5}

// ran notes which tests have run in which version: a row's test must have.
var ran struct {
	sync.Mutex
	in map[string][]mqtt.Version
}

// world is where one test runs: a version, a transport, topics of its own.
type world struct {
	*testing.T
	v         mqtt.Version
	transport string
	server    *server
	name      string // nobody else's, for topics and client identifiers
}

var worlds atomic.Int64

// each runs f over every transport, in 5.0 or in the versions that are named.
func each(t *testing.T, f func(*world), versions ...mqtt.Version) {
	t.Parallel()
	if len(versions) == 0 {
		versions = []mqtt.Version{mqtt.V5}
	}
	noteRun(t, versions)
	for _, transport := range transports {
		for _, v := range versions {
			t.Run(transport+"/"+v.String(), func(t *testing.T) {
				t.Parallel()
				f(newWorld(t, transport, v))
			})
		}
	}
}

func newWorld(t *testing.T, transport string, v mqtt.Version) *world {
	return &world{T: t, v: v, transport: transport, server: broker, name: fmt.Sprintf("w%d", worlds.Add(1))}
}

func noteRun(t *testing.T, versions []mqtt.Version) {
	ran.Lock()
	defer ran.Unlock()
	if ran.in == nil {
		ran.in = make(map[string][]mqtt.Version)
	}
	ran.in[t.Name()] = versions
}

// topic is a topic, or a filter, of this world alone.
func (w *world) topic(s string) string { return w.name + "/" + s }

// peer is one connection.
type peer struct {
	w    *world
	v    mqtt.Version
	id   string
	link link
	in   chan arrived // closed when the connection is
	next uint16
}

// arrived is a packet as it came.
type arrived struct {
	raw    []byte
	packet mqtt.Packet
	err    error // it is not one
}

// dial opens a connection and sends nothing.
func (w *world) dial() *peer {
	w.Helper()
	l, err := dialLink(w.server, w.transport)
	if err != nil {
		w.Fatal(err)
	}
	p := &peer{w: w, v: w.v, link: l, in: make(chan arrived, 4096)}
	w.Cleanup(func() { l.Close() })
	go p.read()
	return p
}

func (p *peer) read() {
	defer close(p.in)
	r := bufio.NewReader(p.link)
	for {
		raw, header, err := readRaw(r)
		if err != nil {
			if errors.Is(err, errText) {
				p.in <- arrived{err: err}
			}
			return
		}
		d := mqtt.Decoder{Version: p.v}
		packet, err := d.Decode(header, raw[len(raw)-header.Length:])
		p.in <- arrived{raw, packet, err}
	}
}

func readRaw(r *bufio.Reader) (raw []byte, h mqtt.Header, err error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return nil, h, err
		}
		raw = append(raw, b)
		h, n, err := mqtt.ReadHeader(raw)
		if err != nil {
			return nil, h, err
		}
		if n > 0 {
			raw = append(raw, make([]byte, h.Length)...)
			_, err = io.ReadFull(r, raw[n:])
			return raw, h, err
		}
	}
}

// hello is a CONNECT that is accepted: clean start, no keep alive, a client identifier of its own.
func (w *world) hello(edit ...func(*mqtt.Connect)) *mqtt.Connect {
	c := &mqtt.Connect{
		Version: w.v, CleanStart: true, ClientID: fmt.Appendf(nil, "%s-c%d", w.name, worlds.Add(1)),
		HasUsername: true, HasPassword: true, Username: []byte(w.server.all.Username), Password: []byte(w.server.all.Password),
	}
	for _, e := range edit {
		e(c)
	}
	return c
}

// Edits of a CONNECT.

func as(l login) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) { c.Username, c.Password = []byte(l.Username), []byte(l.Password) }
}

func named(id string) func(*mqtt.Connect) { return func(c *mqtt.Connect) { c.ClientID = []byte(id) } }

// durable asks for a session that outlives its connection.
func durable(c *mqtt.Connect) {
	c.CleanStart = false
	c.Properties.Set(mqtt.SessionExpiry)
	c.Properties.SessionExpiry = 600
}

func receiveMaximum(n uint16) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		c.Properties.Set(mqtt.ReceiveMaximum)
		c.Properties.ReceiveMaximum = n
	}
}

func maximumPacketSize(n uint32) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		c.Properties.Set(mqtt.MaximumPacketSize)
		c.Properties.MaximumPacketSize = n
	}
}

func aliases(n uint16) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		c.Properties.Set(mqtt.TopicAliasMaximum)
		c.Properties.TopicAliasMaximum = n
	}
}

func will(topic, payload string) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) { c.HasWill, c.WillTopic, c.WillPayload = true, []byte(topic), []byte(payload) }
}

func willDelay(seconds uint32) func(*mqtt.Connect) {
	return func(c *mqtt.Connect) {
		c.WillProperties.Set(mqtt.WillDelay)
		c.WillProperties.WillDelay = seconds
	}
}

// connect is an accepted connection.
func (w *world) connect(edit ...func(*mqtt.Connect)) *peer {
	w.Helper()
	p, ack := w.try(edit...)
	if ack.Reason != mqtt.Success {
		w.Fatalf("CONNACK %s", ack.Reason)
	}
	return p
}

// try connects, and gives the answer.
func (w *world) try(edit ...func(*mqtt.Connect)) (*peer, *mqtt.Connack) {
	w.Helper()
	p, c := w.dial(), w.hello(edit...)
	p.id = string(c.ClientID)
	p.send(c)
	return p, expect[*mqtt.Connack](p)
}

func (p *peer) send(packets ...mqtt.Packet) {
	p.w.Helper()
	var b []byte
	for _, packet := range packets {
		b = packet.Append(b, p.v)
	}
	p.raw(b)
}

func (p *peer) raw(b []byte) {
	p.w.Helper()
	if _, err := p.link.Write(b); err != nil {
		p.w.Fatalf("writing: %v", err)
	}
}

// expectRaw is the next packet that comes.
func (p *peer) expectRaw() arrived {
	p.w.Helper()
	select {
	case a, ok := <-p.in:
		if !ok {
			p.w.Fatal("the server closed the connection")
		}
		if a.err != nil {
			p.w.Fatalf("the server sent % x: %v", a.raw, a.err)
		}
		return a
	case <-time.After(patience):
		p.w.Fatal("nothing comes")
	}
	return arrived{}
}

// expect is the next packet that comes, of a type.
func expect[T mqtt.Packet](p *peer) T {
	p.w.Helper()
	a := p.expectRaw()
	packet, ok := a.packet.(T)
	if !ok {
		p.w.Fatalf("got %s, want a %T: % x", a.packet.Kind(), packet, a.raw)
	}
	return packet
}

// closed wants the connection closed, and nothing before.
func (p *peer) closed() {
	p.w.Helper()
	select {
	case a, ok := <-p.in:
		if ok {
			p.w.Fatalf("got % x, %v, want the connection closed", a.raw, a.err)
		}
	case <-time.After(patience):
		p.w.Fatal("the server does not close the connection")
	}
	p.link.Close()
}

// ends wants a reason, which 3.x has none for, and the connection closed.
func (p *peer) ends(reason mqtt.Reason) {
	p.w.Helper()
	if p.v == mqtt.V5 {
		if d := expect[*mqtt.Disconnect](p); d.Reason != reason {
			p.w.Fatalf("DISCONNECT %s (%s), want %s", d.Reason, d.Properties.ReasonString, reason)
		}
	}
	p.closed()
}

// refused wants a CONNACK with a reason, and the connection closed.
func (p *peer) refused(reason mqtt.Reason) *mqtt.Connack {
	p.w.Helper()
	ack := expect[*mqtt.Connack](p)
	if p.v != mqtt.V5 { // of 3.x the decoder gives the reason that a return code stands for
		if ack.Reason.ConnectReturnCode() != reason.ConnectReturnCode() {
			p.w.Fatalf("CONNACK %s, want the return code of %s", ack.Reason, reason)
		}
	} else if ack.Reason != reason {
		p.w.Fatalf("CONNACK %s (%s), want %s", ack.Reason, ack.Properties.ReasonString, reason)
	}
	p.closed()
	return ack
}

// quiet wants nothing to come before the answer to a PINGREQ.
func (p *peer) quiet() {
	p.w.Helper()
	p.send(&mqtt.Ping{Type: mqtt.PINGREQ})
	if a := p.expectRaw(); a.packet.Kind() != mqtt.PINGRESP {
		p.w.Fatalf("got %s % x %q, want nothing", a.packet.Kind(), a.raw, a.raw)
	}
}

// drop ends the connection without a word.
func (p *peer) drop() { p.link.Close() }

// leave ends the connection with DISCONNECT, and waits for the server.
func (p *peer) leave() {
	p.w.Helper()
	p.send(&mqtt.Disconnect{})
	p.closed()
}

func (p *peer) nextID() uint16 {
	p.next++
	return p.next
}

// subscribe wants each filter granted at its QoS.
func (p *peer) subscribe(subs ...mqtt.Subscription) {
	p.w.Helper()
	for i, r := range p.subscribed(&mqtt.Subscribe{Subscriptions: subs}) {
		if r != mqtt.Reason(subs[i].QoS) {
			p.w.Fatalf("SUBACK %s for %s at QoS %d", r, subs[i].Filter, subs[i].QoS)
		}
	}
}

// subscribed gives the reasons for a SUBSCRIBE, whose identifier it sets.
func (p *peer) subscribed(s *mqtt.Subscribe) []mqtt.Reason {
	p.w.Helper()
	s.ID = p.nextID()
	p.send(s)
	ack := expect[*mqtt.Suback](p)
	if ack.ID != s.ID || len(ack.Reasons) != len(s.Subscriptions) {
		p.w.Fatalf("SUBACK %d with %d reasons for SUBSCRIBE %d with %d filters", ack.ID, len(ack.Reasons), s.ID, len(s.Subscriptions))
	}
	return ack.Reasons
}

func filter(f string, q mqtt.QoS) mqtt.Subscription {
	return mqtt.Subscription{Filter: []byte(f), QoS: q}
}

func message(topic, payload string, q mqtt.QoS, edit ...func(*mqtt.Publish)) *mqtt.Publish {
	m := &mqtt.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: q}
	for _, e := range edit {
		e(m)
	}
	return m
}

func retain(m *mqtt.Publish) { m.Retain = true }

// publish sends a message to the end of its exchange, and wants it taken.
func (p *peer) publish(topic, payload string, q mqtt.QoS, edit ...func(*mqtt.Publish)) {
	p.w.Helper()
	m := message(topic, payload, q, edit...)
	if q > 0 && m.ID == 0 {
		m.ID = p.nextID()
	}
	p.send(m)
	switch q {
	case 0:
		p.quiet()
	case 1:
		p.acked(mqtt.PUBACK, m.ID)
	case 2:
		p.acked(mqtt.PUBREC, m.ID)
		p.ack(mqtt.PUBREL, m.ID)
		p.acked(mqtt.PUBCOMP, m.ID)
	}
}

// acked wants an acknowledgement below 0x80.
func (p *peer) acked(t mqtt.Type, id uint16) {
	p.w.Helper()
	if r := p.answered(t, id); r.Failed() {
		p.w.Fatalf("%s %d %s", t, id, r)
	}
}

// answered gives the reason of an acknowledgement.
func (p *peer) answered(t mqtt.Type, id uint16) mqtt.Reason {
	p.w.Helper()
	a := expect[*mqtt.Ack](p)
	if a.Type != t || a.ID != id {
		p.w.Fatalf("got %s %d, want %s %d", a.Type, a.ID, t, id)
	}
	return a.Reason
}

func (p *peer) ack(t mqtt.Type, id uint16, reason ...mqtt.Reason) {
	p.w.Helper()
	a := &mqtt.Ack{Type: t, ID: id}
	if len(reason) > 0 {
		a.Reason = reason[0]
	}
	p.send(a)
}

// gets wants a PUBLISH next, and does not acknowledge it.
func (p *peer) gets(topic, payload string, q mqtt.QoS) *mqtt.Publish {
	p.w.Helper()
	m := expect[*mqtt.Publish](p)
	if string(m.Topic) != topic && len(m.Topic) > 0 || string(m.Payload) != payload || m.QoS != q {
		p.w.Fatalf("PUBLISH %q %q at QoS %d, want %q %q at QoS %d", m.Topic, m.Payload, m.QoS, topic, payload, q)
	}
	return m
}

// takes is gets, and ends the exchange.
func (p *peer) takes(topic, payload string, q mqtt.QoS) *mqtt.Publish {
	p.w.Helper()
	m := p.gets(topic, payload, q)
	p.settle(m)
	return m
}

// settle ends the exchange of a message.
func (p *peer) settle(m *mqtt.Publish) {
	p.w.Helper()
	switch m.QoS {
	case 1:
		p.ack(mqtt.PUBACK, m.ID)
	case 2:
		p.ack(mqtt.PUBREC, m.ID)
		p.acked(mqtt.PUBREL, m.ID)
		p.ack(mqtt.PUBCOMP, m.ID)
	}
}

// Bytes by hand.

// packet is a packet of any first byte and body.
func packet(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return append(mqtt.AppendVarint([]byte{first}, len(body)), body...)
}

// text is a string with its length.
func text(s string) []byte { return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...) }

// props is a list of properties with its length, which 3.x does not have.
func (w *world) props(parts ...[]byte) []byte {
	if w.v != mqtt.V5 {
		return nil
	}
	body := slices.Concat(parts...)
	return append(mqtt.AppendVarint(nil, len(body)), body...)
}

// connectBytes is a CONNECT with these flags and what follows the properties.
func (w *world) connectBytes(flags byte, payload ...[]byte) []byte {
	return packet(0x10, text("MQTT"), []byte{byte(w.v), flags, 0, 0}, w.props(), slices.Concat(payload...))
}

func bytesOf(n int) string { return strings.Repeat("x", n) }
