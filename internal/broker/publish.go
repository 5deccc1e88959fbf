package broker

import (
	"cmp"
	"slices"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// publish is one PUBLISH of a packet of size bytes, from the check to the last subscriber. Its acknowledgement is answered here,
// or when what is owed to durable sessions is on disk.
func (c *conn) publish(r *reader, p *mqtt.Publish, slot session.Slot, size int, now time.Time) {
	if !c.grant.Load().Check(access.Publish, p.Topic) {
		c.home.dropped(dropRefused)
		c.refused("publish", "not_authorized", p.Topic)
		c.answer(slot, mqtt.NotAuthorized)
		return
	}
	if over := c.home.accepts(r, size, now); over != none {
		c.refuseQuota(slot, over, p.Topic)
		return
	}
	if (p.QoS > 0 || p.Retain) && c.home.crowded() {
		c.waitForDisk(r)
	}
	m := session.NewMessage(p, now)
	c.home.publish(r, m, &origin{clientID: c.session.ClientID(), conn: c, slot: slot, id: p.ID, size: size}, now)
	m.Release()
}

// origin is where a message comes from, and who is to know what became of it.
type origin struct {
	clientID   string
	conn       *conn        // a client that waits for the answer of slot; nil: none
	slot       session.Slot // 0 at QoS 0
	id         uint16
	size       int                // of its packet
	operations []engine.Operation // committed with the message, or without it if nobody is owed it
	done       event              // called then, if it is not nil
	refused    func(over drop)    // called instead if there is no room, if it is not nil
}

// publish stores m if it is to be retained and routes it. Subscribers that end with their connection are served at once;
// what durable filters match, and what is retained, is committed, and its followers are served when it is durable. Retained
// messages pass one at a time, so that what is stored and what subscribers see come in the same order. What there is no room for
// reaches nobody.
func (o *Organization) publish(r *reader, m *session.Message, from *origin, now time.Time) (matched bool) {
	if m.Retain() {
		o.retained.mu.Lock()
		defer o.retained.mu.Unlock()
	}
	hits := o.match(r, m)
	if over := o.roomFor(r, m, now); over != none {
		from.refuse(o, r, m, over, now)
		return false
	}
	var kept *stored
	if m.Retain() {
		kept = o.retained.retain(m, from.clientID, now)
	}
	matched = o.serve(r, m, hits, from.clientID, now) || len(r.filters) > 0
	if len(r.filters) > 0 || m.Retain() || len(from.operations) > 0 || from.receives(m) {
		o.keep(r, m, kept, from, matched)
		return matched
	}
	if from.conn != nil {
		from.conn.answer(from.slot, routed(matched))
	}
	if from.done != nil {
		from.done(r, 0, nil)
	}
	return matched
}

// receives reports whether the packet identifier of m belongs to a session that survives: it is on disk before PUBREC, even
// if nobody is owed the message, else m would be passed on again when it comes again after a crash ([MQTT-4.3.3-10]).
func (from *origin) receives(m *session.Message) bool {
	return m.QoS() == 2 && from.conn != nil && from.conn.kept != nil
}

func routed(matched bool) mqtt.Reason {
	if !matched {
		return mqtt.NoMatchingSubscribers
	}
	return mqtt.Success
}

// refuse answers a message for which the organization has no room. What was to be committed with it is.
func (from *origin) refuse(o *Organization, r *reader, m *session.Message, over drop, now time.Time) {
	o.giveBack(r, from, now)
	switch {
	case from.conn != nil:
		from.conn.refuseQuota(from.slot, over, m.Topic())
		return
	case from.refused != nil:
		o.dropped(over)
		from.refused(over)
		return
	}
	o.dropped(over)
	if from.done != nil {
		o.commitOps(r, from.operations, from.done)
	}
}

// keep commits a message: to the log for the durable filters that it matched, as its topic's retained one, and with the
// packet identifier that a durable publisher gave it, all together. With m retained the caller holds the retained messages'
// lock: commits come in its order.
func (o *Organization) keep(r *reader, m *session.Message, kept *stored, from *origin, matched bool) {
	a := arrival{message: m.Hold(), publisher: from.clientID, served: slices.Clone(r.served)}
	filters := slices.Clone(r.filters)
	a.filters = make([]engine.Filter, len(filters))
	for i, d := range filters {
		a.filters[i] = d.number
	}
	batch := &engine.Batch{Organization: o.number, Operations: make([]engine.Operation, 0, 3+len(from.operations))}
	entry := &engine.Entry{Publisher: from.clientID, QoS: uint8(m.QoS()), Retain: m.Retain(), Expires: m.ExpiresAt(), Body: m.Body()}
	if len(filters) > 0 || m.Retain() { // a retained one gets a position of its own, whoever is owed it
		batch.Add(engine.Operation{Op: engine.OpAppend, Entry: entry, Filters: a.filters})
	}
	if m.Retain() {
		batch.Add(retainOperation(m, entry))
	}
	if c := from.conn; from.receives(m) {
		batch.Add(engine.Operation{Op: engine.OpReceive, Owner: c.owner, ID: from.id})
		c.mu.Lock()
		if !c.isEnded() {
			c.session.Record(from.id)
		}
		c.mu.Unlock()
	}
	batch.Operations = append(batch.Operations, from.operations...)
	conn, slot, done := from.conn, from.slot, from.done
	o.logged.Add(int64(len(filters)) * entryBytes(m))
	o.commit(batch, func(r *reader, first engine.Position, err error) {
		o.durableNow(r, &a, kept, filters, first, err)
		if conn != nil {
			conn.stored(r, slot, routed(matched), err)
		}
		if done != nil {
			done(r, first, err)
		}
		a.message.Release()
	})
}

func retainOperation(m *session.Message, e *engine.Entry) engine.Operation {
	if len(m.Payload()) == 0 {
		return engine.Operation{Op: engine.OpUnretain, Text: string(m.Topic())}
	}
	return engine.Operation{Op: engine.OpRetain, Text: string(m.Topic()), Entry: e}
}

// durableNow hands a message whose commit has ended to who follows its filters.
func (o *Organization) durableNow(r *reader, a *arrival, kept *stored, filters []*durable, first engine.Position, err error) {
	if kept != nil {
		o.retainedNow(kept, a.message, first, err)
	}
	bytes := entryBytes(a.message)
	if err != nil {
		o.logged.Add(-int64(len(filters)) * bytes)
		o.dropped(dropStore)
		return
	}
	a.position = first
	for _, d := range filters {
		o.logEntry(d, bytes)
		d.arrive(r, a)
	}
	if len(filters) > 0 || kept != nil {
		o.served.Store(uint64(first)) // not before: cursors that nothing waits for are moved up to here
	}
}

// stored answers a client's message whose commit has ended. 3.x cannot be told that there is no room: it is closed without an
// acknowledgement, and comes again.
func (c *conn) stored(r *reader, slot session.Slot, reason mqtt.Reason, err error) {
	if err != nil {
		refusal, refused := refusalReason(err)
		if !refused || c.session.Version() != mqtt.V5 {
			c.end(ending{reason: mqtt.ServerUnavailable, label: "store", polite: true})
			return
		}
		reason = refusal
	}
	if slot == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isEnded() {
		c.session.Answer(slot, reason)
		c.room.Signal()
		r.mark(c)
	}
}

type hits = []topic.Hit[*recipient, *subscription]

// match finds who is to get m, in the order of recipients. r.filters are the durable filters that match, for messages of QoS 1
// and 2.
func (o *Organization) match(r *reader, m *session.Message) hits {
	hits, filters := o.tree.Match(m.Topic(), r.hits[:0])
	r.hits = hits
	clear(r.filters)
	r.filters = r.filters[:0]
	if filters > 1 {
		slices.SortFunc(hits, func(a, b topic.Hit[*recipient, *subscription]) int { return cmp.Compare(a.Key.order, b.Key.order) })
	}
	if m.QoS() > 0 {
		for i := range hits {
			if d := hits[i].Key.durable; d != nil {
				r.filters = append(r.filters, d)
			}
		}
	}
	return hits
}

// serve delivers m to every subscriber that is served at once and whose filters match, each once ([MQTT-3.3.4-2]), and reports
// whether there was one. r.served are the groups whose log is about to begin, and which were served.
func (o *Organization) serve(r *reader, m *session.Message, hits hits, from string, now time.Time) (matched bool) {
	clear(r.served)
	r.served = r.served[:0]
	for len(hits) > 0 {
		to, n := hits[0].Key, 1
		for n < len(hits) && hits[n].Key == to {
			n++
		}
		switch {
		case to.durable != nil:
		case to.group != nil:
			matched = to.group.route(r, m, now) || matched
		default:
			matched = to.conn.deliver(r, m, hits[:n], from, now) || matched
		}
		hits = hits[n:]
	}
	return matched
}

// deliver hands m to this connection's session: one copy with the highest QoS of the subscriptions that match
// ([MQTT-3.3.4-2]) and all their identifiers ([MQTT-3.3.4-4]). What the log has for it comes from there, and not here.
func (c *conn) deliver(r *reader, m *session.Message, hits []topic.Hit[*recipient, *subscription], from string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return false
	}
	d := session.Delivery{Message: m}
	r.identifiers = r.identifiers[:0]
	wanted := false
	for i := range hits {
		s := hits[i].Value
		if s.gone || s.options.NoLocal && from == c.session.ClientID() { // [MQTT-3.8.3-3]
			continue
		}
		if s.durable != nil && m.QoS() > 0 {
			return true
		}
		wanted = true
		merge(&d, m, &s.options, &r.identifiers)
	}
	if !wanted {
		return false
	}
	d.QoS = min(d.QoS, m.QoS())
	d.Identifiers = r.identifiers
	c.outcome(c.session.Deliver(&d, now))
	r.mark(c)
	return true
}

// merge adds what one matching subscription wants.
func merge(d *session.Delivery, m *session.Message, o *session.Options, identifiers *[]uint32) {
	d.QoS = max(d.QoS, o.QoS)
	d.Retain = d.Retain || o.RetainAsPublished && m.Retain() // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
	if o.Identifier != 0 {
		*identifiers = append(*identifiers, o.Identifier)
	}
}

// qosOf is the quality of service of a recorded message.
func qosOf(e *engine.Entry) mqtt.QoS { return mqtt.QoS(min(e.QoS, 2)) }
