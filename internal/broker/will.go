package broker

import (
	"errors"

	"cloudsignal/internal/access"
	"cloudsignal/internal/session"
)

// inForce is what an ended connection's user may do now, nil if that is nothing: the user is gone or disabled, or its key or
// token was revoked. A password that was rotated, or a token that is over, ends connections and says nothing about wills.
func (c *conn) inForce() *access.Grant {
	old := c.grant.Load()
	now, err := c.b.cfg.Authenticator.Regrant(old)
	if refusal, ok := errors.AsType[*access.Refusal](err); ok && refusal.Why != access.WhyRevoked {
		now, err = c.b.cfg.Authenticator.Standing(old.OrganizationNumber, old.User, old.ClientID)
	}
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
