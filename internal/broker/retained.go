package broker

import (
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
	t.bytes += m.Size()
	if m.Expires() {
		if t.expiring == nil {
			t.expiring = make(map[string]struct{})
		}
		t.expiring[name] = struct{}{}
	}
	return true
}

// room reports whether m can be kept, in place of what its topic has.
func (t *retained) room(m *session.Message, limits *Limits) bool {
	bytes, count := t.bytes+m.Size(), t.names.Len()+1
	if old, had := t.names.Get(m.Topic()); had {
		bytes, count = bytes-old.Size(), count-1
	}
	return count <= limits.Retained && bytes <= limits.RetainedBytes
}

func (t *retained) remove(name string) {
	if old, had := t.names.Delete(name); had {
		t.bytes -= old.Size()
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

// deliver sends the retained messages under filter to a new subscription ([MQTT-3.3.1-9]). The caller holds the lock and
// the connection's.
func (t *retained) deliver(c *conn, filter string, o session.Options, now time.Time) {
	var expired []string
	t.names.Match(filter, func(name string, m *session.Message) bool {
		if m.Expired(now) {
			expired = append(expired, name)
			return true
		}
		d := session.Delivery{Message: m, QoS: min(m.QoS(), o.QoS), Retain: true, Stored: true} // [MQTT-3.3.1-8]
		if o.Identifier != 0 {
			d.Identifiers = []uint32{o.Identifier}
		}
		c.outcome(c.session.Deliver(&d, now))
		return true
	})
	for _, name := range expired {
		t.remove(name)
	}
}

// wanted reports whether a SUBSCRIBE gets retained messages ([MQTT-3.3.1-9], -10, -11); shared ones never do (4.8.2).
func wanted(h mqtt.RetainHandling, existed, shared bool) bool {
	return !shared && (h == mqtt.RetainSend || h == mqtt.RetainSendIfNew && !existed)
}
