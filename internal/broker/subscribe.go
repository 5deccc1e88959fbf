package broker

import (
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// subscribe is one SUBSCRIBE: every filter judged by itself, the granted ones entered, SUBACK, retained messages.
func (c *conn) subscribe(r *reader, p *mqtt.Subscribe, now time.Time) {
	var identifier uint32
	if len(p.Properties.SubscriptionIDs) > 0 {
		identifier = p.Properties.SubscriptionIDs[0]
	}
	stored := &c.home.retained
	stored.mu.Lock()
	defer stored.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return
	}
	r.reasons = r.reasons[:0]
	type due struct {
		filter  string
		options session.Options
	}
	var send []due
	for i := range p.Subscriptions {
		sub := &p.Subscriptions[i]
		if reason := c.judge(sub.Filter); reason.Failed() {
			r.reasons = append(r.reasons, reason)
			continue
		}
		filter := string(sub.Filter)
		o := session.Options{QoS: sub.QoS, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, Identifier: identifier}
		existed := c.session.Subscribe(filter, o)
		if !existed {
			c.b.counters.subscriptions.Add(1)
		}
		c.home.subscribe(c, filter, &subscription{options: o})
		r.reasons = append(r.reasons, mqtt.Reason(sub.QoS))
		_, _, shared, _ := topic.SplitShare(filter)
		if wanted(sub.RetainHandling, existed, shared) {
			send = append(send, due{filter, o})
		}
	}
	c.session.Suback(p.ID, r.reasons)
	for _, d := range send {
		stored.deliver(c, d.filter, d.options, now)
	}
	r.mark(c)
}

// judge says whether this connection may hold a filter.
func (c *conn) judge(filter []byte) mqtt.Reason {
	reason := c.session.Judge(filter)
	if !reason.Failed() && !c.grant.Check(access.Subscribe, filter) {
		reason = mqtt.NotAuthorized
	}
	if reason.Failed() {
		c.refused("subscribe", reasonLabel(reason), filter)
		c.b.counters.count(&c.b.counters.subscribes, reasonLabel(reason))
	}
	return reason
}

// unsubscribe is one UNSUBSCRIBE. Messages in flight are completed ([MQTT-3.10.4-3]).
func (c *conn) unsubscribe(r *reader, p *mqtt.Unsubscribe) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return
	}
	r.reasons = r.reasons[:0]
	for _, f := range p.Filters {
		filter := string(f)
		if !c.session.Unsubscribe(filter) {
			r.reasons = append(r.reasons, mqtt.NoSubscriptionExisted)
			continue
		}
		c.b.counters.subscriptions.Add(-1)
		if s := c.home.unsubscribe(c, filter); s != nil {
			s.gone = true
		}
		r.reasons = append(r.reasons, mqtt.Success)
	}
	c.session.Unsuback(p.ID, r.reasons)
	r.mark(c)
}
