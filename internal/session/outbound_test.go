package session

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloudsignal/internal/mqtt"
)

// subscriber is a dumb model of the client that a session sends to: it knows what was delivered and checks what comes.
type subscriber struct {
	s      *Session
	limits Limits
	window int
	max    int // its Maximum Packet Size, 0: none
	now    time.Time

	all      []*copied // by number
	last     [3]int    // number of the newest that came, by QoS
	aliases  map[uint16]string
	inFlight map[uint16]*copied
	came     int
	refused  int // by Deliver
	dropped  Tally
}

// copied is one delivery. Its number is in its payload.
type copied struct {
	Delivery
	number  int
	expires time.Time
	state   state
}

// share is what tests use for one.
type share struct{ name string }

var shares = []Share{nil, nil, share{"g"}, share{"h"}}

func newSubscriber(t *rapid.T) *subscriber {
	l := wide()
	l.Window = rapid.IntRange(1, 5).Draw(t, "window")
	l.QueueBytes = rapid.SampledFrom([]int{500, 1 << 20}).Draw(t, "queue bytes")
	l.OutboundBytes = rapid.SampledFrom([]int{100, 1 << 20}).Draw(t, "outbound bytes")
	c := &mqtt.Connect{Version: rapid.SampledFrom([]mqtt.Version{mqtt.V5, mqtt.V5, mqtt.V311}).Draw(t, "version")}
	sub := &subscriber{limits: l, window: l.Window, now: noon, aliases: make(map[uint16]string), inFlight: make(map[uint16]*copied)}
	if c.Version == mqtt.V5 {
		p := &c.Properties
		if rapid.Bool().Draw(t, "has receive maximum") {
			p.Set(mqtt.ReceiveMaximum)
			p.ReceiveMaximum = rapid.Uint16Range(1, 5).Draw(t, "receive maximum")
			sub.window = min(sub.window, int(p.ReceiveMaximum))
		}
		if rapid.Bool().Draw(t, "has maximum packet size") {
			p.Set(mqtt.MaximumPacketSize)
			p.MaximumPacketSize = rapid.Uint32Range(40, 60).Draw(t, "maximum packet size")
			sub.max = int(p.MaximumPacketSize)
		}
		p.Set(mqtt.TopicAliasMaximum)
		p.TopicAliasMaximum = rapid.Uint16Range(0, 2).Draw(t, "topic alias maximum")
		sub.limits.TopicAliases = p.TopicAliasMaximum
	}
	sub.s = open(c, l)
	return sub
}

func (c *subscriber) deliver(t *rapid.T) {
	d := &copied{number: len(c.all) + 1}
	p := &mqtt.Publish{QoS: 2, Topic: []byte(rapid.SampledFrom([]string{"t", "a/b", "a/long/topic/that/is"}).Draw(t, "topic"))}
	size := rapid.SampledFrom([]int{4, 4, 10, 20, sharePayload}).Draw(t, "size")
	p.Payload = make([]byte, size)
	binary.BigEndian.PutUint32(p.Payload, uint32(d.number))
	if rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
		p.Properties.Set(mqtt.MessageExpiry)
		p.Properties.MessageExpiry = rapid.Uint32Range(0, 5).Draw(t, "expiry")
		d.expires = c.now.Add(time.Duration(p.Properties.MessageExpiry) * time.Second)
	}
	d.Delivery = Delivery{
		Message: NewMessage(p, c.now), QoS: mqtt.QoS(rapid.IntRange(0, 2).Draw(t, "qos")), Retain: rapid.Bool().Draw(t, "retain"),
		Identifiers: rapid.SliceOfN(rapid.Uint32Range(1, 9), 0, 2).Draw(t, "identifiers"), Stored: rapid.IntRange(0, 4).Draw(t, "stored") == 0,
	}
	if d.QoS > 0 && !d.Stored {
		d.Share = rapid.SampledFrom(shares).Draw(t, "share")
	}
	c.all = append(c.all, d)
	given := d.Delivery
	given.Identifiers = slices.Clone(d.Identifiers)
	out := c.s.Deliver(&given, c.now)
	clear(given.Identifiers) // they are the caller's memory
	switch {
	case out == Full && d.Stored:
		t.Fatal("a stored message was dropped for the queue's bound")
	case out != Sent && out != Queued:
		c.refused++
	}
	if c.s.queue.bytes > c.limits.QueueBytes {
		t.Fatalf("%d bytes wait, at most %d may", c.s.queue.bytes, c.limits.QueueBytes)
	}
}

// acknowledge ends or advances any of the messages in flight.
func (c *subscriber) acknowledge(t *rapid.T) {
	c.take(t)
	ids := make([]uint16, 0, len(c.inFlight))
	for id := range c.inFlight {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(t, "acknowledged")
	d := c.inFlight[id]
	a := &mqtt.Ack{ID: id}
	failed := c.s.version == mqtt.V5 && rapid.IntRange(0, 4).Draw(t, "failed") == 0
	if failed {
		a.Reason = mqtt.UnspecifiedError
	}
	switch d.state {
	case awaitPuback:
		a.Type = mqtt.PUBACK
	case awaitPubrec:
		a.Type = mqtt.PUBREC
	case awaitPubcomp:
		a.Type, a.Reason = mqtt.PUBCOMP, mqtt.Success
	}
	if a.Type == mqtt.PUBREC && !failed {
		d.state = awaitPubcomp
	} else {
		delete(c.inFlight, id)
	}
	if _, _, err := handle(t, c.s, a, c.now); err != nil {
		t.Fatal(err)
	}
	if a.Type == mqtt.PUBREC && !failed {
		got := packets(t, c.s.version, slices.Clone(c.s.out.buf))
		if rel := acks(t, got)[0]; rel.Type != mqtt.PUBREL || rel.ID != id || rel.Reason != mqtt.Success { // [MQTT-4.3.3-4]
			t.Fatalf("PUBREC %d was answered with %+v", id, rel)
		}
	}
}

// take reads what the session has to write, and checks every packet.
func (c *subscriber) take(t *rapid.T) {
	for _, p := range published(sent(t, c.s)) {
		c.receive(t, p)
	}
}

func (c *subscriber) receive(t *rapid.T, p *mqtt.Publish) {
	n := int(binary.BigEndian.Uint32(p.Payload))
	d := c.all[n-1]
	if size := len(p.Append(nil, c.s.version)); c.max > 0 && size > c.max {
		t.Fatalf("message %d has %d bytes, at most %d fit", n, size, c.max)
	}
	if n <= c.last[d.QoS] {
		t.Fatalf("message %d came behind %d of the same QoS %d", n, c.last[d.QoS], d.QoS)
	}
	c.last[d.QoS] = n
	c.came++
	c.resolve(t, p)
	want := &mqtt.Publish{QoS: d.QoS, Retain: d.Retain, ID: p.ID, Topic: d.Message.Topic(), Payload: d.Message.Payload()}
	if c.s.version == mqtt.V5 {
		want.Properties.SubscriptionIDs = d.Identifiers
		if !d.expires.IsZero() {
			want.Properties.Set(mqtt.MessageExpiry)
			want.Properties.MessageExpiry = p.Properties.MessageExpiry
			if left := d.expires.Sub(c.now); left < 0 || time.Duration(p.Properties.MessageExpiry) != (left+time.Second-1)/time.Second {
				t.Fatalf("message %d came %v before its end with expiry %d", n, left, p.Properties.MessageExpiry)
			}
		}
	}
	if diff := samePublish(want, p); diff != "" {
		t.Fatalf("message %d: %s", n, diff)
	}
	if d.QoS == 0 {
		return
	}
	if p.ID == 0 || c.inFlight[p.ID] != nil { // [MQTT-2.2.1-3], [MQTT-2.2.1-4]
		t.Fatalf("message %d has id %d, which is in use", n, p.ID)
	}
	c.inFlight[p.ID] = d
	if d.state = awaitPuback; d.QoS == 2 {
		d.state = awaitPubrec
	}
	if len(c.inFlight) > c.window { // [MQTT-3.3.4-9]
		t.Fatalf("%d messages are in flight, at most %d may be", len(c.inFlight), c.window)
	}
}

// resolve replaces an alias as the client does.
func (c *subscriber) resolve(t *rapid.T, p *mqtt.Publish) {
	if !p.Properties.Has(mqtt.TopicAlias) {
		return
	}
	a := p.Properties.TopicAlias
	if a == 0 || a > c.limits.TopicAliases { // [MQTT-3.1.2-26]
		t.Fatalf("alias %d, at most %d are possible", a, c.limits.TopicAliases)
	}
	if len(p.Topic) > 0 {
		c.aliases[a] = string(p.Topic)
	}
	p.Topic = []byte(c.aliases[a])
	p.Properties.Clear(mqtt.TopicAlias)
}

// check: nobody holds a message but those that it is kept for.
func (c *subscriber) check(t *rapid.T) {
	tally := c.s.TakeTally()
	c.dropped.Expired += tally.Expired
	c.dropped.TooLarge += tally.TooLarge
	for q, n := range tally.Sent {
		c.dropped.Sent[q] += n
	}
	for _, d := range c.all {
		if n := 1 + references(c.s, nil, d.Message); int(d.Message.refs.Load()) != n {
			t.Fatalf("message %d has %d references, want %d", d.number, d.Message.refs.Load(), n)
		}
	}
}

// close ends the session: what it still owed to shares comes back, oldest first.
func (c *subscriber) close(t *rapid.T) {
	var want, got []int
	for _, d := range c.all {
		if d.Share != nil && d.state == awaitPuback && slices.ContainsFunc(mapValues(c.inFlight), func(f *copied) bool { return f == d }) {
			want = append(want, d.number)
		}
	}
	for _, d := range c.s.queue.items[c.s.queue.first:] {
		if d.Share != nil {
			want = append(want, int(binary.BigEndian.Uint32(d.Message.Payload())))
		}
	}
	c.s.Close(func(of Share, m *Message, _ uint64) {
		n := int(binary.BigEndian.Uint32(m.Payload()))
		if of != c.all[n-1].Share {
			t.Fatalf("message %d of %v was handed to %v", n, c.all[n-1].Share, of)
		}
		got = append(got, n)
	})
	if !slices.Equal(got, want) {
		t.Fatalf("handed back %v, want %v", got, want)
	}
	var all []*Message
	for _, d := range c.all {
		all = append(all, d.Message)
	}
	released(t, all)
}

func mapValues(m map[uint16]*copied) (all []*copied) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// TestOutbound: the window is never exceeded and no id used twice; order holds per QoS; nothing comes twice, larger or
// later than the client may get it; what is not dropped comes; bounds hold; references go back.
func TestOutbound(t *testing.T) {
	often(t, func(t *rapid.T) {
		c := newSubscriber(t)
		t.Repeat(map[string]func(*rapid.T){
			"deliver":     c.deliver,
			"deliver too": c.deliver,
			"acknowledge": c.acknowledge,
			"take":        func(t *rapid.T) { c.take(t) },
			"pump":        func(t *rapid.T) { c.take(t); c.s.Pump(c.now) },
			"time passes": func(t *rapid.T) {
				c.take(t)
				c.now = c.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"": c.check,
		})
		c.take(t)
		if rapid.Bool().Draw(t, "close at once") {
			c.close(t)
			return
		}
		for c.s.queue.len() > 0 || len(c.inFlight) > 0 {
			c.acknowledge(t)
			c.take(t)
			c.s.Pump(c.now)
			c.take(t)
		}
		c.check(t)
		if drops := c.refused + int(c.dropped.Expired+c.dropped.TooLarge); c.came+drops != len(c.all) {
			t.Fatalf("%d of %d messages came, %d were dropped", c.came, len(c.all), drops)
		}
		if n := c.dropped.Sent[0] + c.dropped.Sent[1] + c.dropped.Sent[2]; int(n) != c.came {
			t.Fatalf("%d messages came, %d were counted", c.came, n)
		}
		c.close(t)
	})
}

// TestIDsInUse: ids go round, past 0 and past those that are still in flight, at QoS 1 and at QoS 2 before and behind PUBREC.
func TestIDsInUse(t *testing.T) {
	l := wide()
	l.Window = 4
	s := open(v5(nil), l)
	send := func(q mqtt.QoS) uint16 {
		deliver(t, s, Delivery{Message: message("t", q, 0), QoS: q}, Sent)
		b := s.TakeBatch()
		defer b.Release()
		h, n, _ := mqtt.ReadHeader(b.Flat())
		d := mqtt.Decoder{Version: mqtt.V5}
		p, err := d.Decode(h, b.Flat()[n:])
		if err != nil {
			t.Fatal(err)
		}
		return p.(*mqtt.Publish).ID
	}
	held := []uint16{send(1), send(2), send(2)}
	if _, err := s.Handle(&mqtt.Ack{Type: mqtt.PUBREC, ID: held[2]}, 4, noon); err != nil {
		t.Fatal(err)
	}
	bytesOf(s)
	seen := make(map[uint16]int)
	for range 3 * 65532 {
		id := send(1)
		seen[id]++
		if _, err := s.ack(&mqtt.Ack{Type: mqtt.PUBACK, ID: id}, noon); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range append(held, 0) {
		if seen[id] > 0 {
			t.Errorf("id %d was used again", id)
		}
	}
	if s.inflight.count != len(held) || len(s.inflight.slots) > 16 {
		t.Errorf("%d in flight, room for %d", s.inflight.count, len(s.inflight.slots))
	}
}

// TestOutboundBytes: behind the bound nothing is encoded: QoS 0 is dropped, the rest waits until what there was is taken. A
// message that is larger than the bound passes when nothing else waits.
func TestOutboundBytes(t *testing.T) {
	l := wide()
	l.OutboundBytes = 100
	s := open(v5(nil), l)
	each := len((&mqtt.Publish{Topic: []byte("t"), QoS: 1, Payload: make([]byte, 33)}).Append(nil, mqtt.V5))
	for i, want := range []Outcome{Sent, Sent, Sent, Queued, Queued, Queued, Queued} {
		deliver(t, s, Delivery{Message: message("t", 1, 33), QoS: 1}, want)
		if most := l.OutboundBytes + each; s.Pending() > most {
			t.Fatalf("%d: %d bytes are encoded, at most %d may be", i, s.Pending(), most)
		}
	}
	deliver(t, s, Delivery{Message: message("t", 0, 1)}, Full)
	for i, want := range []int{3, 3, 1, 0} {
		if got := len(sent(t, s)); got != want {
			t.Errorf("batch %d has %d packets, want %d", i, got, want)
		}
		s.Pump(noon)
	}
	deliver(t, s, Delivery{Message: message("t", 1, 1000), QoS: 1}, Sent)
	deliver(t, s, Delivery{Message: message("t", 1, 1), QoS: 1}, Queued)
	s.Close(nil)
}

// What is in flight of shared subscriptions is kept, for another member may have to get it: its bytes are bounded too.
func TestSharedInFlightIsBounded(t *testing.T) {
	l := wide()
	l.QueueBytes = 10_000
	s := open(v5(nil), l)
	share := new(int)
	deliver := func() Outcome {
		m := message("t", 1, 3000)
		defer m.Release()
		return s.Deliver(&Delivery{Message: m, QoS: 1, Share: share}, noon)
	}
	sent := 0
	for deliver() == Sent {
		sent++
	}
	if sent != 4 || !s.Busy() {
		t.Errorf("%d messages of 3,000 bytes are in flight, busy %v", sent, s.Busy())
	}
	for id := range uint16(4) {
		if _, _, err := handle(t, s, &mqtt.Ack{Type: mqtt.PUBACK, ID: id + 1}, noon); err != nil {
			t.Fatal(err)
		}
	}
	if s.inflight.count != 1 || s.inflight.held == 0 { // the one that waited
		t.Errorf("%d in flight, %d bytes held", s.inflight.count, s.inflight.held)
	}
}
