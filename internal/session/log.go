package session

import (
	"encoding/binary"
	"slices"
	"time"

	"cloudsignal/internal/mqtt"
)

// What of a session survives its connection, or a crash. Messages come from a log, each with its position; the log and the
// records are the owner's. Invariants that the owner keeps:
//
//   - the cursor on disk is never beyond a message that is not done with, unless there is a record of it;
//   - a QoS 2 message has a record, and the cursor is at it or beyond, before its PUBLISH leaves (Reserve, then SendReserved);
//   - the record says that the message is released before its PUBREL leaves (Released);
//   - the identifier of an inbound QoS 2 message is recorded with the message before its PUBREC leaves, and its record is gone
//     before its PUBCOMP leaves.

// incoming is an inbound QoS 2 identifier in use.
type incoming struct {
	slot      Slot // of the PUBLISH that has it; 0: it came over an earlier connection
	recorded  bool
	releasing bool // PUBREL has come, and the record is being taken away
}

// InFlight is an outbound message in flight as it is recorded.
type InFlight struct {
	Position uint64
	ID       uint16
	State    uint8    // the session's own
	Extra    []byte   // the session's own
	Message  *Message // of one that is to be recorded; the session's reference
	Stored   bool     // it is a retained message for a new subscription, which the log only refers to
}

// log is what has happened to messages of the log since the owner was told.
type log struct {
	released  []InFlight // their records are to say so; then Released
	completed []uint64   // their records may go
	shares    []Settled
	acks      int // messages without a record that are done with: the cursor may move
}

// Settled is a message of a shared subscription that this client has finished with.
type Settled struct {
	Share    Share
	Position uint64
}

func (l *log) settled(p *pending) {
	switch {
	case p.recorded:
		l.completed = append(l.completed, p.position)
	case p.share == nil:
		l.acks++
	}
	if p.share != nil {
		l.shares = append(l.shares, Settled{p.share, p.position})
	}
}

// progress is the record of a message in flight. Its extra is what a second sending needs: the retain flag, then the
// subscription identifiers as varints.
func (*log) progress(p *pending) InFlight {
	extra := []byte{0}
	if p.retain {
		extra[0] = 1
	}
	for _, id := range p.ids {
		extra = binary.AppendUvarint(extra, uint64(id))
	}
	return InFlight{Position: p.position, ID: p.id, State: uint8(p.state), Extra: extra, Message: p.msg, Stored: p.stored}
}

func parseExtra(extra []byte) (retain bool, identifiers []uint32) {
	if len(extra) == 0 {
		return false, nil
	}
	retain = extra[0]&1 != 0
	for rest := extra[1:]; len(rest) > 0; {
		id, n := binary.Uvarint(rest)
		if n <= 0 {
			break
		}
		identifiers, rest = append(identifiers, uint32(id)), rest[n:]
	}
	return retain, identifiers
}

// Record says that an inbound QoS 2 identifier is recorded, or about to be with whatever comes behind this.
func (s *Session) Record(id uint16) {
	if in, ok := s.received[id]; ok {
		in.recorded = true
		s.received[id] = in
	}
}

// Released says that the record of an inbound identifier is gone: PUBCOMP leaves, and the identifier is free.
func (s *Session) Released(id uint16) {
	if in, ok := s.received[id]; ok && in.releasing {
		delete(s.received, id)
	}
	s.sendAck(mqtt.PUBCOMP, id, mqtt.Success) // [MQTT-4.3.3-11]
}

// Unrecorded calls f for the inbound identifiers in use that have no record.
func (s *Session) Unrecorded(f func(id uint16)) {
	for id, in := range s.received {
		if !in.recorded {
			f(id)
		}
	}
}

// Resume takes over what an earlier connection of the session left: inbound identifiers, and messages in flight in the order
// in which they were sent. Each of these is to be sent again, in that order, by Resend.
func (s *Session) Resume(received []uint16, sent []InFlight) {
	if len(received) > 0 {
		s.received = make(map[uint16]incoming, len(received))
		for _, id := range received {
			s.received[id] = incoming{recorded: true}
		}
	}
	for i := range sent {
		p := &sent[i]
		retain, identifiers := parseExtra(p.Extra)
		s.inflight.put(pending{
			id: p.ID, state: state(p.State), recorded: true, unsent: true, retain: retain, ids: identifiers, position: p.Position,
		})
		s.inflight.last = p.ID
	}
}

// NeedsMessage reports whether the second sending of a message in flight needs its body, and a place in the window: else it
// is a PUBREL, or it is over.
func (s *Session) NeedsMessage(id uint16) bool {
	p := s.inflight.find(id)
	return p != nil && p.unsent && p.state != awaitPubcomp
}

// Resend sends a message of an earlier connection again, with its old identifier ([MQTT-4.4.0-1]): PUBLISH with DUP, or
// PUBREL. m may be nil for that. It has not expired, whatever its expiry says: it was sent before ([MQTT-4.3.3-7]).
func (s *Session) Resend(id uint16, m *Message, now time.Time) {
	p := s.inflight.find(id)
	if p == nil || !p.unsent {
		return
	}
	if p.state == awaitPubcomp {
		p.unsent = false
		s.inflight.unsent--
		s.sendAck(mqtt.PUBREL, id, mqtt.Success)
		return
	}
	h := head{qos: 1, retain: p.retain, dup: true, id: id, identifiers: p.ids}
	if p.state == awaitPubrec {
		h.qos = 2
	}
	if m == nil || !s.fit(m, &h, now) {
		s.tally.TooLarge++
		s.settle(p)
		return
	}
	p.unsent = false
	s.inflight.unsent--
	s.put(m, &h)
}

// Reserve gives a message a packet identifier before it is sent: a record of it, if it has a position, or of who gave it comes
// first. It is false if the message has expired.
func (s *Session) Reserve(d *Delivery, now time.Time) (InFlight, bool) {
	if d.Message.Expired(now) {
		s.tally.Expired++
		return InFlight{}, false
	}
	id := s.inflight.add(d)
	p := s.inflight.find(id)
	p.recorded = d.Position != 0
	if p.recorded {
		s.drop(p)
	}
	return s.log.progress(p), true
}

// SendReserved sends a message whose record is durable.
func (s *Session) SendReserved(id uint16, d *Delivery, now time.Time) {
	p := s.inflight.find(id)
	if p == nil {
		return
	}
	h := head{qos: d.QoS, retain: d.Retain, dup: d.Dup && d.QoS == 1, id: id, identifiers: d.Identifiers} // of QoS 2 the record knows ([MQTT-4.3.3-2])
	if !s.fit(d.Message, &h, now) {
		s.tally.TooLarge++
		s.settle(p)
		return
	}
	s.put(d.Message, &h)
}

// drop gives back the message of one in flight.
func (s *Session) drop(p *pending) {
	if p.msg != nil {
		s.inflight.held -= p.msg.Size()
	}
	p.drop()
}

// Releasing are the messages whose records have to say that they are released, since the last call; each is then for
// ReleasedOut.
func (s *Session) Releasing() []InFlight {
	all := s.log.released
	s.log.released = nil
	return all
}

// ReleasedOut says that the record of an outbound message says that it is released: PUBREL leaves ([MQTT-4.3.3-4]).
func (s *Session) ReleasedOut(id uint16) {
	if p := s.inflight.find(id); p != nil && p.waiting {
		p.waiting = false
		s.sendAck(mqtt.PUBREL, id, mqtt.Success)
	}
}

// TakeCompleted are the positions whose records may go, since the last call.
func (s *Session) TakeCompleted() []uint64 {
	all := s.log.completed
	s.log.completed = nil
	return all
}

// TakeSettled are the messages of shared subscriptions that are done with, since the last call.
func (s *Session) TakeSettled() []Settled {
	all := s.log.shares
	s.log.shares = nil
	return all
}

// Acks is the number of messages that were done with, recorded ones too, since the last ResetAcks.
func (s *Session) Acks() int { return s.log.acks + len(s.log.completed) }

// ResetAcks says that the cursor is saved.
func (s *Session) ResetAcks() { s.log.acks = 0 }

// Oldest is the lowest position in flight that has no record, 0 if there is none: the cursor may be saved up to before it.
func (s *Session) Oldest() (position uint64) {
	for i := range s.inflight.slots {
		p := &s.inflight.slots[i]
		if p.state != 0 && p.position != 0 && p.share == nil && !p.recorded && (position == 0 || p.position < position) {
			position = p.position
		}
	}
	return position
}

// RecordSent returns what of the session's own is in flight without a record, in the order in which it was sent, and takes it
// as recorded from now on. Messages are the session's references.
func (s *Session) RecordSent() (all []InFlight) {
	s.inflight.each(func(p *pending) {
		if p.position != 0 && p.share == nil && !p.recorded {
			all = append(all, s.log.progress(p))
			p.recorded = true
		}
	})
	return all
}

// Adopt makes the messages of a shared subscription that are in flight the session's own, for a record of each (RecordSent), and
// returns their positions. Each has flag in its own from then on: the session may have the same message of its own.
func (s *Session) Adopt(share Share, flag uint64) (positions []uint64) {
	s.inflight.each(func(p *pending) {
		if p.share == share && p.position != 0 && p.state == awaitPuback {
			positions = append(positions, p.position)
			p.share = nil
			p.position |= flag
		}
	})
	return positions
}

// Options flags in a record.
const (
	optionQoS     = 0x03
	optionNoLocal = 0x04
	optionRAP     = 0x08
)

// Append encodes options for a record.
func (o Options) Append(b []byte) []byte {
	flags := byte(o.QoS) & optionQoS
	if o.NoLocal {
		flags |= optionNoLocal
	}
	if o.RetainAsPublished {
		flags |= optionRAP
	}
	return binary.AppendUvarint(append(b, flags), uint64(o.Identifier))
}

// ParseOptions decodes what Append made.
func ParseOptions(b []byte) (o Options, ok bool) {
	if len(b) == 0 {
		return o, false
	}
	id, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return o, false
	}
	flags := b[0]
	return Options{
		QoS: mqtt.QoS(flags & optionQoS), NoLocal: flags&optionNoLocal != 0, RetainAsPublished: flags&optionRAP != 0, Identifier: uint32(id),
	}, true
}

// Record of a message: topic with its length, properties with theirs, payload: what every version and QoS is sent.

// Body is the message as it is recorded; it belongs to the message.
func (m *Message) Body() []byte { return m.buf }

// ExpiresAt is when the message expires, in Unix nanoseconds, 0: never. Of a will that was not published it is an interval.
func (m *Message) ExpiresAt() int64 {
	if !m.hasExpiry {
		return 0
	}
	return max(1, m.expires)
}

// Recorded makes a message of its record; it keeps body. The caller holds the one reference. It is nil if the body is none.
func Recorded(body []byte, q mqtt.QoS, retain bool, expires int64) *Message {
	if len(body) < 3 {
		return nil
	}
	topicEnd := 2 + int(body[0])<<8 + int(body[1])
	if topicEnd >= len(body) {
		return nil
	}
	length, n := binary.Uvarint(body[topicEnd:]) // an MQTT variable byte integer is one
	if n <= 0 || uint64(len(body)-topicEnd-n) < length {
		return nil
	}
	m := messages.Get().(*Message)
	m.refs.Store(1)
	m.buf, m.topicEnd, m.fields = slices.Clip(body), topicEnd, topicEnd+n
	m.propsEnd = m.fields + int(length)
	m.qos, m.retain, m.expires, m.hasExpiry = q, retain, expires, expires != 0
	return m
}

// Publish starts the expiry of a recorded will.
func (m *Message) Publish(now time.Time) {
	if m.hasExpiry {
		m.expires += now.UnixNano()
	}
}
