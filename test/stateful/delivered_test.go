package stateful

import (
	"cloudsignal/internal/mqtt"
)

// wish is what the filters that a session has held ask for, for one message.
type wish struct {
	qos         mqtt.QoS
	matched     int
	shares      int
	asked       int  // SUBSCRIBE packets that may be answered with what is retained
	keeps       bool // some want RETAIN as it was published
	allKeep     bool
	identifiers map[uint32]bool
}

func (p *peer) wish(x *message) wish {
	w := wish{allKeep: true, identifiers: make(map[uint32]bool)}
	for _, h := range p.gen.held {
		if !h.matches(x.topic, x.at) {
			continue
		}
		w.matched++
		w.qos = max(w.qos, min(h.QoS, x.qos))
		if h.shared {
			w.shares++
		} else if h.RetainHandling != mqtt.RetainDoNotSend {
			w.asked++
		}
		w.keeps = w.keeps || h.RetainAsPublished
		w.allKeep = w.allKeep && h.RetainAsPublished
		if h.identifier != 0 {
			w.identifiers[h.identifier] = true
		}
	}
	return w
}

// delivered judges a PUBLISH of the server.
func (m *model) delivered(p *peer, k *mqtt.Publish) []mqtt.Packet {
	name := m.alias(p, k)
	x := p.org.messages[name+"\x00"+string(k.Payload)]
	switch {
	case p.lax:
		return m.flies(p, k, &message{most: 2})
	case x == nil:
		m.fail(p, "a message that nobody here has published: %q to %q", k.Payload, name)
		return nil
	case x.most == 0:
		m.fail(p, "a message that was to have no effect: %v", x)
		return nil
	case k.QoS > x.qos:
		m.fail(p, "%v at QoS %d, published at %d", x, k.QoS, x.qos)
	case k.Dup && (k.QoS == 0 || !p.resumed && !p.lenient):
		m.fail(p, "%v with DUP on a new session, or at QoS 0", x)
	}
	if !p.lenient {
		m.matched(p, k, x)
	}
	m.content(p, k, x)
	if p.watcher && !k.Dup {
		x.watched++
	}
	return m.flies(p, k, x)
}

// alias is the topic of a PUBLISH.
func (m *model) alias(p *peer, k *mqtt.Publish) string {
	if !k.Properties.Has(mqtt.TopicAlias) {
		return string(k.Topic)
	}
	a := k.Properties.TopicAlias
	if (a == 0 || a > p.aliases) && !p.lax {
		m.fail(p, "topic alias %d, of at most %d", a, p.aliases)
	}
	if len(k.Topic) > 0 {
		p.theirs[a] = string(k.Topic)
	} else if p.theirs[a] == "" {
		m.fail(p, "topic alias %d is not known", a)
	}
	return p.theirs[a]
}

// matched holds a message against the filters of its receiver.
func (m *model) matched(p *peer, k *mqtt.Publish, x *message) {
	w := p.wish(x)
	key := x.topic + "\x00" + x.payload
	switch {
	case w.matched == 0:
		m.fail(p, "%v matches no subscription", x)
	case k.QoS > w.qos:
		m.fail(p, "%v at QoS %d, granted %d", x, k.QoS, w.qos)
	case k.Retain && !x.retained:
		m.fail(p, "%v with RETAIN, published without", x)
	case k.Retain && !w.keeps && w.asked == 0:
		m.fail(p, "%v with RETAIN, which nobody asked for", x)
	case !k.Retain && !x.plain && w.allKeep && w.shares == 0:
		m.fail(p, "%v without RETAIN, which it was published with", x)
	}
	for _, id := range k.Properties.SubscriptionIDs {
		if !w.identifiers[id] {
			m.fail(p, "%v with the subscription identifier %d", x, id)
		}
	}
	if k.Dup {
		if k.QoS == 2 && p.gen.completed[key] > 0 && x.most == 1 && !x.retained && w.shares == 0 {
			m.fail(p, "%v came again at QoS 2 behind its PUBREL", x)
		}
		return
	}
	p.gen.delivered[key]++
	bound := x.most * (1 + w.shares)
	if x.retained {
		bound += w.asked
	}
	if n := p.gen.delivered[key]; n > bound && (w.shares == 0 || k.QoS == 2) {
		m.fail(p, "%v came %d times, of at most %d", x, n, bound)
	}
	if !k.Retain && x.from != nil && x.most == 1 && w.shares == 0 {
		o := orderKey{from: x.from, topic: x.topic, qos: x.qos, as: k.QoS}
		if p.last[o] >= x.order {
			m.fail(p, "%v came behind a later one of its publisher, topic and QoS", x)
		}
		p.last[o] = x.order
	}
}

// content holds properties against those that were published.
func (m *model) content(p *peer, k *mqtt.Publish, x *message) {
	if p.version != mqtt.V5 || x.most != 1 {
		return
	}
	switch {
	case string(k.Properties.ContentType) != x.content:
		m.fail(p, "%v has content type %q, published with %q", x, k.Properties.ContentType, x.content)
	case len(k.Properties.User) != x.properties:
		m.fail(p, "%v has %d user properties, published with %d", x, len(k.Properties.User), x.properties)
	case k.Properties.Has(mqtt.MessageExpiry) && k.Properties.MessageExpiry > x.expiry:
		m.fail(p, "%v has %d seconds left of %d", x, k.Properties.MessageExpiry, x.expiry)
	}
}

// flies takes note of a message that is to be acknowledged, and does so for an obedient client.
func (m *model) flies(p *peer, k *mqtt.Publish, x *message) []mqtt.Packet {
	if k.QoS == 0 {
		return nil
	}
	old := p.flight[k.ID]
	if old != nil && !p.early[k.ID] {
		m.fail(p, "%v has the identifier %d, which is in use by %v", x, k.ID, old.message)
	}
	p.flight[k.ID] = &flying{qos: k.QoS, message: x}
	if len(p.flight) > p.window && len(p.early) == 0 && !p.lax {
		m.fail(p, "%d messages in flight, Receive Maximum %d", len(p.flight), p.window)
	}
	if !p.auto {
		return nil
	}
	if k.QoS == 1 {
		return []mqtt.Packet{&mqtt.Ack{Type: mqtt.PUBACK, ID: k.ID}}
	}
	return []mqtt.Packet{&mqtt.Ack{Type: mqtt.PUBREC, ID: k.ID}}
}
