package broker

import (
	"cloudsignal/internal/engine"
	"cloudsignal/internal/session"
)

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
	now := c.b.cfg.Now()
	c.session.Pump(now)
	for _, s := range c.session.TakeSettled() {
		s.Share.(*group).settled(engine.Position(s.Position))
	}
	if c.kept != nil {
		c.feedLog(now)
	}
	if len(c.groups) > 0 && !c.session.Busy() && (c.kept == nil || len(c.kept.again) == 0) {
		for g := range c.groups {
			g.kick()
		}
	}
	c.tally()
	b := c.session.TakeBatch()
	c.room.Signal()
	return b
}

// finish ends the network connection of an ended connection that has nothing left to write. The caller holds mu.
func (c *conn) finish() {
	switch {
	case c.close == polite && !c.holding:
		c.net.Shutdown()
	case c.close == abrupt:
		if c.last != nil {
			c.last.Release()
			c.last = nil
		}
		c.net.Close() //nolint:errcheck // nobody is there to be told
		c.room.Broadcast()
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
	sent := uint32(0)
	for q, n := range t.Sent {
		if n > 0 {
			c.b.counters.out[q].Add(uint64(n))
			sent += n
		}
	}
	if sent > 0 && c.home != nil {
		c.home.usage.sent(int64(sent), int64(t.Bytes))
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
