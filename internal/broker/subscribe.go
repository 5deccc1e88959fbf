package broker

import (
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// subscribe is one SUBSCRIBE. What was refused is logged when no lock is held any more.
func (c *conn) subscribe(r *reader, p *mqtt.Subscribe, now time.Time) error {
	s := &subscribing{c: c, r: r, now: now, id: p.ID}
	err := s.enterAll(p)
	for _, f := range s.refused {
		c.refused("subscribe", f.label, f.filter)
		c.home.refusedFilter(f.label)
	}
	return err
}

// refusedFilter is a filter that was refused, with its reason for the log and the counter.
type refusedFilter struct {
	label  string
	filter []byte
}

// subscribing is one SUBSCRIBE under way.
type subscribing struct {
	c       *conn
	r       *reader
	now     time.Time
	id      uint16
	refused []refusedFilter
	replays []replay
	room    int // retained messages that may be asked for

	// Of a session that outlives its connection: what is to be durable before SUBACK.
	operations []engine.Operation
	references []engine.Operation
	referred   int64 // bytes of them, of the organization's storage
	entered    []entered
	lowers     bool               // a filter is not followed with QoS 1 or 2 any more
	held       []*session.Message // of the operations
}

// entered is a subscription that waits for its records, with what to go back to.
type entered struct {
	index    int // among the reasons
	text     string
	now, old *subscription
	oldSet   session.Options
	group    *group // whose log begins with it, or has one member more
	log      *groupLog
	begins   bool
}

// enterAll judges every filter by itself, enters the granted ones, and sends SUBACK and the retained messages. A session that
// outlives its connection is told when its subscriptions are on disk; what is published meanwhile is not for them yet.
func (s *subscribing) enterAll(p *mqtt.Subscribe) error {
	c := s.c
	var identifier uint32
	if len(p.Properties.SubscriptionIDs) > 0 {
		identifier = p.Properties.SubscriptionIDs[0]
	}
	o := c.home
	o.retained.mu.Lock()
	c.mu.Lock()
	if c.isEnded() {
		c.mu.Unlock()
		o.retained.mu.Unlock()
		return errEnded
	}
	reasons := s.r.reasons[:0]
	s.room = c.retainedRoom()
	for i := range p.Subscriptions {
		sub := &p.Subscriptions[i]
		options := session.Options{QoS: sub.QoS, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, Identifier: identifier}
		reason := c.judge(sub.Filter)
		label := "retained_backlog"
		if reason.Failed() {
			label = reasonLabel(reason)
		} else {
			reason = s.enter(i, string(sub.Filter), options, sub.RetainHandling)
		}
		if reason.Failed() {
			s.refused = append(s.refused, refusedFilter{label, sub.Filter})
		}
		reasons = append(reasons, reason)
	}
	s.r.reasons = reasons
	s.r.mark(c)
	if len(s.operations) == 0 {
		err := s.answer(reasons)
		c.mu.Unlock()
		o.retained.mu.Unlock()
		return err
	}
	if s.lowers { // what is in flight is completed as it was sent
		s.operations, s.held = c.recordSent(s.operations)
		s.operations = append(s.operations, c.save()...)
	}
	durable := make(chan error, 1)
	o.logged.Add(s.referred)
	o.commit(&engine.Batch{Organization: o.number, Operations: append(s.operations, s.references...)}, func(r *reader, first engine.Position, err error) {
		releaseMessages(s.held)
		durable <- s.durable(r, reasons, first, err)
	})
	o.mu.Unlock() // enter has taken it
	c.mu.Unlock()
	o.retained.mu.Unlock()
	return c.waitFor(s.r, durable)
}

// retainedRoom is how many more retained messages may be asked for, until those that were are delivered. The caller holds mu.
func (c *conn) retainedRoom() int {
	room := c.session.StoredRoom()
	if c.kept != nil && c.kept.private != nil {
		if waiting, _, err := c.home.store.Backlog(c.home.number, c.kept.private.number, c.kept.taken); err == nil {
			room -= int(min(waiting, 1<<30))
		}
	}
	return max(0, room)
}

// answer sends SUBACK, and the retained messages that do not come from the log. The caller holds c.mu.
func (s *subscribing) answer(reasons []mqtt.Reason) error {
	err := s.c.session.Suback(s.id, reasons)
	for i := range s.replays {
		s.c.replay(&s.replays[i], s.now)
	}
	return err
}

// enter makes a subscription of a filter that was judged, and finds the retained messages that it is to be sent, at most
// room. More of them cannot be kept for a client that does not read: then the filter is refused. The caller holds the
// locks of the retained messages and of c.
func (s *subscribing) enter(index int, filter string, o session.Options, h mqtt.RetainHandling) mqtt.Reason {
	c := s.c
	_, rest, shared, _ := topic.SplitShare(filter)
	existed := c.session.Subscribed(filter)
	var found []*session.Message
	if wanted(h, existed, shared) {
		var ok bool
		if found, ok = c.home.collect(filter, s.room, s.now); !ok {
			return mqtt.QuotaExceeded
		}
	}
	now := &subscription{options: o, text: filter}
	if c.kept != nil {
		if reason := s.enterKept(index, now, rest, shared); reason.Failed() {
			releaseMessages(found)
			return reason
		}
	}
	s.room -= len(found)
	if c.kept != nil {
		found = s.refer(found, now)
	}
	if !c.session.Subscribe(filter, o) {
		c.home.countFilters(1, filterBytes(filter))
	}
	c.remember(filter, now)
	if shared {
		c.joinGroup(filter, now, c.kept != nil)
	} else {
		c.home.tree.Set(filter, &c.recipient, now)
	}
	if len(found) > 0 {
		s.replays = append(s.replays, replay{found, o})
	}
	return mqtt.Reason(o.QoS)
}

func releaseMessages(all []*session.Message) {
	for _, m := range all {
		m.Release()
	}
}

// enterKept prepares the records of a subscription. The first one takes the organization's lock, which enterAll gives back
// when the batch is on its way: filters and groups come and go in the order of commits.
func (s *subscribing) enterKept(index int, now *subscription, rest string, shared bool) mqtt.Reason {
	c, o := s.c, s.c.home
	if len(s.operations) == 0 {
		o.mu.Lock()
	}
	before := len(s.operations)
	if now.options.QoS > 0 && o.crowdedFilter(s.r, rest) {
		if before == 0 {
			o.mu.Unlock()
		}
		return mqtt.QuotaExceeded
	}
	old := c.subscriptions[now.text]
	e := entered{index: index, text: now.text, now: now, old: old}
	if old != nil {
		e.oldSet = old.options
	}
	record := engine.Subscription{Text: now.text, Options: now.options.Append(nil)}
	var err error
	switch {
	case shared:
		now.pending = true // SUBACK comes first
		if e.group, e.begins, err = o.enterGroup(now, old, &s.operations); e.group != nil {
			e.log = e.group.log
		}
	case now.options.QoS > 0 || old != nil && old.durable != nil:
		err = s.enterLog(now, old, rest, &record)
	}
	if err != nil {
		if s.operations = s.operations[:before]; before == 0 {
			o.mu.Unlock()
		}
		o.log.Error("making a durable filter failed", c.who("error", err.Error())...)
		return mqtt.ImplementationSpecific
	}
	if now.options.QoS == 0 && !shared {
		c.kept.setLive(now.text, now)
	} else {
		c.kept.setLive(now.text, nil)
	}
	s.operations = append(s.operations, engine.Operation{Op: engine.OpSubscribe, Owner: c.owner, Subscription: &record})
	s.entered = append(s.entered, e)
	return mqtt.Success
}

// enterLog gives a subscription its messages from the log. One that had them goes on where it was ([MQTT-3.8.4-3]).
func (s *subscribing) enterLog(now, old *subscription, rest string, record *engine.Subscription) (err error) {
	k := s.c.kept
	if old != nil && old.durable != nil {
		now.durable, now.since, now.pending = old.durable, old.since, old.pending
		s.lowers = s.lowers || now.options.QoS == 0
	} else {
		if now.durable, err = s.c.home.hold(rest, &s.operations); err != nil {
			return err
		}
		now.pending = true
	}
	record.Filter, record.Since = now.durable.number, now.since
	k.filters[now.durable.number] = now
	return nil
}

// refer has the log deliver the retained messages that are owed at QoS 1 or 2, and returns the others.
func (s *subscribing) refer(found []*session.Message, now *subscription) (live []*session.Message) {
	c, o := s.c, s.c.home
	for _, m := range found {
		if min(m.QoS(), now.options.QoS) == 0 {
			live = append(live, m)
			continue
		}
		if c.kept.private == nil {
			d, err := o.hold(privateText(c.owner), &s.operations)
			if err != nil {
				m.Release()
				continue // the store has failed
			}
			c.kept.private = d
		}
		entry := referTo(m, now.text, now.options, s.now)
		s.references = append(s.references, engine.Operation{Op: engine.OpAppend, Entry: entry, Filters: []engine.Filter{c.kept.private.number}})
		s.referred += int64(len(entry.Body))
		m.Release()
	}
	return live
}

// durable goes on when the records are on disk: from here on the log's messages are for these subscriptions.
func (s *subscribing) durable(r *reader, reasons []mqtt.Reason, first engine.Position, err error) error {
	c, o := s.c, s.c.home
	if s.referred > 0 && err == nil {
		o.logEntry(c.kept.private, s.referred)
	} else {
		o.logged.Add(-s.referred)
	}
	if err != nil {
		if _, refused := refusalReason(err); !refused {
			return &mqtt.Error{Reason: mqtt.ServerUnavailable, Detail: "the store has failed"}
		}
		s.takeBack(reasons)
	}
	since, last := first, first
	if n := len(s.references); n > 0 && err == nil {
		since, last = first-1, first+engine.Position(n)-1
		defer o.served.Store(uint64(last))
	}
	o.mu.Lock()
	for i := range s.entered {
		if e := &s.entered[i]; err == nil {
			if e.now.durable != nil {
				e.now.durable.made = true
			}
			if e.log != nil {
				e.log.durable.made = true
			}
		}
	}
	if c.kept.private != nil && err == nil {
		c.kept.private.made = true
	}
	o.mu.Unlock()
	for i := range s.entered {
		e := &s.entered[i]
		if err == nil && e.now.durable != nil && e.now.pending {
			e.now.durable.joinConn(c)
		}
		if err == nil && e.begins {
			e.group.begin(e.log, since)
		}
	}
	var stale []*durable // of filters that the rules have taken back meanwhile
	defer func() {
		for _, d := range stale {
			d.leave(c)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return errEnded
	}
	for i := range s.entered {
		e := &s.entered[i]
		if e.now.gone {
			reasons[e.index] = mqtt.NotAuthorized
			if e.now.durable != nil {
				stale = append(stale, e.now.durable)
			}
		} else if e.now.pending {
			e.now.pending, e.now.since = false, since
		}
	}
	if len(s.references) > 0 && err == nil {
		c.kept.arrived = max(c.kept.arrived, last) // behind: they are read
	}
	r.mark(c)
	return s.answer(reasons)
}

// takeBack undoes what could not be committed: the disk is full, or too much waits for it.
func (s *subscribing) takeBack(reasons []mqtt.Reason) {
	c, o := s.c, s.c.home
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return
	}
	o.mu.Lock()
	var nothing []engine.Operation // what was not made need not be removed
	type place struct {
		filter string
		s      *subscription
	}
	var groups []place
	for i := len(s.entered) - 1; i >= 0; i-- {
		e := &s.entered[i]
		reasons[e.index] = mqtt.QuotaExceeded
		if e.now.gone {
			continue // it was removed already
		}
		if e.now.durable != nil && (e.old == nil || e.old.durable == nil) {
			delete(c.kept.filters, e.now.durable.number)
			o.release(e.now.durable, &nothing)
		}
		if e.group != nil {
			o.leaveGroupLog(e.group, &nothing)
		}
		_, _, shared, _ := topic.SplitShare(e.text)
		if e.old == nil {
			c.session.Unsubscribe(e.text)
			delete(c.subscriptions, e.text)
			c.home.countFilters(-1, -filterBytes(e.text))
		} else {
			c.session.Subscribe(e.text, e.oldSet)
			c.subscriptions[e.text] = e.old
			if e.old.durable != nil {
				c.kept.filters[e.old.durable.number] = e.old
			}
		}
		switch {
		case shared:
			groups = append(groups, place{e.text, e.old})
		case e.old == nil:
			o.tree.Delete(e.text, &c.recipient)
		default:
			o.tree.Set(e.text, &c.recipient, e.old)
		}
	}
	o.mu.Unlock()
	for _, g := range groups {
		if g.s == nil {
			o.unsubscribe(c, g.filter)
		} else {
			o.subscribe(c, g.filter, g.s)
		}
	}
	for i := range s.replays {
		releaseMessages(s.replays[i].messages)
	}
	s.replays, s.references = nil, nil
}

func (c *conn) remember(filter string, s *subscription) {
	if c.subscriptions == nil {
		c.subscriptions = make(map[string]*subscription)
	}
	c.subscriptions[filter] = s
}

// joinGroup makes c a member of a shared subscription. The caller holds mu; locked says that the organization's lock is held.
func (c *conn) joinGroup(filter string, s *subscription, locked bool) {
	o := c.home
	if !locked {
		o.mu.Lock()
		defer o.mu.Unlock()
	}
	g := o.group(filter)
	g.join(c, s)
	if c.groups == nil {
		c.groups = make(map[*group]struct{})
	}
	c.groups[g] = struct{}{}
}

// judge says whether this connection may hold a filter.
func (c *conn) judge(filter []byte) mqtt.Reason {
	reason := c.session.Judge(filter)
	switch {
	case reason.Failed():
	case !c.grant.Load().Check(access.Subscribe, filter):
		reason = mqtt.NotAuthorized
	case c.tooMany(filter), c.noRoomFor(filter):
		reason = mqtt.QuotaExceeded
	}
	return reason
}
