package broker

import (
	"time"

	"cloudsignal/internal/mqtt"
)

// check looks at the deadlines: CONNECT, a started packet, keep alive. It returns when to look again, zero once ended.
func (c *conn) check(now time.Time) time.Time {
	if c.isEnded() {
		return time.Time{}
	}
	l := &c.b.cfg.Limits
	next := now.Add(time.Minute)
	if started := c.started.Load(); started != 0 && !c.blocked.Load() {
		at := c.b.at(started).Add(l.PacketTimeout)
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
	if at := c.resumeReader(false); at != 0 {
		next = earlier(next, c.b.at(at))
	}
	c.mu.Unlock()
	if g := c.grant.Load(); live && g != nil && !g.Expires.IsZero() {
		if !now.Before(g.Expires) {
			c.expire()
			if g = c.grant.Load(); c.isEnded() {
				return time.Time{}
			}
		}
		next = earlier(next, g.Expires)
	}
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
		c.lastRead.Store(c.b.elapsed())
		next = earlier(next, now.Add(keepAlive))
	case keepAlive > 0:
		at := c.b.at(c.lastRead.Load()).Add(keepAlive)
		if !now.Before(at) {
			c.overdue(mqtt.KeepAliveTimeout, "keep_alive", "no packet came for 1.5 times the keep alive") // [MQTT-3.1.2-22]
			return time.Time{}
		}
		next = earlier(next, at)
	}
	return next
}

func (c *conn) overdue(r mqtt.Reason, label, detail string) {
	c.logEnd("connection ended", "reason", label, "detail", detail)
	c.end(ending{reason: r, detail: detail, label: label, polite: true})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
