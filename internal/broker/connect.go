package broker

import (
	"errors"
	"io"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// connect is one CONNECT: client identifier, will, log-in, take-over, CONNACK. It waits for the log-in; nothing behind a
// CONNECT is looked at before it is accepted ([MQTT-3.1.4-6]).
func (c *conn) connect(r *reader, p *mqtt.Connect, now time.Time) error {
	c.judging.Store(true)
	if e := c.checkConnect(p); e != nil {
		r := refusalOf(p, e.Reason, "connect_invalid", e.Detail)
		if p.Version != mqtt.V5 && e.Reason != mqtt.ClientIDNotValid {
			r.version = 0 // 3.x has no code for it, and no answer (3.1.1: [MQTT-3.1.4-1])
		}
		return c.refuse(r)
	}
	clientID, assigned := string(p.ClientID), false
	if clientID == "" {
		clientID, assigned = c.assignID(), true
	}
	grant, err := c.b.cfg.Authenticator.Login(c.b.ctx, access.Login{
		Username: p.Username, Password: p.Password, HasPassword: p.HasPassword,
		ClientID: clientID, Address: c.net.RemoteAddr().Addr(),
	})
	if err != nil {
		return c.refuseLogin(p, now, err)
	}
	if p.HasWill && !grant.Check(access.Publish, p.WillTopic) {
		return c.refuse(refusalOf(p, mqtt.NotAuthorized, "will_refused", "the rules do not allow the will's topic"))
	}

	limits := c.b.sessionLimits(grant)
	s := session.New(p, clientID, limits, now)
	expiry, _ := c.expiryOf(p, grant, now)
	accepted := session.Accepted{Assigned: assigned, Expiry: expiry}
	if !s.Acceptable(accepted) {
		s.Close(nil)
		r := refusalOf(p, mqtt.PacketTooLarge, "maximum_packet_size_too_small", "the Maximum Packet Size has no room for CONNACK")
		return c.refuse(r)
	}
	if accepted.Present, err = c.enterHome(r, p, s, grant, now); err != nil {
		s.Close(nil)
		return c.refuseEntry(p, now, err)
	}
	c.packetBytes = limits.PacketBytes
	return c.live(r, p, s, accepted)
}

// enterHome has the connection's organization take it: it has its client identifier, and a session.
func (c *conn) enterHome(r *reader, p *mqtt.Connect, s *session.Session, g *access.Grant, now time.Time) (present bool, err error) {
	home, err := c.b.organization(g.OrganizationNumber)
	if err != nil {
		return false, err
	}
	if err := home.claim(c, s.ClientID()); err != nil {
		if err == errConnections { //nolint:errorlint // our own, never wrapped
			home.count(overConnections)
		}
		return false, err
	}
	c.mu.Lock()
	c.home, c.claimed = home, s.ClientID()
	c.grant.Store(g)
	c.mu.Unlock()
	return c.begin(r, p, s, now)
}

// live lets an accepted connection into its organization, and answers CONNACK.
func (c *conn) live(r *reader, p *mqtt.Connect, s *session.Session, accepted session.Accepted) error {
	home, grant := c.home, c.grant.Load()
	c.mu.Lock()
	c.session = s
	c.identity.Store(&identity{grant.Organization, access.Redact(grant.User), printable([]byte(s.ClientID()))})
	c.recipient = recipient{order: home.order.Add(1), conn: c}
	c.keepAlive = time.Duration(p.KeepAlive) * time.Second * 3 / 2
	s.Accept(accepted)
	home.countFilters(len(c.subscriptions), bytesOf(c.subscriptions))
	ended := c.isEnded() // while it took over: what was begun is ended when the reader has left
	c.mu.Unlock()
	if ended {
		return errEnded
	}
	if accepted.Present {
		if err := c.enterResumed(); err != nil {
			return c.fail(&mqtt.Error{Reason: mqtt.ServerUnavailable, Detail: "the store has failed"})
		}
		for _, f := range c.refusedLater {
			c.refused("subscribe", f.label, f.filter)
			home.refusedFilter(f.label)
		}
		c.refusedLater = nil
	}
	c.mu.Lock()
	c.found = true // a change that came before finds nobody: so what is in force is looked at now
	r.mark(c)
	c.mu.Unlock()
	c.regrant(r, nil)
	if home.overCrowded() {
		home.count(overConnections)
		home.endFor(c, overCrowded())
	}
	if c.isEnded() {
		return errEnded
	}
	c.net.LoggedIn()
	c.b.counters.count(&c.b.counters.logins, "ok")
	c.lastRead.Store(c.b.elapsed())
	if c.keepAlive > 0 {
		c.b.wheel.add(c.watch, c.b.cfg.Now().Add(c.keepAlive))
	}
	c.watchExpiry()
	return nil
}

// refuseEntry refuses a CONNECT whose organization is gone or has a limit against it, or whose session cannot be had from the
// store, or put there.
func (c *conn) refuseEntry(p *mqtt.Connect, from time.Time, err error) error {
	switch {
	case c.isEnded():
		return errEnded
	case errors.Is(err, errConnections):
		return c.refuse(refusalOf(p, mqtt.QuotaExceeded, overConnections, err.Error()))
	case errors.Is(err, errTakeOvers):
		return c.refuse(refusalOf(p, mqtt.ConnectionRateExceeded, overTakeOvers, err.Error()))
	case errors.Is(err, errSessions):
		c.home.count(overSessions)
		return c.refuse(refusalOf(p, mqtt.QuotaExceeded, overSessions, err.Error()))
	case errors.Is(err, errFilters):
		c.home.count(overSubscriptions)
		return c.refuse(refusalOf(p, mqtt.QuotaExceeded, overSubscriptions, err.Error()))
	case errors.Is(err, errEnded), errors.Is(err, errUnknown): // deleted since it logged in
		return c.refuseLogin(p, from, &access.Refusal{Why: access.WhyUnknownOrganization})
	}
	if reason, refused := refusalReason(err); refused {
		return c.refuse(refusalOf(p, reason, "store_full", "there is no room to keep the session"))
	}
	c.b.cfg.Log.Error("log-in failed", c.who("error", err.Error())...)
	return c.refuse(refusalOf(p, mqtt.ServerUnavailable, "error", ""))
}

// checkConnect refuses what no log-in can make good.
func (c *conn) checkConnect(p *mqtt.Connect) *mqtt.Error {
	switch {
	case p.Properties.Has(mqtt.AuthMethod):
		return &mqtt.Error{Reason: mqtt.BadAuthMethod, Detail: "no authentication method is offered"} // [MQTT-4.12.0-1]
	case len(p.ClientID) == 0 && (p.Version == mqtt.V31 || p.Version == mqtt.V311 && !p.CleanStart): // 3.1.1: [MQTT-3.1.3-8]
		return &mqtt.Error{Reason: mqtt.ClientIDNotValid, Detail: "the client identifier is empty"}
	case p.HasWill:
		if err := topic.CheckName(p.WillTopic, c.b.cfg.Limits.Session.Topic); err != nil {
			return &mqtt.Error{Reason: mqtt.TopicNameInvalid, Detail: "will topic: " + err.Error()}
		}
		if p.WillProperties.Has(mqtt.ResponseTopic) {
			if err := topic.CheckName(p.WillProperties.ResponseTopic, c.b.cfg.Limits.Session.Topic); err != nil {
				return &mqtt.Error{Reason: mqtt.ProtocolError, Detail: "will response topic: " + err.Error()}
			}
		}
	}
	return nil
}

// assignID makes a client identifier that no other client has ([MQTT-3.1.3-6], [MQTT-3.2.2-16]): 80 random bits.
func (c *conn) assignID() string {
	const digits = "0123456789abcdefghijklmnopqrstuv"
	id := make([]byte, 16)
	if _, err := io.ReadFull(c.b.cfg.Rand, id); err != nil {
		panic("broker: no randomness: " + err.Error())
	}
	for i := range id {
		id[i] = digits[id[i]&31]
	}
	return "auto-" + string(id)
}

// refuseLogin answers every bad credential alike and at the same time after CONNECT, so that nobody learns what was wrong.
func (c *conn) refuseLogin(p *mqtt.Connect, from time.Time, err error) error {
	refusal, ok := errors.AsType[*access.Refusal](err)
	if !ok {
		c.b.cfg.Log.Error("log-in failed", c.who("error", err.Error())...)
		return c.refuse(refusalOf(p, mqtt.ServerUnavailable, "error", ""))
	}
	switch refusal.Why {
	case access.WhyBusy:
		return c.refuse(refusalOf(p, mqtt.ServerBusy, refusal.Why, ""))
	case access.WhyTooManyFailures:
		return c.refuse(refusalOf(p, mqtt.ConnectionRateExceeded, refusal.Why, ""))
	}
	t := time.NewTimer(from.Add(c.b.cfg.RefusalDelay).Sub(c.b.cfg.Now()))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.done:
	}
	return c.refuse(refusalOf(p, mqtt.BadUserNameOrPassword, refusal.Why, ""))
}

// refuseUnread answers a CONNECT that is too large or cannot be decoded. A client of an unknown version is told so, in the
// form it can read (3.1.1: [MQTT-3.1.2-2]); a 5.0 client is told what is wrong; 3.x is closed without a word (3.1.1:
// [MQTT-3.1.4-1]).
func (c *conn) refuseUnread(body []byte, err error) error {
	e, ok := errors.AsType[*mqtt.Error](err)
	if !ok {
		e = &mqtt.Error{Reason: mqtt.MalformedPacket}
	}
	r := refusal{version: level(body), reason: e.Reason, label: "connect_" + reasonLabel(e.Reason), detail: e.Detail}
	switch unsupported := e.Reason == mqtt.UnsupportedProtocolVersion; {
	case r.version > mqtt.V5:
		r.version = mqtt.V5
	case unsupported && r.version < mqtt.V5:
		r.version = mqtt.V311
	case r.version != mqtt.V5:
		r.version = 0
	}
	return c.refuse(r)
}

// level is the protocol level byte of a CONNECT, 0 if it is not there.
func level(body []byte) mqtt.Version {
	if len(body) < 2 {
		return 0
	}
	if n := 2 + int(body[0])<<8 + int(body[1]); n < len(body) {
		return mqtt.Version(body[n])
	}
	return 0
}

// refusal is an answer to CONNECT that ends the connection.
type refusal struct {
	version   mqtt.Version // 0: nothing is sent
	maxPacket uint32       // the client's Maximum Packet Size, 0: none
	reason    mqtt.Reason
	label     string // for the log and the counter
	detail    string // for the log and a 5.0 client
	username  []byte
}

// refusalOf is a refusal of a CONNECT that was understood.
func refusalOf(p *mqtt.Connect, reason mqtt.Reason, label, detail string) refusal {
	r := refusal{version: p.Version, reason: reason, label: label, detail: detail, username: p.Username}
	if p.Properties.Has(mqtt.MaximumPacketSize) {
		r.maxPacket = p.Properties.MaximumPacketSize
	}
	return r
}

// refuse sends CONNACK with the reason and ends the connection.
func (c *conn) refuse(r refusal) error {
	c.b.counters.count(&c.b.counters.logins, r.label)
	attrs := []any{"reason", r.label, "username", printableUsername(r.username)}
	if r.detail != "" {
		attrs = append(attrs, "detail", access.Redact(r.detail))
	}
	c.logEnd("connection refused", attrs...)
	if r.version != 0 {
		ack := mqtt.Connack{Reason: r.reason}
		if r.detail != "" {
			ack.Properties.Set(mqtt.ReasonString)
			ack.Properties.ReasonString = []byte(r.detail)
		}
		if out, ok := mqtt.AppendFitted(nil, &ack, r.version, r.maxPacket); ok { // [MQTT-3.2.2-19]
			c.mu.Lock()
			if !c.isEnded() {
				c.last = session.NewBatch(out)
			}
			c.mu.Unlock()
		}
	}
	c.end(ending{label: "refused"})
	return errEnded
}
