package broker

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// retained are the retained messages of one organization, as they are on disk once what is under way is there. Whoever
// publishes one holds the lock until it is routed and its commit is under way, whoever subscribes until the tree is entered
// and the snapshot taken: so a subscriber gets each retained message once, stored or live, and never an older one behind a newer.
type retained struct {
	mu    sync.Mutex
	names topic.Names[*stored]
	bytes int
	disk  atomic.Int64 // bytes of topics, properties and payloads

	expiring map[string]struct{} // topics whose message has an expiry
	swept    time.Time
}

// stored is one retained message; nil stands for one that was cleared.
type stored struct {
	*session.Message
	name     string
	at       time.Time       // when it was published, if that was in this run
	from     string          // client identifier of who did; empty: over HTTP
	position engine.Position // of its commit; 0: that is under way. Guarded by the lock
}

// sweepInterval is how often, at most, a store without room looks for expired messages.
const sweepInterval = time.Second

// retain keeps m as its topic's retained message; an empty payload removes what is there ([MQTT-3.3.1-6], [MQTT-3.3.1-7]).
// The caller holds the lock, and has looked for room.
func (t *retained) retain(m *session.Message, from string, now time.Time) *stored {
	s := &stored{Message: m, name: string(m.Topic()), from: from, at: now}
	if len(m.Payload()) == 0 {
		t.remove(s.name)
	} else {
		t.set(s)
	}
	return s
}

// set enters a message, in place of its topic's older one, and holds it.
func (t *retained) set(s *stored) {
	t.remove(s.name)
	s.Hold()
	t.names.Set(s.name, s)
	t.bytes += cost(s.Message)
	t.disk.Add(entryBytes(s.Message))
	if s.Expires() {
		if t.expiring == nil {
			t.expiring = make(map[string]struct{})
		}
		t.expiring[s.name] = struct{}{}
	}
}

// retainedNow says that the commit of a retained message has ended. If it has failed, the topic has again what is on disk.
func (o *Organization) retainedNow(s *stored, m *session.Message, position engine.Position, err error) {
	t := &o.retained
	t.mu.Lock()
	defer t.mu.Unlock()
	s.position = position
	now, had := t.names.Get([]byte(s.name))
	if err == nil {
		if had && len(m.Payload()) == 0 && now.position != 0 && now.position < position {
			t.remove(s.name) // it was recalled while this one was under way
		}
		return
	}
	if had && now != s || !had && len(m.Payload()) > 0 {
		return // there is a newer one, whose commit tells
	}
	e, ok, err := o.store.RetainedOf(o.number, s.name)
	if err != nil {
		return // the store has failed
	}
	t.remove(s.name)
	if ok {
		o.recall(s.name, &e)
	}
}

// recall enters a message that is on disk.
func (o *Organization) recall(name string, e *engine.Entry) {
	if m := messageOf(e); m != nil {
		o.retained.set(&stored{Message: m, name: name, from: e.Publisher, position: max(1, e.Position)})
		m.Release()
	}
}

// levelBytes is what one level of a topic costs in the tree of names, about.
const levelBytes = 128

// cost is the memory that a retained message takes, its place in the tree of names included.
func cost(m *session.Message) int {
	return m.Size() + levelBytes*(1+bytes.Count(m.Topic(), []byte{'/'}))
}

// room reports whether m can be kept, in place of what its topic has.
func (t *retained) room(m *session.Message, most, mostBytes int) bool {
	if len(m.Payload()) == 0 {
		return true
	}
	size := t.bytes + cost(m)
	if old, had := t.names.Get(m.Topic()); had { // whatever the bounds have become, it does not take more
		was := cost(old.Message)
		return size-was <= mostBytes || cost(m) <= was
	}
	return t.names.Len() < most && size <= mostBytes
}

// growth is what more m takes on disk than what its topic has.
func (t *retained) growth(m *session.Message) int64 {
	n := entryBytes(m)
	if old, had := t.names.Get(m.Topic()); had {
		n -= entryBytes(old.Message)
	}
	return n
}

func (t *retained) remove(name string) {
	if old, had := t.names.Delete(name); had {
		t.bytes -= cost(old.Message)
		t.disk.Add(-entryBytes(old.Message))
		delete(t.expiring, name)
		old.Release()
	}
}

// sweep removes what has expired. The caller holds the lock.
func (o *Organization) sweep(now time.Time) {
	t := &o.retained
	if now.Sub(t.swept) < sweepInterval {
		return
	}
	t.swept = now
	var expired []string
	for name := range t.expiring {
		if m, had := t.names.Get([]byte(name)); had && m.Expired(now) {
			expired = append(expired, name)
		}
	}
	o.forget(expired)
}

// forget removes expired messages, on disk too. The caller holds the lock.
func (o *Organization) forget(expired []string) {
	var operations []engine.Operation
	for _, name := range expired {
		o.retained.remove(name)
		operations = append(operations, engine.Operation{Op: engine.OpUnretain, Text: name})
	}
	if len(operations) > 0 {
		o.commit(&engine.Batch{Organization: o.number, Operations: operations}, func(*reader, engine.Position, error) {})
	}
}

// collect finds the retained messages under filter and holds each. It is false, and holds none, if there are more than
// most. The caller holds the lock.
func (o *Organization) collect(filter string, most int, now time.Time) (found []*session.Message, ok bool) {
	var expired []string
	ok = true
	o.retained.names.Match(filter, func(name string, m *stored) bool {
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
	o.forget(expired)
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
