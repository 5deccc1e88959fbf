package broker

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// orphan is a session whose connection a crash has ended: it has no entry in the store's time index.
type orphan struct {
	at       int64 // when something is due, Unix nanoseconds
	clientID string
}

// load makes the organization what its records say: durable filters with the number of their holders, shared groups, retained
// messages, and what a crash left. Sessions without a connection take no memory beyond that.
func (o *Organization) load() error {
	head, err := o.store.Head(o.number)
	if err != nil {
		return err
	}
	if head == 0 { // positions are told apart from "none yet" in records
		o.commit(&engine.Batch{Organization: o.number, Operations: []engine.Operation{{Op: engine.OpAppend, Entry: &engine.Entry{}}}},
			func(*reader, engine.Position, error) {})
	}
	o.served.Store(uint64(head))
	o.loaded = head
	err = o.store.Filters(o.number, func(f engine.Filter, text string) error {
		d := o.enterDurable(f, text)
		d.made = true
		_, bytes, err := o.store.Backlog(o.number, f, 0)
		d.size.bytes = int64(bytes)
		o.logged.Add(int64(bytes))
		return err
	})
	if err != nil {
		return err
	}
	var sessions []engine.Session
	err = o.store.Sessions(o.number, func(s engine.Session) error {
		if s.Kind == engine.KindGroup {
			return o.loadGroup(&s, head)
		}
		sessions = append(sessions, s)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(sessions, func(a, b engine.Session) int { return cmp.Compare(leftAt(&a), leftAt(&b)) })
	for i := range sessions {
		if err := o.loadSession(&sessions[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(o.orphans, func(a, b orphan) int { return cmp.Compare(a.at, b.at) })
	o.sweepUnheld()
	return o.loadRetained()
}

// loadGroup enters a shared subscription with a log. Its members are counted with their sessions.
func (o *Organization) loadGroup(s *engine.Session, head engine.Position) error {
	g := o.group(s.ClientID)
	l := &groupLog{
		owner: s.Owner, durable: o.filters[g.rest],
		out: make(map[engine.Position]*outstanding), recorded: make(map[engine.Position]struct{}),
	}
	if l.durable == nil {
		return fmt.Errorf("broker: the shared subscription %q has no durable filter", s.ClientID)
	}
	subs, err := o.store.Subscriptions(o.number, s.Owner)
	if err != nil {
		return err
	}
	for i := range subs {
		l.since = subs[i].Since
	}
	if l.saved, err = o.store.Cursor(o.number, s.Owner); err != nil {
		return err
	}
	if l.again, err = o.store.Outgoing(o.number, s.Owner); err != nil {
		return err
	}
	for i := range l.again {
		l.recorded[l.again[i].Position] = struct{}{}
	}
	l.taken = max(l.saved, l.since)
	l.loaded, l.arrived = l.taken, max(head, l.taken)
	l.durable.holders++
	l.durable.join(g)
	g.log = l
	return nil
}

// leftAt orders sessions of one expiry by when their connections ended. Those that the start of this run ended come last.
func leftAt(s *engine.Session) int64 {
	if s.Connected != 0 || s.EndsAt == 0 {
		return math.MaxInt64
	}
	return s.EndsAt
}

// loadSession counts what a session holds, and notes what is due of it.
func (o *Organization) loadSession(s *engine.Session) error {
	subs, err := o.store.Subscriptions(o.number, s.Owner)
	if err != nil {
		return err
	}
	for i := range subs {
		_, rest, shared, _ := topic.SplitShare(subs[i].Text)
		if d := o.filters[rest]; subs[i].Filter != 0 && d != nil {
			d.holders++
		}
		options, _ := session.ParseOptions(subs[i].Options)
		if g := o.groups[subs[i].Text]; shared && options.QoS > 0 && g != nil && g.log != nil {
			g.log.members++
		}
	}
	if d := o.filters[privateText(s.Owner)]; d != nil {
		d.holders++
	}
	o.mu.Lock()
	o.note(s.ClientID, s.User, s.Expiry > 0)
	o.mu.Unlock()
	if isStandard(s) {
		o.standard[s.User] = append(o.standard[s.User], standardAway{s.ClientID})
	}
	if s.Connected == 0 {
		return nil
	}
	a, err := o.awayOf(*s)
	if err != nil {
		return err
	}
	if at := o.dueAt(a); at != math.MaxInt64 {
		o.orphans = append(o.orphans, orphan{at, s.ClientID})
	}
	return nil
}

// dueAt is when something is to be done about a session that a crash has left.
func (o *Organization) dueAt(a *away) int64 {
	if a.will != nil {
		return o.willAt(a)
	}
	return a.endsAt
}

// sweepUnheld drops filters and groups that nobody holds.
func (o *Organization) sweepUnheld() {
	var operations []engine.Operation
	for _, g := range o.groups {
		if g.log != nil && g.log.members == 0 {
			g.log.members = 1
			o.leaveGroupLog(g, &operations)
		}
	}
	for _, d := range o.filters {
		if d.holders == 0 {
			d.holders = 1
			o.release(d, &operations)
		}
	}
	if len(operations) > 0 {
		o.commit(&engine.Batch{Organization: o.number, Operations: operations}, func(*reader, engine.Position, error) {})
	}
}

func (o *Organization) loadRetained() error {
	var expired []string
	now := o.now()
	o.retained.mu.Lock()
	defer o.retained.mu.Unlock()
	err := o.store.Retained(o.number, func(m engine.Retained) error {
		if m.Entry.Expires != 0 && m.Entry.Expires < now.UnixNano() {
			expired = append(expired, m.Topic)
		} else {
			o.recall(m.Topic, &m.Entry)
		}
		return nil
	})
	o.forget(expired)
	return err
}
