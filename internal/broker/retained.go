package broker

import (
	"bytes"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// retained are the retained messages of one organization. Whoever publishes one holds the lock until it is stored and
// routed, whoever subscribes until the tree is entered and the snapshot taken: so a subscriber gets each retained message
// once, stored or live, and never an older one behind a newer.
type retained struct {
	mu    sync.Mutex
	names topic.Names[*session.Message]
	bytes int

	expiring map[string]struct{} // topics whose message has an expiry
	swept    time.Time
}

// sweepInterval is how often, at most, a store without room looks for expired messages.
const sweepInterval = time.Second

// store keeps m as its topic's retained message; an empty payload removes what is there ([MQTT-3.3.1-6], [MQTT-3.3.1-7]).
// The caller holds the lock. It is false if the organization has no room, and then nothing has changed.
func (t *retained) store(m *session.Message, limits *Limits, now time.Time) bool {
	name := string(m.Topic())
	if len(m.Payload()) == 0 {
		t.remove(name)
		return true
	}
	if !t.room(m, limits) {
		t.sweep(now)
		if !t.room(m, limits) {
			return false
		}
	}
	t.remove(name)
	t.names.Set(name, m.Hold())
	t.bytes += cost(m)
	if m.Expires() {
		if t.expiring == nil {
			t.expiring = make(map[string]struct{})
		}
		t.expiring[name] = struct{}{}
	}
	return true
}

// levelBytes is what one level of a topic costs in the tree of names, about.
const levelBytes = 128

// cost is the memory that a retained message takes, its place in the tree of names included.
func cost(m *session.Message) int {
	return m.Size() + levelBytes*(1+bytes.Count(m.Topic(), []byte{'/'}))
}

// room reports whether m can be kept, in place of what its topic has.
func (t *retained) room(m *session.Message, limits *Limits) bool {
	size, count := t.bytes+cost(m), t.names.Len()+1
	if old, had := t.names.Get(m.Topic()); had {
		size, count = size-cost(old), count-1
	}
	return count <= limits.Retained && size <= limits.RetainedBytes
}

func (t *retained) remove(name string) {
	if old, had := t.names.Delete(name); had {
		t.bytes -= cost(old)
		delete(t.expiring, name)
		old.Release()
	}
}

// sweep removes what has expired.
func (t *retained) sweep(now time.Time) {
	if now.Sub(t.swept) < sweepInterval {
		return
	}
	t.swept = now
	for name := range t.expiring {
		if m, had := t.names.Get([]byte(name)); had && m.Expired(now) {
			t.remove(name)
		}
	}
}

// collect finds the retained messages under filter and holds each. It is false, and holds none, if there are more than
// most. The caller holds the lock.
func (t *retained) collect(filter string, most int, now time.Time) (found []*session.Message, ok bool) {
	var expired []string
	ok = true
	t.names.Match(filter, func(name string, m *session.Message) bool {
		switch {
		case m.Expired(now):
			expired = append(expired, name)
		case len(found) == most:
			ok = false
		default:
			found = append(found, m.Hold())
		}
		return ok
	})
	for _, name := range expired {
		t.remove(name)
	}
	if !ok {
		for _, m := range found {
			m.Release()
		}
		return nil, false
	}
	return found, true
}

// replay is the retained messages that a new subscription is sent ([MQTT-3.3.1-9]).
type replay struct {
	messages []*session.Message // held
	options  session.Options
}

// replay sends them. The caller holds mu.
func (c *conn) replay(p *replay, now time.Time) {
	if len(p.messages) == 0 {
		return
	}
	first := p.messages[0]
	d := session.Delivery{
		Message: first, QoS: min(first.QoS(), p.options.QoS), Retain: true, Stored: true, // [MQTT-3.3.1-8]
		Rest: p.messages[1:], Granted: p.options.QoS,
	}
	if p.options.Identifier != 0 {
		d.Identifiers = []uint32{p.options.Identifier}
	}
	c.outcome(c.session.Deliver(&d, now))
	first.Release()
}

// wanted reports whether a SUBSCRIBE gets retained messages ([MQTT-3.3.1-9], -10, -11); shared ones never do (4.8.2).
func wanted(h mqtt.RetainHandling, existed, shared bool) bool {
	return !shared && (h == mqtt.RetainSend || h == mqtt.RetainSendIfNew && !existed)
}
