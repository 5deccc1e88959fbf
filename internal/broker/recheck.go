package broker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
)

// What changes who may do what is in force on what is connected at once: Changed only takes note; one goroutine of the
// organization judges its connections again. It waits for no disk and for no connection.

const (
	maxChangedUsers = 1000 // named since the last look; beyond, everybody is looked at
	maxChangeLines  = 100  // of log a second, of one organization: the rest is in one line at the end
)

// Why a connection ends for what has changed. Labels; what the client is told is beside them.
const (
	whyRotated = "rotated"
	whyRevoked = "revoked"
	whyDeleted = "deleted"
	whyExpired = "expired"
)

// changes are what an organization was told of and has not looked at yet.
type changes struct {
	mu      sync.Mutex
	changed change
	ending  map[string]struct{} // gone users of the change that is looked at
	running bool
	lines   logBudget
}

// change is what is to be looked at.
type change struct {
	any     bool                // there is something
	all     bool                // of everybody, else of users
	limits  bool                // they are others
	users   map[string]struct{} // at most maxChangedUsers
	gone    map[string]struct{} // users that did not exist when they were named: who has such a name later is another one. As many as there were
	deleted bool                // the organization
}

func (w *change) concerns(user string) bool {
	_, named := w.users[user]
	return w.all || named
}

// Changed says that something about who may do what has changed: users are names, nil is everybody. It returns at once; what
// follows (ends, re-checked subscriptions, lower limits) is done by the broker's own goroutine, in force well below a second.
// The Authenticator already says what is in force now.
func (b *Broker) Changed(number uint64, users []string) {
	b.look(number, func(o *Organization, w *change) {
		if l, ok := o.authenticator.Limits(number); ok {
			w.limits = *o.quota.Swap(&l) != l || w.limits // for what comes from now on
		}
		if w.all = w.all || users == nil; w.users == nil {
			w.users, w.gone = make(map[string]struct{}), make(map[string]struct{})
		}
		for _, user := range users {
			if !o.authenticator.Has(number, user) {
				w.gone[user] = struct{}{}
			}
			if w.all = w.all || len(w.users) == maxChangedUsers; !w.all {
				w.users[user] = struct{}{}
			}
		}
	})
}

// Deleted says that an organization is gone: its connections end, what it kept is dropped. It returns at once.
func (b *Broker) Deleted(number uint64) {
	b.look(number, func(_ *Organization, w *change) { w.deleted = true })
}

// look has an organization looked at, for what note adds.
func (b *Broker) look(number uint64, note func(*Organization, *change)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.organizations[number]
	if o == nil || b.closed {
		return // who logs in meanwhile is judged again when it is in (conn.live)
	}
	k := &o.changes
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed.any = true
	note(o, &k.changed)
	if !k.running {
		k.running = true
		b.done.Go(func() { b.follow(o) })
	}
}

// follow looks at what has changed until nothing more has.
func (b *Broker) follow(o *Organization) {
	k := &o.changes
	for {
		k.mu.Lock()
		w := k.changed
		k.changed, k.ending = change{}, w.gone
		k.running = w.any
		k.mu.Unlock()
		switch {
		case !w.any:
			return
		case w.deleted:
			b.drop(o)
		default:
			o.recheck(&w)
		}
	}
}

// names reports whether a user is one of those that were gone when they were last named, and whose sessions may not have ended yet.
func (k *changes) names(user string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, changed := k.changed.gone[user]
	_, ending := k.ending[user]
	return changed || ending
}

// recheck puts into force what has changed: who may be connected, and what they may hold. Limits are in force already.
func (o *Organization) recheck(w *change) {
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	ended, removed := 0, 0
	conns := o.connected(func(user string) bool { return w.limits || w.concerns(user) })
	live := conns[:0]
	for i, c := range conns {
		if w.concerns(c.grant.Load().User) {
			removed += c.regrant(r, w.gone)
		}
		c.mu.Lock()
		c.resumeReader(true) // its pace may be another
		most := o.quota.Load().MaxSubscriptions
		over := w.limits && most > 0 && len(c.subscriptions) > most
		c.mu.Unlock()
		if over {
			o.count(overSubscriptions)
			o.endFor(c, ending{reason: mqtt.QuotaExceeded, label: overSubscriptions, detail: "it has more subscriptions than the organization allows", polite: true})
		}
		if c.isEnded() {
			ended++
		} else {
			live = append(live, c)
		}
		if i%flushEvery == flushEvery-1 {
			r.flush()
		}
	}
	if w.limits {
		ended += o.endNewest(live)
	}
	forgotten := o.endGone(w)
	if ended > 0 || removed > 0 || forgotten > 0 {
		o.log.Info("a change is in force", "organization_number", o.number, "connections_ended", ended, "subscriptions_removed", removed,
			"stored_sessions_ended", forgotten)
	}
}

// connected are the connections of some users that a change can reach, oldest first.
func (o *Organization) connected(of func(user string) bool) (all []*conn) {
	o.mu.Lock()
	for _, k := range o.clients {
		if k.conn == nil {
			continue
		}
		if g := k.conn.grant.Load(); g != nil && of(g.User) {
			all = append(all, k.conn)
		}
	}
	o.mu.Unlock()
	orders := make(map[*conn]uint64, len(all))
	all = slices.DeleteFunc(all, func(c *conn) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		orders[c] = c.recipient.order
		return !c.found || c.isEnded()
	})
	slices.SortFunc(all, func(a, b *conn) int { return cmp.Compare(orders[a], orders[b]) })
	return all
}

// endNewest ends what is above the limit of connections.
func (o *Organization) endNewest(live []*conn) (ended int) {
	most := o.quota.Load().MaxConnections
	if most <= 0 || len(live) <= most {
		return 0
	}
	for _, c := range live[most:] {
		o.count(overConnections)
		o.endFor(c, overCrowded())
		ended++
	}
	return ended
}

func overCrowded() ending {
	return ending{reason: mqtt.QuotaExceeded, label: overConnections, detail: errConnections.Error(), polite: true}
}

// overCrowded reports whether there are more connections than there may be: the limit was lowered while one logged in.
func (o *Organization) overCrowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	most := o.quota.Load().MaxConnections
	return most > 0 && o.live > most
}

// regrant has a connection do what it may now, and ends it if it may not be connected any more; gone are users that are not the
// same ones if they are there again. It returns how many subscriptions it has lost.
func (c *conn) regrant(r *reader, gone map[string]struct{}) (removed int) {
	c.mu.Lock()
	if c.isEnded() || !c.found {
		c.mu.Unlock()
		return 0
	}
	old := c.grant.Load()
	g, err := c.b.cfg.Authenticator.Regrant(old) // under the lock: a later look sees what is later
	if err == nil && !g.Expires.IsZero() && !c.b.cfg.Now().Before(g.Expires) {
		err = &access.Refusal{Why: access.WhyExpired}
	}
	if err != nil {
		c.mu.Unlock()
		e := endingFor(old, err)
		_, another := gone[old.User]
		e.forget = another || !c.b.cfg.Authenticator.Has(old.OrganizationNumber, old.User)
		c.home.endFor(c, e)
		return 0
	}
	if g == old {
		c.mu.Unlock()
		return 0
	}
	c.grant.Store(g)
	if c.kept != nil && !g.Expires.Equal(old.Expires) {
		record := c.record(c.session.ClientID(), c.home.store.Run(), c.session.Expiry())
		c.home.commitOps(r, []engine.Operation{{Op: engine.OpSession, Session: record}}, func(*reader, engine.Position, error) {})
	}
	var x removal
	refused := c.takeBack(&x)
	c.mu.Unlock()
	x.finish(c)
	for _, filter := range refused {
		c.home.refusedFilter(reasonLabel(mqtt.NotAuthorized))
		if c.home.changes.line(c.b.cfg.Now()) {
			c.refused("subscription removed", reasonLabel(mqtt.NotAuthorized), []byte(filter))
		}
	}
	c.watchExpiry()
	return len(refused)
}

// takeBack removes the subscriptions that are not allowed any more, as UNSUBSCRIBE would. The caller holds mu.
func (c *conn) takeBack(x *removal) (refused []string) {
	g := c.grant.Load()
	for filter := range c.subscriptions {
		if !g.Check(access.Subscribe, []byte(filter)) {
			refused = append(refused, filter)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	slices.Sort(refused)
	o := c.home
	if c.kept != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
	}
	for _, filter := range refused {
		c.remove(filter, x)
	}
	if len(x.operations) > 0 {
		c.commitRemoval(x, func(*reader, engine.Position, error) {})
	}
	return refused
}

// endingFor is how a connection ends whose log-in would be refused now.
func endingFor(g *access.Grant, err error) ending {
	e := ending{reason: mqtt.NotAuthorized, polite: true}
	refusal, ok := errors.AsType[*access.Refusal](err)
	if !ok {
		return ending{reason: mqtt.UnspecifiedError, label: "error", detail: "the log-in could not be judged again", polite: true}
	}
	switch why := refusal.Why; {
	case why == access.WhyExpired:
		e.reason, e.label, e.detail = mqtt.MaximumConnectTime, whyExpired, "the token has expired"
	case why == access.WhyRevoked && g.Server:
		e.label, e.detail = whyRevoked, "the key was revoked"
	case why == access.WhyRevoked:
		e.label, e.detail = whyRevoked, "the token was revoked"
	case why == access.WhyWrongPassword:
		e.label, e.detail = whyRotated, "the password was changed"
	case why == access.WhyDisabled:
		e.label, e.detail = access.WhyDisabled, "the user or its organization is disabled"
	case why == access.WhyUnknownUser:
		e.label, e.detail = whyDeleted, "the user was deleted"
	case why == access.WhyUnknownOrganization:
		e.label, e.detail = whyDeleted, "the organization was deleted"
	default:
		e.label, e.detail = "refused", "the log-in is not accepted any more"
	}
	return e
}

// line reports whether one more line about a change may be logged now.
func (k *changes) line(now time.Time) bool {
	_, ok := k.lines.takeOf(maxChangeLines, now)
	return ok
}

// endFor ends a connection for what was decided about it.
func (o *Organization) endFor(c *conn, e ending) {
	if o.changes.line(o.now()) {
		c.logEnd("connection ended", "reason", e.label, "detail", e.detail)
	}
	c.end(e)
}

// watchExpiry has the wheel look at the connection when its token is over.
func (c *conn) watchExpiry() {
	if g := c.grant.Load(); !g.Expires.IsZero() {
		c.b.wheel.add(c.watch, g.Expires)
	}
}

// expire ends a connection whose token is over, unless it was refreshed.
func (c *conn) expire() {
	r := readers.Get().(*reader)
	defer r.release(&c.b.counters)
	c.regrant(r, nil)
}

// endGone ends the sessions without a connection of users that do not exist any more, or did not when they were named, so that
// nobody who is given the name inherits them. Without a change it looks at all: what was changed before a crash. It returns how
// many there were.
func (o *Organization) endGone(w *change) (ended int) {
	gone := make(map[string]bool)
	is := func(user string) bool {
		if w != nil {
			if _, was := w.gone[user]; was || !w.all {
				return was
			}
		}
		if _, known := gone[user]; !known {
			gone[user] = !o.authenticator.Has(o.number, user)
		}
		return gone[user]
	}
	if w != nil && !w.all && len(w.gone) == 0 {
		return 0
	}
	o.mu.Lock()
	all := maps.Clone(o.recorded)
	o.mu.Unlock()
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	for clientID, s := range all {
		if !is(s.user.Value()) {
			continue
		}
		o.withAway(r, clientID, func(r *reader, a *away, done event) {
			if a.User != s.user.Value() {
				done(r, 0, nil)
				return
			}
			ended++
			o.counters.count(&o.counters.sessionsEnded, whyDeleted)
			o.endAway(r, a, done)
		})
	}
	return ended
}

// drop ends all of an organization that is gone. Nobody gets in meanwhile, and later neither: the Authenticator does not know it.
func (b *Broker) drop(o *Organization) {
	o.mu.Lock()
	o.deleted = true
	o.mu.Unlock()
	for {
		o.mu.Lock()
		all := slices.Collect(maps.Values(o.clients))
		o.mu.Unlock()
		if len(all) == 0 {
			break
		}
		for _, k := range all {
			if k.conn != nil {
				o.endFor(k.conn, ending{reason: mqtt.NotAuthorized, label: whyDeleted, detail: "the organization was deleted", polite: true, forget: true})
			}
		}
		for _, k := range all {
			<-k.left
		}
	}
	o.settle()
	if err := b.cfg.Store.DropOrganization(o.number); err != nil {
		o.log.Error("dropping an organization failed; it is dropped at the next start", "error", err.Error(), "organization_number", o.number)
	}
	b.mu.Lock()
	delete(b.organizations, o.number)
	b.mu.Unlock()
}

// dropUnknown drops, at the start, what organizations have left that were deleted just before a crash. Is none of all known, it
// drops nothing: then it is rather control's database that is not the right one.
func (b *Broker) dropUnknown(numbers []uint64, all int) error {
	if len(numbers) == 0 {
		return nil
	}
	list := strings.Trim(fmt.Sprint(numbers), "[]")
	if len(numbers) == all {
		b.cfg.Log.Error("no organization in the store is known: their messages and sessions are kept, and nobody can reach them", "organization_numbers", list)
		return nil
	}
	b.cfg.Log.Warn("organizations that do not exist any more are dropped", "organization_numbers", list)
	for _, number := range numbers {
		if err := b.cfg.Store.DropOrganization(number); err != nil {
			return err
		}
	}
	return nil
}
