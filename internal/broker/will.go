package broker

import (
	"cloudsignal/internal/access"
	"cloudsignal/internal/session"
)

// inForce is what the rules let an ended connection do now, for its will, whyever it has ended; nil if its organization is gone or
// disabled.
func (c *conn) inForce() *access.Grant {
	now, err := c.b.cfg.Authenticator.Last(c.grant.Load())
	if err != nil {
		return nil
	}
	return now
}

// willAllowed reports whether what is in force now allows the will of an ended connection.
func (c *conn) willAllowed(will *session.Message) bool {
	if g := c.inForce(); g != nil && g.Check(access.Publish, will.Topic()) {
		return true
	}
	c.willRefused(will)
	return false
}

func (c *conn) willRefused(will *session.Message) {
	c.home.dropped(dropRefused)
	c.refused("will", "not_authorized", will.Topic())
}
