package broker

import (
	"errors"
	"slices"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/session"
)

// groupLog is where a shared subscription is in the log, and what its members have not finished with. It is guarded by the
// group's lock.
//
// A message of QoS 1 stays the group's until a member has acknowledged it: if that one leaves, another gets it. A message of
// QoS 2 becomes its member's, in one commit that takes it from the group, before it is sent ([MQTT-4.8.2-4], -5).
type groupLog struct {
	cursor
	owner   engine.Owner
	durable *durable
	members int             // sessions that outlive their connections, connected or not; guarded by the organization's mu
	since   engine.Position // messages behind it are the group's
	pending bool            // its records are under way: nothing of the log is for it yet

	out       map[engine.Position]*outstanding // QoS 1 that a member has
	returned  []arrival                        // QoS 1 that a member has left behind, lowest first
	recorded  map[engine.Position]struct{}     // QoS 1 that has a record
	completed []engine.Position                // whose records may go
	handing   engine.Position                  // a message that was taken from the cursor and is with nobody yet; 0: none
	parking   bool                             // without members, its records are under way
	running   bool                             // a goroutine hands messages out
	kicked    bool                             // there may be more to do than it saw
}

// outstanding is a message that a member has not acknowledged.
type outstanding struct {
	message   *session.Message // held
	publisher string
}

// recordOut is the state of a group's record of a message: a member was sent it, or was about to be.
const recordOut = 1

// arrive takes a message of the log (follower).
func (g *group) arrive(_ *reader, a *arrival) (follows bool) {
	g.mu.Lock()
	l := g.log
	if l == nil || l.pending || slices.Contains(a.served, g) || a.position <= l.since {
		g.mu.Unlock()
		return l != nil
	}
	if len(g.members) == 0 {
		l.arrived = max(l.arrived, a.position)
	} else {
		l.cursor.arrive(a)
	}
	g.mu.Unlock()
	g.kick()
	return true
}

// kick has the group hand out what it can.
func (g *group) kick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.log
	if l == nil || l.pending || l.parking {
		return
	}
	if l.running {
		l.kicked = true
		return
	}
	if len(g.members) > 0 && (len(l.returned) > 0 || !l.idle()) {
		l.running = true
		g.home.run(g.run)
	}
}

// run hands out messages until there are none, or no member has room.
func (g *group) run() {
	r := readers.Get().(*reader)
	defer r.release(g.home.counters)
	for n := 1; g.step(r); n++ {
		if n%flushEvery == 0 {
			r.flush()
		}
	}
	g.park()
}

// step hands out one message, or reads more. It is false if there is nothing to do, or nobody to take it.
func (g *group) step(r *reader) bool {
	g.mu.Lock()
	l := g.log
	if l == nil {
		g.mu.Unlock()
		return false
	}
	l.kicked = false
	switch {
	case len(g.members) == 0 || l.parking:
	case len(l.returned) > 0:
		a := l.returned[0]
		l.returned, l.handing = l.returned[1:], a.position
		g.mu.Unlock()
		return g.handOut(r, &a) || g.putBack(l, func() { l.returned = slices.Insert(l.returned, 0, a) })
	case len(l.again) > 0:
		again := l.again
		g.mu.Unlock()
		return g.readAgain(l, again)
	case l.waiting() > 0:
		a := l.pop()
		l.handing = a.position
		g.mu.Unlock()
		return g.handOut(r, &a) || g.putBack(l, func() { l.unpop(a) })
	case l.behind():
		after, upTo, filter := l.loaded, l.arrived, l.durable.number
		g.mu.Unlock()
		r.flush()
		return g.readPage(l, filter, after, upTo)
	}
	l.running = false
	g.mu.Unlock()
	return false
}

// putBack keeps a message that no member has room for, and ends the run unless there is room since.
func (g *group) putBack(l *groupLog, back func()) (again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	back()
	l.handing = 0
	if !l.kicked {
		l.running = false
	}
	return l.kicked
}

func (g *group) stop(err error) bool {
	g.mu.Lock()
	if g.log != nil {
		g.log.running = false
	}
	g.mu.Unlock()
	if !errors.Is(err, engine.ErrClosed) {
		g.home.log.Error("reading the log failed", "error", err.Error(), "organization", g.home.number, "shared", printable([]byte(g.filter)))
	}
	return false
}

func (g *group) readPage(l *groupLog, filter engine.Filter, after, upTo engine.Position) bool {
	p, err := g.home.read([]engine.Filter{filter}, after, upTo)
	if err != nil {
		return g.stop(err)
	}
	all := g.home.arrivals(&p, 0)
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range all {
		if all[i].position <= l.since {
			all[i].message.Release()
			continue
		}
		l.push(all[i])
	}
	if l.loaded = p.next; l.waiting() == 0 {
		l.taken = l.loaded
	}
	return true
}

// readAgain puts what has a record, and no member, among what was returned.
func (g *group) readAgain(l *groupLog, again []engine.Outgoing) bool {
	read, err := g.home.readAgain(l.owner, again, func(*engine.Outgoing) bool { return true })
	if err != nil {
		return g.stop(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l.again = l.again[len(read):]
	for i := range read {
		if read[i].message == nil {
			l.completed = append(l.completed, read[i].position)
			continue
		}
		l.returned = append(l.returned, arrival{position: read[i].position, message: read[i].message, publisher: read[i].publisher})
	}
	return true
}

// handOut gives a message to the next member that has room. It is false if none has, and then nothing has happened to it; else
// its reference is used up.
func (g *group) handOut(r *reader, a *arrival) bool {
	now := g.home.now()
	members, start := g.turn()
	for i := range members {
		to := &members[(start+i)%len(members)]
		if to.conn.takeShared(r, g, to.subscription, a, now) == taken {
			return true
		}
	}
	r.flush()
	return false
}

// takeShared takes a message of a group's log if this connection has room for it.
func (c *conn) takeShared(r *reader, g *group, s *subscription, a *arrival, now time.Time) offer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded() || s.gone || s.pending || c.session == nil {
		return gone
	}
	if c.session.Busy() || c.kept != nil && len(c.kept.again) > 0 {
		return noRoom
	}
	r.mark(c)
	a.message.Hold() // the group's log may end meanwhile, and give its own back
	defer a.message.Release()
	d := sharedDelivery(r, a.message, s)
	switch d.QoS {
	case 0:
		c.outcome(c.session.Deliver(&d, now))
		g.passed(a)
	case 1:
		d.Share, d.Position = g, uint64(a.position)
		g.lend(a)
		if o := c.session.Deliver(&d, now); o != session.Sent {
			c.outcome(o)
			g.settled(a.position)
		}
	default:
		c.takeOver(g, &d, a, now)
	}
	return taken
}

// lend remembers a message that a member is about to be sent; the reference is the group's now.
func (g *group) lend(a *arrival) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.log; l != nil {
		l.handing = 0
		l.out[a.position] = &outstanding{a.message, a.publisher}
	} else {
		a.message.Release()
	}
}

// passed is over with a message that no member is going to acknowledge.
func (g *group) passed(a *arrival) {
	g.mu.Lock()
	if l := g.log; l != nil {
		l.handing = 0
		l.finish(a.position)
	}
	g.mu.Unlock()
	a.message.Release()
	g.home.saveGroupLater(g)
}

// settled says that a member has finished with a message.
func (g *group) settled(position engine.Position) {
	g.mu.Lock()
	l := g.log
	if l == nil {
		g.mu.Unlock()
		return
	}
	if out := l.out[position]; out != nil {
		delete(l.out, position)
		out.message.Release()
	}
	l.finish(position)
	g.mu.Unlock()
	g.home.saveGroupLater(g)
}

func (l *groupLog) finish(position engine.Position) {
	if _, ok := l.recorded[position]; ok {
		delete(l.recorded, position)
		l.completed = append(l.completed, position)
	}
}

// takeOver makes a message of QoS 2 this session's: the commit that takes it from the group gives it to the session, if that
// outlives its connection, and then it is sent. The caller holds mu.
func (c *conn) takeOver(g *group, d *session.Delivery, a *arrival, now time.Time) {
	if c.kept != nil {
		d.Position = uint64(a.position | engine.Shared)
	}
	sent, ok := c.session.Reserve(d, now)
	if !ok {
		g.passed(a)
		return
	}
	next := reserved{sent.ID, *d}
	next.d.Identifiers = slices.Clone(d.Identifiers)
	var operations []engine.Operation
	if c.kept != nil {
		operations = append(operations, c.outgoing(&sent, a))
	}
	g.handOver(a.position, operations, func(r *reader, _ engine.Position, err error) {
		c.mu.Lock()
		if err == nil && !c.isEnded() {
			c.session.SendReserved(next.id, &next.d, c.b.cfg.Now())
			r.mark(c)
		}
		c.mu.Unlock()
		next.d.Message.Release()
	})
}

// handOver takes a message from the group for good, with what gives it to its member: the cursor passes it, and what members
// have of before it gets a record.
func (g *group) handOver(position engine.Position, operations []engine.Operation, done event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var held []*session.Message
	if l := g.log; l != nil {
		l.handing = 0
		l.finish(position)
		operations, held = l.record(operations)
	}
	g.home.commitOps(nil, operations, func(r *reader, first engine.Position, err error) {
		done(r, first, err)
		releaseMessages(held)
	})
}

// record adds records of all QoS 1 messages that are neither acknowledged nor recorded, takes away those that may go, and moves
// the cursor.
func (l *groupLog) record(operations []engine.Operation) (_ []engine.Operation, held []*session.Message) {
	add := func(position engine.Position, m *session.Message, publisher string) {
		if _, ok := l.recorded[position]; ok {
			return
		}
		l.recorded[position] = struct{}{}
		held = append(held, m.Hold())
		operations = append(operations, engine.Operation{
			Op: engine.OpOutgoing, Owner: l.owner, Entry: entryOf(m, publisher),
			Outgoing: &engine.Outgoing{Position: position, Filter: l.durable.number, State: recordOut},
		})
	}
	for position, out := range l.out {
		add(position, out.message, out.publisher)
	}
	for i := range l.returned {
		add(l.returned[i].position, l.returned[i].message, l.returned[i].publisher)
	}
	operations = l.complete(operations)
	l.saved = l.taken
	return append(operations, engine.Operation{Op: engine.OpCursor, Owner: l.owner, Position: l.taken}), held
}

func (l *groupLog) complete(operations []engine.Operation) []engine.Operation {
	for _, position := range l.completed {
		operations = append(operations, engine.Operation{Op: engine.OpComplete, Owner: l.owner, Position: position})
	}
	l.completed = nil
	return operations
}

// save brings the group's records up to date. All its commits are under way before its lock is given back: a cursor never goes
// back.
func (g *group) save() {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.log
	if l == nil || l.pending || l.parking {
		return
	}
	operations := l.complete(nil)
	if len(l.returned) == 0 && l.handing == 0 {
		l.catchUp(engine.Position(g.home.served.Load()))
	}
	to := l.taken
	if l.handing != 0 {
		to = min(to, l.handing-1)
	}
	lower := func(position engine.Position) {
		if _, ok := l.recorded[position]; !ok {
			to = min(to, position-1)
		}
	}
	for position := range l.out {
		lower(position)
	}
	for i := range l.returned {
		lower(l.returned[i].position)
	}
	if to > l.saved {
		l.saved = to
		operations = append(operations, engine.Operation{Op: engine.OpCursor, Owner: l.owner, Position: to})
	}
	g.home.commitOps(nil, operations, func(*reader, engine.Position, error) {})
}

// giveBack takes a message of QoS 1 that a member has left unacknowledged.
func (g *group) giveBack(r *reader, m *session.Message, position engine.Position, now time.Time) {
	g.mu.Lock()
	l := g.log
	if l == nil || position == 0 {
		g.mu.Unlock()
		if !g.deliver(r, m, now) {
			g.home.counters.drops[dropNoMember].Add(1)
		}
		return
	}
	if out := l.out[position]; out != nil {
		delete(l.out, position)
		i, _ := slices.BinarySearchFunc(l.returned, position, func(a arrival, p engine.Position) int { return int(int64(a.position - p)) })
		l.returned = slices.Insert(l.returned, i, arrival{position: position, message: out.message, publisher: out.publisher})
	}
	g.mu.Unlock()
	g.kick()
}

// park brings a group without members to disk, so that it costs no memory but its own.
func (g *group) park() {
	g.mu.Lock()
	l := g.log
	if l == nil || l.pending || l.parking || l.running || len(g.members) > 0 || len(l.out) > 0 {
		g.mu.Unlock()
		return
	}
	l.drop()
	if len(l.returned) == 0 && len(l.completed) == 0 && l.taken == l.saved {
		g.mu.Unlock()
		return
	}
	operations, held := l.record(nil)
	l.parking = true
	for i := range l.returned {
		l.again = append(l.again, engine.Outgoing{Position: l.returned[i].position, State: recordOut})
		l.returned[i].message.Release()
	}
	l.returned = nil
	defer g.mu.Unlock()
	g.home.commitOps(nil, operations, func(*reader, engine.Position, error) {
		releaseMessages(held)
		g.mu.Lock()
		l.parking = false
		g.mu.Unlock()
		g.kick()
	})
}

// enterGroup counts one more session that outlives its connection among a group's members, if it is one with QoS 1 or 2 and
// was none, and gives the group its log if that is the first. It returns nil if nothing changes. The caller holds mu.
func (o *Organization) enterGroup(now, old *subscription, operations *[]engine.Operation) (g *group, begins bool, err error) {
	was, is := old != nil && old.options.QoS > 0, now.options.QoS > 0
	switch {
	case was && !is:
		o.leaveGroupLog(o.group(now.text), operations)
		return nil, false, nil
	case was == is:
		return nil, false, nil
	}
	g = o.group(now.text)
	if l := g.log; l != nil {
		l.members++
		if l.pending { // the batch that makes it may fail
			o.makeGroup(g, false, operations)
		}
		return g, l.pending, nil
	}
	l := &groupLog{members: 1, pending: true, out: make(map[engine.Position]*outstanding), recorded: make(map[engine.Position]struct{})}
	if l.owner, err = o.store.NextOwner(o.number); err != nil {
		return nil, false, err
	}
	if l.durable, err = o.hold(g.rest, operations); err != nil {
		return nil, false, err
	}
	g.mu.Lock()
	g.log = l
	g.mu.Unlock()
	o.makeGroup(g, true, operations)
	return g, true, nil
}

// makeGroup adds the records of a group with a log. Its place in the log is that of the first batch.
func (o *Organization) makeGroup(g *group, begins bool, operations *[]engine.Operation) {
	l := g.log
	*operations = append(*operations,
		engine.Operation{Op: engine.OpFilter, Filter: l.durable.number, Text: g.rest},
		engine.Operation{Op: engine.OpSession, Session: &engine.Session{Owner: l.owner, Kind: engine.KindGroup, ClientID: g.filter}},
	)
	if begins {
		*operations = append(*operations, engine.Operation{
			Op: engine.OpSubscribe, Owner: l.owner, Subscription: &engine.Subscription{Text: g.filter, Filter: l.durable.number},
		})
	}
}

// begin says that the records of a group's log are durable, if it still has it: what is behind since comes from there.
func (g *group) begin(l *groupLog, since engine.Position) {
	g.mu.Lock()
	if g.log != l || !l.pending {
		g.mu.Unlock()
		return
	}
	l.pending, l.since = false, since
	l.taken, l.loaded, l.arrived, l.saved = since, since, since, since
	d := l.durable
	g.mu.Unlock()
	d.join(g)
	g.kick()
}

// leaveGroupLog is one session less that outlives its connection: without any, the group's log ends. The caller holds mu.
func (o *Organization) leaveGroupLog(g *group, operations *[]engine.Operation) {
	l := g.log
	if l == nil {
		return
	}
	if l.members--; l.members > 0 {
		return
	}
	g.mu.Lock()
	g.log = nil
	l.drop()
	for _, out := range l.out {
		out.message.Release()
	}
	for i := range l.returned {
		l.returned[i].message.Release()
	}
	empty := len(g.members) == 0
	g.mu.Unlock()
	*operations = append(*operations, engine.Operation{Op: engine.OpEnd, Owner: l.owner})
	o.release(l.durable, operations)
	if empty {
		o.dropGroup(g)
	}
}
