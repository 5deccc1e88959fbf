package broker

import (
	"errors"
	"io"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
)

// closing is how the network connection is to end once everything is written.
type closing uint8

const (
	open   closing = iota
	polite         // transport.Conn.Shutdown: the last packet arrives
	abrupt         // the peer is gone
)

// fail ends the connection for what the client sent, with the reason for a 5.0 client ([MQTT-4.13.1-1]).
func (c *conn) fail(err error) error {
	e := ending{reason: mqtt.UnspecifiedError, detail: err.Error(), polite: true}
	if m, ok := errors.AsType[*mqtt.Error](err); ok {
		e.reason, e.detail = m.Reason, m.Detail
	}
	e.label = reasonLabel(e.reason)
	c.logEnd("connection ended", "reason", e.label, "detail", e.detail)
	c.end(e)
	return err
}

// Closed is the transport's word that nothing more will come.
func (c *conn) Closed(err error) {
	why := "closed_by_client"
	if err != nil && !errors.Is(err, io.EOF) {
		why = "network"
	}
	c.end(ending{label: why, gone: true})
	c.b.detach()
}

// ending is why and how a connection ends.
type ending struct {
	reason mqtt.Reason // for the DISCONNECT; 0: none is sent
	detail string      // its reason string
	label  string      // for the counter
	polite bool        // say DISCONNECT
	noWill bool        // at a server's shutdown
	gone   bool        // the network connection is no more
}

// end ends the connection once: the session is closed, the organization forgets it, the will is published, and what was
// to be written is written before the network connection ends. When it returns, or left is closed, nothing of it is left
// in the organization.
func (c *conn) end(e ending) {
	now := c.b.cfg.Now()
	c.mu.Lock()
	if c.isEnded() {
		if e.gone {
			c.net.Close() //nolint:errcheck // it is gone already
		}
		c.mu.Unlock()
		return
	}
	c.ended.Store(true)
	c.watch.conn.Store(nil)
	c.room.Broadcast()
	s, o := c.session, c.home
	var will *session.Message
	var filters []string
	type handover struct {
		group *group
		msg   *session.Message
	}
	var handovers []handover
	if s != nil {
		if e.polite {
			s.Disconnect(e.reason, e.detail)
		}
		c.last = s.TakeBatch()
		c.tally()
		if will = s.TakeWill(now); will != nil && e.noWill {
			will.Release()
			will = nil
		}
		s.Subscriptions(func(f string, _ session.Options) { filters = append(filters, f) })
		s.Close(func(share session.Share, m *session.Message) {
			handovers = append(handovers, handover{share.(*group), m.Hold()})
		})
	}
	c.close = polite
	if e.gone {
		c.close = abrupt
	}
	c.mu.Unlock()
	close(c.done)
	if s != nil {
		o.leave(c, s.ClientID(), filters)
		r := readers.Get().(*reader)
		for _, h := range handovers {
			if !h.group.deliver(r, h.msg, now) {
				c.b.counters.drops[dropNoMember].Add(1)
			}
			h.msg.Release()
		}
		if will != nil {
			c.publishWill(r, will, now)
		}
		r.release(&c.b.counters)
		close(c.left)
	}
	c.b.counters.count(&c.b.counters.ends, e.label)
	if n := c.log.flush(); n > 0 {
		c.b.cfg.Log.Info("refused", c.who("what", "more of the same", "suppressed", n)...)
	}
	c.b.forget(c)
	c.flush()
}
