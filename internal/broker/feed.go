package broker

import (
	"fmt"
	"slices"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// connectLevel is how far into the body of a CONNECT its version is known.
const connectLevel = 2 + len("MQIsdp") + 1

// Feed takes bytes as they come: every whole packet is handled in place, the start of the next is kept. What this read
// caused, acknowledgements and deliveries, leaves in one write per connection at its end.
func (c *conn) Feed(p []byte) error {
	c.mu.Lock()
	if c.isEnded() {
		c.mu.Unlock()
		return errEnded
	}
	c.feeding = true
	c.mu.Unlock()
	r := readers.Get().(*reader)
	defer c.fed(r)
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
		c.started.Store(max(1, c.b.elapsed()))
	}
	return nil
}

// fed is the end of Feed: what this read caused leaves and, if the connection has ended meanwhile, so does the session.
func (c *conn) fed(r *reader) {
	r.flush()
	if r.took != (totals{}) {
		c.home.fold(r, c.b.cfg.Now())
	}
	c.mu.Lock()
	c.feeding = false
	ended := c.isEnded()
	c.mu.Unlock()
	if ended {
		c.settle(r)
	}
	r.release(&c.b.counters)
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
	return int(c.packetBytes)
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
		c.lastRead.Store(c.b.elapsed())
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
	if h.Type == mqtt.PUBLISH {
		c.keepPace(r)
	} else {
		c.keepPacketPace(r, p)
	}
	c.mu.Lock()
	for !c.over() && c.mustWait(h.Type) {
		c.wait(r, h.Type)
	}
	if c.over() {
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
		c.publish(r, pub, act.Slot, size, now)
	case session.Refused:
		r.in[p.(*mqtt.Publish).QoS]++
		c.home.dropped(dropTopic)
		c.refused("publish", reasonLabel(act.Reason), p.(*mqtt.Publish).Topic)
	case session.Subscribe:
		err = c.subscribe(r, p.(*mqtt.Subscribe), now)
	case session.Unsubscribe:
		err = c.unsubscribe(r, p.(*mqtt.Unsubscribe))
	case session.Release:
		c.releaseInbound(act.ID)
	case session.End:
		c.end(ending{label: "disconnect", asked: true})
		return errEnded
	}
	if err != nil && err != errEnded { //nolint:errorlint // our own, never wrapped
		return c.fail(err)
	}
	return err
}

// over reports whether nothing more is to be handled: the connection has ended, or nothing can be written to it any more
// and the transport is about to say so. The caller holds mu.
func (c *conn) over() bool { return c.isEnded() || c.close == abrupt }

// mustWait reports whether a packet of type t may not be handled yet: a PUBLISH while the ring is full, any packet while
// the client does not read what it has caused. The caller holds mu.
func (c *conn) mustWait(t mqtt.Type) bool {
	return c.session.Choked() || t == mqtt.PUBLISH && c.session.Blocked()
}

// wait lets the reader wait until there is room. Keep alive is frozen: it is we who do not read.
func (c *conn) wait(r *reader, t mqtt.Type) {
	c.blocked.Store(true)
	c.mu.Unlock()
	r.flush()
	c.mu.Lock()
	if !c.over() && c.mustWait(t) {
		c.room.Wait()
	}
	c.goOn()
}

// goOn is the end of a wait. What was waited with was a whole packet: none has begun that could be late.
func (c *conn) goOn() {
	c.lastRead.Store(c.b.elapsed())
	c.started.Store(0)
	c.blocked.Store(false)
}

// waitFor lets the reader wait for the disk: what follows a SUBSCRIBE finds it done. Keep alive is frozen.
func (c *conn) waitFor(r *reader, done <-chan error) error {
	c.blocked.Store(true)
	r.flush()
	err := <-done
	c.goOn()
	return err
}

// waitForDisk lets the reader wait until its organization may have more on the way to the disk.
func (c *conn) waitForDisk(r *reader) {
	c.blocked.Store(true)
	r.flush()
	c.home.admit()
	c.goOn()
}

// releaseInbound takes away the record of an inbound QoS 2 identifier; PUBCOMP leaves when that is durable.
func (c *conn) releaseInbound(id uint16) {
	operation := engine.Operation{Op: engine.OpRelease, Owner: c.owner, ID: id}
	c.home.commit(&engine.Batch{Organization: c.home.number, Operations: []engine.Operation{operation}}, func(r *reader, _ engine.Position, err error) {
		if err != nil {
			c.end(ending{reason: mqtt.ServerUnavailable, label: "store", polite: true})
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.isEnded() {
			c.session.Released(id)
			r.mark(c)
		}
	})
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
