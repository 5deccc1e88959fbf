package broker

import (
	"cmp"
	"slices"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// publish is one PUBLISH, from the check to the last subscriber. The result is the acknowledgement's reason.
func (c *conn) publish(r *reader, p *mqtt.Publish, now time.Time) mqtt.Reason {
	if !c.grant.Check(access.Publish, p.Topic) {
		c.b.counters.drops[dropRefused].Add(1)
		c.refused("publish", "not_authorized", p.Topic)
		return mqtt.NotAuthorized
	}
	m := session.NewMessage(p, now)
	reason := c.home.publish(r, m, c, now)
	m.Release()
	if reason == mqtt.QuotaExceeded {
		c.refused("publish", "retained_full", p.Topic)
	}
	return reason
}

// publishWill publishes the will of an ended connection, if the rules (still) allow its topic.
func (c *conn) publishWill(r *reader, will *session.Message, now time.Time) {
	if c.grant.Check(access.Publish, will.Topic()) {
		c.home.publish(r, will, c, now)
	} else {
		c.b.counters.drops[dropRefused].Add(1)
		c.refused("will", "not_authorized", will.Topic())
	}
	will.Release()
}

// publish stores m if it is to be retained and routes it. Retained messages pass one at a time, so that what is stored and
// what live subscribers see come in the same order.
func (o *Organization) publish(r *reader, m *session.Message, from *conn, now time.Time) mqtt.Reason {
	if m.Retain() {
		o.retained.mu.Lock()
		defer o.retained.mu.Unlock()
		if !o.retained.store(m, o.limits, now) {
			o.counters.drops[dropRetained].Add(1)
			return mqtt.QuotaExceeded
		}
	}
	if !o.route(r, m, from, now) {
		return mqtt.NoMatchingSubscribers
	}
	return mqtt.Success
}

// route delivers m to every subscriber whose filters match, each once ([MQTT-3.3.4-2]), and reports whether there was one.
func (o *Organization) route(r *reader, m *session.Message, from *conn, now time.Time) (matched bool) {
	hits, filters := o.tree.Match(m.Topic(), r.hits[:0])
	r.hits = hits
	if filters > 1 {
		slices.SortFunc(hits, func(a, b topic.Hit[*recipient, *subscription]) int { return cmp.Compare(a.Key.order, b.Key.order) })
	}
	for len(hits) > 0 {
		to, n := hits[0].Key, 1
		for n < len(hits) && hits[n].Key == to {
			n++
		}
		if to.group != nil {
			matched = to.group.deliver(r, m, now) || matched
		} else {
			matched = to.conn.deliver(r, m, hits[:n], from, now) || matched
		}
		hits = hits[n:]
	}
	return matched
}

// deliver hands m to this connection's session: one copy with the highest QoS of the subscriptions that match
// ([MQTT-3.3.4-2]) and all their identifiers ([MQTT-3.3.4-4]).
func (c *conn) deliver(r *reader, m *session.Message, hits []topic.Hit[*recipient, *subscription], from *conn, now time.Time) bool {
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
		if s.gone || s.options.NoLocal && from.session.ClientID() == c.session.ClientID() { // [MQTT-3.8.3-3]
			continue
		}
		wanted = true
		d.QoS = max(d.QoS, s.options.QoS)
		d.Retain = d.Retain || s.options.RetainAsPublished && m.Retain() // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
		if s.options.Identifier != 0 {
			r.identifiers = append(r.identifiers, s.options.Identifier)
		}
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
