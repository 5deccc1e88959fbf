package broker

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
	"cloudsignal/internal/transport"
)

// conn is one connection, from accept to its end. Its reader goroutine (the transport's) feeds it; other connections'
// readers deliver to it under mu, and never wait for it.
type conn struct {
	b        *Broker
	net      transport.Conn
	accepted time.Time
	watch    *watch
	done     chan struct{} // closed when it ends
	left     chan struct{} // closed when its organization has forgotten it

	// The reader's own.
	partial []byte // a packet whose rest has not come; bounded by the packet limit
	log     logBudget

	identity atomic.Pointer[identity] // who it is, once logged in

	lastRead atomic.Int64 // Unix nanoseconds of the last bytes; while blocked, of the last check
	started  atomic.Int64 // when the packet in partial began; 0: none
	judging  atomic.Bool  // a CONNECT is here and being judged: the connect time-out is over
	blocked  atomic.Bool  // the reader waits for the ring: keep alive is frozen
	ended    atomic.Bool  // set under mu

	keepAlive time.Duration // 1.5 times what the client said; set before live

	mu        sync.Mutex
	room      sync.Cond // the ring has room again, or the connection has ended
	session   *session.Session
	grant     *access.Grant
	home      *Organization
	recipient recipient
	marked    bool // on some reader's list of connections to flush
	writing   bool // a writer goroutine, or a reader's try, owns the socket's write side
	last      *session.Batch
	close     closing
	write     func() // writeLoop, made once: starting it costs no allocation
	batch     *session.Batch
	skip      int
}

// closing is how the network connection is to end once everything is written.
type closing uint8

const (
	open   closing = iota
	polite         // transport.Conn.Shutdown: the last packet arrives
	abrupt         // the peer is gone
)

// connectLevel is how far into the body of a CONNECT its version is known.
const connectLevel = 2 + len("MQIsdp") + 1

var errEnded = errors.New("the connection has ended")

func newConn(b *Broker, t transport.Conn) *conn {
	c := &conn{b: b, net: t, accepted: b.cfg.Now(), watch: new(watch), done: make(chan struct{}), left: make(chan struct{})}
	c.room.L = &c.mu
	c.write = c.writeLoop
	c.lastRead.Store(c.accepted.UnixNano())
	c.watch.conn.Store(c)
	return c
}

func (c *conn) isEnded() bool { return c.ended.Load() }

// reader is what one Feed works with. It is pooled: an idle connection has none.
type reader struct {
	decoder     mqtt.Decoder
	hits        []topic.Hit[*recipient, *subscription]
	identifiers []uint32
	reasons     []mqtt.Reason
	dirty       []*conn // have something to be written since this reader delivered to them
	in          [3]uint64
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// mark has c flushed when this reader's burst is over. The caller holds c.mu.
func (r *reader) mark(c *conn) {
	if !c.marked {
		c.marked = true
		r.dirty = append(r.dirty, c)
	}
}

// release flushes what the burst left and gives the reader back.
func (r *reader) release(k *counters) {
	r.flush()
	for q, n := range r.in {
		if n > 0 {
			k.in[q].Add(n)
		}
	}
	r.in = [3]uint64{}
	clear(r.hits)
	r.hits = r.hits[:0]
	if cap(r.hits) > 1<<16 {
		r.hits = nil
	}
	readers.Put(r)
}

func (r *reader) flush() {
	for i, c := range r.dirty {
		r.dirty[i] = nil
		c.flush()
	}
	r.dirty = r.dirty[:0]
}

// Feed takes bytes as they come: every whole packet is handled in place, the start of the next is kept. What this read
// caused, acknowledgements and deliveries, leaves in one write per connection at its end.
func (c *conn) Feed(p []byte) error {
	if c.isEnded() {
		return errEnded
	}
	c.lastRead.Store(c.b.cfg.Now().UnixNano())
	r := readers.Get().(*reader)
	defer r.release(&c.b.counters)
	r.decoder.Version = 0
	if c.session != nil {
		r.decoder.Version = c.session.Version()
	}
	for len(c.partial) > 0 && len(p) > 0 {
		want := c.want(c.partial)
		n := min(len(p), want-len(c.partial))
		c.partial = extend(c.partial, p[:n], want)
		p = p[n:]
		if len(c.partial) < want {
			return nil
		}
		rest, err := c.packets(r, c.partial)
		if err != nil {
			c.partial = nil
			return err
		}
		if len(rest) == 0 {
			c.partial = nil
			c.started.Store(0)
		}
	}
	if len(p) == 0 {
		return nil
	}
	rest, err := c.packets(r, p)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		c.partial = slices.Clone(rest)
		c.started.Store(c.b.cfg.Now().UnixNano())
	}
	return nil
}

// want is how many bytes of the packet that begins b are needed before packets can do something with it.
func (c *conn) want(b []byte) int {
	h, n, err := mqtt.ReadHeader(b)
	switch {
	case err != nil:
		return len(b)
	case n == 0:
		return len(b) + 1
	case n+h.Length > c.packetLimit():
		return n + min(h.Length, connectLevel)
	}
	return n + h.Length
}

// packetLimit is the largest packet that is taken now, in bytes.
func (c *conn) packetLimit() int {
	if c.session == nil {
		return c.b.cfg.Limits.ConnectBytes
	}
	return int(c.b.cfg.Limits.Session.PacketBytes)
}

// trustedBytes is how much of a packet must have come before memory for all of it is taken.
const trustedBytes = 64 << 10

// extend appends p to b, which will have want bytes in the end.
func extend(b, p []byte, want int) []byte {
	if need := len(b) + len(p); need > cap(b) {
		size := max(need, 2*cap(b))
		if size > trustedBytes || size > want {
			size = want
		}
		b = append(make([]byte, 0, size), b...)
	}
	return append(b, p...)
}

// packets handles the whole packets at the start of p and returns the rest.
func (c *conn) packets(r *reader, p []byte) ([]byte, error) {
	for len(p) > 0 {
		limit := c.packetLimit()
		h, n, err := mqtt.ReadHeader(p)
		if err == nil && n > 0 && c.session == nil && h.Type != mqtt.CONNECT {
			err = &mqtt.Error{Reason: mqtt.ProtocolError, Detail: "the first packet is " + h.Type.String() + ", not CONNECT"} // [MQTT-3.1.0-1]
		}
		if err == nil && n+h.Length > limit {
			if c.session == nil && len(p) < n+min(h.Length, connectLevel) {
				return p, nil // a little more says in which version to refuse it
			}
			err = &mqtt.Error{Reason: mqtt.PacketTooLarge, Detail: fmt.Sprintf("the packet is larger than %d bytes", limit)} // [MQTT-3.2.2-15]
		}
		if err != nil {
			if c.session == nil && h.Type == mqtt.CONNECT {
				return nil, c.refuseUnread(p[n:], err)
			}
			return nil, c.fail(err)
		}
		if n == 0 || len(p) < n+h.Length {
			return p, nil
		}
		if err := c.packet(r, h, p[n:n+h.Length], n+h.Length); err != nil {
			return nil, err
		}
		p = p[n+h.Length:]
	}
	return nil, nil
}

// packet handles one whole packet of size bytes.
func (c *conn) packet(r *reader, h mqtt.Header, body []byte, size int) error {
	now := c.b.cfg.Now()
	p, err := r.decoder.Decode(h, body)
	if c.session == nil {
		if err != nil {
			return c.refuseUnread(body, err)
		}
		return c.connect(r, p.(*mqtt.Connect), now)
	}
	if err != nil {
		return c.fail(err)
	}
	c.mu.Lock()
	for h.Type == mqtt.PUBLISH && !c.isEnded() && c.session.Blocked() {
		c.wait(r)
	}
	if c.isEnded() {
		c.mu.Unlock()
		return errEnded
	}
	act, err := c.session.Handle(p, size, now)
	r.mark(c)
	c.mu.Unlock()
	if err != nil {
		return c.fail(err)
	}
	switch act.Kind {
	case session.Publish:
		pub := p.(*mqtt.Publish)
		r.in[pub.QoS]++
		c.answer(act.Slot, c.publish(r, pub, now))
	case session.Refused:
		r.in[p.(*mqtt.Publish).QoS]++
		c.b.counters.drops[dropTopic].Add(1)
		c.refused("publish", act.Reason.String(), p.(*mqtt.Publish).Topic)
	case session.Subscribe:
		c.subscribe(r, p.(*mqtt.Subscribe), now)
	case session.Unsubscribe:
		c.unsubscribe(r, p.(*mqtt.Unsubscribe))
	case session.End:
		c.end(ending{label: "disconnect"})
		return errEnded
	}
	return nil
}

// wait lets the reader wait until the ring has room. Keep alive is frozen: it is we who do not read.
func (c *conn) wait(r *reader) {
	c.blocked.Store(true)
	c.mu.Unlock()
	r.flush()
	c.mu.Lock()
	if c.session.Blocked() && !c.isEnded() {
		c.room.Wait()
	}
	c.lastRead.Store(c.b.cfg.Now().UnixNano())
	c.blocked.Store(false)
}

// answer settles an inbound PUBLISH. It may be called from any goroutine, and only marks and wakes.
func (c *conn) answer(slot session.Slot, reason mqtt.Reason) {
	if slot == 0 {
		return
	}
	c.mu.Lock()
	if !c.isEnded() {
		c.session.Answer(slot, reason)
		c.room.Signal()
	}
	c.mu.Unlock()
}

// fail ends the connection for what the client sent, with the reason for a 5.0 client ([MQTT-4.13.1-1]).
func (c *conn) fail(err error) error {
	e := ending{reason: mqtt.UnspecifiedError, detail: err.Error(), polite: true}
	if m, ok := errors.AsType[*mqtt.Error](err); ok {
		e.reason, e.detail = m.Reason, m.Detail
	}
	e.label = reasonLabel(e.reason)
	c.b.cfg.Log.Info("connection ended", c.who("reason", e.label, "detail", e.detail)...)
	c.end(e)
	return err
}

// Closed is the transport's word that nothing more will come.
func (c *conn) Closed(err error) {
	why := "closed_by_client"
	if err != nil && !errors.Is(err, io.EOF) {
		why = "network"
	}
	c.end(ending{label: why, gone: true})
	c.b.detach()
}

// ending is why and how a connection ends.
type ending struct {
	reason mqtt.Reason // for the DISCONNECT; 0: none is sent
	detail string      // its reason string
	label  string      // for the counter
	polite bool        // say DISCONNECT
	noWill bool        // at a server's shutdown
	gone   bool        // the network connection is no more
}

// end ends the connection once: the session is closed, the organization forgets it, the will is published, and what was
// to be written is written before the network connection ends. When it returns, or left is closed, nothing of it is left
// in the organization.
func (c *conn) end(e ending) {
	now := c.b.cfg.Now()
	c.mu.Lock()
	if c.isEnded() {
		if e.gone {
			c.net.Close() //nolint:errcheck // it is gone already
		}
		c.mu.Unlock()
		return
	}
	c.ended.Store(true)
	c.watch.conn.Store(nil)
	c.room.Broadcast()
	s, o := c.session, c.home
	var will *session.Message
	var filters []string
	type handover struct {
		group *group
		msg   *session.Message
	}
	var handovers []handover
	if s != nil {
		if e.polite {
			s.Disconnect(e.reason, e.detail)
		}
		c.last = s.TakeBatch()
		c.tally()
		if will = s.TakeWill(now); will != nil && e.noWill {
			will.Release()
			will = nil
		}
		s.Subscriptions(func(f string, _ session.Options) { filters = append(filters, f) })
		s.Close(func(share session.Share, m *session.Message) {
			handovers = append(handovers, handover{share.(*group), m.Hold()})
		})
	}
	c.close = polite
	if e.gone {
		c.close = abrupt
	}
	c.mu.Unlock()
	close(c.done)
	if s != nil {
		o.leave(c, s.ClientID(), filters)
		r := readers.Get().(*reader)
		for _, h := range handovers {
			if !h.group.deliver(r, h.msg, now) {
				c.b.counters.drops[dropNoMember].Add(1)
			}
			h.msg.Release()
		}
		if will != nil {
			c.publishWill(r, will, now)
		}
		r.release(&c.b.counters)
		close(c.left)
	}
	c.b.counters.count(&c.b.counters.ends, e.label)
	c.b.forget(c)
	c.flush()
}

// flush writes what the session has, by a try if the network allows it, else in a writer goroutine that exists only
// until everything is written.
func (c *conn) flush() {
	c.mu.Lock()
	c.marked = false
	for !c.writing {
		b := c.next()
		if b == nil {
			c.finish()
			break
		}
		c.writing = true
		c.mu.Unlock()
		n, err := 0, error(nil)
		if flat := b.Flat(); flat != nil {
			n, err = c.net.TryWrite(flat)
		}
		if err != nil || n == b.Len() {
			b.Release()
			c.mu.Lock()
			c.writing = false
			if err != nil {
				c.close = abrupt
			}
			continue
		}
		c.batch, c.skip = b, n
		go c.write()
		return
	}
	c.mu.Unlock()
}

// next is the batch to write now. The caller holds mu.
func (c *conn) next() *session.Batch {
	if c.close == abrupt {
		return nil
	}
	if c.isEnded() || c.session == nil {
		b := c.last
		c.last = nil
		return b
	}
	c.session.Pump(c.b.cfg.Now())
	c.tally()
	return c.session.TakeBatch()
}

// finish ends the network connection of an ended connection that has nothing left to write. The caller holds mu.
func (c *conn) finish() {
	switch {
	case c.close == polite:
		c.net.Shutdown()
	case c.close == abrupt:
		if c.last != nil {
			c.last.Release()
			c.last = nil
		}
		c.net.Close() //nolint:errcheck // nobody is there to be told
	}
}

// writeLoop writes until nothing is left; a peer that does not read holds up nobody but itself, until the write deadline.
func (c *conn) writeLoop() {
	b, skip := c.batch, c.skip
	for {
		c.batch = nil
		err := c.net.Write(b.Buffers(skip))
		b.Release()
		skip = 0
		c.mu.Lock()
		if err != nil {
			c.close = abrupt
		}
		if b = c.next(); b == nil {
			c.writing = false
			c.finish()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// tally folds the session's counts into the server's. The caller holds mu.
func (c *conn) tally() {
	t := c.session.TakeTally()
	for q, n := range t.Sent {
		if n > 0 {
			c.b.counters.out[q].Add(uint64(n))
		}
	}
	if t.Expired > 0 {
		c.b.counters.drops[dropExpired].Add(uint64(t.Expired))
	}
	if t.TooLarge > 0 {
		c.b.counters.drops[dropTooLarge].Add(uint64(t.TooLarge))
	}
}

// outcome counts what was not delivered.
func (c *conn) outcome(o session.Outcome) {
	switch o {
	case session.Full:
		c.b.counters.drops[dropQueue].Add(1)
	case session.TooLarge:
		c.b.counters.drops[dropTooLarge].Add(1)
	case session.Expired:
		c.b.counters.drops[dropExpired].Add(1)
	case session.Sent, session.Queued:
	}
}

// check looks at the deadlines: CONNECT, a started packet, keep alive. It returns when to look again, zero once ended.
func (c *conn) check(now time.Time) time.Time {
	if c.isEnded() {
		return time.Time{}
	}
	l := &c.b.cfg.Limits
	next := now.Add(time.Minute)
	if started := c.started.Load(); started != 0 {
		at := time.Unix(0, started).Add(l.PacketTimeout)
		if !now.Before(at) {
			c.overdue(mqtt.UnspecifiedError, "packet_timeout", "a packet was not completed in time")
			return time.Time{}
		}
		next = earlier(next, at)
	} else {
		next = earlier(next, now.Add(l.PacketTimeout/2))
	}
	c.mu.Lock()
	live, keepAlive := c.session != nil, c.keepAlive
	c.mu.Unlock()
	switch {
	case !live && !c.judging.Load():
		at := c.accepted.Add(l.ConnectTimeout)
		if !now.Before(at) {
			c.overdue(0, "connect_timeout", "no CONNECT in time")
			return time.Time{}
		}
		next = earlier(next, at)
	case !live:
		next = now.Add(time.Second)
	case keepAlive > 0 && c.blocked.Load():
		c.lastRead.Store(now.UnixNano())
		next = earlier(next, now.Add(keepAlive))
	case keepAlive > 0:
		at := time.Unix(0, c.lastRead.Load()).Add(keepAlive)
		if !now.Before(at) {
			c.overdue(mqtt.KeepAliveTimeout, "keep_alive", "nothing came for 1.5 times the keep alive") // [MQTT-3.1.2-22]
			return time.Time{}
		}
		next = earlier(next, at)
	}
	return next
}

func (c *conn) overdue(r mqtt.Reason, label, detail string) {
	c.b.cfg.Log.Info("connection ended", c.who("reason", label, "detail", detail)...)
	c.end(ending{reason: r, detail: detail, label: label, polite: true})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
