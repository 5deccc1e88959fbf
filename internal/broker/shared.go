package broker

import (
	"slices"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// group is a shared subscription: each message goes to one of its members, in turn.
type group struct {
	recipient recipient
	counters  *counters

	mu      sync.Mutex
	members []member // replaced, never changed: readers go on with what they took
	next    int
}

type member struct {
	conn         *conn
	subscription *subscription
}

func (g *group) join(c *conn, s *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	members := slices.Clone(g.members)
	if i := slices.IndexFunc(members, func(m member) bool { return m.conn == c }); i >= 0 {
		members[i].subscription = s
	} else {
		members = append(members, member{c, s})
	}
	g.members = members
}

func (g *group) leave(c *conn) (s *subscription, empty bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.members, func(m member) bool { return m.conn == c }); i >= 0 {
		s = g.members[i].subscription
		g.members = slices.Delete(slices.Clone(g.members), i, i+1)
	}
	return s, len(g.members) == 0
}

// deliver hands m to the next member that has room; if none has, to the next whose queue has, where it waits. If no queue
// has, m is dropped and counted. It is false if no member is left.
func (g *group) deliver(r *reader, m *session.Message, now time.Time) bool {
	g.mu.Lock()
	members, start := g.members, g.next
	g.next++
	g.mu.Unlock()
	full := false
	for _, wait := range [2]bool{false, true} {
		for i := range members {
			to := &members[(start+i)%len(members)]
			switch to.conn.deliverShared(r, g, to.subscription, m, wait, now) {
			case taken:
				return true
			case noRoom:
				full = true
			case gone:
			}
		}
	}
	if full {
		g.counters.drops[dropQueue].Add(1)
	}
	return full
}

// offer is what became of a message that a shared subscription offered to a member.
type offer uint8

const (
	gone   offer = iota // the member has left
	noRoom              // busy or, when the message could have waited, full
	taken
)

// deliverShared takes a message of a shared subscription unless this connection has ended, or without wait is busy.
func (c *conn) deliverShared(r *reader, g *group, s *subscription, m *session.Message, wait bool, now time.Time) offer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() || s.gone || c.session == nil {
		return gone
	}
	if !wait && c.session.Busy() {
		return noRoom
	}
	d := session.Delivery{Message: m, QoS: min(m.QoS(), s.options.QoS), Retain: s.options.RetainAsPublished && m.Retain(), Share: g}
	if s.options.Identifier != 0 {
		r.identifiers = append(r.identifiers[:0], s.options.Identifier)
		d.Identifiers = r.identifiers
	}
	if d.QoS == mqtt.QoS(0) {
		d.Share = nil // nothing is owed
	}
	o := c.session.Deliver(&d, now)
	if o == session.Full {
		return noRoom
	}
	c.outcome(o)
	r.mark(c)
	return taken
}
