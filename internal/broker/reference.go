package broker

import (
	"encoding/binary"
	"slices"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// Retained messages that a new subscription of a session that outlives its connection is owed at QoS 1 or 2 pass the log, so
// that they are delivered once and in order, whatever breaks: as references, in a filter of the session's own, since the body
// is stored already. A reference stands for the retained message that its topic had when the subscription was made. Is there
// a newer one when its turn comes, that one was published to the subscription itself.

// referTo is the log entry for a retained message. Its topic is the message's, its payload QoS, identifier and filter.
func referTo(m *session.Message, filter string, o session.Options, now time.Time) *engine.Entry {
	payload := binary.AppendUvarint([]byte{byte(o.QoS)}, uint64(o.Identifier))
	ref := session.NewMessage(&mqtt.Publish{Topic: m.Topic(), Payload: append(payload, filter...)}, now)
	defer ref.Release()
	return &engine.Entry{Body: slices.Clone(ref.Body())}
}

func parseReference(m *session.Message) (ref *reference, ok bool) {
	p := m.Payload()
	if len(p) < 2 {
		return nil, false
	}
	id, n := binary.Uvarint(p[1:])
	if n <= 0 {
		return nil, false
	}
	return &reference{qos: mqtt.QoS(min(p[0], 2)), identifier: uint32(id), filter: string(p[1+n:])}, true
}

// arrivals are the messages of a page, references of the private filter resolved.
func (o *Organization) arrivals(p *page, private engine.Filter) []arrival {
	all := make([]arrival, 0, len(p.matches))
	for i := range p.matches {
		match := &p.matches[i]
		m := messageOf(&match.Entry)
		if m == nil {
			continue
		}
		a := arrival{position: match.Position, message: m, publisher: match.Publisher, filters: match.Filters}
		if private != 0 && slices.Contains(match.Filters, private) {
			resolved := o.resolve(m, match.Position, &a)
			m.Release()
			if !resolved {
				continue
			}
		}
		all = append(all, a)
	}
	return all
}

// resolve puts the retained message in place of a reference to it. It is false if its topic has none any more, or a newer one.
func (o *Organization) resolve(m *session.Message, position engine.Position, a *arrival) bool {
	ref, ok := parseReference(m)
	if !ok {
		return false
	}
	o.retained.mu.Lock()
	defer o.retained.mu.Unlock()
	s, had := o.retained.names.Get(m.Topic())
	if !had || s.position == 0 || s.position > position {
		return false
	}
	a.message, a.reference = s.Hold(), ref
	return true
}
