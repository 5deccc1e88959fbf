package scenario

import (
	"net"
	"net/netip"
	"sync"

	"cloudsignal/internal/broker"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/transport"
)

// pipe is the broker's end of a connection in memory: what a socket is to it, in a bubble where time is ours.
type pipe struct{ conn net.Conn }

func (p *pipe) Write(bufs net.Buffers) error {
	_, err := bufs.WriteTo(p.conn)
	return err
}
func (p *pipe) TryWrite([]byte) (int, error) { return 0, nil }
func (p *pipe) Shutdown()                    { p.conn.Close() }
func (p *pipe) Close() error                 { return p.conn.Close() }
func (p *pipe) RemoteAddr() netip.AddrPort   { return netip.MustParseAddrPort("127.0.0.1:1") }
func (p *pipe) Kind() transport.Kind         { return transport.MQTTS }
func (p *pipe) LoggedIn()                    {}

// serve feeds the broker as the transport does, until the connection is over.
func (p *pipe) serve(b *broker.Broker) {
	h := b.Accept(p)
	buf := make([]byte, 32<<10)
	var failed error
	for {
		n, err := p.conn.Read(buf)
		if n > 0 && failed == nil {
			failed = h.Feed(buf[:n])
		}
		if err != nil {
			h.Closed(err)
			p.conn.Close()
			return
		}
	}
}

// client is a client's end: it writes packets as they are given and keeps what comes.
type client struct {
	version mqtt.Version
	conn    net.Conn
	manual  bool // does not acknowledge by itself
	running sync.WaitGroup

	mu      sync.Mutex
	paused  *sync.Cond // not nil while the client does not read
	got     []string
	format  func(mqtt.Packet) string
	pending []byte // acknowledgements to write
	wake    chan struct{}
}

// dial connects a client to the broker.
func dial(b *broker.Broker, v mqtt.Version, manual bool, format func(mqtt.Packet) string) *client {
	ours, theirs := net.Pipe()
	c := &client{version: v, conn: ours, manual: manual, format: format, wake: make(chan struct{}, 1)}
	c.running.Go(func() { (&pipe{theirs}).serve(b) })
	done := make(chan struct{})
	c.running.Go(func() { defer close(done); c.read() })
	c.running.Go(func() { c.acknowledge(done) })
	return c
}

func (c *client) read() {
	d := mqtt.Decoder{Version: c.version}
	var partial []byte
	buf := make([]byte, 32<<10)
	for {
		c.waitWhilePaused()
		n, err := c.conn.Read(buf)
		partial = append(partial, buf[:n]...)
		for {
			h, k, herr := mqtt.ReadHeader(partial)
			if herr != nil {
				c.note("broken: " + herr.Error())
				return
			}
			if k == 0 || len(partial) < k+h.Length {
				break
			}
			p, derr := d.Decode(h, partial[k:k+h.Length])
			if derr != nil {
				c.note("broken: " + derr.Error())
				return
			}
			c.take(p)
			partial = partial[k+h.Length:]
		}
		if err != nil {
			c.note("closed")
			return
		}
	}
}

func (c *client) waitWhilePaused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.paused != nil {
		c.paused.Wait()
	}
}

// pause makes the client stop reading, or go on.
func (c *client) pause(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.paused = sync.NewCond(&c.mu)
	} else if c.paused != nil {
		c.paused.Broadcast()
		c.paused = nil
	}
}

func (c *client) note(s string) {
	c.mu.Lock()
	c.got = append(c.got, s)
	c.mu.Unlock()
}

func (c *client) take(p mqtt.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, c.format(p))
	if c.manual {
		return
	}
	var ack mqtt.Ack
	switch p := p.(type) {
	case *mqtt.Publish:
		ack = mqtt.Ack{Type: mqtt.PUBACK, ID: p.ID}
		if p.QoS == 0 {
			return
		}
		if p.QoS == 2 {
			ack.Type = mqtt.PUBREC
		}
	case *mqtt.Ack:
		switch p.Type {
		case mqtt.PUBREC:
			if p.Reason.Failed() {
				return
			}
			ack = mqtt.Ack{Type: mqtt.PUBREL, ID: p.ID}
		case mqtt.PUBREL:
			ack = mqtt.Ack{Type: mqtt.PUBCOMP, ID: p.ID}
		default:
			return
		}
	default:
		return
	}
	c.pending = ack.Append(c.pending, c.version)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// acknowledge writes acknowledgements from a goroutine of its own: a client that reads never waits for its own writes.
func (c *client) acknowledge(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-c.wake:
		}
		c.mu.Lock()
		out := c.pending
		c.pending = nil
		c.mu.Unlock()
		c.conn.Write(out) //nolint:errcheck // the connection may have ended: its reader says so
	}
}

// taken returns what has come since the last call.
func (c *client) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}
