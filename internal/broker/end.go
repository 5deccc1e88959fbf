package broker

import (
	"errors"
	"io"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// closing is how the network connection is to end once everything is written.
type closing uint8

const (
	open   closing = iota
	polite         // transport.Conn.Shutdown: the last packet arrives
	abrupt         // the peer is gone
)

// fail ends the connection for what the client sent, with the reason for a 5.0 client ([MQTT-4.13.1-1]).
func (c *conn) fail(err error) error {
	e := ending{reason: mqtt.UnspecifiedError, detail: err.Error(), polite: true}
	if m, ok := errors.AsType[*mqtt.Error](err); ok {
		e.reason, e.detail = m.Reason, m.Detail
	}
	e.label = reasonLabel(e.reason)
	c.logEnd("connection ended", "reason", e.label, "detail", access.Redact(e.detail))
	c.end(e)
	return err
}

// Closed is the transport's word that nothing more will come.
func (c *conn) Closed(err error) {
	why := "closed_by_client"
	if err != nil && !errors.Is(err, io.EOF) {
		why = "network"
	}
	c.end(ending{label: why, gone: true})
	c.b.detach()
}

// ending is why and how a connection ends.
type ending struct {
	reason mqtt.Reason // for the DISCONNECT; 0: none is sent
	detail string      // its reason string
	label  string      // for the counter
	polite bool        // say DISCONNECT
	noWill bool        // at a server's shutdown: the will stays on disk, as after a crash
	asked  bool        // the client has said DISCONNECT: the server closes when its will is gone from the disk
	gone   bool        // the network connection is no more
	forget bool        // the session ends too
}

// end ends the connection once: what was to be written is written before the network connection ends, and the session
// leaves. When left is closed, nothing of it is left in the organization.
func (c *conn) end(e ending) {
	c.mu.Lock()
	if c.isEnded() {
		if e.gone {
			c.net.Close() //nolint:errcheck // it is gone already
		}
		c.mu.Unlock()
		return
	}
	c.ended.Store(true)
	c.watch.conn.Store(nil)
	c.room.Broadcast()
	c.noWill, c.forget = e.noWill, e.forget
	if s := c.session; s != nil {
		if e.polite {
			s.Disconnect(e.reason, e.detail)
		}
		c.last = s.TakeBatch()
		c.tally()
	}
	c.close = polite
	c.holding = e.asked && c.owner != 0
	if e.gone {
		c.close = abrupt
	}
	feeding := c.feeding
	c.mu.Unlock()
	close(c.done)
	c.b.counters.count(&c.b.counters.ends, e.label)
	if n := c.log.flush(); n > 0 {
		c.b.cfg.Log.Info("refused", c.who("what", "more of the same", "suppressed", n)...)
	}
	if !feeding {
		r := readers.Get().(*reader)
		c.settle(r)
		r.release(&c.b.counters)
	}
	c.flush()
}

// settle is the end of a session's connection, once, when the reader does not handle packets any more: the session leaves the
// organization, what survives is committed, the will is published, and then the client identifier is free.
func (c *conn) settle(r *reader) {
	c.mu.Lock()
	if c.settled {
		c.mu.Unlock()
		return
	}
	c.settled = true
	s, o := c.session, c.home
	c.b.forget(c)
	if o != nil && c.counted {
		c.counted = false
		o.mu.Lock()
		o.live--
		o.mu.Unlock()
	}
	if s == nil {
		c.mu.Unlock()
		if o != nil { // it had claimed its identifier
			o.free(c.claimed, c.left)
		}
		return
	}
	now := c.b.cfg.Now()
	farewell := c.farewell(now)
	groups := c.groups
	type handover struct {
		group    *group
		msg      *session.Message
		position engine.Position
	}
	var handovers []handover
	for _, s := range s.TakeSettled() {
		s.Share.(*group).settled(engine.Position(s.Position))
	}
	s.Close(func(share session.Share, m *session.Message, position uint64) {
		handovers = append(handovers, handover{share.(*group), m.Hold(), engine.Position(position)})
	})
	subscriptions := c.subscriptions
	c.mu.Unlock()

	o.leave(c, subscriptions)
	for _, h := range handovers {
		h.group.giveBack(r, h.msg, h.position, now)
		h.msg.Release()
	}
	for g := range groups {
		g.park()
	}
	c.depart(r, farewell, now)
}

// farewell is what is left to do for a session that has left its organization's tree.
type farewell struct {
	operations []engine.Operation
	held       []*session.Message
	will       *session.Message // to be published now
	refused    *session.Message // the will of who may do nothing any more
	ends       bool             // the session ends with the connection
	endsAt     int64            // else: when, Unix nanoseconds
}

// farewell collects what survives the connection. The caller holds mu.
func (c *conn) farewell(now time.Time) (f farewell) {
	s := c.session
	will, delay := s.Will()
	if will != nil && !c.noWill && c.inForce() == nil {
		f.refused, will = s.TakeWill(now), nil
	}
	expiry := uint32(0)
	if c.kept != nil && !c.forget {
		expiry = capExpiry(c.grant.Load(), min(s.Expiry(), c.b.cfg.Limits.MaxExpiry), now)
	}
	f.endsAt = now.Add(time.Duration(expiry) * time.Second).UnixNano()
	willAt := int64(0)
	switch {
	case will == nil:
	case c.noWill: // the server stops: clients are going to come back, as after a crash
		willAt = now.Add(max(time.Duration(delay)*time.Second, c.b.cfg.Limits.WillGrace)).UnixNano()
	case expiry == 0 || delay == 0:
		f.will = s.TakeWill(now)
	default:
		willAt = min(f.endsAt, now.Add(time.Duration(delay)*time.Second).UnixNano())
	}
	if f.ends = expiry == 0 && willAt == 0; f.ends {
		if c.kept == nil && c.owner != 0 {
			f.operations = append(f.operations, engine.Operation{Op: engine.OpEnd, Owner: c.owner})
		}
		return f
	}
	f.operations, f.held = c.saveAll()
	record := c.record(s.ClientID(), 0, expiry)
	record.EndsAt = f.endsAt
	f.operations = append(f.operations, engine.Operation{Op: engine.OpSession, Session: record},
		engine.Operation{Op: engine.OpWake, Owner: c.owner, Event: engine.SessionEnds, At: max(f.endsAt, willAt)})
	switch {
	case willAt != 0:
		f.operations = append(f.operations, engine.Operation{Op: engine.OpWake, Owner: c.owner, Event: engine.WillFires, At: willAt})
	case c.hadWill: // it is published now, or the client has taken it back
		f.operations = append(f.operations, engine.Operation{Op: engine.OpDropWill, Owner: c.owner})
	}
	return f
}

// saveAll is everything of the session that survives: cursor, messages in flight, identifiers in use.
func (c *conn) saveAll() (operations []engine.Operation, held []*session.Message) {
	if c.kept == nil {
		return nil, nil
	}
	operations, held = c.recordSent(nil)
	operations = append(operations, c.save()...)
	c.session.Unrecorded(func(id uint16) {
		operations = append(operations, engine.Operation{Op: engine.OpReceive, Owner: c.owner, ID: id})
	})
	c.kept.drop()
	return operations, held
}

// letGo ends the network connection of a client that has said DISCONNECT: what it took back is gone.
func (c *conn) letGo() {
	c.mu.Lock()
	held := c.holding
	c.holding = false
	c.mu.Unlock()
	if held {
		c.flush()
	}
}

// depart commits what a session leaves behind, its will with it, and frees the client identifier when that is durable.
func (c *conn) depart(r *reader, f farewell, now time.Time) {
	o, clientID := c.home, c.session.ClientID()
	standard := !f.ends && c.kept != nil && c.kept.standard
	done := func(r *reader, _ engine.Position, err error) {
		releaseMessages(f.held)
		c.letGo()
		if f.ends && c.owner != 0 && err == nil {
			o.forgetRecords(clientID)
		}
		o.free(clientID, c.left)
		if standard {
			o.limitStandard(r, c.grant.Load().User)
		}
	}
	if f.ends && c.kept != nil { // its filters go with it
		operations, err := o.endRecords(c.owner)
		if err != nil {
			o.log.Error("ending a session failed", c.who("error", err.Error())...)
		}
		f.operations = operations
	}
	if standard {
		o.awayStandard(c.grant.Load().User, clientID)
	}
	if f.refused != nil {
		c.willRefused(f.refused)
		f.refused.Release()
	}
	if f.will == nil {
		o.commitOps(r, f.operations, done)
		return
	}
	defer f.will.Release()
	if !c.willAllowed(f.will) {
		o.commitOps(r, f.operations, done)
		return
	}
	o.publish(r, f.will, &origin{clientID: clientID, operations: f.operations, done: done}, now)
}
