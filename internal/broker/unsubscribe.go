package broker

import (
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// removal is subscriptions that end at one moment, whoever ends them.
type removal struct {
	operations []engine.Operation // of a session that outlives its connection
	left       []*durable         // that it followed
	adopted    []lent             // in flight from groups that it leaves: its own from now on
}

// remove ends a subscription, and reports whether it was there. Messages in flight are completed ([MQTT-3.10.4-3]). The caller
// holds mu and, if the session outlives its connection, the organization's.
func (c *conn) remove(filter string, x *removal) bool {
	s := c.subscriptions[filter]
	if !c.session.Unsubscribe(filter) {
		return false
	}
	delete(c.subscriptions, filter)
	c.home.countFilters(-1, -filterBytes(filter))
	s.gone = true
	if c.kept != nil {
		if d := c.leaveKept(s, &x.operations); d != nil {
			x.left = append(x.left, d)
		}
		x.adopted = c.adopt(filter, x.adopted)
	}
	c.removeFilter(filter, c.kept != nil)
	return true
}

// commitRemoval commits what was removed. The caller holds mu and the organization's.
func (c *conn) commitRemoval(x *removal, then event) {
	operations, held := c.recordSent(x.operations) // no filter leads back to it after a crash ([MQTT-3.10.4-3])
	operations = append(operations, c.save()...)
	c.home.commit(&engine.Batch{Organization: c.home.number, Operations: operations}, func(r *reader, first engine.Position, err error) {
		releaseMessages(held)
		then(r, first, err)
	})
}

// finish is the rest of it. The caller holds no lock.
func (x *removal) finish(c *conn) {
	for _, d := range x.left {
		d.leave(c)
	}
	for _, a := range x.adopted {
		a.group.settled(engine.Position(a.position))
	}
}

// unsubscribe is one UNSUBSCRIBE.
func (c *conn) unsubscribe(r *reader, p *mqtt.Unsubscribe) error {
	o := c.home
	c.mu.Lock()
	if c.isEnded() {
		c.mu.Unlock()
		return errEnded
	}
	reasons := r.reasons[:0]
	var x removal
	if c.kept != nil {
		o.mu.Lock()
	}
	for _, f := range p.Filters {
		reason := mqtt.Success
		if !c.remove(string(f), &x) {
			reason = mqtt.NoSubscriptionExisted
		}
		reasons = append(reasons, reason)
	}
	r.reasons = reasons
	r.mark(c)
	if len(x.operations) == 0 {
		if c.kept != nil {
			o.mu.Unlock()
		}
		defer c.mu.Unlock()
		return c.session.Unsuback(p.ID, reasons)
	}
	durable := make(chan error, 1)
	c.commitRemoval(&x, func(r *reader, _ engine.Position, err error) { durable <- c.unsubscribed(r, p.ID, reasons, err) })
	o.mu.Unlock()
	c.mu.Unlock()
	x.finish(c)
	return c.waitFor(r, durable)
}

// adopt adds what is in flight from the group of a filter, if it is a shared one. The caller holds mu and the organization's.
func (c *conn) adopt(filter string, all []lent) []lent {
	if g := c.home.groups[filter]; g != nil {
		for _, position := range c.session.Adopt(g, uint64(engine.Shared)) {
			all = append(all, lent{g, position})
		}
	}
	return all
}

// unsubscribed answers UNSUBSCRIBE when it is on disk.
func (c *conn) unsubscribed(r *reader, id uint16, reasons []mqtt.Reason, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		return &mqtt.Error{Reason: mqtt.ServerUnavailable, Detail: "the store has failed"}
	case c.isEnded():
		return errEnded
	}
	r.mark(c)
	return c.session.Unsuback(id, reasons)
}

// lent is a message that a group has lent to a member.
type lent struct {
	group    *group
	position uint64
}

// leaveKept ends the records of a subscription, and returns the durable filter that it followed. The caller holds mu and the
// organization's.
func (c *conn) leaveKept(s *subscription, operations *[]engine.Operation) *durable {
	*operations = append(*operations, engine.Operation{Op: engine.OpUnsubscribe, Owner: c.owner, Text: s.text})
	c.kept.setLive(s.text, nil)
	if s.durable == nil {
		if g := c.home.groups[s.text]; g != nil && s.options.QoS > 0 {
			c.home.leaveGroupLog(g, operations)
		}
		return nil
	}
	delete(c.kept.filters, s.durable.number)
	c.home.release(s.durable, operations)
	return s.durable
}

// removeFilter takes a filter out of the tree. locked says that the organization's lock is held.
func (c *conn) removeFilter(filter string, locked bool) {
	_, _, shared, _ := topic.SplitShare(filter)
	if !shared {
		c.home.tree.Delete(filter, &c.recipient)
		return
	}
	if !locked {
		c.home.mu.Lock()
		defer c.home.mu.Unlock()
	}
	if g := c.home.groups[filter]; g != nil {
		delete(c.groups, g)
		if _, empty := g.leave(c); empty {
			c.home.dropGroup(g)
		}
	}
}
