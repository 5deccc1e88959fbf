package broker

import (
	"errors"
	"slices"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// saveAcks is after how many acknowledgements a cursor is saved at the latest; saveInterval after what time.
const (
	saveAcks     = 1000
	saveInterval = time.Second
)

// gatherBytes bounds the messages that wait for one commit of their records.
const gatherBytes = 256 << 10

// kept is a session that outlives its connection, while it has one. All of it is guarded by the connection's lock, but for
// what subscribe and unsubscribe alone use, which the reader calls.
type kept struct {
	cursor
	filters  map[engine.Filter]*subscription // its own subscriptions that the log has messages for
	private  *durable                        // has the retained messages that new subscriptions are owed; nil: none yet
	live     *topic.Tree[string, *subscription]
	standard bool            // its expiry is the default one
	crashed  engine.Position // QoS 1 up to here may have been sent before a crash
	resumed  engine.Position // what came up to here came while it was away: nothing of it at QoS 0
	sending  bool            // records of messages that are to be sent are under way
	scratch  []uint32
}

// reference is a retained message of the log: what one new subscription is owed.
type reference struct {
	filter     string
	qos        mqtt.QoS
	identifier uint32
}

// arrive takes a message of the log (follower).
func (c *conn) arrive(r *reader, a *arrival) (follows bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return false
	}
	if c.kept.cursor.arrive(a) {
		r.mark(c)
	}
	return true
}

// delivery is what this session wants of a message of the log: one copy with the highest QoS of the subscriptions that were
// there before it, and the identifiers of all. The caller holds mu.
func (c *conn) delivery(a *arrival) (d session.Delivery, wanted bool) {
	k := c.kept
	d = session.Delivery{Message: a.message, Position: uint64(a.position), Dup: a.position <= k.crashed}
	k.scratch = k.scratch[:0]
	if ref := a.reference; ref != nil {
		d.QoS, d.Retain, d.Referred = min(ref.qos, a.message.QoS()), true, true // [MQTT-3.3.1-8]
		if ref.identifier != 0 {
			k.scratch = append(k.scratch, ref.identifier)
		}
		d.Identifiers = k.scratch
		return d, c.session.Subscribed(ref.filter)
	}
	for _, f := range a.filters {
		s := k.filters[f]
		if s == nil || s.pending || s.since >= a.position || s.options.NoLocal && a.publisher == c.session.ClientID() {
			continue
		}
		if s.options.QoS == 0 && a.position <= k.resumed {
			continue
		}
		wanted = true
		merge(&d, a.message, &s.options, &k.scratch)
	}
	if !wanted {
		return d, false
	}
	c.mergeLive(a, &d)
	d.QoS, d.Identifiers = min(d.QoS, a.message.QoS()), k.scratch
	return d, true
}

// mergeLive adds the subscriptions of QoS 0, whose messages do not come from the log: they are part of the one copy.
func (c *conn) mergeLive(a *arrival, d *session.Delivery) {
	k := c.kept
	if k.live == nil || k.live.Len() == 0 {
		return
	}
	hits, _ := k.live.Match(a.message.Topic(), nil)
	for i := range hits {
		if s := hits[i].Value; !s.options.NoLocal || a.publisher != c.session.ClientID() {
			merge(d, a.message, &s.options, &k.scratch)
		}
	}
}

// setLive keeps what mergeLive looks at: s in place of the older subscription of its filter, nil if that one ends.
func (k *kept) setLive(filter string, s *subscription) {
	if s != nil && s.durable == nil && (s.options.Identifier != 0 || s.options.RetainAsPublished) {
		if k.live == nil {
			k.live = topic.NewTree[string, *subscription]()
		}
		k.live.Set(filter, filter, s)
	} else if k.live != nil {
		k.live.Delete(filter, filter)
	}
}

// reserved is a message with a packet identifier whose record is under way.
type reserved struct {
	id uint16
	d  session.Delivery
}

// feedLog hands the session what it has room for: first what is in flight since an earlier connection, then what is next in
// the log. A message of QoS 2, and what comes behind it, is sent when its record is durable. The caller holds mu; the
// connection has not ended.
func (c *conn) feedLog(now time.Time) {
	k := c.kept
	if !k.sending && len(k.again) == 0 {
		c.takeAhead(now)
	}
	c.progress()
	switch {
	case k.reading || k.sending || c.close == abrupt:
	case len(k.again) > 0 && (!c.session.Busy() || !c.session.NeedsMessage(k.again[0].ID)),
		len(k.again) == 0 && k.behind() && !c.session.Busy():
		k.reading = true
		c.home.run(c.readLog)
	}
}

// takeAhead sends what is ahead, as far as there is room.
func (c *conn) takeAhead(now time.Time) {
	k := c.kept
	var batch []engine.Operation
	var all []reserved
	gathered := 0
	for k.waiting() > 0 && !c.session.Busy() && gathered < gatherBytes {
		a := k.pop()
		d, wanted := c.delivery(&a)
		switch {
		case !wanted:
		case d.QoS == 2 || d.QoS == 1 && len(all) > 0:
			sent, ok := c.session.Reserve(&d, now)
			if !ok {
				break
			}
			d.Identifiers = slices.Clone(d.Identifiers)
			all = append(all, reserved{sent.ID, d})
			batch = append(batch, c.outgoing(&sent, &a))
			gathered += a.message.Size()
			continue // the reference is that of all
		default:
			c.outcome(c.session.Deliver(&d, now))
		}
		a.message.Release()
	}
	if len(all) > 0 {
		c.sendRecorded(batch, all)
	}
}

// outgoing is the record of a message in flight.
func (c *conn) outgoing(sent *session.InFlight, a *arrival) engine.Operation {
	var filter engine.Filter
	if len(a.filters) > 0 {
		filter = a.filters[0]
	}
	return engine.Operation{
		Op: engine.OpOutgoing, Owner: c.owner, Entry: entryOf(a.message, a.publisher), Copy: sent.Stored,
		Outgoing: &engine.Outgoing{Position: engine.Position(sent.Position), Filter: filter, ID: sent.ID, State: sent.State, Extra: sent.Extra},
	}
}

func entryOf(m *session.Message, publisher string) *engine.Entry {
	return &engine.Entry{Publisher: publisher, QoS: uint8(m.QoS()), Retain: m.Retain(), Expires: m.ExpiresAt(), Body: m.Body()}
}

// sendRecorded commits records of messages, and sends them when those are durable. With them the cursor passes them, so
// everything before them that is in flight gets its record too.
func (c *conn) sendRecorded(records []engine.Operation, all []reserved) {
	k := c.kept
	k.sending = true
	operations, held := c.recordSent(nil)
	operations = append(operations, records...)
	operations = c.completed(operations)
	k.saved = k.taken
	operations = append(operations, engine.Operation{Op: engine.OpCursor, Owner: c.owner, Position: k.taken})
	c.home.commit(&engine.Batch{Organization: c.home.number, Operations: operations}, func(r *reader, _ engine.Position, err error) {
		c.mu.Lock()
		k.sending = false
		if err == nil && !c.isEnded() {
			now := c.b.cfg.Now()
			for i := range all {
				c.session.SendReserved(all[i].id, &all[i].d, now)
			}
			r.mark(c)
		}
		c.mu.Unlock()
		for i := range all {
			all[i].d.Message.Release()
		}
		for _, m := range held {
			m.Release()
		}
		if err != nil {
			c.end(ending{reason: mqtt.ServerUnavailable, label: "store", polite: true})
		}
	})
}

// recordSent adds records of what is in flight without one. The messages are held until the batch is done with.
func (c *conn) recordSent(operations []engine.Operation) (_ []engine.Operation, held []*session.Message) {
	for _, sent := range c.session.RecordSent() {
		held = append(held, sent.Message.Hold())
		operations = append(operations, c.outgoing(&sent, &arrival{message: sent.Message}))
	}
	return operations, held
}

// completed adds what takes away the records of messages that are done with.
func (c *conn) completed(operations []engine.Operation) []engine.Operation {
	for _, position := range c.session.TakeCompleted() {
		operations = append(operations, engine.Operation{Op: engine.OpComplete, Owner: c.owner, Position: engine.Position(position)})
	}
	c.session.ResetAcks()
	return operations
}

// progress records what the client has acknowledged: at once what a PUBREL waits for, the rest now and then.
func (c *conn) progress() {
	o := c.home
	released := c.session.Releasing()
	if len(released) == 0 {
		switch acks := c.session.Acks(); {
		case acks >= saveAcks:
			o.commitOps(nil, c.save(), func(*reader, engine.Position, error) {})
		case acks > 0:
			o.saveLater(c)
		}
		return
	}
	operations := c.save()
	for i := range released {
		sent := &released[i]
		operations = append(operations, engine.Operation{Op: engine.OpProgress, Owner: c.owner, Outgoing: &engine.Outgoing{
			Position: engine.Position(sent.Position), ID: sent.ID, State: sent.State, Extra: sent.Extra,
		}})
	}
	o.commit(&engine.Batch{Organization: o.number, Operations: operations}, func(r *reader, _ engine.Position, err error) {
		if err != nil {
			c.end(ending{reason: mqtt.ServerUnavailable, label: "store", polite: true})
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.isEnded() {
			return
		}
		for i := range released {
			c.session.ReleasedOut(released[i].ID)
		}
		r.mark(c)
	})
}

// save is what brings the session's records up to date: everything up to the cursor is done with, or has a record. The caller
// holds mu.
func (c *conn) save() []engine.Operation {
	k := c.kept
	operations := c.completed(nil)
	if !c.isEnded() && !k.entering { // else it has not been told of all that was served
		k.catchUp(engine.Position(c.home.served.Load()))
	}
	to := k.taken
	if oldest := c.session.Oldest(); oldest != 0 {
		to = min(to, engine.Position(oldest)-1)
	}
	if to > k.saved {
		k.saved = to
		operations = append(operations, engine.Operation{Op: engine.OpCursor, Owner: c.owner, Position: to})
	}
	return operations
}

// readLog reads for a session that has room and nothing ahead, page by page, until it has no room or is up to date.
func (c *conn) readLog() {
	for {
		c.mu.Lock()
		k := c.kept
		if c.isEnded() || c.close == abrupt || k.sending || len(k.again) == 0 && (!k.behind() || c.session.Busy()) ||
			len(k.again) > 0 && c.session.Busy() && c.session.NeedsMessage(k.again[0].ID) {
			k.reading = false
			c.mu.Unlock()
			return
		}
		again := k.again
		filters := make([]engine.Filter, 0, len(k.filters)+1)
		for f := range k.filters {
			filters = append(filters, f)
		}
		if k.private != nil {
			filters = append(filters, k.private.number)
		}
		after, upTo := k.loaded, k.arrived
		c.mu.Unlock()
		var err error
		if len(again) > 0 {
			err = c.sendAgain(again)
		} else {
			err = c.readPage(filters, after, upTo)
		}
		if err != nil {
			c.mu.Lock()
			k.reading = false
			c.mu.Unlock()
			if !errors.Is(err, engine.ErrClosed) {
				c.b.cfg.Log.Error("reading the log failed", c.who("error", err.Error())...)
			}
			c.end(ending{reason: mqtt.ServerUnavailable, label: "store", polite: true})
			return
		}
		c.flush()
	}
}

// sendAgain sends messages in flight since an earlier connection again.
func (c *conn) sendAgain(all []engine.Outgoing) error {
	c.mu.Lock()
	needs := make(map[uint16]bool, len(all))
	for i := range all {
		needs[all[i].ID] = !c.isEnded() && c.session.NeedsMessage(all[i].ID)
	}
	c.mu.Unlock()
	read, err := c.home.readAgain(c.owner, all, func(out *engine.Outgoing) bool { return needs[out.ID] })
	if err != nil {
		return err
	}
	defer releaseAll(read)
	now := c.b.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for ; n < len(read) && !c.isEnded() && (!needs[read[n].id] || !c.session.Busy()); n++ {
		c.session.Resend(read[n].id, read[n].message, now)
	}
	c.kept.again = c.kept.again[n:]
	return nil
}

// readPage reads the next messages and puts them ahead.
func (c *conn) readPage(filters []engine.Filter, after, upTo engine.Position) error {
	p, err := c.home.read(filters, after, upTo)
	if err != nil {
		return err
	}
	all := c.home.arrivals(&p, c.privateFilter())
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kept
	if c.isEnded() {
		for i := range all {
			all[i].message.Release()
		}
		return nil
	}
	for i := range all {
		k.push(all[i])
	}
	if k.loaded = p.next; k.waiting() == 0 {
		k.taken = k.loaded
	}
	return nil
}

func (c *conn) privateFilter() engine.Filter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept.private == nil {
		return 0
	}
	return c.kept.private.number
}
