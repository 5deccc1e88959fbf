package broker

import (
	"math"
	"slices"
	"time"

	"cloudsignal/internal/engine"
)

// What is done now and then, and not on the way of a packet: cursors are saved, sessions end and wills fire when their time
// has come, and the log is cut behind those who are slowest.

const (
	housekeeping = 250 * time.Millisecond // how often it is looked what is due
	dueAtOnce    = 1000                   // sessions and wills that are begun with at a time
	trimInterval = time.Minute
	trimSoonest  = time.Second // of an organization whose storage is full
)

// keepHouse does that for all organizations until the broker stops.
func (b *Broker) keepHouse() {
	t := time.NewTicker(housekeeping)
	defer t.Stop()
	var saved time.Time
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-t.C:
		}
		now := b.cfg.Now()
		save := now.Sub(saved) >= saveInterval
		if save {
			saved = now
		}
		for _, o := range b.loaded() {
			if save {
				o.saveCursors()
			}
			o.serveOrphans(now)
		}
		b.serveDue(now)
	}
}

// keepTrim cuts the logs of all organizations now and then, until the broker stops. Each cut waits for the disk.
func (b *Broker) keepTrim() {
	t := time.NewTicker(trimSoonest)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-b.ctx.Done():
			return
		case <-t.C:
		}
		for _, o := range b.loaded() {
			if o.trimSoon.Swap(false) || n%int(trimInterval/trimSoonest) == 0 {
				o.trim()
			}
		}
	}
}

func (b *Broker) loaded() (all []*Organization) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.organizations {
		all = append(all, o)
	}
	return all
}

// saveLater has the cursor of a connection's session saved within saveInterval. The caller holds the connection's lock.
func (o *Organization) saveLater(c *conn) {
	o.mu.Lock()
	o.unsaved[c] = struct{}{}
	o.mu.Unlock()
}

// saveGroupLater is saveLater for a group.
func (o *Organization) saveGroupLater(g *group) {
	o.mu.Lock()
	o.unsavedGroups[g] = struct{}{}
	o.mu.Unlock()
}

// saveCursors saves what has moved. It is never refused for want of space.
func (o *Organization) saveCursors() {
	o.mu.Lock()
	conns, groups := o.unsaved, o.unsavedGroups
	if len(conns) == 0 && len(groups) == 0 {
		o.mu.Unlock()
		return
	}
	o.unsaved, o.unsavedGroups = make(map[*conn]struct{}), make(map[*group]struct{})
	o.mu.Unlock()
	nothing := func(*reader, engine.Position, error) {}
	for c := range conns {
		c.mu.Lock()
		if !c.isEnded() && c.kept != nil {
			o.commitOps(nil, c.save(), nothing)
		}
		c.mu.Unlock()
	}
	for g := range groups {
		g.save()
	}
}

// serveDue ends sessions and publishes wills whose time has come.
func (b *Broker) serveDue(now time.Time) {
	all, err := b.cfg.Store.Due(now.UnixNano(), dueAtOnce)
	if err != nil || len(all) == 0 {
		return
	}
	r := readers.Get().(*reader)
	defer r.release(&b.counters)
	for _, d := range all {
		b.mu.Lock()
		o := b.organizations[d.Organization]
		b.mu.Unlock()
		if o == nil {
			continue
		}
		if s, ok, err := o.store.Session(o.number, d.Owner); ok && err == nil {
			o.withAway(r, s.ClientID, func(r *reader, a *away, done event) {
				if a.Owner != d.Owner {
					done(r, 0, nil)
					return
				}
				o.serveAway(r, a, d.Event == engine.WillFires, now, done)
			})
		}
	}
}

// serveOrphans is serveDue for what a crash has left.
func (o *Organization) serveOrphans(now time.Time) {
	o.mu.Lock()
	n := 0
	for n < len(o.orphans) && n < dueAtOnce && o.orphans[n].at <= now.UnixNano() {
		n++
	}
	due := slices.Clone(o.orphans[:n])
	o.orphans = o.orphans[n:]
	o.mu.Unlock()
	if n == 0 {
		return
	}
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	for i := range due {
		o.withAway(r, due[i].clientID, func(r *reader, a *away, done event) {
			if !a.crashed {
				done(r, 0, nil) // it has come back since, and gone
				return
			}
			o.serveAway(r, a, a.will != nil && o.willAt(a) <= now.UnixNano(), now, done)
			if a.endsAt > now.UnixNano() && a.endsAt != math.MaxInt64 {
				o.addOrphan(orphan{a.endsAt, a.ClientID})
			}
		})
	}
}

func (o *Organization) addOrphan(next orphan) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i, _ := slices.BinarySearchFunc(o.orphans, next, func(a, b orphan) int { return int(min(1, max(-1, a.at-b.at))) })
	o.orphans = slices.Insert(o.orphans, i, next)
}

// serveAway ends a session without a connection if its time is over, or else publishes its will if that is due.
func (o *Organization) serveAway(r *reader, a *away, willFires bool, now time.Time, done event) {
	switch {
	case a.endsAt <= now.UnixNano():
		o.endAway(r, a, done)
	case willFires && a.will != nil:
		o.fire(r, a, []engine.Operation{
			{Op: engine.OpDropWill, Owner: a.Owner}, {Op: engine.OpUnwake, Owner: a.Owner, Event: engine.WillFires},
		}, done)
	default:
		done(r, 0, nil)
	}
}

// trimmed is up to where the log was cut. The janitor's own.
type trimmed struct {
	filters map[engine.Filter]engine.Position
	bodies  engine.Position
}

// cut is what the janitor knows of one durable filter.
type cut struct {
	filter engine.Filter
	low    engine.Position
}

// trim cuts each filter's index behind its slowest holder, and the shared bodies behind the slowest of all.
func (o *Organization) trim() {
	lows, bodies, err := o.lows()
	if err != nil {
		o.log.Error("looking for what can be trimmed failed", "error", err.Error())
		return
	}
	before := o.trimmed.filters
	o.trimmed.filters = make(map[engine.Filter]engine.Position, len(lows))
	durables := o.durables()
	for _, c := range lows {
		if before[c.filter] < c.low {
			bytes, err := o.cutBytes(c.filter, 0, c.low)
			if err != nil || o.store.Trim(o.number, c.filter, c.low) != nil {
				return // the store has failed, or is closed
			}
			if d := durables[c.filter]; d != nil {
				o.cutLog(d, bytes)
			}
		}
		o.trimmed.filters[c.filter] = c.low
	}
	if bodies > o.trimmed.bodies && o.store.TrimBodies(o.number, bodies) == nil {
		o.trimmed.bodies = bodies
	}
}

// durables are the durable filters by number.
func (o *Organization) durables() map[engine.Filter]*durable {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[engine.Filter]*durable, len(o.filters))
	for _, d := range o.filters {
		all[d.number] = d
	}
	return all
}

// lows is up to where each durable filter's holders are done, and up to where all are that anything waits for.
func (o *Organization) lows() (all []cut, bodies engine.Position, err error) {
	head, err := o.store.Head(o.number)
	if err != nil {
		return nil, 0, err
	}
	low := make(map[engine.Filter]engine.Position)
	var owners []engine.Owner
	if err = o.store.Sessions(o.number, func(s engine.Session) error { owners = append(owners, s.Owner); return nil }); err != nil {
		return nil, 0, err
	}
	bodies = head
	for _, owner := range owners {
		cursor, err := o.store.Cursor(o.number, owner)
		if err != nil {
			return nil, 0, err
		}
		subs, err := o.store.Subscriptions(o.number, owner)
		if err != nil {
			return nil, 0, err
		}
		filters := make([]engine.Filter, 0, len(subs)+1)
		for i := range subs {
			if f := subs[i].Filter; f != 0 {
				filters = append(filters, f)
			}
		}
		o.mu.Lock()
		if d := o.filters[privateText(owner)]; d != nil {
			filters = append(filters, d.number)
		}
		o.mu.Unlock()
		for _, f := range filters {
			if had, ok := low[f]; !ok || cursor < had {
				low[f] = cursor
			}
			if cursor >= bodies {
				continue
			}
			if waiting, _, err := o.store.Backlog(o.number, f, cursor); err != nil {
				return nil, 0, err
			} else if waiting > 0 {
				bodies = cursor
			}
		}
	}
	for f, position := range low {
		all = append(all, cut{f, position})
	}
	return all, bodies, nil
}
