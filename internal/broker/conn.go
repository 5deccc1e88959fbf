package broker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
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
	left     chan struct{} // closed when its organization has forgotten it, and what is to survive is durable

	// The reader's own.
	partial []byte // a packet whose rest has not come; bounded by the packet limit
	log     logBudget
	slowed  bool // it is in the log that it was

	identity atomic.Pointer[identity]     // who it is, once logged in
	grant    atomic.Pointer[access.Grant] // what it may do, once logged in; replaced under mu (regrant)

	lastRead atomic.Int64 // Unix nanoseconds of the last whole packet ([MQTT-3.1.2-22]); while blocked, of the last check
	started  atomic.Int64 // when the packet in partial began; 0: none
	judging  atomic.Bool  // a CONNECT is here and being judged: the connect time-out is over
	blocked  atomic.Bool  // the reader waits for the ring: keep alive is frozen
	ended    atomic.Bool  // set under mu

	keepAlive   time.Duration // 1.5 times what the client said; set before live
	packetBytes uint32        // the largest packet that it may send; set before live
	pace        pace          // of its PUBLISH packets
	asked       pace          // of its PINGREQ, SUBSCRIBE and UNSUBSCRIBE packets

	mu        sync.Mutex
	room      sync.Cond // the reader may go on: the ring has room, its pace allows it, or the connection has ended
	session   *session.Session
	home      *Organization
	recipient recipient
	feeding   bool  // the reader handles packets: what ends a session waits for it
	settled   bool  // the session has left, see settle
	noWill    bool  // how it ended: its will stays on disk
	forget    bool  // the session ends with it, whatever its expiry
	found     bool  // it is all there: changes of its organization reach it (regrant)
	counted   bool  // among its organization's connections
	resumeAt  int64 // the reader waits until then for its pace, in elapsed nanoseconds; 0: it does not

	// What is of the session and not of its protocol.
	subscriptions map[string]*subscription // by whole filter
	groups        map[*group]struct{}
	claimed       string          // client identifier
	refusedLater  []refusedFilter // of the session: the rules do not allow them any more, or there are too many
	hadWill       bool            // there is a record of its will
	owner         engine.Owner    // of its records; 0: there are none
	kept          *kept           // the session outlives the connection; nil: it does not

	marked  bool // on some reader's list of connections to flush
	writing bool // a writer goroutine, or a reader's try, owns the socket's write side
	last    *session.Batch
	close   closing
	holding bool   // it is not to end before what it leaves is durable
	write   func() // writeLoop, made once: starting it costs no allocation
	batch   *session.Batch
	skip    int
}

var errEnded = errors.New("the connection has ended")

func newConn(b *Broker, t transport.Conn) *conn {
	c := &conn{b: b, net: t, accepted: b.cfg.Now(), watch: new(watch), done: make(chan struct{}), left: make(chan struct{})}
	c.room.L = &c.mu
	c.write = c.writeLoop
	c.lastRead.Store(b.elapsed())
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
	filters     []*durable // durable filters that a message matched
	served      []*group
	dirty       []*conn // have something to be written since this reader delivered to them
	in          [3]uint64
	took        totals // of the connection that is fed
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
	clear(r.filters)
	clear(r.served)
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
