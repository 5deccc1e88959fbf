package broker

import (
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// subscribe is one SUBSCRIBE. What was refused is logged when no lock is held any more.
func (c *conn) subscribe(r *reader, p *mqtt.Subscribe, now time.Time) error {
	refused, err := c.enterAll(r, p, now)
	for _, f := range refused {
		c.refused("subscribe", f.label, f.filter)
		c.b.counters.count(&c.b.counters.subscribes, f.label)
	}
	return err
}

// refusedFilter is a filter that was refused, with its reason for the log and the counter.
type refusedFilter struct {
	label  string
	filter []byte
}

// enterAll judges every filter by itself, enters the granted ones, and sends SUBACK and the retained messages.
func (c *conn) enterAll(r *reader, p *mqtt.Subscribe, now time.Time) (refused []refusedFilter, err error) {
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
		return nil, errEnded
	}
	r.reasons = r.reasons[:0]
	var replays []replay
	room := c.session.StoredRoom()
	for i := range p.Subscriptions {
		sub := &p.Subscriptions[i]
		o := session.Options{QoS: sub.QoS, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, Identifier: identifier}
		reason := c.judge(sub.Filter)
		label := "retained_backlog"
		if reason.Failed() {
			label = reasonLabel(reason)
		} else {
			var found []*session.Message
			if found, reason = c.enter(string(sub.Filter), o, sub.RetainHandling, room, now); len(found) > 0 {
				replays = append(replays, replay{found, o})
				room -= len(found)
			}
		}
		if reason.Failed() {
			refused = append(refused, refusedFilter{label, sub.Filter})
		}
		r.reasons = append(r.reasons, reason)
	}
	err = c.session.Suback(p.ID, r.reasons)
	for i := range replays {
		c.replay(&replays[i], now)
	}
	r.mark(c)
	return refused, err
}

// enter makes a subscription of a filter that was judged, and finds the retained messages that it is to be sent, at most
// room. More of them cannot be kept for a client that does not read: then the filter is refused. The caller holds the
// locks of the retained messages and of c.
func (c *conn) enter(filter string, o session.Options, h mqtt.RetainHandling, room int, now time.Time) ([]*session.Message, mqtt.Reason) {
	_, _, shared, _ := topic.SplitShare(filter)
	var found []*session.Message
	if wanted(h, c.session.Subscribed(filter), shared) {
		var ok bool
		if found, ok = c.home.retained.collect(filter, room, now); !ok {
			return nil, mqtt.QuotaExceeded
		}
	}
	if !c.session.Subscribe(filter, o) {
		c.b.counters.subscriptions.Add(1)
	}
	c.home.subscribe(c, filter, &subscription{options: o})
	return found, mqtt.Reason(o.QoS)
}

// judge says whether this connection may hold a filter.
func (c *conn) judge(filter []byte) mqtt.Reason {
	reason := c.session.Judge(filter)
	if !reason.Failed() && !c.grant.Check(access.Subscribe, filter) {
		reason = mqtt.NotAuthorized
	}
	return reason
}

// unsubscribe is one UNSUBSCRIBE. Messages in flight are completed ([MQTT-3.10.4-3]).
func (c *conn) unsubscribe(r *reader, p *mqtt.Unsubscribe) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() {
		return errEnded
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
	r.mark(c)
	return c.session.Unsuback(p.ID, r.reasons)
}
