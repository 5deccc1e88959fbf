package broker

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/transport"
)

// moody is a network connection that takes a write whole, in part, only in another goroutine, only when it has ended, or
// breaks.
type moody struct {
	mu    sync.Mutex
	rand  *rand.Rand
	once  sync.Once
	ended chan struct{}
}

func newMoody(seed uint64) *moody {
	return &moody{rand: rand.New(rand.NewPCG(seed, 1)), ended: make(chan struct{})}
}

func (m *moody) mood(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rand.IntN(n)
}

func (m *moody) over() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

func (m *moody) TryWrite(p []byte) (int, error) {
	switch k := m.mood(20); {
	case m.over():
		return 0, net.ErrClosed
	case k < 8:
		return len(p), nil
	case k < 13:
		return m.mood(len(p) + 1), nil
	case k < 19:
		return 0, nil
	}
	m.Close()
	return 0, io.ErrClosedPipe
}

func (m *moody) Write(net.Buffers) error {
	switch k := m.mood(100); {
	case m.over():
		return net.ErrClosed
	case k == 0:
		m.Close()
		return io.ErrClosedPipe
	case k == 1: // a peer that does not read, until the connection ends or the write deadline
		select {
		case <-m.ended:
			return net.ErrClosed
		case <-time.After(20 * time.Millisecond):
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

func (m *moody) Shutdown()    { m.Close() }
func (m *moody) Close() error { m.once.Do(func() { close(m.ended) }); return nil }
func (m *moody) RemoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 1)
}
func (m *moody) Kind() transport.Kind { return transport.MQTTS }
func (m *moody) LoggedIn()            {}

// worker plays a few clients at a time, as their transport.
type worker struct {
	*rand.Rand
	s     *server
	slots [4]*played
	all   []*played
}

type played struct {
	conn    *conn
	net     *moody
	version mqtt.Version
}

// connect begins a connection in place of the one in a slot. Identifiers are few: take-overs are many.
func (w *worker) connect(i int) {
	w.finish(i, io.EOF)
	p := &played{net: newMoody(w.Uint64()), version: []mqtt.Version{mqtt.V311, mqtt.V5}[w.IntN(2)]}
	p.conn = w.s.Accept(p.net).(*conn)
	w.slots[i] = p
	w.all = append(w.all, p)
	if w.IntN(20) == 0 {
		return // says nothing
	}
	c := w.s.connectPacket("any", fmt.Sprintf("id-%d", w.IntN(6)), p.version)
	if w.IntN(2) == 0 {
		c.HasWill, c.WillTopic, c.WillPayload, c.WillQoS, c.WillRetain = true, []byte(w.topic()), []byte("w"), mqtt.QoS(w.IntN(3)), w.IntN(2) == 0
	}
	if w.IntN(2) == 0 { // a session that outlives its connection
		c.CleanStart = w.IntN(3) == 0
		if p.version == mqtt.V5 {
			c.Properties.Set(mqtt.SessionExpiry)
			c.Properties.SessionExpiry = 1000
		}
	}
	c.Properties.Set(mqtt.ReceiveMaximum)
	c.Properties.ReceiveMaximum = uint16(1 + w.IntN(5))
	if w.IntN(50) == 0 {
		c.Password = []byte("wrong")
	}
	w.feed(i, c)
}

// feed hands a packet over, whole or in two pieces, and ends the connection as a transport does.
func (w *worker) feed(i int, packet mqtt.Packet) {
	p := w.slots[i]
	if p == nil {
		return
	}
	if p.net.over() {
		w.finish(i, net.ErrClosed)
		return
	}
	b := packet.Append(nil, p.version)
	cut := len(b)
	if w.IntN(5) == 0 {
		cut = w.IntN(len(b) + 1)
	}
	for _, piece := range [][]byte{b[:cut], b[cut:]} {
		if len(piece) == 0 {
			continue
		}
		if err := p.conn.Feed(piece); err != nil {
			w.finish(i, err)
			return
		}
	}
}

func (w *worker) finish(i int, err error) {
	if p := w.slots[i]; p != nil {
		p.conn.Closed(err)
		p.net.Close()
		w.slots[i] = nil
	}
}

func (w *worker) topic() string { return []string{"t", "a/b", "a/c", "$x"}[w.IntN(4)] }
func (w *worker) filter() string {
	return []string{"#", "t", "a/+", "$x", "$share/g/t", "$share/g/a/#", "$share/h/#"}[w.IntN(7)]
}

func (w *worker) step() {
	i := w.IntN(len(w.slots))
	if w.slots[i] == nil {
		w.connect(i)
		return
	}
	switch k := w.IntN(100); {
	case k < 6:
		w.connect(i)
	case k < 9:
		w.finish(i, io.EOF)
	case k < 25:
		w.feed(i, subscribe(mqtt.QoS(w.IntN(3)), w.filter(), w.filter()))
	case k < 32:
		w.feed(i, &mqtt.Unsubscribe{ID: 1, Filters: [][]byte{[]byte(w.filter())}})
	case k < 70:
		p := &mqtt.Publish{Topic: []byte(w.topic()), QoS: mqtt.QoS(w.IntN(3)), Retain: w.IntN(4) == 0}
		if p.QoS > 0 {
			p.ID = uint16(1 + w.IntN(5))
		}
		if size := w.IntN(50); size > 0 {
			p.Payload = make([]byte, []int{size, 5000}[w.IntN(10)/9])
		}
		w.feed(i, p)
	case k < 72:
		w.feed(i, &mqtt.Disconnect{})
	case k < 76:
		w.feed(i, &mqtt.Ack{Type: mqtt.PUBREL, ID: uint16(1 + w.IntN(5))})
	default:
		w.feed(i, &mqtt.Ack{Type: []mqtt.Type{mqtt.PUBACK, mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP}[w.IntN(4)], ID: uint16(1 + w.IntN(3))})
	}
}

// TestStress: connections that subscribe, publish, take over each other's identifiers and break, all at once, leave nothing
// behind: no client, subscription or group, no message, no goroutine.
func TestStress(t *testing.T) {
	const workers, steps = 8, 10_000
	leak := goleak.IgnoreCurrent()
	store := newStore(t)
	s := newServer(t, func(c *Config) {
		c.Store = store
		c.RefusalDelay = 1
		c.Limits = DefaultLimits()
		c.Limits.Retained = 3
		c.Limits.Session.QueueBytes = 2000
		c.Limits.Session.OutboundBytes = 1000
	})
	var running, owner sync.WaitGroup
	turns := make(chan struct{}, 1)
	owner.Go(func() { s.govern(t, rand.New(rand.NewPCG(1, 3)), turns) })
	all := make([]*worker, workers)
	for i := range all {
		w := &worker{Rand: rand.New(rand.NewPCG(uint64(i), 2)), s: s}
		all[i] = w
		running.Go(func() {
			for i := range steps {
				w.step()
				if i%50 == 0 {
					select {
					case turns <- struct{}{}:
					default:
					}
				}
			}
			for i := range w.slots {
				w.finish(i, io.EOF)
			}
		})
	}
	running.Wait()
	close(turns)
	owner.Wait()
	s.endSessions(t)
	s.checkEmpty(t)
	stats := s.Stats()
	if stats.Ends["taken_over"] < 100 || stats.Out[0] < 1000 || stats.Out[1] < 1000 || stats.Out[2] < 100 || stats.Drops["queue_full"] == 0 ||
		stats.Ends["administrative"] == 0 || stats.Ends["disabled"] == 0 || stats.Subscribes["not_authorized"] == 0 {
		t.Errorf("too little happened: %+v", stats)
	}
	select {
	case <-s.Drain():
	default:
		t.Error("not drained, but nothing is connected")
	}
	s.Close()
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, leak) // writers included
	for _, w := range all {
		for _, p := range w.all {
			p.check(t)
		}
	}
}

// govern changes what the organization's clients may do, and looks at them, once a turn. In the end things are as they were.
func (s *server) govern(t *testing.T, r *rand.Rand, turns <-chan struct{}) {
	first := s.record
	restore := func() {
		s.change(nil, func(r *access.OrganizationRecord) {
			r.Users, r.RuleSets, r.Limits = first.Users, first.RuleSets, first.Limits
		})
	}
	defer restore()
	for range turns {
		s.meddle(t, r)
		if r.IntN(2) == 0 {
			restore()
		}
	}
}

func (s *server) meddle(t *testing.T, r *rand.Rand) {
	ctx, id := context.Background(), fmt.Sprintf("id-%d", r.IntN(6))
	var err error
	switch r.IntN(12) {
	case 0, 1:
		topic := []string{"t", "a/#", "a/+", "none"}[r.IntN(4)]
		s.change(nil, func(r *access.OrganizationRecord) {
			rule := access.Rule{ID: "9", User: "any", Topic: topic, Permission: access.PermitBoth, Effect: access.Allow}
			r.RuleSets = []access.RuleSet{{ID: "set", Name: "default", Default: true, Rules: []access.Rule{rule}}}
		})
	case 2:
		any := s.record.Users["any"]
		s.change([]string{"any"}, func(r *access.OrganizationRecord) { delete(r.Users, "any") })
		s.change([]string{"any"}, func(r *access.OrganizationRecord) { r.Users["any"] = any })
	case 3:
		for _, disabled := range []bool{true, false} { // at once: who cannot log in does nothing
			s.change([]string{"any"}, func(r *access.OrganizationRecord) {
				u := r.Users["any"]
				u.Disabled = disabled
				r.Users["any"] = u
			})
		}
	case 4, 5:
		limits := access.Limits{MaxConnections: r.IntN(20), MaxSubscriptions: r.IntN(4), MaxSessions: r.IntN(9), MaxRetained: r.IntN(3), MaxStorageBytes: int64(r.IntN(3000))}
		s.change([]string{}, func(r *access.OrganizationRecord) { r.Limits = limits })
	case 6:
		_, err = s.Disconnect(ctx, 1, id, r.IntN(2) == 0)
	case 7:
		_, err = s.Terminate(ctx, 1, "any")
	case 8:
		_, err = s.Sessions(1, SessionQuery{Limit: 3})
	case 9:
		_, _, err = s.Session(1, id)
	case 10:
		if _, err = s.Retained(1, "", "", 5); err == nil {
			_, err = s.DeleteRetained(ctx, 1, "t")
		}
		s.home(t).trimSoon.Store(true)
	default:
		var g *access.Grant
		if g, err = s.cfg.Authenticator.Standing(1, "server", ""); err == nil {
			_, err = s.Publish(ctx, g, &Message{Topic: "a/b", Payload: []byte("x"), QoS: uint8(r.IntN(3)), Retain: r.IntN(3) == 0})
		}
		if fault.CodeOf(err) == fault.Exhausted {
			err = nil
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// endSessions ends what is left of the workers' clients by a clean start.
func (s *server) endSessions(t *testing.T) {
	t.Helper()
	for i := range 6 {
		c, _ := s.dial(t, "any", fmt.Sprintf("id-%d", i))
		c.Closed(nil)
	}
}

// check: an ended connection keeps nothing to write and is on nobody's list.
func (p *played) check(t *testing.T) {
	t.Helper()
	c := p.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.isEnded() || !p.net.over():
		t.Fatal("it has not ended")
	case c.writing || c.marked:
		t.Fatalf("writing %v, marked %v", c.writing, c.marked)
	case c.last != nil || c.batch != nil:
		t.Fatal("a batch is left")
	case c.session != nil && (c.session.Pending() > 0 || c.session.Busy()):
		t.Fatalf("the session keeps %d bytes, busy %v", c.session.Pending(), c.session.Busy())
	}
}
