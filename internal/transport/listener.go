package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A failing accept (EMFILE, ENFILE, ENOMEM) is tried again after a pause that doubles between these two.
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second

	// logPerSecond bounds the lines about refused peers, for anyone can cause them. What is left out is counted in the
	// next line.
	logPerSecond = 20
)

// Listener is a bound port and the connections that came through it.
type Listener struct {
	cfg    Config
	net    net.Listener
	tls    *tls.Config // nil: plain
	accept func(Conn) Handler

	stopOnce  sync.Once
	stop      chan struct{}  // closed by StopAccepting
	accepting sync.WaitGroup // the accept loop
	running   sync.WaitGroup // every goroutine of every connection

	mu      sync.Mutex
	conns   map[*conn]struct{}
	origins map[netip.Prefix]int // connections in handshake or before log-in; at most MaxPending

	accepted, overPending, overAddress, acceptFailed atomic.Uint64
	failed                                           [len(failures)]atomic.Uint64 // handshakes, by reason
	pending                                          atomic.Int64

	logMu      sync.Mutex
	logSecond  int64
	logged     int
	suppressed int
}

// Listen binds the port; when it returns without error the kernel queues connections until Serve.
func Listen(cfg Config) (*Listener, error) {
	cfg.setDefaults()
	switch cfg.Kind {
	case MQTT, WS:
		if cfg.TLS != nil {
			return nil, fmt.Errorf("setting %s: is unencrypted, but has a certificate; use %ss", cfg.Kind, cfg.Kind)
		}
	case MQTTS, WSS:
		if cfg.TLS == nil {
			return nil, fmt.Errorf("setting %s: needs a certificate", cfg.Kind)
		}
	default:
		return nil, fmt.Errorf("unknown kind of listener %q: it is mqtt, mqtts, ws or wss", cfg.Kind)
	}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4,
	}}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Address)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // it would name the address once more
		}
		return nil, fmt.Errorf("setting %s: cannot listen on %q: %w", cfg.Kind, cfg.Address, err)
	}
	l := &Listener{cfg: cfg, net: ln, stop: make(chan struct{}), conns: make(map[*conn]struct{}), origins: make(map[netip.Prefix]int)}
	if cfg.TLS != nil {
		l.tls = listenerTLS(cfg.TLS, cfg.Kind)
	}
	return l, nil
}

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.net.Addr() }

// Serve starts accepting and returns. accept is called once for each connection that finished its handshake, from the
// goroutine that then feeds the Handler, and never returns nil. Serve is called once.
func (l *Listener) Serve(accept func(Conn) Handler) {
	l.accept = accept
	l.accepting.Go(l.acceptLoop)
}

// StopAccepting closes the port. The connections that are there live on. When it returns no new one appears.
func (l *Listener) StopAccepting() {
	l.stopOnce.Do(func() {
		close(l.stop)
		l.net.Close() //nolint:errcheck // nothing is left to be done about it
	})
	l.accepting.Wait()
}

// Close stops accepting, closes every connection at once and waits until every goroutine has ended and every Handler's
// Closed has returned. It does not wait for a polite end: the owner shuts connections down before.
func (l *Listener) Close() error {
	l.StopAccepting()
	l.mu.Lock()
	for c := range l.conns {
		c.Close() //nolint:errcheck // its reader reports
	}
	l.mu.Unlock()
	l.running.Wait()
	return nil
}

// Stats returns the counts.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	open := len(l.conns)
	l.mu.Unlock()
	failed := make(map[Failure]uint64, len(failures))
	for i, f := range failures {
		failed[f] = l.failed[i].Load()
	}
	return Stats{
		Accepted:        l.accepted.Load(),
		OverPending:     l.overPending.Load(),
		OverAddress:     l.overAddress.Load(),
		HandshakeFailed: failed,
		AcceptFailed:    l.acceptFailed.Load(),
		Open:            open,
		Pending:         int(l.pending.Load()),
	}
}

func (l *Listener) acceptLoop() {
	var pause time.Duration
	for {
		nc, err := l.net.Accept()
		if err == nil {
			pause = 0
			l.take(nc.(*net.TCPConn))
			continue
		}
		select {
		case <-l.stop:
			return
		default:
		}
		l.acceptFailed.Add(1)
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		l.cfg.Log.Warn("cannot accept connections", "transport", l.cfg.Kind, "reason", err.Error(), "pause", pause)
		select {
		case <-l.stop:
			return
		case <-time.After(pause):
		}
	}
}

// take gives an accepted connection its slot and its goroutine.
func (l *Listener) take(tcp *net.TCPConn) {
	l.accepted.Add(1)
	c, err := newConn(l, tcp)
	if err != nil {
		tcp.Close() //nolint:errcheck // it is of no use
		return
	}
	if l.pending.Add(1) > int64(l.cfg.MaxPending) {
		l.pending.Add(-1)
		l.overPending.Add(1)
		l.refused(slog.LevelWarn, c.RemoteAddr(), "too many connections before log-in")
		tcp.Close() //nolint:errcheck // it is of no use
		return
	}
	from := origin(c.RemoteAddr().Addr())
	l.mu.Lock()
	crowded := l.origins[from] >= l.cfg.MaxPendingPerAddress
	if !crowded {
		l.origins[from]++
		l.conns[c] = struct{}{} // Close walks them when this loop has ended: none is missed
	}
	l.mu.Unlock()
	if crowded {
		l.pending.Add(-1)
		l.overAddress.Add(1)
		l.refused(slog.LevelWarn, c.RemoteAddr(), "too many connections of the address before log-in")
		tcp.Close() //nolint:errcheck // it is of no use
		return
	}
	l.running.Go(c.start)
}

// origin is what one customer has: an address, of IPv6 its /64.
func origin(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // of no address: the zero prefix
	return p
}

// through gives a connection's pending slot back.
func (l *Listener) through(c *conn) {
	l.pending.Add(-1)
	from := origin(c.RemoteAddr().Addr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.origins[from]--; l.origins[from] == 0 {
		delete(l.origins, from)
	}
}

// forget is the last step of a connection.
func (l *Listener) forget(c *conn) {
	c.LoggedIn() // its pending slot, if it still has one
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

// refused logs one line about a peer that did not get as far as its Handler.
func (l *Listener) refused(level slog.Level, who netip.AddrPort, reason string) {
	second := time.Now().Unix()
	l.logMu.Lock()
	if second != l.logSecond {
		l.logSecond, l.logged = second, 0
	}
	l.logged++
	if l.logged > logPerSecond {
		l.suppressed++
		l.logMu.Unlock()
		return
	}
	suppressed := l.suppressed
	l.suppressed = 0
	l.logMu.Unlock()
	args := []any{"reason", reason, "address", who, "transport", l.cfg.Kind}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	l.cfg.Log.Log(context.Background(), level, "connection refused", args...)
}

// Kind is what the listener serves.
func (l *Listener) Kind() Kind { return l.cfg.Kind }
