package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	idleBuffer  = 512      // what a connection that says little needs
	burstBuffer = 32 << 10 // taken from the pool when idleBuffer was filled, until the socket is drained
	// fullRead is the least a burst read returns while more is likely to be there: one full TLS record.
	fullRead = 16 << 10
)

// refusedError is a client's mistake in the handshake.
type refusedError struct {
	why Failure
	err error
}

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

var bursts = sync.Pool{New: func() any { return new([burstBuffer]byte) }}

// errWouldBlock is a polling socket's word that nothing is there. It is a temporary net.Error: crypto/tls passes it
// through and can go on reading after it.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "nothing to read now" }
func (errWouldBlock) Timeout() bool   { return true }
func (errWouldBlock) Temporary() bool { return true }

// conn is one connection of any kind. Its reading is done by one goroutine, which is not the one that did the handshake:
// the stack that TLS made grow is given back with that.
type conn struct {
	l        *Listener
	raw      *socket
	net      io.ReadWriter // raw, or TLS over it; what the application's bytes go through
	frames   *frames       // the WebSocket reading state; nil: not a WebSocket
	loggedIn atomic.Bool

	// ending is set, under mu, when no Write may begin any more; Close does not set it, the socket's error is enough.
	ending atomic.Bool
	mu     sync.Mutex
	over   bool          // under mu: reading is over, no goroutine may be started any more
	sent   chan struct{} // under mu: closed when the last words are written; nil while not ending
	// pong is, under mu, the answer to the latest ping; a goroutine writes it, for a reader waits for no write. Earlier
	// pings need none (RFC 6455, 5.5.3), so one slot is enough.
	pong    []byte
	ponging bool

	writing sync.Mutex // WebSocket: a frame is written at once

	idle [idleBuffer]byte
}

func newConn(l *Listener, tcp *net.TCPConn) (*conn, error) {
	raw, err := newSocket(tcp)
	return &conn{l: l, raw: raw, net: raw}, err
}

// start is the first goroutine of a connection. It does the handshakes and leaves the rest to a fresh one.
func (c *conn) start() {
	if c.l.cfg.Kind == MQTT {
		c.serve(nil)
		return
	}
	first, err := c.handshake()
	if err == nil {
		c.l.running.Go(func() { c.serve(first) })
		return
	}
	c.l.failed[slices.Index(failures[:], c.failure(err))].Add(1)
	c.l.refused(slog.LevelInfo, c.RemoteAddr(), err.Error())
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.end(0, "") // the alert or the HTTP answer arrives
		c.discard()
		c.finish(nil) //nolint:errcheck // err says why
	}
	c.raw.Close() //nolint:errcheck // it is of no use any more
	c.l.forget(c)
}

// handshake makes TLS and WebSocket of the TCP connection, under one deadline for everything. It returns what the
// client has already sent beyond.
func (c *conn) handshake() (first []byte, err error) {
	if err := c.raw.SetDeadline(time.Now().Add(c.l.cfg.HandshakeTimeout)); err != nil {
		return nil, err
	}
	if c.l.tls != nil {
		if err := c.secure(); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
	}
	if c.l.cfg.Kind.webSocket() {
		if first, err = c.upgrade(); err != nil {
			return nil, fmt.Errorf("WebSocket upgrade: %w", err)
		}
		c.frames = new(frames)
	}
	return first, c.raw.SetDeadline(time.Time{})
}

// failure sorts a handshake's error.
func (c *conn) failure(err error) Failure {
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return refused.why
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return FailedTimeout
	}
	op, ok := errors.AsType[*net.OpError](err) // crypto/tls makes some for alerts too
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		ok && (op.Op == "read" || op.Op == "write") {
		return FailedClosed
	}
	return FailedTLS
}

// serve reads until the connection is over.
func (c *conn) serve(first []byte) {
	h := c.l.accept(c)
	err := c.receive(h, first)
	h.Closed(err)
	c.raw.Close() //nolint:errcheck // nobody is left to be told
	c.l.forget(c)
}

// receive feeds h until the connection ends, and returns why it did. What is to be discarded is discarded, and the last
// words are written, before it returns.
func (c *conn) receive(h Handler, first []byte) error {
	err := c.feed(h, first)
	if err == nil {
		var readErr error
		if err, readErr = c.read(h); readErr != nil {
			return c.finish(readErr)
		}
	}
	c.discard()
	c.finish(nil) //nolint:errcheck // err says why
	return err
}

// finish forbids the connection any further goroutine and waits for the one that writes the last words, if there is one.
func (c *conn) finish(err error) error {
	c.mu.Lock()
	c.over = true
	sent := c.sent
	c.mu.Unlock()
	if sent != nil {
		<-sent // at most DiscardTime: the deadline is set
		err = net.ErrClosed
	} else if errors.Is(err, net.ErrClosed) {
		err = net.ErrClosed
	}
	return err
}

// read feeds what comes until the handler (or the client, by its WebSocket frames) ends it, or reading fails.
func (c *conn) read(h Handler) (end, failed error) {
	buf := c.idle[:]
	var burst *[burstBuffer]byte
	// A short read says that TCP is drained; of TLS only that a record is at its end, the next may be there.
	_, secure := c.net.(*tls.Conn)
	shortIsLast := !secure || !canPoll
	calm := func() {
		if burst != nil {
			bursts.Put(burst)
			burst = nil
		}
		buf, c.raw.polling = c.idle[:], false
	}
	defer calm()
	for {
		n, err := c.net.Read(buf)
		if c.ending.Load() {
			return net.ErrClosed, nil
		}
		if end := c.feed(h, buf[:n]); end != nil {
			return end, nil
		}
		switch {
		case err == nil && burst == nil && n == len(buf):
			burst = bursts.Get().(*[burstBuffer]byte)
			buf, c.raw.polling = burst[:], true
		case err == nil && n < fullRead && shortIsLast, err == errWouldBlock{}: //nolint:errorlint // our own reader's, never wrapped
			calm()
		case err != nil:
			return nil, err
		}
	}
}

// feed gives h the bytes in p. An error means that h, or the client, ended the connection.
func (c *conn) feed(h Handler, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if c.frames == nil {
		return h.Feed(p)
	}
	for p != nil {
		c.frames.single, c.frames.rest = !c.loggedIn.Load(), nil
		if err := c.feedFrames(h, p); err != nil {
			return err
		}
		p = c.frames.rest
	}
	return nil
}

// feedFrames gives h the payload of the frames in p, of the first data frame only before log-in.
func (c *conn) feedFrames(h Handler, p []byte) error {
	limit := c.l.cfg.MaxMessageBeforeLogin
	if !c.frames.single {
		limit = c.l.cfg.MaxMessage
	}
	data, closing := c.frames.decode(p, limit)
	if len(data) > 0 {
		if err := h.Feed(data); err != nil {
			return err
		}
	}
	if closing != nil {
		c.end(closing.code, closing.text())
		return closing.err
	}
	if ping := c.frames.ping; ping != nil {
		c.frames.ping = nil
		c.answerPing(ping)
	}
	return nil
}

// discard reads what the peer still sends after the end has been decided, for closing a socket with unread bytes resets
// the connection, and that may destroy what the peer has not read yet.
func (c *conn) discard() {
	c.mu.Lock()
	if !c.ending.Load() { // the owner may still be writing, and has this long to end it
		c.raw.SetReadDeadline(time.Now().Add(c.l.cfg.DiscardTime)) //nolint:errcheck // then reading fails too
	}
	c.mu.Unlock()
	// Not a pooled buffer: when the server stops every connection is here at once.
	for left := c.l.cfg.DiscardBytes; left > 0; {
		n, err := c.raw.Read(c.idle[:])
		if err != nil {
			return
		}
		left -= n
	}
	// A flood is not read any further, but the last packet keeps its time to arrive: wait for the deadline or Close.
	c.raw.rc.Read(func(uintptr) bool { return false }) //nolint:errcheck // it ends by an error only
}

// Shutdown implements Conn.
func (c *conn) Shutdown() { c.end(closeNormal, "") }

// end says the last words, code and text being those of the WebSocket close frame, and lets the reader discard the rest.
func (c *conn) end(code uint16, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.ending.Swap(true) {
		return
	}
	c.raw.SetDeadline(time.Now().Add(c.l.cfg.DiscardTime)) //nolint:errcheck // then the rest fails too
	t, secure := c.net.(*tls.Conn)
	if c.frames == nil && !secure {
		c.raw.CloseWrite() //nolint:errcheck // it is the end either way
		return
	}
	sent := make(chan struct{})
	c.sent = sent
	c.l.running.Go(func() { // these writes may wait
		defer close(sent)
		if c.frames != nil {
			c.writing.Lock()
			c.net.Write(closeFrame(code, text)) //nolint:errcheck // it is the end either way
			c.writing.Unlock()
		}
		if secure {
			t.CloseWrite() //nolint:errcheck // it is the end either way
		}
		c.raw.CloseWrite() //nolint:errcheck // it is the end either way
	})
}

// answerPing has the pong written.
func (c *conn) answerPing(ping []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pong = ping
	if c.ponging || c.over || c.ending.Load() {
		return
	}
	c.ponging = true
	c.l.running.Go(c.pongLoop)
}

func (c *conn) pongLoop() {
	c.writing.Lock()
	defer c.writing.Unlock()
	for {
		c.mu.Lock()
		p := c.pong
		c.pong = nil
		c.ponging = p != nil
		c.mu.Unlock()
		if p == nil || c.mayWrite() != nil {
			return
		}
		_, err := c.net.Write(appendFrame(nil, opPong, p))
		c.written()
		if err != nil {
			c.Close() //nolint:errcheck // half a frame may be out: nothing can follow
			return
		}
	}
}

// mayWrite sets the deadline of a write that is about to begin.
func (c *conn) mayWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending.Load() {
		return net.ErrClosed
	}
	return c.raw.SetWriteDeadline(time.Now().Add(c.l.cfg.WriteTimeout))
}

// written takes the deadline back: TLS answers a key update by a write of its own, which a past deadline would fail.
func (c *conn) written() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending.Load() {
		c.raw.SetWriteDeadline(time.Time{}) //nolint:errcheck // then the next write fails too
	}
}

// vectors holds slice headers: net.Buffers.WriteTo lets its receiver escape.
var vectors = sync.Pool{New: func() any { return new(net.Buffers) }}

// Write implements Conn.
func (c *conn) Write(bufs net.Buffers) error {
	if c.frames != nil {
		c.writing.Lock()
		defer c.writing.Unlock()
	}
	if err := c.mayWrite(); err != nil {
		return err
	}
	if c.l.cfg.Kind == MQTT {
		v := vectors.Get().(*net.Buffers)
		*v = bufs
		_, err := v.WriteTo(c.raw.TCPConn)
		*v = nil
		vectors.Put(v)
		return err
	}
	defer c.written()
	g := gather{w: c.net, buf: bursts.Get().(*[burstBuffer]byte)}
	defer bursts.Put(g.buf)
	if c.frames != nil {
		g.messages(bufs)
	} else {
		for _, b := range bufs {
			g.write(b)
		}
	}
	g.flush()
	return g.err
}

// gather makes few large writes of many small ones: each write is a TLS record and a system call.
type gather struct {
	w   io.Writer
	buf *[burstBuffer]byte
	n   int
	err error
}

func (g *gather) write(p []byte) {
	for len(p) > 0 && g.err == nil {
		if g.n == 0 && len(p) >= len(g.buf) {
			_, g.err = g.w.Write(p)
			return
		}
		k := copy(g.buf[g.n:], p)
		g.n += k
		p = p[k:]
		if g.n == len(g.buf) {
			g.flush()
		}
	}
}

func (g *gather) flush() {
	if g.n > 0 && g.err == nil {
		_, g.err = g.w.Write(g.buf[:g.n])
	}
	g.n = 0
}

// TryWrite implements Conn.
func (c *conn) TryWrite(p []byte) (int, error) {
	switch {
	case c.l.cfg.Kind != MQTT:
		return 0, nil
	case c.ending.Load():
		return 0, net.ErrClosed
	}
	return c.raw.tryWrite(p)
}

// Close implements Conn. It goes past TLS, whose Close would wait for close_notify.
func (c *conn) Close() error { return c.raw.Close() }

// RemoteAddr implements Conn.
func (c *conn) RemoteAddr() netip.AddrPort {
	a := c.raw.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Kind implements Conn.
func (c *conn) Kind() Kind { return c.l.cfg.Kind }

// LoggedIn implements Conn.
func (c *conn) LoggedIn() {
	if !c.loggedIn.Swap(true) {
		c.l.through(c)
	}
}
