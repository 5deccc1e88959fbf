package session

import (
	"errors"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// publish takes one PUBLISH of the client up to the point where it is to be routed.
func (s *Session) publish(p *mqtt.Publish, size int) (Action, error) {
	if len(p.Properties.SubscriptionIDs) > 0 {
		return Action{}, violation(mqtt.ProtocolError, "PUBLISH from a client with a subscription identifier") // [MQTT-3.3.4-6]
	}
	if err := s.resolveAlias(p); err != nil {
		return Action{}, err
	}
	refusal, err := s.checkTopics(p)
	if err != nil {
		return Action{}, err
	}
	if p.QoS == 0 {
		if refusal != mqtt.Success {
			return Action{Kind: Refused, Reason: refusal}, nil
		}
		return Action{Kind: Publish}, nil
	}
	known, repeat := s.received[p.ID]
	repeat = repeat && p.QoS == 2 && !known.releasing
	if !repeat && s.version == mqtt.V5 && s.unacked+len(s.received) >= int(s.limits.ReceiveMaximum) {
		return Action{}, violation(mqtt.ReceiveMaximumExceeded, "more QoS 1 and 2 messages in flight than Receive Maximum") // [MQTT-3.3.4-7]
	}
	e := entry{id: p.ID, kind: mqtt.PUBACK, size: size}
	if p.QoS == 2 {
		e.kind = mqtt.PUBREC
		if repeat {
			// Known and not released: answered again, not passed on again ([MQTT-4.3.3-10]).
			e.first = known.slot
			s.Answer(s.ring.push(e), mqtt.Success)
			return Action{}, nil
		}
		if s.received == nil {
			s.received = make(map[uint16]incoming)
		}
		s.received[p.ID] = incoming{slot: s.ring.coming()}
	} else {
		s.unacked++
	}
	slot := s.ring.push(e)
	if refusal != mqtt.Success {
		s.Answer(slot, refusal)
		return Action{Kind: Refused, Reason: refusal}, nil
	}
	return Action{Kind: Publish, Slot: slot}, nil
}

// resolveAlias replaces a topic alias by its topic, or remembers it (3.3.2.3.4). Aliases live as long as the connection
// ([MQTT-3.3.2-7]).
func (s *Session) resolveAlias(p *mqtt.Publish) error {
	if !p.Properties.Has(mqtt.TopicAlias) {
		return nil
	}
	alias := p.Properties.TopicAlias
	if alias == 0 || alias > s.limits.TopicAliases { // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
		return violation(mqtt.TopicAliasInvalid, "topic alias is 0 or above Topic Alias Maximum")
	}
	if s.aliasIn == nil {
		s.aliasIn = make([][]byte, s.limits.TopicAliases+1)
	}
	if len(p.Topic) > 0 {
		s.aliasIn[alias] = append(s.aliasIn[alias][:0], p.Topic...)
		return nil
	}
	if len(s.aliasIn[alias]) == 0 {
		return violation(mqtt.ProtocolError, "topic alias is not known and the topic is empty")
	}
	p.Topic = s.aliasIn[alias]
	return nil
}

// checkTopics ends the connection for a topic that no one could mean, and refuses one that is only too long or too deep.
func (s *Session) checkTopics(p *mqtt.Publish) (refusal mqtt.Reason, err error) {
	if err := topic.CheckName(p.Topic, s.limits.Topic); err != nil {
		if errors.Is(err, topic.ErrTooLong) || errors.Is(err, topic.ErrTooDeep) {
			return mqtt.TopicNameInvalid, nil
		}
		return 0, violation(mqtt.TopicNameInvalid, err.Error()) // [MQTT-3.3.2-2]
	}
	if p.Properties.Has(mqtt.ResponseTopic) { // [MQTT-3.3.2-14]
		if err := topic.CheckName(p.Properties.ResponseTopic, topic.Limits{Bytes: 1 << 16, Levels: 1 << 16}); err != nil {
			return 0, violation(mqtt.ProtocolError, "response topic: "+err.Error())
		}
	}
	return mqtt.Success, nil
}

// Answer settles one PUBLISH of the ring; it may come in any order and from then on costs nothing. Acknowledgements that
// have become due are appended, in the order in which the packets came. 3.x has no refusal: the client is acknowledged
// and the message dropped.
func (s *Session) Answer(slot Slot, r mqtt.Reason) {
	if slot == 0 {
		return
	}
	e := s.ring.at(uint64(slot))
	e.done, e.reason = true, r
	for {
		slot := Slot(s.ring.head)
		e, ok := s.ring.pop()
		if !ok {
			return
		}
		reason := e.reason
		if e.kind == mqtt.PUBACK {
			s.unacked--
		} else {
			// Which PUBLISH has the id now: it may have been released and used again meanwhile.
			owner := s.received[e.id].slot
			switch {
			case e.first != 0 && owner != e.first:
				reason = mqtt.PacketIDInUse // the packet that it repeats was refused meanwhile
			case e.first == 0 && owner == slot && e.reason.Failed() && s.version == mqtt.V5:
				delete(s.received, e.id) // a refused PUBLISH has ended: its id is free ([MQTT-4.3.3-11])
			}
		}
		s.sendAck(e.kind, e.id, reason)
	}
}

// Choked reports whether so much waits to be written that nothing more may be read: the client does not read what it
// causes.
func (s *Session) Choked() bool { return s.Pending() >= s.limits.OutboundBytes }

// Blocked reports whether the ring is full: no PUBLISH may be taken until an answer has come.
func (s *Session) Blocked() bool {
	return s.ring.len() >= int(s.limits.ReceiveMaximum) || s.ring.bytes >= s.limits.RingBytes
}

// ack takes PUBACK, PUBREC, PUBREL and PUBCOMP.
func (s *Session) ack(p *mqtt.Ack, now time.Time) (Action, error) {
	switch p.Type {
	case mqtt.PUBREL:
		return s.pubrel(p), nil
	case mqtt.PUBREC:
		return Action{}, s.pubrec(p, now)
	}
	return Action{}, s.complete(p, now)
}

// pubrel frees an identifier. What is recorded of it has to go first: else a crash behind PUBCOMP would leave it, and swallow
// the next message that has it.
func (s *Session) pubrel(p *mqtt.Ack) Action {
	in, ok := s.received[p.ID]
	if ok && in.recorded {
		in.releasing = true
		s.received[p.ID] = in
		return Action{Kind: Release, ID: p.ID}
	}
	r := mqtt.Success
	if !ok {
		r = mqtt.PacketIDNotFound
	}
	delete(s.received, p.ID)
	s.sendAck(mqtt.PUBCOMP, p.ID, r) // [MQTT-4.3.3-11]
	return Action{}
}

func (s *Session) pubrec(p *mqtt.Ack, now time.Time) error {
	f := s.inflight.find(p.ID)
	switch {
	case f == nil:
		if !p.Reason.Failed() {
			s.sendAck(mqtt.PUBREL, p.ID, mqtt.PacketIDNotFound)
		}
		return nil
	case f.state == awaitPuback:
		return violation(mqtt.ProtocolError, "PUBREC for a QoS 1 message")
	case p.Reason.Failed(): // the client discards it: it is over, and its slot free ([MQTT-4.3.3-9], [MQTT-4.4.0-2])
		s.settle(f)
		s.Pump(now)
		return nil
	}
	if f.state == awaitPubrec {
		f.state = awaitPubcomp // from here on the message is never sent again ([MQTT-4.3.3-6])
		s.drop(f)
		if f.recorded {
			f.waiting = true // Released sends the PUBREL
			s.log.released = append(s.log.released, s.log.progress(f))
		}
	}
	if !f.waiting {
		s.sendAck(mqtt.PUBREL, p.ID, mqtt.Success) // [MQTT-4.3.3-4]
	}
	return nil
}

// complete takes PUBACK and PUBCOMP, which end a message. Unknown ids are a late answer and harmless.
func (s *Session) complete(p *mqtt.Ack, now time.Time) error {
	f := s.inflight.find(p.ID)
	if f == nil {
		return nil
	}
	want := awaitPuback
	if p.Type == mqtt.PUBCOMP {
		want = awaitPubcomp
	}
	if f.state != want {
		return violation(mqtt.ProtocolError, p.Type.String()+" does not fit the message in flight")
	}
	s.settle(f)
	s.Pump(now)
	return nil
}
