package broker

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// An organization's own limits, below the server's bounds. They are looked at where the thing happens: what is refused is
// counted, of the server and of the organization, and takes nothing from another organization.

// tokenGrace is how long behind a token's end a session that it began is kept at most.
const tokenGrace = time.Hour

// least is the smaller of the server's bound and an organization's limit, if there is one.
func least[N int | int64 | uint32](server, organization N) N {
	if organization > 0 {
		return min(server, organization)
	}
	return server
}

// sessionLimits are those of a new connection's session. What they announce holds as long as the connection; a limit that is
// lowered meanwhile is looked at for each message.
func (b *Broker) sessionLimits(g *access.Grant) session.Limits {
	l := b.cfg.Limits.Session
	l.PacketBytes = least(l.PacketBytes, uint32(min(int64(g.Limits.MaxMessageBytes), math.MaxUint32)))
	return l
}

// capExpiry is a session's expiry, in seconds, as far as its token allows.
func capExpiry(g *access.Grant, expiry uint32, now time.Time) uint32 {
	if g.Expires.IsZero() {
		return expiry
	}
	left := max(0, g.Expires.Add(tokenGrace).Sub(now)+time.Second-1)
	return uint32(min(int64(expiry), int64(left/time.Second)))
}

// pace lets a number of messages through in a second, and up to a second's worth at once, in one word: the moment at which as
// many could come at once again.
type pace struct{ full atomic.Int64 }

// take takes one of rate messages a second and returns 0; or none, and returns the moment at which there is one. Moments are
// elapsed nanoseconds.
func (p *pace) take(rate int, now int64) (at int64) { return p.takeSome(1, rate, now) }

// takeSome takes n at once, as many as rate at most.
func (p *pace) takeSome(n, rate int, now int64) (at int64) {
	interval := int64(time.Second) / int64(rate) * int64(min(n, rate))
	for {
		was := p.full.Load()
		next := max(was, now) + interval
		if next-now > int64(time.Second) {
			return next - int64(time.Second)
		}
		if p.full.CompareAndSwap(was, next) {
			return 0
		}
	}
}

// keepPace lets the reader take one more PUBLISH, and waits until the connection's and the organization's rate allow it.
// Nobody else waits: the connection is not read meanwhile, and its keep alive is frozen.
func (c *conn) keepPace(r *reader) {
	for own := false; ; {
		q := c.home.quota.Load()
		if q.MaxPublishRate <= 0 && q.MaxMessageRate <= 0 {
			return
		}
		now, at, why := c.b.elapsed(), int64(0), pausedConnection
		if !own && q.MaxPublishRate > 0 {
			at = c.pace.take(q.MaxPublishRate, now)
		}
		if own = at == 0; own && q.MaxMessageRate > 0 {
			at, why = c.home.pace.take(q.MaxMessageRate, now), pausedOrganization
		}
		if at == 0 || c.isEnded() {
			return
		}
		c.home.paused(why)
		if !c.slowed && c.home.changes.line(c.b.cfg.Now()) { // once of a connection: it may go on all the time
			c.slowed = true
			c.logEnd("connection slowed down", "reason", why)
		}
		c.pauseUntil(r, at)
	}
}

// keepPacketPace is the same for what costs work and is no message: one PINGREQ, SUBSCRIBE or UNSUBSCRIBE more. A client that asks
// for all that it wants at once, when it comes, does not wait.
func (c *conn) keepPacketPace(r *reader, p mqtt.Packet) {
	const filtersEach = 10
	n := 1
	switch p := p.(type) {
	case *mqtt.Ping:
	case *mqtt.Subscribe:
		n += len(p.Subscriptions) / filtersEach
	case *mqtt.Unsubscribe:
		n += len(p.Filters) / filtersEach
	default:
		return
	}
	for c.b.cfg.Limits.PacketRate > 0 && !c.isEnded() {
		at := c.asked.takeSome(n, c.b.cfg.Limits.PacketRate, c.b.elapsed())
		if at == 0 {
			return
		}
		c.home.paused(pausedPackets)
		c.pauseUntil(r, at)
	}
}

// pauseUntil lets the reader wait for a moment, for other limits, or for the connection's end. The wheel looks at it.
func (c *conn) pauseUntil(r *reader, at int64) {
	c.blocked.Store(true)
	r.flush()
	c.home.fold(r, c.b.cfg.Now())
	c.mu.Lock()
	c.resumeAt = at
	c.b.wheel.add(c.watch, c.b.at(at))
	for !c.over() && c.resumeAt != 0 {
		c.room.Wait()
	}
	c.resumeAt = 0
	c.mu.Unlock()
	c.goOn()
}

// resumeReader lets a reader that waits for its pace look again, if its moment has come or whatever it is. It returns that moment, zero
// if there is none. The caller holds mu.
func (c *conn) resumeReader(whatever bool) (at int64) {
	if c.resumeAt != 0 && (whatever || c.b.elapsed() >= c.resumeAt) {
		c.resumeAt = 0
		c.room.Broadcast()
	}
	return c.resumeAt
}

// accepts says why the organization does not take one more message, of a packet of size bytes, if it does not. Else the message is
// counted.
func (o *Organization) accepts(r *reader, size int, now time.Time) drop {
	q := o.quota.Load()
	if q.MaxMessageBytes > 0 && size > q.MaxMessageBytes { // lowered since CONNECT: the decoder has let it through
		return dropSize
	}
	if q.MaxMessagesPerMonth <= 0 {
		r.took.messages++
		r.took.bytesIn += int64(size)
		return none
	}
	if !o.usage.admit(now, q.MaxMessagesPerMonth, int64(size)) {
		return dropMonth
	}
	return none
}

// roomFor says why there is no room, if there is none, for a message whose durable filters are r.filters. With m retained the caller holds
// the retained messages' lock.
func (o *Organization) roomFor(r *reader, m *session.Message, now time.Time) drop {
	q := o.quota.Load()
	if len(r.filters) > engine.MaxFilters {
		return dropFilters
	}
	growth := int64(len(r.filters)) * entryBytes(m)
	if m.Retain() && len(m.Payload()) > 0 {
		t := &o.retained
		count := least(o.limits.Retained, q.MaxRetained)
		if !t.room(m, count, o.limits.RetainedBytes) {
			if o.sweep(now); !t.room(m, count, o.limits.RetainedBytes) {
				return dropRetained
			}
		}
		growth += t.growth(m)
	}
	if q.MaxStorageBytes > 0 && growth > 0 && o.storage()+growth > q.MaxStorageBytes {
		o.trimSoon.Store(true)
		return dropStorage
	}
	return none
}

// refuseQuota answers a PUBLISH that is over a limit. 3.x cannot be told: it is closed without an acknowledgement.
func (c *conn) refuseQuota(slot session.Slot, d drop, name []byte) {
	c.home.dropped(d)
	c.refused("publish", dropNames[d], name)
	if slot != 0 && c.session.Version() != mqtt.V5 {
		c.end(ending{label: "over_limit", polite: true})
		return
	}
	c.answer(slot, mqtt.QuotaExceeded)
}

// tooMany reports whether one more filter would be more than the organization lets a connection have. The caller holds mu.
func (c *conn) tooMany(filter []byte) bool {
	most := c.home.quota.Load().MaxSubscriptions
	return most > 0 && len(c.subscriptions) >= most && c.subscriptions[string(filter)] == nil
}

// What a filter takes in memory, about: a level of the tree that it shares with no other, and all else beside its text.
const (
	filterLevelBytes = 200
	filterBaseBytes  = 256
)

// filterBytes is the memory of one subscription of a connection, or of one durable filter.
func filterBytes(text string) int64 {
	return int64(filterBaseBytes + len(text) + filterLevelBytes*(1+strings.Count(text, "/")))
}

func bytesOf(subscriptions map[string]*subscription) (bytes int64) {
	for text := range subscriptions {
		bytes += filterBytes(text)
	}
	return bytes
}

// noRoomFor reports whether one more filter would take more memory than an organization's may, with what a durable filter of it takes. The
// caller holds mu.
func (c *conn) noRoomFor(filter []byte) bool {
	bytes := filterBytes(string(filter))
	if c.kept != nil {
		bytes *= 2
	}
	return c.home.filtered.Load()+bytes > c.home.limits.FilterBytes && c.subscriptions[string(filter)] == nil
}

// storage is what an organization keeps on disk for sessions and as retained messages, in bytes: topics, properties and payloads of
// the messages that its durable filters have, once for each filter (a session's own filter, or one that many share, has them
// once for all who hold it), from when they are published until the log is cut behind the slowest session; and its retained
// messages. It does not count what a record takes beside its body, the records of sessions and their subscriptions, copies
// for messages in flight, and what Pebble has not compacted yet.
func (o *Organization) storage() int64 { return o.logged.Load() + o.retained.disk.Load() }

// entryBytes is what a message takes in one durable filter: as the engine counts it (Store.Backlog).
func entryBytes(m *session.Message) int64 { return int64(len(m.Body())) }

// logSize is what one durable filter has of that figure. Its lock is below all others.
type logSize struct {
	mu    sync.Mutex
	bytes int64
	gone  bool // the filter is: what comes is not counted any more
}

// logEntry counts a message that is on disk. It was taken into the organization's figure before its commit.
func (o *Organization) logEntry(d *durable, bytes int64) {
	d.size.mu.Lock()
	defer d.size.mu.Unlock()
	if d.size.gone {
		o.logged.Add(-bytes)
		return
	}
	d.size.bytes += bytes
}

// cutLog takes out what was cut off; bytes below 0: the filter is gone, with all it has.
func (o *Organization) cutLog(d *durable, bytes int64) {
	d.size.mu.Lock()
	defer d.size.mu.Unlock()
	if bytes < 0 {
		d.size.gone = true
	}
	if bytes < 0 || bytes > d.size.bytes {
		bytes = d.size.bytes
	}
	d.size.bytes -= bytes
	o.logged.Add(-bytes)
}

// cutBytes is what a filter has between two positions that are behind the durable head: two subtractions, as of one moment if
// nothing comes between them.
func (o *Organization) cutBytes(filter engine.Filter, from, to engine.Position) (int64, error) {
	const tries = 3
	var removed int64
	for range tries {
		_, before, err := o.store.Backlog(o.number, filter, to)
		if err != nil {
			return 0, err
		}
		_, all, err := o.store.Backlog(o.number, filter, from)
		if err != nil {
			return 0, err
		}
		_, after, err := o.store.Backlog(o.number, filter, to)
		if err != nil {
			return 0, err
		}
		if removed = int64(all) - int64(before); before == after {
			break
		}
	}
	return max(0, removed), nil
}
