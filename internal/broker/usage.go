package broker

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// totals are what an organization has used.
type totals struct{ messages, bytesIn, refused int64 }

// usage counts what an organization uses, by calendar months of UTC. What was sent is counted without a lock, and belongs to
// the month in which it is taken.
type usage struct {
	mu       sync.Mutex
	month    string            // now
	ends     int64             // when it does, Unix nanoseconds; 0: nothing was counted yet
	count    int64             // messages accepted in it, those before this run too
	since    totals            // not taken yet, of the month
	past     []UsageDelta      // not taken yet, of months that are over: one for each month in which nobody took any
	refusals map[string]uint64 // of this run, by reason
	pauses   map[string]uint64 // the same, by rate

	deliveries, bytesOut atomic.Int64
}

// at makes sure that what is counted now counts for the month of a moment. Time does not go back to an earlier one. The caller holds mu.
func (u *usage) at(now time.Time) {
	if now.UnixNano() < u.ends {
		return
	}
	u.end()
	now = now.UTC()
	u.month, u.count = now.Format("2006-01"), 0
	u.ends = time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
}

// end puts what was counted in a month aside. The caller holds mu.
func (u *usage) end() {
	d := UsageDelta{
		Month: u.month, Messages: u.since.messages, BytesIn: u.since.bytesIn, Refused: u.since.refused,
		Deliveries: u.deliveries.Swap(0), BytesOut: u.bytesOut.Swap(0),
	}
	u.since = totals{}
	if d != (UsageDelta{Month: u.month}) {
		u.past = append(u.past, d)
	}
}

// took counts messages that came.
func (u *usage) took(now time.Time, t *totals) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at(now)
	u.count += t.messages
	u.since.messages += t.messages
	u.since.bytesIn += t.bytesIn
}

// admit counts one message, unless the month has as many as it may.
func (u *usage) admit(now time.Time, most, bytes int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at(now)
	if u.count >= most {
		return false
	}
	u.count++
	u.since.messages++
	u.since.bytesIn += bytes
	return true
}

// sent counts PUBLISH packets that were encoded.
func (u *usage) sent(messages, bytes int64) {
	u.deliveries.Add(messages)
	u.bytesOut.Add(bytes)
}

func (u *usage) refuse(now time.Time, reason string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at(now)
	u.since.refused++
	if u.refusals == nil {
		u.refusals = make(map[string]uint64)
	}
	u.refusals[reason]++
}

// take hands over what was counted since it was last called.
func (u *usage) take(number uint64, now time.Time) []UsageDelta {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at(now)
	u.end()
	all := u.past
	u.past = nil
	for i := range all {
		all[i].Number = number
	}
	return all
}

// dropped counts a message that was not passed on, of the server and of the organization.
func (o *Organization) dropped(d drop) {
	o.counters.drops[d].Add(1)
	o.count(dropNames[d])
}

// count counts a refusal of the organization.
func (o *Organization) count(reason string) { o.usage.refuse(o.now(), reason) }

// fold counts what a reader has taken.
func (o *Organization) fold(r *reader, now time.Time) {
	if r.took != (totals{}) {
		o.usage.took(now, &r.took)
		r.took = totals{}
	}
}

// refusedFilter counts a filter that was refused, or taken back.
func (o *Organization) refusedFilter(label string) {
	o.counters.count(&o.counters.subscribes, label)
	o.count("subscribe_" + label)
}

// countFilters counts subscriptions of connections that come, or go, and their bytes.
func (o *Organization) countFilters(n int, bytes int64) {
	o.filtered.Add(bytes)
	o.counters.subscriptions.Add(int64(n))
	o.held.Add(int64(n))
}

// paused counts a connection that is not read for a while.
func (o *Organization) paused(why string) {
	o.counters.count(&o.counters.paused, why)
	o.usage.mu.Lock()
	defer o.usage.mu.Unlock()
	if o.usage.pauses == nil {
		o.usage.pauses = make(map[string]uint64)
	}
	o.usage.pauses[why]++
}

// giveBack takes a message out of the count of the month: it was refused after all.
func (o *Organization) giveBack(r *reader, from *origin, now time.Time) {
	if from.size == 0 {
		return
	}
	if r.took.messages > 0 {
		r.took.messages--
		r.took.bytesIn -= int64(from.size)
		return
	}
	o.usage.took(now, &totals{messages: -1, bytesIn: -int64(from.size)})
}

// Usage is what an organization takes now.
func (b *Broker) Usage(number uint64) Usage {
	o := b.home(number)
	if o == nil {
		b.mu.Lock()
		m := b.months[number]
		b.mu.Unlock()
		if now := b.cfg.Now().UTC().Format("2006-01"); m.month != now {
			m = monthBase{month: now}
		}
		return Usage{Month: m.month, Messages: m.messages}
	}
	u := Usage{StorageBytes: o.storage()}
	o.retained.mu.Lock()
	u.Retained = o.retained.names.Len()
	o.retained.mu.Unlock()
	o.mu.Lock()
	u.Connections, u.Sessions = o.live, o.sessions
	o.mu.Unlock()
	u.Subscriptions = int(o.held.Load())
	o.usage.mu.Lock()
	defer o.usage.mu.Unlock()
	o.usage.at(b.cfg.Now())
	u.Month, u.Messages = o.usage.month, o.usage.count
	u.Refusals, u.Paused = maps.Clone(o.usage.refusals), maps.Clone(o.usage.pauses)
	return u
}

// TakeUsage is what all organizations have used since the last call.
func (b *Broker) TakeUsage() (all []UsageDelta) {
	for _, o := range b.loaded() {
		all = append(all, o.usage.take(o.number, b.cfg.Now())...)
	}
	return all
}

// monthBase is what was published in a month before this run.
type monthBase struct {
	month    string
	messages int64
}

// SetMonth says what an organization had published in a month before this run. It is called once for each, before there are
// clients.
func (b *Broker) SetMonth(number uint64, month string, messages int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.organizations[number]; o != nil {
		o.setMonth(monthBase{month, messages})
		return
	}
	if b.months == nil {
		b.months = make(map[uint64]monthBase)
	}
	b.months[number] = monthBase{month, messages} // until it is loaded
}

func (o *Organization) setMonth(m monthBase) {
	o.usage.mu.Lock()
	defer o.usage.mu.Unlock()
	if o.usage.at(o.now()); o.usage.month == m.month {
		o.usage.count += m.messages
	}
}
