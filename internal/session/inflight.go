package session

import (
	"slices"

	"cloudsignal/internal/mqtt"
)

// state is what an outbound QoS 1 or 2 message waits for.
type state uint8

const (
	awaitPuback state = iota + 1
	awaitPubrec
	awaitPubcomp
)

// pending is one outbound message in flight. Its slot of the window is free again at PUBACK, PUBCOMP or a PUBREC with an
// error ([MQTT-4.9.0-2]).
type pending struct {
	id       uint16
	state    state
	recorded bool // its owner has a record of it that survives
	unsent   bool // it has a packet id, but was not sent on this connection
	waiting  bool // its PUBREL waits until the record says so
	retain   bool
	stored   bool // of a retained message that the log refers to
	share    Share
	msg      *Message // kept only as long as another member of the share may have to get it, or it may have to be recorded
	position uint64   // in the log; 0: not from there
	ids      []uint32 // subscription identifiers, of what comes from the log
	order    uint64
}

func (p *pending) drop() {
	if p.msg != nil {
		p.msg.Release()
		p.msg = nil
	}
	p.share = nil
}

// inflight is the set of outbound messages in flight, by packet id. An id is in use until its message has ended
// ([MQTT-2.2.1-4]). Its size is bounded by the session's window.
type inflight struct {
	slots  []pending // by id modulo the length, a power of two; state 0: free
	count  int
	unsent int // of those, how many were not sent on this connection: they take no place of the window
	held   int // bytes of messages that are kept
	last   uint16
	order  uint64
}

func (t *inflight) find(id uint16) *pending {
	if len(t.slots) == 0 {
		return nil
	}
	p := &t.slots[int(id)&(len(t.slots)-1)]
	if p.state == 0 || p.id != id {
		return nil
	}
	return p
}

// add takes the next free packet id for a delivery.
func (t *inflight) add(d *Delivery) uint16 {
	if 2*t.count >= len(t.slots) && len(t.slots) < 1<<16 {
		t.grow()
	}
	for {
		t.last++
		if t.last == 0 {
			continue // [MQTT-2.2.1-3]
		}
		p := &t.slots[int(t.last)&(len(t.slots)-1)]
		if p.state != 0 {
			continue
		}
		t.order++
		*p = pending{id: t.last, state: awaitPuback, order: t.order, position: d.Position, retain: d.Retain, stored: d.Referred}
		switch {
		case d.QoS == 2:
			p.state, p.recorded = awaitPubrec, d.Position != 0
		case d.Share != nil || d.Position != 0:
			p.share, p.msg = d.Share, d.Message.Hold()
			t.held += p.msg.Size()
		}
		if d.Position != 0 {
			p.ids = slices.Clone(d.Identifiers)
		}
		t.count++
		return t.last
	}
}

// put enters a message that an earlier connection was sent, under its old packet id.
func (t *inflight) put(next pending) {
	for {
		if len(t.slots) == 0 {
			t.grow()
			continue
		}
		p := &t.slots[int(next.id)&(len(t.slots)-1)]
		if p.state != 0 {
			t.grow() // at 1<<16 slots each id has its own
			continue
		}
		t.order++
		next.order = t.order
		*p = next
		t.count++
		t.unsent++
		return
	}
}

func (t *inflight) grow() {
	old := t.slots
	t.slots = make([]pending, max(8, 2*len(old)))
	for _, p := range old {
		if p.state != 0 {
			t.slots[int(p.id)&(len(t.slots)-1)] = p
		}
	}
}

// each calls f for every message in flight in the order in which they were sent.
func (t *inflight) each(f func(*pending)) {
	live := make([]*pending, 0, t.count)
	for i := range t.slots {
		if t.slots[i].state != 0 {
			live = append(live, &t.slots[i])
		}
	}
	slices.SortFunc(live, func(a, b *pending) int { return int(a.order) - int(b.order) })
	for _, p := range live {
		f(p)
	}
}

// settle ends a message in flight.
func (s *Session) settle(p *pending) {
	if p.position != 0 {
		s.log.settled(p)
	}
	if p.msg != nil {
		s.inflight.held -= p.msg.Size()
	}
	if p.unsent {
		s.inflight.unsent--
	}
	p.drop()
	p.state = 0
	s.inflight.count--
}

// head is what one receiver's PUBLISH says before the shared bytes.
type head struct {
	qos         mqtt.QoS
	retain      bool
	dup         bool
	v5          bool
	hasExpiry   bool
	aliasKnown  bool
	id          uint16
	alias       uint16
	expiry      uint32
	identifiers []uint32
}

// propertiesLen is the length of all properties, 5.0 only.
func (h *head) propertiesLen(m *Message) int {
	n := m.propsEnd - m.fields
	if h.hasExpiry {
		n += 5
	}
	if h.alias != 0 {
		n += 3
	}
	for _, id := range h.identifiers {
		n += 1 + mqtt.VarintLen(int(id))
	}
	return n
}

func (h *head) remainingLen(m *Message) int {
	n := m.topicEnd + len(m.Payload())
	if h.aliasKnown {
		n -= m.topicEnd - 2
	}
	if h.qos > 0 {
		n += 2
	}
	if h.v5 {
		p := h.propertiesLen(m)
		n += mqtt.VarintLen(p) + p
	}
	return n
}

func (h *head) packetLen(m *Message) int {
	n := h.remainingLen(m)
	return 1 + mqtt.VarintLen(n) + n
}

// publish appends a PUBLISH: the receiver's own head, then the message's bytes as they are.
func (b *Batch) publish(m *Message, h *head) {
	before := len(b.buf)
	first := byte(mqtt.PUBLISH)<<4 | byte(h.qos)<<1
	if h.retain {
		first |= 1
	}
	if h.dup {
		first |= 8
	}
	buf := append(b.buf, first)
	buf = mqtt.AppendVarint(buf, h.remainingLen(m))
	if h.aliasKnown {
		buf = append(buf, 0, 0)
	} else {
		buf = append(buf, m.buf[:m.topicEnd]...)
	}
	if h.qos > 0 {
		buf = append(buf, byte(h.id>>8), byte(h.id))
	}
	if h.v5 {
		buf = mqtt.AppendVarint(buf, h.propertiesLen(m))
		if h.hasExpiry {
			e := h.expiry
			buf = append(buf, byte(mqtt.MessageExpiry), byte(e>>24), byte(e>>16), byte(e>>8), byte(e))
		}
		if h.alias != 0 {
			buf = append(buf, byte(mqtt.TopicAlias), byte(h.alias>>8), byte(h.alias))
		}
		for _, id := range h.identifiers {
			buf = mqtt.AppendVarint(append(buf, byte(mqtt.SubscriptionIdentifier)), int(id))
		}
		buf = append(buf, m.buf[m.fields:m.propsEnd]...)
	}
	if len(m.Payload()) >= sharePayload {
		b.buf = buf
		b.cuts = append(b.cuts, cut{at: len(buf), msg: m.Hold()})
		b.size += len(buf) - before + len(m.Payload())
		return
	}
	b.buf = append(buf, m.Payload()...)
	b.size += len(b.buf) - before
}
