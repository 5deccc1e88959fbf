package broker

import (
	"sync"
	"sync/atomic"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// Organization is a broker of its own: its clients, subscriptions, shared groups and retained messages. It knows no other.
type Organization struct {
	counters *counters
	limits   *Limits
	order    atomic.Uint64 // numbers recipients

	tree *topic.Tree[*recipient, *subscription]

	mu      sync.Mutex
	clients map[string]*conn  // by client identifier
	groups  map[string]*group // by whole $share filter

	retained retained
}

func newOrganization(b *Broker) *Organization {
	return &Organization{
		counters: &b.counters,
		limits:   &b.cfg.Limits,
		tree:     topic.NewTree[*recipient, *subscription](),
		clients:  make(map[string]*conn),
		groups:   make(map[string]*group),
	}
}

// recipient is what the tree leads to: a connection, or a shared subscription that chooses one.
type recipient struct {
	order uint64 // unique in the organization: hits are grouped by it
	conn  *conn
	group *group
}

// subscription is one filter of one recipient.
type subscription struct {
	options session.Options
	gone    bool // ended: what a publisher found before that is not delivered any more. Guarded by the connection's lock
}

// enter makes c the owner of its client identifier. An older connection with it is ended first, its will included, so
// that there is one owner at any time ([MQTT-3.1.4-3]). It is false if c itself has ended meanwhile.
func (o *Organization) enter(c *conn, clientID string) bool {
	for {
		o.mu.Lock()
		old := o.clients[clientID]
		if old == nil {
			if c.isEnded() {
				o.mu.Unlock()
				return false
			}
			o.clients[clientID] = c
			o.mu.Unlock()
			return true
		}
		o.mu.Unlock()
		old.end(ending{reason: mqtt.SessionTakenOver, label: "taken_over", polite: true})
		<-old.left
	}
}

// leave removes an ended connection and its subscriptions.
func (o *Organization) leave(c *conn, clientID string, filters []string) {
	for _, f := range filters {
		o.unsubscribe(c, f)
	}
	o.counters.subscriptions.Add(-int64(len(filters)))
	o.mu.Lock()
	if o.clients[clientID] == c {
		delete(o.clients, clientID)
	}
	o.mu.Unlock()
}

// subscribe puts a granted filter of c into the tree, in place of its older options.
func (o *Organization) subscribe(c *conn, filter string, s *subscription) {
	_, rest, shared, _ := topic.SplitShare(filter)
	if !shared {
		o.tree.Set(filter, &c.recipient, s)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.groups[filter]
	if g == nil {
		g = &group{counters: o.counters}
		g.recipient = recipient{order: o.order.Add(1), group: g}
		o.groups[filter] = g
		o.tree.Set(rest, &g.recipient, &subscription{})
	}
	g.join(c, s)
}

// unsubscribe takes a filter of c out of the tree and returns its subscription, nil if there was none.
func (o *Organization) unsubscribe(c *conn, filter string) *subscription {
	_, rest, shared, _ := topic.SplitShare(filter)
	if !shared {
		s, _ := o.tree.Delete(filter, &c.recipient)
		return s
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.groups[filter]
	if g == nil {
		return nil
	}
	s, empty := g.leave(c)
	if empty {
		delete(o.groups, filter)
		o.tree.Delete(rest, &g.recipient)
	}
	return s
}
