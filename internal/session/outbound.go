package session

import (
	"slices"
	"time"

	"cloudsignal/internal/mqtt"
)

// Delivery is one message for this session, as its subscriptions want it.
type Delivery struct {
	Message *Message
	QoS     mqtt.QoS // the lower of the published and the granted one ([MQTT-3.8.4-8])
	Retain  bool
	// Identifiers are those of the matching subscriptions ([MQTT-3.3.4-4]); the caller's memory, copied if kept.
	Identifiers []uint32
	// Share is the shared subscription that chose this session, nil for its own subscriptions.
	Share Share
	// Position is the message's place in the log, 0 if it does not come from there.
	Position uint64
	// Referred marks a retained message for a new subscription that the log only refers to.
	Referred bool
	// Dup marks a message that an earlier connection may have been sent.
	Dup bool
	// Stored marks a retained message for a new subscription: what comes later waits behind it, and it takes no room of
	// the queue's bytes (its body is stored anyhow) but of Limits.Stored (see StoredRoom).
	Stored bool
	// Rest are the further stored messages of the subscription, in order, each at the lower of its own QoS and Granted.
	// Their references are the session's once they are delivered.
	Rest    []*Message
	Granted mqtt.QoS
}

// Share is a shared subscription, as far as a session must know it: something to hand unfinished messages back to. Its
// dynamic type must be comparable.
type Share any

// Outcome is what became of a delivery.
type Outcome uint8

// Outcomes. All but Sent and Queued are drops.
const (
	Sent     Outcome = iota
	Queued           // waits for the window or the writer
	Full             // the bound of the queue or, at QoS 0, of the outbound buffer
	TooLarge         // the client's Maximum Packet Size ([MQTT-3.1.2-25])
	Expired          // message expiry ([MQTT-3.3.2-5])
)

// queue holds deliveries that wait, first in, first out. Its bytes are bounded by Limits.QueueBytes.
type queue struct {
	items  []Delivery
	first  int
	bytes  int
	stored int // stored messages, those in Rest included
	zeros  int // others at QoS 0; there are some only because of stored ones
}

// queueOverhead is what a waiting delivery costs beside its body, in bytes.
const queueOverhead = 96

func (q *queue) len() int { return len(q.items) - q.first }

func (q *queue) push(d Delivery) {
	d.Message.Hold()
	d.Identifiers = slices.Clone(d.Identifiers)
	if q.first >= len(q.items)/2 && len(q.items) == cap(q.items) { // else moving them would be quadratic
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items, q.first = q.items[:n], 0
	}
	q.items = append(q.items, d)
	if d.Stored {
		q.stored += 1 + len(d.Rest)
		return
	}
	q.bytes += d.Message.Size() + queueOverhead
	if d.QoS == 0 {
		q.zeros++
	}
}

// pop removes the first delivery; its reference is the caller's now.
func (q *queue) pop() Delivery {
	d := q.items[q.first]
	q.forget(&d)
	if len(d.Rest) > 0 {
		next := &q.items[q.first]
		next.Message, next.Rest = d.Rest[0], d.Rest[1:]
		next.QoS = min(next.Message.QoS(), d.Granted)
		d.Rest = nil
		return d
	}
	q.items[q.first] = Delivery{}
	q.first++
	if q.first == len(q.items) {
		q.items, q.first = q.items[:0], 0
		if cap(q.items) > 1024 {
			q.items = nil
		}
	}
	return d
}

// forget takes a delivery out of the counts.
func (q *queue) forget(d *Delivery) {
	if d.Stored {
		q.stored--
		return
	}
	q.bytes -= d.Message.Size() + queueOverhead
	if d.QoS == 0 {
		q.zeros--
	}
}

// Deliver sends a message to the client or lets it wait; drops are the caller's to count. Order is kept per QoS, and
// behind stored messages among all.
func (s *Session) Deliver(d *Delivery, now time.Time) Outcome {
	if d.QoS == 0 && s.queue.stored == 0 && s.queue.zeros == 0 && !d.Stored {
		if s.Pending() > 0 && s.Pending()+len(d.Message.buf) > s.limits.OutboundBytes {
			return Full
		}
		return s.write(d, now)
	}
	if len(d.Rest) > 0 {
		s.queue.push(*d)
		s.Pump(now)
		return Queued
	}
	if s.queue.len() == 0 && s.room(d.QoS) {
		return s.write(d, now)
	}
	if !d.Stored && s.queue.bytes+d.Message.Size()+queueOverhead > s.limits.QueueBytes {
		return Full
	}
	s.queue.push(*d)
	return Queued
}

// StoredRoom is how many more stored messages may be delivered now.
func (s *Session) StoredRoom() int { return s.limits.Stored - s.queue.stored }

// room reports whether a message may be sent now: the window counts messages, and the bytes of those that are kept until
// they are acknowledged. A message larger than the whole outbound buffer may, when that is empty.
func (s *Session) room(q mqtt.QoS) bool {
	return (q == 0 || s.inflight.count-s.inflight.unsent < s.window && s.inflight.held < s.limits.QueueBytes) && s.Pending() < s.limits.OutboundBytes
}

// Busy reports whether a shared subscription should choose another member: the window is full or messages wait.
func (s *Session) Busy() bool { return s.queue.len() > 0 || !s.room(1) }

// Tally counts what happened inside the session since it was last taken.
type Tally struct {
	Sent     [3]uint32 // PUBLISH packets encoded, by QoS
	Expired  uint32    // drops while waiting
	TooLarge uint32
	Bytes    uint64 // of those PUBLISH packets
}

// TakeTally returns the counts and starts them anew.
func (s *Session) TakeTally() Tally {
	t := s.tally
	s.tally = Tally{}
	return t
}

// Pump sends what waits, as far as the window and the outbound buffer allow. Drops on the way are in the tally.
func (s *Session) Pump(now time.Time) {
	for s.queue.len() > 0 && s.room(s.queue.items[s.queue.first].QoS) {
		d := s.queue.pop()
		s.pumped(&d, now)
	}
	if s.queue.stored == 0 && s.queue.zeros > 0 && s.room(0) {
		s.pumpZeros(now)
	}
}

// pumpZeros sends what waits at QoS 0, now that no stored message is before it: it does not wait for the window.
func (s *Session) pumpZeros(now time.Time) {
	q := &s.queue
	kept := q.items[:q.first]
	for i := q.first; i < len(q.items); i++ {
		d := q.items[i]
		if d.QoS > 0 || !s.room(0) {
			kept = append(kept, d)
			continue
		}
		q.forget(&d)
		s.pumped(&d, now)
	}
	clear(q.items[len(kept):])
	q.items = kept
}

// pumped writes a delivery that has waited.
func (s *Session) pumped(d *Delivery, now time.Time) {
	switch s.write(d, now) {
	case Expired:
		s.tally.Expired++
	case TooLarge:
		s.tally.TooLarge++
	case Sent, Queued, Full:
	}
	d.Message.Release()
}

// write encodes one delivery now: packet id, expiry, alias and identifiers are this session's, all else is shared.
func (s *Session) write(d *Delivery, now time.Time) Outcome {
	if d.Message.Expired(now) {
		return Expired
	}
	h := head{qos: d.QoS, retain: d.Retain, dup: d.Dup && d.QoS > 0, identifiers: d.Identifiers}
	if !s.fit(d.Message, &h, now) {
		return TooLarge
	}
	if d.QoS > 0 {
		h.id = s.inflight.add(d)
	}
	s.put(d.Message, &h)
	return Sent
}

// fit completes the head of a message, and reports whether the client takes a packet of that size ([MQTT-3.1.2-24]).
func (s *Session) fit(m *Message, h *head, now time.Time) bool {
	if s.version == mqtt.V5 {
		h.v5 = true
		if m.hasExpiry {
			h.expiry, h.hasExpiry = m.remaining(now), true
		}
		h.alias, h.aliasKnown = s.alias(m)
	} else {
		h.identifiers = nil
	}
	if s.maxPacket > 0 && h.packetLen(m) > int(s.maxPacket) {
		if h.alias == 0 || h.aliasKnown {
			return false
		}
		h.alias = 0
		return h.packetLen(m) <= int(s.maxPacket)
	}
	return true
}

// put encodes a message whose head fits.
func (s *Session) put(m *Message, h *head) {
	if h.alias != 0 && !h.aliasKnown {
		s.aliasOut[string(m.Topic())] = h.alias
	}
	b := s.batch()
	before := b.size
	b.publish(m, h)
	s.tally.Sent[h.qos]++
	s.tally.Bytes += uint64(b.size - before)
}

// alias is the topic alias to use for m, 0 for none, and whether the client knows it already. Aliases are given to the
// first topics that come; they are not reassigned.
func (s *Session) alias(m *Message) (alias uint16, known bool) {
	if s.aliasMax == 0 {
		return 0, false
	}
	if s.aliasOut == nil {
		s.aliasOut = make(map[string]uint16)
	}
	if a, ok := s.aliasOut[string(m.Topic())]; ok {
		return a, true
	}
	if len(s.aliasOut) >= int(s.aliasMax) {
		return 0, false
	}
	return uint16(len(s.aliasOut) + 1), false
}

// Close gives everything back: the will is dropped, and messages of shared subscriptions that the client has not
// finished with are handed to f, oldest first, with their position in the log: QoS 1 without its PUBACK and whatever was
// never sent. A QoS 2 message that was sent stays with this session, or ends with it ([MQTT-4.8.2-5]). f holds what it keeps.
func (s *Session) Close(f func(share Share, m *Message, position uint64)) {
	if s.will != nil {
		s.will.Release()
		s.will = nil
	}
	s.inflight.each(func(p *pending) {
		if p.msg != nil && p.share != nil && p.state == awaitPuback {
			f(p.share, p.msg, p.position)
		}
		p.drop()
	})
	s.inflight = inflight{}
	for s.queue.len() > 0 {
		d := s.queue.pop()
		if d.Share != nil {
			f(d.Share, d.Message, d.Position)
		}
		d.Message.Release()
	}
	if b := s.TakeBatch(); b != nil {
		b.Release()
	}
}

// Waiting is how many messages wait for the window or the writer, their bytes, and how many were sent and are not acknowledged.
func (s *Session) Waiting() (messages, bytes, inFlight int) {
	q := &s.queue
	for i := q.first; i < len(q.items); i++ {
		messages += 1 + len(q.items[i].Rest)
	}
	return messages, q.bytes, s.inflight.count - s.inflight.unsent
}
