// Package client is a small MQTT client on the broker's own codec, for the command line, load shapes and tests. It keeps
// no state beyond its connection.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
)

// maxInbound bounds the messages that have come and were not taken; a full queue stops reading.
const maxInbound = 64

// closeTimeout is how long Close waits for the server to close.
const closeTimeout = 2 * time.Second

// Options are what Dial needs. Connect is the CONNECT to send; its Version, ClientID and credentials are the caller's.
type Options struct {
	Target  Target
	Connect mqtt.Connect
	// ByHand has every message acknowledged only by its Ack: what was not comes again to a session that goes on.
	ByHand bool
}

// Message is a PUBLISH that came, with memory of its own.
type Message struct {
	Topic      string
	Payload    []byte
	QoS        mqtt.QoS
	Retain     bool
	Dup        bool
	Properties mqtt.Properties

	ack func() error
}

// Ack acknowledges the message, of a client with Options.ByHand. It is to be called once.
func (m *Message) Ack() error {
	if m.ack == nil {
		return nil
	}
	return m.ack()
}

// Refused is a CONNACK or DISCONNECT with an error.
type Refused struct {
	Packet mqtt.Type
	Reason mqtt.Reason
	Detail string // the server's reason string
}

// Error says which packet, the reason and the server's words.
func (e *Refused) Error() string {
	s := fmt.Sprintf("the server answered %s: %s (0x%02X)", e.Packet, e.Reason, uint8(e.Reason))
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// ErrClosed is the error of a client after Close.
var ErrClosed = errors.New("the connection is closed")

// Client is one connection. Its methods may be called by any goroutine.
type Client struct {
	version mqtt.Version
	byHand  bool
	link    link
	connack mqtt.Connack
	inbound chan *Message
	done    chan struct{}
	running sync.WaitGroup

	wmu sync.Mutex // one packet at a time
	out []byte

	mu       sync.Mutex
	err      error
	closing  bool
	waiting  map[uint16]chan answer // by packet id
	next     uint16
	window   chan struct{} // a token for each QoS 1 or 2 message that may be in flight
	received map[uint16]struct{}
	pinged   time.Time // when a PINGREQ was sent that is not answered
}

// answer is what ended an exchange.
type answer struct {
	reasons []mqtt.Reason
	detail  string
	err     error
}

// Dial connects and waits for CONNACK. A refusal is a *Refused.
func Dial(ctx context.Context, o Options) (*Client, error) {
	l, err := o.Target.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &Client{
		version: o.Connect.Version, link: l, inbound: make(chan *Message, maxInbound), done: make(chan struct{}),
		byHand: o.ByHand, waiting: make(map[uint16]chan answer), received: make(map[uint16]struct{}),
	}
	acked := make(chan *mqtt.Connack, 1)
	c.running.Go(func() { c.read(acked) })
	if err := c.send(&o.Connect); err != nil {
		c.fail(err)
	}
	select {
	case ack := <-acked:
		if ack.Reason.Failed() {
			err := &Refused{Packet: mqtt.CONNACK, Reason: ack.Reason, Detail: string(ack.Properties.ReasonString)}
			c.abandon(err)
			return nil, err
		}
		c.connack = *ack
	case <-c.done:
		c.running.Wait()
		return nil, fmt.Errorf("no CONNACK: %w", c.Err())
	case <-ctx.Done():
		c.abandon(ctx.Err())
		return nil, fmt.Errorf("no CONNACK: %w", context.Cause(ctx))
	}
	c.setWindow()
	keepAlive := time.Duration(o.Connect.KeepAlive) * time.Second
	if p := &c.connack.Properties; p.Has(mqtt.ServerKeepAlive) {
		keepAlive = time.Duration(p.ServerKeepAlive) * time.Second // [MQTT-3.1.2-21]
	}
	if keepAlive > 0 {
		c.running.Go(func() { c.ping(keepAlive) })
	}
	return c, nil
}

func (c *Client) setWindow() {
	n := 65535
	if p := &c.connack.Properties; p.Has(mqtt.ReceiveMaximum) {
		n = int(p.ReceiveMaximum)
	}
	c.window = make(chan struct{}, min(n, 1000))
}

// Connack is what the server answered.
func (c *Client) Connack() *mqtt.Connack { return &c.connack }

// Messages are the messages that come, in order; closed when the connection ends. A message is acknowledged once it is
// in this channel.
func (c *Client) Messages() <-chan *Message { return c.inbound }

// Done is closed when the connection has ended; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection has ended, nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says DISCONNECT, which discards the will, and ends the connection.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	err := c.send(&mqtt.Disconnect{})
	// The server closes behind a DISCONNECT; to close first, with bytes unread, could take the DISCONNECT back.
	c.link.closeWrite()
	t := time.NewTimer(closeTimeout)
	defer t.Stop()
	for open := true; open; {
		select {
		case _, open = <-c.inbound:
		case <-t.C:
			open = false
		}
	}
	c.abandon(ErrClosed)
	return err
}

// Abort ends the connection without a word, as a crash would.
func (c *Client) Abort() { c.abandon(ErrClosed) }

func (c *Client) abandon(err error) {
	c.fail(err)
	c.running.Wait()
}

// fail ends the connection once.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if c.closing {
		err = ErrClosed
	}
	c.err = err
	close(c.done)
	for id, w := range c.waiting {
		w <- answer{err: err}
		delete(c.waiting, id)
	}
	c.link.close()
}

func (c *Client) send(p mqtt.Packet) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.out = p.Append(c.out[:0], c.version)
	if err := c.link.write(c.out); err != nil {
		if e := c.Err(); e != nil {
			return e
		}
		return fmt.Errorf("sending %s: %w", p.Kind(), err)
	}
	return nil
}

// Publish sends a message and, at QoS 1 and 2, waits until the server has taken it. The reason is the server's: below
// 0x80 unless the message was refused. p.ID is set here.
func (c *Client) Publish(ctx context.Context, p *mqtt.Publish) (mqtt.Reason, error) {
	if p.QoS == 0 {
		p.ID = 0
		return mqtt.Success, c.send(p)
	}
	select {
	case c.window <- struct{}{}:
		defer func() { <-c.window }()
	case <-c.done:
		return 0, c.Err()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	a, err := c.exchange(ctx, func(id uint16) mqtt.Packet { p.ID = id; return p })
	if err != nil {
		return 0, err
	}
	return a.reasons[0], nil
}

// Subscribe sends SUBSCRIBE and returns one reason per filter: the granted QoS, or 0x80 and above. s.ID is set here.
func (c *Client) Subscribe(ctx context.Context, s *mqtt.Subscribe) ([]mqtt.Reason, error) {
	a, err := c.exchange(ctx, func(id uint16) mqtt.Packet { s.ID = id; return s })
	if err == nil && len(a.reasons) != len(s.Subscriptions) {
		err = errors.New("SUBACK has another number of reasons than SUBSCRIBE of filters")
	}
	return a.reasons, err
}

// Unsubscribe sends UNSUBSCRIBE; the reasons are one per filter on 5.0, none on 3.x.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) ([]mqtt.Reason, error) {
	u := mqtt.Unsubscribe{}
	for _, f := range filters {
		u.Filters = append(u.Filters, []byte(f))
	}
	a, err := c.exchange(ctx, func(id uint16) mqtt.Packet { u.ID = id; return &u })
	return a.reasons, err
}

// exchange sends a packet with a new id and waits for what ends it.
func (c *Client) exchange(ctx context.Context, packet func(id uint16) mqtt.Packet) (answer, error) {
	w := make(chan answer, 1)
	id, err := c.reserve(w)
	if err != nil {
		return answer{}, err
	}
	if err := c.send(packet(id)); err != nil {
		return answer{}, err
	}
	select {
	case a := <-w:
		return a, a.err
	case <-ctx.Done():
		return answer{}, ctx.Err() // the id stays in use until its answer comes
	}
}

func (c *Client) reserve(w chan answer) (uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if len(c.waiting) >= 1<<16-1 {
		return 0, errors.New("all packet identifiers are in use")
	}
	for {
		c.next++
		if _, used := c.waiting[c.next]; !used && c.next != 0 {
			c.waiting[c.next] = w
			return c.next, nil
		}
	}
}

// read takes packets until the connection ends.
func (c *Client) read(acked chan<- *mqtt.Connack) {
	defer close(c.inbound)
	d := mqtt.Decoder{Version: c.version}
	var partial []byte
	err := c.link.read(func(b []byte) error {
		partial = append(partial, b...)
		rest := partial
		for {
			h, n, err := mqtt.ReadHeader(rest)
			if err != nil {
				return err
			}
			if n == 0 || len(rest) < n+h.Length {
				partial = partial[:copy(partial, rest)]
				return nil
			}
			p, err := d.Decode(h, rest[n:n+h.Length])
			if err == nil {
				err = c.handle(p, acked)
			}
			if err != nil {
				return err
			}
			rest = rest[n+h.Length:]
		}
	})
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the server closed the connection")
	}
	c.fail(err)
}

func (c *Client) handle(p mqtt.Packet, acked chan<- *mqtt.Connack) error {
	switch p := p.(type) {
	case *mqtt.Connack:
		ack := *p
		ack.Properties = cloneProperties(&p.Properties)
		select {
		case acked <- &ack:
		default:
			return errors.New("a second CONNACK")
		}
	case *mqtt.Publish:
		return c.deliver(p)
	case *mqtt.Ack:
		return c.ack(p)
	case *mqtt.Suback:
		c.settle(p.ID, append([]mqtt.Reason(nil), p.Reasons...), &p.Properties)
	case *mqtt.Unsuback:
		c.settle(p.ID, append([]mqtt.Reason(nil), p.Reasons...), &p.Properties)
	case *mqtt.Ping:
		c.mu.Lock()
		c.pinged = time.Time{}
		c.mu.Unlock()
	case *mqtt.Disconnect:
		return &Refused{Packet: mqtt.DISCONNECT, Reason: p.Reason, Detail: string(p.Properties.ReasonString)}
	default:
		return fmt.Errorf("the server sent %s", p.Kind())
	}
	return nil
}

func (c *Client) deliver(p *mqtt.Publish) error {
	_, repeat := c.received[p.ID]
	ack := mqtt.Ack{Type: mqtt.PUBACK, ID: p.ID}
	if p.QoS == 2 {
		ack.Type = mqtt.PUBREC
		c.received[p.ID] = struct{}{}
	}
	byHand := c.byHand && p.QoS > 0 && (p.QoS < 2 || !repeat)
	if p.QoS < 2 || !repeat {
		m := &Message{
			Topic: string(p.Topic), Payload: append([]byte(nil), p.Payload...), QoS: p.QoS, Retain: p.Retain, Dup: p.Dup,
			Properties: cloneProperties(&p.Properties),
		}
		if byHand {
			m.ack = func() error { return c.send(&ack) }
		}
		select {
		case c.inbound <- m:
		case <-c.done:
			return c.Err()
		}
	}
	if p.QoS == 0 || byHand {
		return nil
	}
	return c.send(&ack)
}

func (c *Client) ack(p *mqtt.Ack) error {
	switch p.Type {
	case mqtt.PUBREL:
		delete(c.received, p.ID)
		return c.send(&mqtt.Ack{Type: mqtt.PUBCOMP, ID: p.ID})
	case mqtt.PUBREC:
		if !p.Reason.Failed() {
			return c.send(&mqtt.Ack{Type: mqtt.PUBREL, ID: p.ID})
		}
	}
	c.settle(p.ID, []mqtt.Reason{p.Reason}, &p.Properties)
	return nil
}

func (c *Client) settle(id uint16, reasons []mqtt.Reason, props *mqtt.Properties) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok := c.waiting[id]; ok {
		delete(c.waiting, id)
		w <- answer{reasons: reasons, detail: string(props.ReasonString)}
	}
}

// ping keeps the connection alive, and ends it when an answer does not come within the keep alive.
func (c *Client) ping(keepAlive time.Duration) {
	t := time.NewTicker(keepAlive * 3 / 4)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case now := <-t.C:
			c.mu.Lock()
			overdue := !c.pinged.IsZero() && now.Sub(c.pinged) >= keepAlive
			if c.pinged.IsZero() {
				c.pinged = now
			}
			c.mu.Unlock()
			if overdue {
				c.fail(errors.New("the server does not answer PINGREQ"))
				return
			}
			if err := c.send(&mqtt.Ping{Type: mqtt.PINGREQ}); err != nil {
				c.fail(err)
				return
			}
		}
	}
}
