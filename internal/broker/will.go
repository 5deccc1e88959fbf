package broker

import (
	"cloudsignal/internal/access"
	"cloudsignal/internal/session"
)

// willAllowed reports whether the rules (still) allow the topic of an ended connection's will.
func (c *conn) willAllowed(will *session.Message) bool {
	if c.grant.Check(access.Publish, will.Topic()) {
		return true
	}
	c.b.counters.drops[dropRefused].Add(1)
	c.refused("will", "not_authorized", will.Topic())
	return false
}
