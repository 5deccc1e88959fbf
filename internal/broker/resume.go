package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// maxStandard is how many sessions of the default expiry a user may have without a connection; the oldest ends first.
const maxStandard = 10

// never is the session expiry that means it.
const never = math.MaxUint32

// expiryOf is how long the session of a CONNECT is kept, in seconds, and whether that is only the default: for 5.0 clients that
// want to go on with a session and do not say how long.
func (c *conn) expiryOf(p *mqtt.Connect, g *access.Grant, now time.Time) (expiry uint32, standard bool) {
	expiry, standard = c.askedExpiry(p)
	return capExpiry(g, expiry, now), standard
}

func (c *conn) askedExpiry(p *mqtt.Connect) (expiry uint32, standard bool) {
	l := &c.b.cfg.Limits
	switch {
	case p.Version != mqtt.V5 && p.CleanStart:
		return 0, false
	case p.Version != mqtt.V5:
		return l.MaxExpiry, false
	case p.Properties.Has(mqtt.SessionExpiry):
		return min(p.Properties.SessionExpiry, l.MaxExpiry), false
	case !p.CleanStart:
		return min(l.DefaultExpiry, l.MaxExpiry), true
	}
	return 0, false
}

// away is a session without a connection, as it is on disk.
type away struct {
	engine.Session
	endsAt  int64 // Unix nanoseconds; math.MaxInt64: never
	crashed bool  // a crash has ended its connection
	will    *engine.Will
	ended   int64 // of a crashed one: when its connection ended
}

// errFilters refuses a session that goes on whose subscriptions have no room.
var errFilters = errors.New("the organization's subscriptions take as much memory as they may")

// errSessions refuses a session that outlives its connection, above the organization's limit.
var errSessions = errors.New("the organization has as many sessions as it may have")

// find looks a session without a connection up; nil if there is none. The caller has its client identifier.
func (o *Organization) find(clientID string) (*away, error) {
	o.mu.Lock()
	_, recorded := o.recorded[clientID]
	o.mu.Unlock()
	if !recorded {
		return nil, nil
	}
	owner, ok, err := o.store.Lookup(o.number, engine.KindSession, clientID)
	if err != nil || !ok {
		return nil, err
	}
	s, ok, err := o.store.Session(o.number, owner)
	if err != nil || !ok {
		return nil, err
	}
	return o.awayOf(s)
}

// awayOf is what became of a session since its record was written.
func (o *Organization) awayOf(s engine.Session) (*away, error) {
	a := &away{Session: s, endsAt: s.EndsAt}
	if s.Connected != 0 {
		ended, ok, err := o.store.Started(s.Connected + 1)
		if err != nil {
			return nil, err
		}
		if !ok {
			ended = o.start
		}
		a.crashed, a.ended = true, ended
		a.endsAt = ended + int64(s.Expiry)*int64(time.Second)
		if s.EndsAt != 0 { // with the token that it logged in with
			a.endsAt = min(a.endsAt, s.EndsAt)
		}
	}
	if s.Expiry == never || !a.crashed && a.endsAt == 0 {
		a.endsAt = math.MaxInt64
	}
	w, ok, err := o.store.Will(o.number, s.Owner)
	if ok {
		a.will = &w
	}
	return a, err
}

// willAt is when the will of a session without a connection fires at the latest: behind its delay, or with the session. After
// a crash it waits for a while longer, so that clients can come back.
func (o *Organization) willAt(a *away) int64 {
	at := min(a.endsAt, a.ended+int64(a.will.Delay)*int64(time.Second))
	return max(at, o.start+int64(o.limits.WillGrace))
}

// begin finds or makes the session of an accepted CONNECT, commits what of it survives, and waits until that is durable. The
// client identifier is c's.
func (c *conn) begin(r *reader, p *mqtt.Connect, s *session.Session, now time.Time) (present bool, err error) {
	o := c.home
	old, err := o.find(s.ClientID())
	if err != nil {
		return false, err
	}
	g := c.grant.Load()
	expiry, standard := c.expiryOf(p, g, now)
	if old != nil && (p.CleanStart || old.User != g.User || old.endsAt <= now.UnixNano() || o.changes.names(g.User)) {
		ended := make(chan error, 1)
		o.endAway(r, old, func(_ *reader, _ engine.Position, err error) { ended <- err })
		if err := c.waitFor(r, ended); err != nil {
			return false, err
		}
		old = nil
	}
	var operations []engine.Operation
	switch {
	case old != nil:
		if operations, err = c.resume(s, old); err != nil {
			return false, err
		}
	case expiry > 0 || p.HasWill:
		if c.owner, err = o.store.NextOwner(o.number); err != nil {
			return false, err
		}
		if expiry > 0 {
			c.kept = &kept{filters: make(map[engine.Filter]*subscription)}
		}
	default:
		return false, nil
	}
	if c.kept != nil {
		c.kept.standard = standard
	}
	operations = append(operations, engine.Operation{Op: engine.OpSession, Session: c.record(s.ClientID(), o.store.Run(), expiry)})
	if will, delay := s.Will(); will != nil {
		c.hadWill = true
		operations = append(operations, engine.Operation{Op: engine.OpWill, Owner: c.owner, Will: &engine.Will{Delay: delay, Entry: *entryOf(will, s.ClientID())}})
	}
	durable := make(chan error, 1)
	if old == nil {
		o.mu.Lock()
	}
	most := o.quota.Load().MaxSessions
	if old == nil && c.kept != nil && most > 0 && o.sessions >= most {
		o.mu.Unlock()
		return false, errSessions
	}
	o.note(s.ClientID(), g.User, c.kept != nil)
	if old == nil {
		o.mu.Unlock()
	}
	o.commit(&engine.Batch{Organization: o.number, Operations: operations}, func(_ *reader, first engine.Position, err error) {
		if k := c.kept; err == nil && k != nil && old == nil { // nothing that came before is for it
			k.taken, k.loaded, k.arrived, k.saved = first, first, first, 0
		}
		if err != nil && old == nil {
			o.forgetRecords(s.ClientID())
		}
		durable <- err
	})
	if old != nil {
		o.mu.Unlock() // resume has taken it
	}
	return old != nil, c.waitFor(r, durable)
}

// record is the session's record: connected in a run, or in none (0).
func (c *conn) record(clientID string, run uint64, expiry uint32) *engine.Session {
	state := []byte{0}
	if k := c.kept; k != nil {
		if k.standard {
			state[0] = stateStandard
		}
		if k.crashed > k.taken {
			state = binary.AppendUvarint(state, uint64(k.crashed))
		}
	}
	g := c.grant.Load()
	s := &engine.Session{
		Owner: c.owner, Kind: engine.KindSession, ClientID: clientID, User: g.User,
		Expiry: expiry, Connected: run, State: state,
	}
	if run != 0 && !g.Expires.IsZero() {
		s.EndsAt = g.Expires.Add(tokenGrace).UnixNano() // at the latest, should this run end with a crash
	}
	return s
}

// stateStandard is in the first byte of a session's state: its expiry is the default one. A position follows, up to which
// messages may have been sent before a crash, if there are such that were not sent again since.
const stateStandard = 1

func crashedOf(s *engine.Session) engine.Position {
	if len(s.State) < 2 {
		return 0
	}
	position, _ := binary.Uvarint(s.State[1:])
	return engine.Position(position)
}

func isStandard(s *engine.Session) bool { return len(s.State) > 0 && s.State[0]&stateStandard != 0 }

// resume goes on with a session. Its subscriptions are judged by the rules as they are now. It returns with the organization's
// lock held, unless it fails: filters come and go in the order of commits.
func (c *conn) resume(s *session.Session, old *away) (operations []engine.Operation, err error) {
	o := c.home
	subs, err := o.store.Subscriptions(o.number, old.Owner)
	if err != nil {
		return nil, err
	}
	var bytes int64
	for i := range subs {
		bytes += filterBytes(subs[i].Text)
	}
	if o.filtered.Load()+bytes > o.limits.FilterBytes {
		return nil, errFilters // it may come when others have left: it loses nothing
	}
	c.owner = old.Owner
	k := &kept{filters: make(map[engine.Filter]*subscription)}
	k.entering = true
	received, err := o.store.Received(o.number, c.owner)
	if err != nil {
		return nil, err
	}
	if k.again, err = o.store.Outgoing(o.number, c.owner); err != nil {
		return nil, err
	}
	if k.saved, err = o.store.Cursor(o.number, c.owner); err != nil {
		return nil, err
	}
	head, err := o.store.Head(o.number)
	if err != nil {
		return nil, err
	}
	k.taken, k.loaded, k.arrived, k.resumed = k.saved, k.saved, k.saved, head
	if k.crashed = crashedOf(&old.Session); old.crashed {
		k.crashed = o.loaded
	}
	sent := make([]session.InFlight, len(k.again))
	for i := range k.again {
		out := &k.again[i]
		sent[i] = session.InFlight{Position: uint64(out.Position), ID: out.ID, State: out.State, Extra: out.Extra}
	}
	s.Resume(received, sent)
	c.kept = k
	operations = []engine.Operation{
		{Op: engine.OpUnwake, Owner: c.owner, Event: engine.SessionEnds},
		{Op: engine.OpUnwake, Owner: c.owner, Event: engine.WillFires},
		{Op: engine.OpDropWill, Owner: c.owner}, // the session goes on ([MQTT-3.1.3-9])
	}
	o.mu.Lock()
	o.backStandard(old.User, old.ClientID)
	k.private = o.filters[privateText(c.owner)]
	lowest := head
	for i := range subs {
		c.resumeSubscription(s, &subs[i], &operations)
		if subs[i].Filter != 0 {
			lowest = min(lowest, subs[i].Since)
		}
	}
	if k.taken < lowest { // nothing before that is for it
		k.taken, k.loaded, k.arrived = lowest, lowest, lowest
	}
	return operations, nil
}

// resumeSubscription takes over one subscription, or ends it if the rules do not allow it any more.
func (c *conn) resumeSubscription(s *session.Session, sub *engine.Subscription, operations *[]engine.Operation) {
	o := c.home
	options, ok := session.ParseOptions(sub.Options)
	now := &subscription{options: options, text: sub.Text, since: sub.Since}
	_, rest, shared, _ := topic.SplitShare(sub.Text)
	if sub.Filter != 0 {
		now.durable = o.filters[rest]
	}
	reason := mqtt.Success
	switch {
	case !ok || !c.grant.Load().Check(access.Subscribe, []byte(sub.Text)):
		reason = mqtt.NotAuthorized
	case c.tooMany([]byte(sub.Text)): // there are to be fewer since
		reason = mqtt.QuotaExceeded
	}
	if reason.Failed() {
		c.refusedLater = append(c.refusedLater, refusedFilter{reasonLabel(reason), []byte(sub.Text)})
		*operations = append(*operations, engine.Operation{Op: engine.OpUnsubscribe, Owner: c.owner, Text: sub.Text})
		switch {
		case now.durable != nil:
			o.release(now.durable, operations)
		case shared && options.QoS > 0:
			o.leaveGroupLog(o.group(sub.Text), operations)
		}
		return
	}
	s.Subscribe(sub.Text, options)
	c.remember(sub.Text, now)
	if now.durable != nil {
		c.kept.filters[now.durable.number] = now
	} else if !shared {
		c.kept.setLive(sub.Text, now)
	}
}

// enterResumed puts the subscriptions of a session that goes on into the tree, and has it follow its filters: from here on
// nothing passes it by. The caller holds no lock.
func (c *conn) enterResumed() error {
	o := c.home
	for text, s := range c.subscriptions {
		if _, _, shared, _ := topic.SplitShare(text); shared {
			c.mu.Lock() // with the first group messages come, and others look at which they are
			c.joinGroup(text, s, false)
			c.mu.Unlock()
		} else {
			o.tree.Set(text, &c.recipient, s)
		}
		if s.durable != nil {
			s.durable.joinConn(c)
		}
	}
	head, err := o.store.Head(o.number) // what has been served before it followed is up to here
	c.mu.Lock()
	c.kept.arrived, c.kept.entering = max(c.kept.arrived, head), false
	c.mu.Unlock()
	return err
}

func privateText(owner engine.Owner) string { return fmt.Sprint(privatePrefix, uint64(owner)) }

// endAway ends a session without a connection, and publishes its will if it has one ([MQTT-3.1.2-8]). The caller has its
// client identifier.
func (o *Organization) endAway(r *reader, a *away, then event) {
	operations, err := o.endRecords(a.Owner)
	if err != nil {
		then(r, 0, err)
		return
	}
	o.mu.Lock()
	o.backStandard(a.User, a.ClientID)
	o.mu.Unlock()
	done := func(r *reader, first engine.Position, err error) {
		if err == nil {
			o.forgetRecords(a.ClientID)
		}
		then(r, first, err)
	}
	if a.will == nil {
		o.commitOps(r, operations, done)
		return
	}
	o.fire(r, a, operations, done)
}

// forgetRecords says that there are no records of a client identifier any more. The caller has it.
func (o *Organization) forgetRecords(clientID string) {
	o.mu.Lock()
	o.unnote(clientID)
	o.mu.Unlock()
}

// endRecords is what removes a session and all that only it has. Its filters and groups are released.
func (o *Organization) endRecords(owner engine.Owner) (operations []engine.Operation, err error) {
	subs, err := o.store.Subscriptions(o.number, owner)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range subs {
		_, rest, shared, _ := topic.SplitShare(subs[i].Text)
		if d := o.filters[rest]; subs[i].Filter != 0 && d != nil {
			o.release(d, &operations)
		}
		if options, _ := session.ParseOptions(subs[i].Options); shared && options.QoS > 0 {
			if g := o.groups[subs[i].Text]; g != nil {
				o.leaveGroupLog(g, &operations)
			}
		}
	}
	if d := o.filters[privateText(owner)]; d != nil {
		o.release(d, &operations)
	}
	return append(operations, engine.Operation{Op: engine.OpEnd, Owner: owner}), nil
}

// fire publishes the will of a session without a connection, and commits what ends with it.
func (o *Organization) fire(r *reader, a *away, operations []engine.Operation, done event) {
	now := o.now()
	m := messageOf(&a.will.Entry)
	grant, err := o.authenticator.Standing(o.number, a.User, a.ClientID)
	if m == nil || err != nil || !grant.Check(access.Publish, m.Topic()) { // the rules, as they are now
		o.counters.drops[dropRefused].Add(1)
		o.commitOps(r, operations, done)
		if m != nil {
			m.Release()
		}
		return
	}
	m.Publish(now)
	o.publish(r, m, &origin{clientID: a.ClientID, operations: operations, done: done}, now)
	m.Release()
}

// standardAway is a session of the default expiry without a connection.
type standardAway struct{ clientID string }

// awayStandard notes that a session of the default expiry has lost its connection.
func (o *Organization) awayStandard(user, clientID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.backStandard(user, clientID)
	o.standard[user] = append(o.standard[user], standardAway{clientID})
}

// backStandard forgets that. The caller holds mu.
func (o *Organization) backStandard(user, clientID string) {
	all := o.standard[user]
	for i := range all {
		if all[i].clientID == clientID {
			if all = append(all[:i:i], all[i+1:]...); len(all) == 0 {
				delete(o.standard, user)
			} else {
				o.standard[user] = all
			}
			return
		}
	}
}

// limitStandard ends the oldest sessions of the default expiry that a user has too many of.
func (o *Organization) limitStandard(r *reader, user string) {
	for {
		o.mu.Lock()
		all := o.standard[user]
		if len(all) <= maxStandard {
			o.mu.Unlock()
			return
		}
		oldest := all[0].clientID
		o.backStandard(user, oldest)
		o.mu.Unlock()
		o.counters.count(&o.counters.sessionsEnded, "default_limit")
		o.withAway(r, oldest, func(r *reader, a *away, done event) { o.endAway(r, a, done) })
	}
}

// limitLoaded is limitStandard for all users, of what a crash has left.
func (o *Organization) limitLoaded() {
	o.mu.Lock()
	users := slices.Collect(maps.Keys(o.standard))
	o.mu.Unlock()
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	for _, user := range users {
		o.limitStandard(r, user)
	}
}

// withAway calls f with a session without a connection whose client identifier nobody has, and keeps it meanwhile.
func (o *Organization) withAway(r *reader, clientID string, f func(r *reader, a *away, done event)) {
	k := o.claimAway(clientID)
	if k == nil {
		return
	}
	done := func(*reader, engine.Position, error) { o.free(clientID, k.left) }
	a, err := o.find(clientID)
	if err != nil || a == nil || a.Connected == o.store.Run() {
		done(r, 0, err)
		return
	}
	f(r, a, done)
}
