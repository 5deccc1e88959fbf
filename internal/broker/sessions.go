package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// Sessions lists sessions, live and stored, in the order of client identifiers, without their subscriptions. It looks through
// all client identifiers of the organization, and reads from the disk for those of the page alone.
func (b *Broker) Sessions(number uint64, q SessionQuery) ([]SessionInfo, error) {
	o := b.home(number)
	if o == nil {
		return nil, nil
	}
	first := lowest[*conn]{most: pageOf(q.Limit)}
	o.mu.Lock()
	for clientID, k := range o.clients {
		if clientID > q.After && k.conn != nil && k.conn.lists(&q) {
			first.offer(clientID, k.conn)
		}
	}
	if q.Connected == nil || !*q.Connected {
		for clientID, s := range o.recorded {
			if clientID > q.After && o.clients[clientID] == nil && s.kept && (q.User == "" || s.user.Value() == q.User) {
				first.offer(clientID, nil)
			}
		}
	}
	o.mu.Unlock()
	all := make([]SessionInfo, 0, len(first.all))
	for _, at := range first.sorted() {
		info, ok, err := o.session(at.name, at.value, false)
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, err, "the sessions could not be read")
		}
		if ok {
			all = append(all, info)
		}
	}
	return all, nil
}

// lists reports whether a connection is one that is asked for.
func (c *conn) lists(q *SessionQuery) bool {
	g := c.grant.Load()
	return g != nil && c.identity.Load() != nil && !c.isEnded() && (q.User == "" || g.User == q.User) && (q.Connected == nil || *q.Connected)
}

// Session is one session with its subscriptions, if it is there. Of a connection that ends it waits until what that leaves is on
// disk: until then it cannot be told.
func (b *Broker) Session(number uint64, clientID string) (SessionInfo, bool, error) {
	o := b.home(number)
	if o == nil {
		return SessionInfo{}, false, nil
	}
	for {
		o.mu.Lock()
		k := o.clients[clientID]
		o.mu.Unlock()
		var c *conn
		if k != nil {
			c = k.conn
		}
		info, ok, err := o.session(clientID, c, true)
		if ok || err != nil || c == nil || !c.isEnded() {
			return info, ok, fault.Wrap(fault.Unavailable, err, "the session could not be read")
		}
		<-k.left
	}
}

// session is the session of a client identifier: that of a connection, or the stored one if there is none.
func (o *Organization) session(clientID string, c *conn, subscriptions bool) (SessionInfo, bool, error) {
	if c != nil {
		if info, waiting, ok := c.info(subscriptions); ok {
			err := info.add(o, waiting)
			return info, true, err
		}
	}
	a, err := o.find(clientID)
	if err != nil || a == nil || a.Expiry == 0 || a.Connected == o.store.Run() {
		return SessionInfo{}, false, err
	}
	info, err := o.awayInfo(a, subscriptions)
	return info, true, err
}

// backlog is a filter with messages on the disk that wait for a session.
type backlog struct {
	filter engine.Filter
	after  engine.Position
}

// add adds what waits. It reads from the disk.
func (info *SessionInfo) add(o *Organization, all []backlog) error {
	for _, b := range all {
		messages, bytes, err := o.store.Backlog(o.number, b.filter, b.after)
		if err != nil {
			return err
		}
		info.Queued += int64(messages)
		info.QueuedBytes += int64(bytes)
	}
	return nil
}

// info is the session of a connection, with what waits for it on the disk; false: it has not got one yet, or has ended.
func (c *conn) info(subscriptions bool) (info SessionInfo, waiting []backlog, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session
	if s == nil || c.isEnded() {
		return info, nil, false
	}
	g := c.grant.Load()
	info = SessionInfo{
		ClientID: s.ClientID(), User: g.User, Connected: true, Address: c.net.RemoteAddr().String(), Protocol: s.Version().String(),
		Transport: string(c.net.Kind()), ConnectedAt: c.accepted, Expiry: s.Expiry(), Clean: c.kept == nil,
		KeepAlive: int(c.keepAlive * 2 / 3 / time.Second), TokenExpires: g.Expires,
	}
	messages, bytes, inFlight := s.Waiting()
	info.Queued, info.QueuedBytes, info.InFlight = int64(messages), int64(bytes), inFlight
	if k := c.kept; k != nil {
		info.Queued += int64(k.waiting())
		for i := range k.ahead[k.first:] {
			info.QueuedBytes += entryBytes(k.ahead[k.first+i].message)
		}
		for f, sub := range k.filters {
			waiting = append(waiting, backlog{f, max(k.loaded, sub.since)})
		}
	} else {
		info.Expiry = 0
	}
	if subscriptions {
		for filter, sub := range c.subscriptions {
			info.Subscriptions = append(info.Subscriptions, SubscriptionInfo{filter, uint8(sub.options.QoS)})
		}
		sortSubscriptions(info.Subscriptions)
	}
	return info, waiting, true
}

func sortSubscriptions(all []SubscriptionInfo) {
	slices.SortFunc(all, func(a, b SubscriptionInfo) int { return strings.Compare(a.Filter, b.Filter) })
}

// awayInfo is a session without a connection, from the disk.
func (o *Organization) awayInfo(a *away, subscriptions bool) (SessionInfo, error) {
	info := SessionInfo{ClientID: a.ClientID, User: a.User, Expiry: a.Expiry}
	if a.Expiry != never {
		info.ExpiresAt = time.Unix(0, a.endsAt).UTC()
		info.DisconnectedAt = info.ExpiresAt.Add(-time.Duration(a.Expiry) * time.Second)
	}
	if a.crashed {
		info.DisconnectedAt = time.Unix(0, a.ended).UTC()
	}
	cursor, err := o.store.Cursor(o.number, a.Owner)
	if err != nil {
		return info, err
	}
	subs, err := o.store.Subscriptions(o.number, a.Owner)
	if err != nil {
		return info, err
	}
	var waiting []backlog
	for i := range subs {
		if subscriptions {
			options, _ := session.ParseOptions(subs[i].Options)
			info.Subscriptions = append(info.Subscriptions, SubscriptionInfo{subs[i].Text, uint8(options.QoS)})
		}
		if subs[i].Filter != 0 {
			waiting = append(waiting, backlog{subs[i].Filter, max(cursor, subs[i].Since)})
		}
	}
	if err := info.add(o, waiting); err != nil {
		return info, err
	}
	sortSubscriptions(info.Subscriptions)
	sent, err := o.store.Outgoing(o.number, a.Owner)
	info.InFlight = len(sent)
	return info, err
}

// Disconnect ends the connection of a client, and with forget its session too, connected or stored. It returns when what that
// leaves is on disk; if ctx ends before, it is done all the same. Without forget a session without a connection is not found.
func (b *Broker) Disconnect(ctx context.Context, number uint64, clientID string, forget bool) (found bool, err error) {
	o := b.home(number)
	if o == nil {
		return false, nil
	}
	met := false
	for {
		o.mu.Lock()
		k := o.clients[clientID]
		o.mu.Unlock()
		if k == nil {
			break
		}
		if k.conn != nil && k.conn.grant.Load() != nil && !k.conn.isEnded() {
			o.endFor(k.conn, administrative(forget))
			if err := wait(ctx, k.left); err != nil || !forget || k.conn.forgets() {
				return true, err
			}
			met = true // it ended by itself first: its session may be stored now
			continue
		}
		if err := wait(ctx, k.left); err != nil { // it is on its way out, or in the janitor's hands
			return false, err
		}
	}
	if !forget {
		return false, nil
	}
	done := make(chan struct{})
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	began := false
	o.withAway(r, clientID, func(r *reader, a *away, then event) {
		began, found = true, a.Expiry > 0
		o.counters.count(&o.counters.sessionsEnded, "administrative")
		o.endAway(r, a, func(r *reader, first engine.Position, e error) {
			err = e
			then(r, first, e)
			close(done)
		})
	})
	r.flush()
	if !began {
		return met, nil
	}
	if waited := wait(ctx, done); waited != nil {
		return false, waited
	}
	return found, fault.Wrap(fault.Unavailable, err, "the session could not be removed")
}

// forgets reports whether a connection that has ended takes its session with it.
func (c *conn) forgets() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forget
}

func administrative(forget bool) ending {
	return ending{
		reason: mqtt.AdministrativeAction, label: "administrative", detail: "disconnected by the organization", polite: true, forget: forget,
	}
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, ctx.Err(), "nobody waited until it was done")
	}
}

// Terminate ends all connections of a user and tells how many there were. It returns when what they leave is on disk.
func (b *Broker) Terminate(ctx context.Context, number uint64, user string) (int, error) {
	o := b.home(number)
	if o == nil {
		return 0, nil
	}
	all := o.connected(func(of string) bool { return of == user })
	for _, c := range all {
		o.endFor(c, administrative(false))
	}
	for _, c := range all {
		if err := wait(ctx, c.left); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}
