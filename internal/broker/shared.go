package broker

import (
	"slices"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// group is a shared subscription: each message goes to one of its members, in turn. While a session that outlives its
// connection is a member with QoS 1 or 2, the group has a log (groupLog), and what is published with QoS 1 or 2 comes from
// there; all else is passed on at once.
type group struct {
	recipient recipient
	home      *Organization
	filter    string // the whole $share filter
	rest      string // without $share and the group's name

	mu      sync.Mutex // taken with a connection's lock held, never the other way round
	members []member   // replaced, never changed: readers go on with what they took
	next    int
	log     *groupLog
}

type member struct {
	conn         *conn
	subscription *subscription
}

// join adds a member, or replaces its options.
func (g *group) join(c *conn, s *subscription) {
	g.mu.Lock()
	members := slices.Clone(g.members)
	if i := slices.IndexFunc(members, func(m member) bool { return m.conn == c }); i >= 0 {
		members[i].subscription = s
	} else {
		members = append(members, member{c, s})
	}
	g.members = members
	g.mu.Unlock()
	g.kick()
}

// leave removes a member. empty says that nothing is left of the group.
func (g *group) leave(c *conn) (s *subscription, empty bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.members, func(m member) bool { return m.conn == c }); i >= 0 {
		s = g.members[i].subscription
		g.members = slices.Delete(slices.Clone(g.members), i, i+1)
	}
	return s, len(g.members) == 0 && g.log == nil
}

// turn is whom to ask, and where to begin.
func (g *group) turn() ([]member, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	return g.members, g.next - 1
}

// route passes a message on unless the log will. If the log is about to begin, it remembers who was served without.
func (g *group) route(r *reader, m *session.Message, now time.Time) bool {
	if m.QoS() > 0 {
		g.mu.Lock()
		logged, begins := g.log != nil, g.log != nil && g.log.pending
		g.mu.Unlock()
		if logged && !begins {
			return true
		}
		if begins {
			r.served = append(r.served, g)
		}
	}
	return g.deliver(r, m, now)
}

// deliver hands m to the next member that has room; if none has, to the next whose queue has, where it waits. If no queue
// has, m is dropped and counted. It is false if no member is left.
func (g *group) deliver(r *reader, m *session.Message, now time.Time) bool {
	members, start := g.turn()
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
		g.home.counters.drops[dropQueue].Add(1)
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
	d := sharedDelivery(r, m, s)
	if d.Share = g; d.QoS == mqtt.QoS(0) {
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

func sharedDelivery(r *reader, m *session.Message, s *subscription) session.Delivery {
	d := session.Delivery{Message: m, QoS: min(m.QoS(), s.options.QoS), Retain: s.options.RetainAsPublished && m.Retain()}
	if s.options.Identifier != 0 {
		r.identifiers = append(r.identifiers[:0], s.options.Identifier)
		d.Identifiers = r.identifiers
	}
	return d
}
