package broker

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// common is what an organization needs of its server.
type common struct {
	counters      *counters
	limits        *Limits
	store         Store
	authenticator Authenticator
	now           func() time.Time
	log           *slog.Logger
	diskReaders   chan struct{} // places for those who read a backlog
	start         int64         // when this run began, Unix nanoseconds
	elapsed       func() int64  // Broker.elapsed
}

// Bounds of goroutines that read backlogs at the same time.
const (
	maxDiskReaders         = 16
	maxOrganizationReaders = 4
)

// Organization is a broker of its own: its clients, subscriptions, shared groups, retained messages and sessions. It knows no
// other.
type Organization struct {
	common
	number  uint64
	order   atomic.Uint64 // numbers recipients
	events  events
	readers chan struct{}   // places of this organization for those who read a backlog
	served  atomic.Uint64   // position up to which everything was handed to who follows
	loaded  engine.Position // the head when this run began: what is behind it no earlier run has sent

	tree *topic.Tree[*recipient, *subscription]

	mu       sync.Mutex
	clients  map[string]*claim         // by client identifier
	groups   map[string]*group         // by whole $share filter
	filters  map[string]*durable       // by filter
	recorded map[string]record         // client identifiers of which there are records: others need no look at the disk
	sessions int                       // of them, those that outlive their connections
	live     int                       // connections that have a client identifier and have not ended
	deleted  bool                      // nobody gets in any more
	standard map[string][]standardAway // sessions of the default expiry without a connection, by user, oldest first
	orphans  []orphan                  // what a crash left connected, by time

	unsaved       map[*conn]struct{} // cursors have moved
	unsavedGroups map[*group]struct{}

	retained retained
	trimmed  trimmed

	quota    atomic.Pointer[access.Limits] // in force
	pace     pace                          // of its messages
	usage    usage
	logged   atomic.Int64 // bytes, see storage
	held     atomic.Int64 // subscriptions of connections
	filtered atomic.Int64 // bytes of them and of durable filters, see filterBytes
	trimSoon atomic.Bool  // storage is full
	changes  changes
}

// claim is a client identifier in use: by a connection, or by whoever ends its session.
type claim struct {
	conn  *conn         // nil: the janitor's
	left  chan struct{} // closed when it is free
	taken pace          // take-overs, from the first of an unbroken row of them
}

func newOrganization(c common, number uint64) *Organization {
	o := &Organization{
		common:        c,
		number:        number,
		readers:       make(chan struct{}, maxOrganizationReaders),
		tree:          topic.NewTree[*recipient, *subscription](),
		clients:       make(map[string]*claim),
		groups:        make(map[string]*group),
		filters:       make(map[string]*durable),
		recorded:      make(map[string]record),
		standard:      make(map[string][]standardAway),
		unsaved:       make(map[*conn]struct{}),
		unsavedGroups: make(map[*group]struct{}),
	}
	o.events.changed.L = &o.events.mu
	o.quota.Store(new(access.Limits))
	return o
}

// recipient is what the tree leads to: a connection, a shared subscription that chooses one, or a durable filter, whose
// followers get what is in the log.
type recipient struct {
	order   uint64 // unique in the organization: hits are grouped by it
	conn    *conn
	group   *group
	durable *durable
}

// subscription is one filter of one recipient.
type subscription struct {
	options session.Options
	gone    bool // ended: what a publisher found before that is not delivered any more. Guarded by the connection's lock

	// Of a session that outlives its connection. Guarded by the connection's lock.
	text    string
	durable *durable        // its messages of QoS 1 and 2 come from the log; nil: they do not
	since   engine.Position // it is for messages behind this one
	pending bool            // since is not known yet: nothing of the log is for it
}

// claim makes c the owner of its client identifier. An older connection with it is ended first, its will included, so
// that there is one owner at any time ([MQTT-3.1.4-3]). It is errEnded if c itself has ended meanwhile.
// Clients that take each other over for ever do so in their time: who comes too soon is errTakeOvers, and the older one stays.
func (o *Organization) claim(c *conn, clientID string) error {
	var taken int64 // of the row
	for {
		o.mu.Lock()
		old := o.clients[clientID]
		if old == nil {
			err := o.mayEnter(c)
			if err == nil {
				k := &claim{conn: c, left: c.left}
				k.taken.full.Store(taken)
				o.clients[clientID] = k
				o.live++
				c.counted = true
			}
			o.mu.Unlock()
			return err
		}
		o.mu.Unlock()
		if old.conn != nil {
			if !old.conn.isEnded() && old.taken.take(o.limits.TakeOverRate, o.elapsed()) != 0 {
				return errTakeOvers
			}
			taken = old.taken.full.Load()
			old.conn.end(ending{reason: mqtt.SessionTakenOver, label: "taken_over", polite: true})
		}
		<-old.left
	}
}

// errTakeOvers refuses a connection whose client identifier is taken over all the time.
var errTakeOvers = errors.New("the client identifier is in use, and was taken over too often: give each client its own")

// errConnections refuses a connection above the organization's limit.
var errConnections = errors.New("the organization has as many connections as it may have")

// mayEnter says whether one more connection may. The caller holds mu.
func (o *Organization) mayEnter(c *conn) error {
	most := o.quota.Load().MaxConnections
	switch {
	case c.isEnded() || o.deleted:
		return errEnded
	case most > 0 && o.live >= most:
		return errConnections
	}
	return nil
}

// record is what is known in memory of a client identifier that has records.
type record struct {
	user unique.Handle[string]
	kept bool // its session outlives its connection
}

// note enters it. The caller holds mu.
func (o *Organization) note(clientID, user string, kept bool) {
	o.unnote(clientID)
	o.recorded[clientID] = record{unique.Make(user), kept}
	if kept {
		o.sessions++
	}
}

// unnote forgets it. The caller holds mu.
func (o *Organization) unnote(clientID string) {
	if o.recorded[clientID].kept {
		o.sessions--
	}
	delete(o.recorded, clientID)
}

// claimAway claims the client identifier of a session without a connection for the janitor, nil if somebody has it.
func (o *Organization) claimAway(clientID string) *claim {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clients[clientID] != nil || o.deleted {
		return nil
	}
	k := &claim{left: make(chan struct{})}
	o.clients[clientID] = k
	return k
}

// free gives a client identifier back.
func (o *Organization) free(clientID string, left chan struct{}) {
	o.mu.Lock()
	delete(o.clients, clientID)
	o.mu.Unlock()
	close(left)
}

// leave takes the subscriptions of an ended connection out of the tree.
func (o *Organization) leave(c *conn, subscriptions map[string]*subscription) {
	var bytes int64
	for text, s := range subscriptions {
		bytes += filterBytes(text)
		o.unsubscribe(c, text)
		if s != nil && s.durable != nil {
			s.durable.leave(c)
		}
	}
	o.countFilters(-len(subscriptions), -bytes)
}

// subscribe puts a granted filter of c into the tree, in place of its older options.
func (o *Organization) subscribe(c *conn, filter string, s *subscription) {
	_, _, shared, _ := topic.SplitShare(filter)
	if !shared {
		o.tree.Set(filter, &c.recipient, s)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.group(filter).join(c, s)
}

// group is the group of a whole $share filter, made if there is none. The caller holds mu.
func (o *Organization) group(filter string) *group {
	g := o.groups[filter]
	if g == nil {
		_, rest, _, _ := topic.SplitShare(filter)
		g = &group{home: o, filter: filter, rest: rest}
		g.recipient = recipient{order: o.order.Add(1), group: g}
		o.groups[filter] = g
		o.tree.Set(rest, &g.recipient, &subscription{})
	}
	return g
}

// unsubscribe takes a filter of c out of the tree and returns its subscription, nil if there was none.
func (o *Organization) unsubscribe(c *conn, filter string) *subscription {
	_, _, shared, _ := topic.SplitShare(filter)
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
		o.dropGroup(g)
	}
	return s
}

// dropGroup forgets a group without members and without a log. The caller holds mu.
func (o *Organization) dropGroup(g *group) {
	if o.groups[g.filter] == g {
		delete(o.groups, g.filter)
		o.tree.Delete(g.rest, &g.recipient)
	}
}
