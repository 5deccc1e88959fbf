// Package broker is where connections meet: organizations, routing, take-over, wills, shared subscriptions and the limits
// in force. After log-in a connection is handed its Organization and nothing else, so that no code path can take a topic
// to another organization's tree.
package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
	"cloudsignal/internal/transport"
)

// Authenticator judges log-ins. A refusal is an *access.Refusal.
type Authenticator interface {
	Login(ctx context.Context, l access.Login) (*access.Grant, error)
	// Regrant judges a log-in again: the new grant, or old itself if nothing has changed. A refusal says that it has to end.
	Regrant(old *access.Grant) (*access.Grant, error)
	// Standing is what the rules let a user do now that has no connection, and Last a connection that has ended: for wills.
	Standing(organization uint64, user, clientID string) (*access.Grant, error)
	Last(old *access.Grant) (*access.Grant, error)
	// Has says whether an organization has a user.
	Has(organization uint64, user string) bool
	// Limits are an organization's; false: there is none of this number.
	Limits(organization uint64) (access.Limits, bool)
}

// Config is what a broker needs. Zero values mean the defaults of DefaultLimits, the real time and crypto/rand.
type Config struct {
	Authenticator Authenticator
	Store         Store // the broker does not close it
	Now           func() time.Time
	Rand          io.Reader // assigned client identifiers
	Log           *slog.Logger
	Limits        Limits
	// RefusalDelay is the time after CONNECT at which every log-in with bad credentials is answered, whatever it was
	// that was wrong. Default 500 ms.
	RefusalDelay time.Duration
}

// Limits are the safe bounds of the server; an organization's own limits lie below them.
type Limits struct {
	Session        session.Limits
	ConnectBytes   int           // CONNECT packet, and anything before log-in
	ConnectTimeout time.Duration // from accept to a whole CONNECT
	PacketTimeout  time.Duration // from a packet's first byte to its last
	PacketRate     int           // PINGREQ packets, SUBSCRIBE and UNSUBSCRIBE packets, and every ten filters in those, a second of a connection; 0: any number
	TakeOverRate   int           // times a second that one client identifier may be taken over
	Retained       int           // retained messages of one organization
	RetainedBytes  int           // their memory
	FilterBytes    int64         // memory of one organization's subscriptions and durable filters
	CommitBytes    int           // of one organization's messages on their way to the disk; beyond, its publishers are not read
	DefaultExpiry  uint32        // seconds that the session of a 5.0 client is kept that wants one and does not say how long
	MaxExpiry      uint32        // seconds that a session is kept at most; those of 3.x clients are kept that long
	WillGrace      time.Duration // from a start of the server to the wills of those whose connection it has ended, at least
}

// DefaultLimits are the safe bounds of a server out of the box.
func DefaultLimits() Limits {
	return Limits{
		Session: session.Limits{
			ReceiveMaximum: 1000,
			RingBytes:      1 << 20,
			PacketBytes:    1 << 20,
			Window:         1000,
			QueueBytes:     4 << 20,
			OutboundBytes:  1 << 20,
			Stored:         100_000,
			TopicAliases:   32,
			Subscriptions:  10_000,
			Topic:          topic.Limits{Bytes: 4096, Levels: 64},
		},
		ConnectBytes:   64 << 10,
		ConnectTimeout: 10 * time.Second,
		PacketTimeout:  30 * time.Second,
		PacketRate:     2000,
		TakeOverRate:   10,
		Retained:       100_000,
		RetainedBytes:  256 << 20,
		FilterBytes:    512 << 20,
		CommitBytes:    4 << 20,
		DefaultExpiry:  3600,
		MaxExpiry:      7 * 24 * 3600,
		WillGrace:      30 * time.Second,
	}
}

// Broker serves connections. Accept hands it one; Drain and Close end them all.
type Broker struct {
	cfg       Config
	common    common
	counters  counters
	wheel     wheel
	start     time.Time // with its monotonic reading: deadlines count from it, so that a step of the clock moves none
	strangers logBudget

	mu            sync.Mutex
	organizations map[uint64]*Organization
	conns         map[*conn]struct{} // that have not ended
	attached      int                // connections whose Closed has not come
	draining      bool
	closed        bool                 // nothing is begun any more
	months        map[uint64]monthBase // of organizations that are not loaded
	drained       chan struct{}        // closed when draining and nothing is attached

	stop context.CancelFunc // ends log-ins and the wheel
	ctx  context.Context
	done sync.WaitGroup
}

// New starts a broker with what its store has. It has no connections until Accept.
func New(cfg Config) (*Broker, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RefusalDelay == 0 {
		cfg.RefusalDelay = 500 * time.Millisecond
	}
	if cfg.Limits == (Limits{}) {
		cfg.Limits = DefaultLimits()
	}
	b := &Broker{cfg: cfg, organizations: make(map[uint64]*Organization), conns: make(map[*conn]struct{}), drained: make(chan struct{})}
	b.start = cfg.Now()
	b.counters.begin()
	b.ctx, b.stop = context.WithCancel(context.Background())
	if err := b.load(); err != nil {
		b.stop()
		b.settle()
		return nil, err
	}
	for _, o := range b.loaded() {
		o.limitLoaded()
		o.endGone(nil)
	}
	b.done.Go(b.tick)
	b.done.Go(b.keepHouse)
	b.done.Go(b.keepTrim)
	return b, nil
}

// load loads every organization that has something on disk.
func (b *Broker) load() error {
	started, _, err := b.cfg.Store.Started(b.cfg.Store.Run())
	if err != nil {
		return err
	}
	b.common = common{
		counters: &b.counters, limits: &b.cfg.Limits, store: b.cfg.Store, authenticator: b.cfg.Authenticator, now: b.cfg.Now, log: b.cfg.Log,
		diskReaders: make(chan struct{}, maxDiskReaders), start: started, elapsed: b.elapsed,
	}
	numbers, err := b.cfg.Store.Organizations()
	if err != nil {
		return err
	}
	var unknown []uint64
	for _, number := range numbers {
		_, err := b.organization(number)
		if errors.Is(err, errUnknown) {
			unknown = append(unknown, number)
		} else if err != nil {
			return err
		}
	}
	return b.dropUnknown(unknown, len(numbers))
}

// settle waits until all that was committed is done with.
func (b *Broker) settle() {
	for _, o := range b.loaded() {
		o.settle()
	}
}

// Accept takes a connection and returns what receives its bytes.
func (b *Broker) Accept(t transport.Conn) transport.Handler {
	c := newConn(b, t)
	b.mu.Lock()
	draining := b.draining
	b.attached++
	if !draining {
		b.conns[c] = struct{}{}
	}
	b.mu.Unlock()
	if draining {
		c.end(ending{label: "draining"})
		return c
	}
	b.counters.connections.Add(1)
	b.wheel.add(c.watch, c.accepted.Add(b.cfg.Limits.ConnectTimeout))
	return c
}

// forget removes an ended connection.
func (b *Broker) forget(c *conn) {
	b.mu.Lock()
	_, had := b.conns[c]
	delete(b.conns, c)
	b.mu.Unlock()
	if had {
		b.counters.connections.Add(-1)
	}
}

// elapsed is the time since the broker's start, in nanoseconds, whatever the wall clock does.
func (b *Broker) elapsed() int64 { return int64(b.cfg.Now().Sub(b.start)) }

// at is the time of elapsed nanoseconds after the start.
func (b *Broker) at(elapsed int64) time.Time { return b.start.Add(time.Duration(elapsed)) }

// organization finds the organization of a grant, making it at its first log-in. It is called once per connection;
// there are as many as organizations that ever logged in.
func (b *Broker) organization(number uint64) (*Organization, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.organizations[number]
	if o == nil {
		l, known := b.cfg.Authenticator.Limits(number)
		if !known {
			return nil, errUnknown
		}
		o = newOrganization(b.common, number)
		o.quota.Store(&l)
		if err := o.load(); err != nil {
			return nil, err
		}
		b.organizations[number] = o
		o.setMonth(b.months[number])
		delete(b.months, number)
	}
	return o, nil
}

// home is an organization that is loaded, nil if it is not: then nobody is connected, and nothing kept.
func (b *Broker) home(number uint64) *Organization {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.organizations[number]
}

// errUnknown refuses an organization that control does not know, or not any more.
var errUnknown = errors.New("there is no such organization")

// Drain refuses new connections and ends those that are there: 5.0 clients are told ServerShuttingDown. No will is
// published: they wait on disk for those who come back to the next run, as after a crash. The channel is closed when the transport has given every connection back.
func (b *Broker) Drain() <-chan struct{} {
	b.mu.Lock()
	if !b.draining {
		b.draining = true
		b.checkDrained()
	}
	all := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		c.end(ending{reason: mqtt.ServerShuttingDown, label: "draining", noWill: true, polite: true})
	}
	return b.drained
}

// Draining reports whether new connections are refused.
func (b *Broker) Draining() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.draining
}

// detach is the last thing about a connection: the transport has closed it.
func (b *Broker) detach() {
	b.mu.Lock()
	b.attached--
	b.checkDrained()
	b.mu.Unlock()
}

func (b *Broker) checkDrained() {
	if b.draining && b.attached == 0 {
		select {
		case <-b.drained:
		default:
			close(b.drained)
		}
	}
}

// Close drains and waits for the broker's own goroutines. The transport's Close ends what connections still write.
func (b *Broker) Close() {
	b.Drain()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.done.Wait()
	b.settle()
}

// tick drives every deadline from one clock.
func (b *Broker) tick() {
	t := time.NewTicker(wheelTick)
	defer t.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-t.C:
			now := b.cfg.Now()
			for _, w := range b.wheel.due(now) {
				c := w.conn.Load()
				if c == nil {
					continue
				}
				if next := c.check(now); !next.IsZero() {
					b.wheel.add(w, next)
				}
			}
		}
	}
}
