package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
)

// What an organization's owner does while its clients are connected. Each change is in the directory before the broker is told
// of it, as from control.
//
//	disable USER@ORG, enable USER@ORG       the user, or with @ORG alone the organization
//	rotate USER@ORG                         a new password, which the next connect as= uses; of server: its key is revoked, and another made
//	delete USER@ORG, create USER@ORG        the user, or with @ORG alone the organization
//	renew USER@ORG                          creates or enables it, with a new password
//	token NAME@ORG ttl=D [id=T]             a temporary token for a user whose name is token_NAME, for connect as=token_NAME@ORG; beside others
//	refresh NAME@ORG ttl=D [id=T]           a new password and end; the old password stays until its own
//	revoke NAME@ORG [id=T]                  a token, not the others
//	limit ORG KEY=N ...                     limits, see limitKeys; those that are not named stay
//	usage ORG                               what it takes and has used
//	sessions ORG [user=U] [connected=1|0]   the sessions, two to a page
//	session ORG ID                          one of them with its subscriptions
//	kick ORG ID [forget]                    ends a connection, or a session
//	terminate USER@ORG                      ends all connections of a user
//	retained ORG [FILTER]                   the retained messages, two to a page
//	unretain ORG TOPIC                      removes one
//	post ORG topic=T payload=P ...          publishes over HTTP as the server, or as=USER
func (s *scenario) organize(verb string, f []string) (known bool, err error) {
	if s.world == nil {
		return false, nil
	}
	switch verb {
	case "disable", "enable", "rotate", "delete", "create", "renew":
		return true, s.world.changeUser(verb, f[0])
	case "token", "refresh", "revoke":
		return true, s.world.token(verb, f[0], parseArgs(f[1:]))
	case "limit":
		return true, s.world.limit(f[0], parseArgs(f[1:]))
	case "usage", "sessions", "session", "kick", "terminate", "retained", "unretain", "post":
		var out []string
		out, err = s.world.outside(verb, f)
		s.said = append(s.said, out...)
		return true, err
	}
	return false, nil
}

// change replaces an organization's record and tells the broker.
func (w *world) change(name string, users []string, change func(*access.OrganizationRecord) error) error {
	old := w.organizations[name]
	if old == nil {
		return fmt.Errorf("no organization %s", name)
	}
	r := *old
	r.Revision++
	r.Users = maps.Clone(r.Users)
	if err := change(&r); err != nil {
		return err
	}
	w.organizations[name] = &r
	w.directory.Put(r)
	w.broker.Changed(r.Number, users)
	return nil
}

// forget deletes a user without telling the broker, as when the server is killed in between.
func (w *world) forget(org, user string) {
	r := *w.organizations[org]
	r.Revision++
	r.Users = maps.Clone(r.Users)
	delete(r.Users, user)
	w.organizations[org] = &r
	w.directory.Put(r)
}

func (w *world) changeUser(verb, who string) error {
	user, org, _ := strings.Cut(who, "@")
	if user == "" {
		return w.changeOrganization(verb, org)
	}
	return w.change(org, []string{user}, func(r *access.OrganizationRecord) error {
		u, there := r.Users[user]
		if !there && verb != "create" && verb != "renew" && user != access.ServerUser {
			return fmt.Errorf("no user %s", who)
		}
		switch verb {
		case "disable", "enable":
			u.Disabled = verb == "disable"
		case "delete":
			delete(r.Users, user)
			return nil
		case "rotate", "create", "renew":
			u.Disabled = u.Disabled && verb == "rotate"
			if user == access.ServerUser {
				key, err := access.NewKey(w.rand, access.SecretKey)
				r.Keys = []access.KeyRecord{{ID: r.Keys[0].ID + "1", Kind: access.SecretKey, Hash: access.HashKey(key)}}
				w.passwords[who] = key
				return err
			}
			password, hash, err := access.NewPassword(w.rand)
			w.must(err)
			u.PasswordHash, w.passwords[who] = hash, password
		}
		r.Users[user] = u
		return nil
	})
}

// token makes, refreshes or revokes one.
func (w *world) token(verb, who string, a args) error {
	name, org, _ := strings.Cut(who, "@")
	user, id := "token_"+name, a.text("id", "tok_1")
	ttl, err := time.ParseDuration(a.text("ttl", "0s"))
	if err != nil {
		return err
	}
	return w.change(org, []string{user}, func(r *access.OrganizationRecord) error {
		r.Identities = maps.Clone(r.Identities)
		if r.Identities == nil {
			r.Identities = make(map[string]access.IdentityRecord)
		}
		i := r.Identities[user]
		i.Tokens = slices.Clone(i.Tokens)
		at := slices.IndexFunc(i.Tokens, func(t access.TokenRecord) bool { return t.ID == id })
		if verb == "revoke" {
			i.Tokens = slices.Delete(i.Tokens, at, at+1)
			r.Identities[user] = i
			return nil
		}
		password, err := access.NewKey(w.rand, access.TokenPassword)
		if err != nil {
			return err
		}
		w.passwords[user+"@"+org] = password
		if at < 0 {
			at, i.Tokens = len(i.Tokens), append(i.Tokens, access.TokenRecord{ID: id, Permission: access.PermitBoth})
		}
		t := &i.Tokens[at]
		t.Expires = time.Now().Add(ttl)
		t.Passwords = append(slices.Clone(t.Passwords), access.TokenPassHash{Hash: access.HashKey(password), Expires: t.Expires})
		i.Until = t.Expires
		r.Identities[user] = i
		return nil
	})
}

func (w *world) changeOrganization(verb, org string) error {
	if verb == "delete" {
		r := w.organizations[org]
		delete(w.organizations, org)
		w.directory.Remove(r.ID)
		w.broker.Deleted(r.Number)
		return nil
	}
	return w.change(org, nil, func(r *access.OrganizationRecord) error {
		r.Disabled = verb == "disable"
		return nil
	})
}

var limitKeys = []string{"connections", "message", "publish-rate", "message-rate", "month", "subscriptions", "sessions", "retained", "storage"}

func (w *world) limit(org string, a args) error {
	for key := range a {
		if !slices.Contains(limitKeys, key) {
			return fmt.Errorf("no limit %s", key)
		}
	}
	return w.change(org, []string{}, func(r *access.OrganizationRecord) error {
		l := &r.Limits
		number := func(key string, was int) int { return int(a.number(key, uint64(was))) }
		l.MaxConnections = number("connections", l.MaxConnections)
		l.MaxMessageBytes = number("message", l.MaxMessageBytes)
		l.MaxPublishRate = number("publish-rate", l.MaxPublishRate)
		l.MaxMessageRate = number("message-rate", l.MaxMessageRate)
		l.MaxMessagesPerMonth = int64(number("month", int(l.MaxMessagesPerMonth)))
		l.MaxSubscriptions = number("subscriptions", l.MaxSubscriptions)
		l.MaxSessions = number("sessions", l.MaxSessions)
		l.MaxRetained = number("retained", l.MaxRetained)
		l.MaxStorageBytes = int64(number("storage", int(l.MaxStorageBytes)))
		return nil
	})
}

// outside asks the broker what the API would ask it.
func (w *world) outside(verb string, f []string) (out []string, err error) {
	user, org, at := strings.Cut(f[0], "@")
	if !at {
		user, org = "", f[0]
	}
	number, a, ctx := w.organizations[org].Number, parseArgs(f[1:]), context.Background()
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch verb {
	case "usage":
		u := w.broker.Usage(number)
		say("connections %d sessions %d subscriptions %d retained %d storage %d month %s messages %d refused %v paused %v",
			u.Connections, u.Sessions, u.Subscriptions, u.Retained, u.StorageBytes, u.Month, u.Messages, u.Refusals, u.Paused)
		for _, d := range w.broker.TakeUsage() {
			if d.Number == number {
				say("since: month %s messages %d deliveries %d in %d out %d refused %d", d.Month, d.Messages, d.Deliveries, d.BytesIn, d.BytesOut, d.Refused)
			}
		}
	case "sessions":
		return w.listSessions(number, a)
	case "session":
		info, ok, err := w.broker.Session(number, f[1])
		if err != nil || !ok {
			return []string{"none"}, err
		}
		say("%s %v", sessionLine(&info), info.Subscriptions)
	case "kick":
		found, err := w.broker.Disconnect(ctx, number, f[1], a.has("forget"))
		say("found %v", found)
		return out, err
	case "terminate":
		n, err := w.broker.Terminate(ctx, number, user)
		say("terminated %d", n)
		return out, err
	case "unretain":
		found, err := w.broker.DeleteRetained(ctx, number, f[1])
		say("found %v", found)
		return out, err
	case "retained":
		return w.listRetained(number, append(f[1:], "")[0])
	case "post":
		return w.post(ctx, org, a)
	}
	return out, nil
}

func (w *world) listSessions(number uint64, a args) (out []string, err error) {
	q := broker.SessionQuery{Limit: 2, User: a.text("user", "")}
	if a.has("connected") {
		connected := a.text("connected", "") == "1"
		q.Connected = &connected
	}
	for {
		page, err := w.broker.Sessions(number, q)
		if err != nil || len(page) == 0 {
			return out, err
		}
		for i := range page {
			out = append(out, sessionLine(&page[i]))
		}
		q.After = page[len(page)-1].ClientID
	}
}

func sessionLine(s *broker.SessionInfo) string {
	line := fmt.Sprintf("%s user=%s connected=%v expiry=%d clean=%v queued=%d/%d in-flight=%d", s.ClientID, s.User, s.Connected, s.Expiry, s.Clean, s.Queued, s.QueuedBytes, s.InFlight)
	if s.Connected {
		line += fmt.Sprintf(" %s %s keep-alive=%d since=%s", s.Protocol, s.Transport, s.KeepAlive, s.ConnectedAt.UTC().Format("15:04:05"))
	} else {
		line += fmt.Sprintf(" left=%s ends=%s", s.DisconnectedAt.Format("15:04:05"), s.ExpiresAt.Format("15:04:05"))
	}
	if !s.TokenExpires.IsZero() {
		line += " token-ends=" + s.TokenExpires.UTC().Format("15:04:05")
	}
	return line
}

func (w *world) listRetained(number uint64, filter string) (out []string, err error) {
	after := ""
	for {
		page, err := w.broker.Retained(number, filter, after, 2)
		if err != nil || len(page) == 0 {
			return out, err
		}
		for i := range page {
			m := &page[i]
			one, found, err := w.broker.RetainedMessage(number, m.Topic)
			if err != nil || !found || string(one.Payload) != string(m.Payload) {
				return out, fmt.Errorf("%s: listed, and by itself %v, %v", m.Topic, found, err)
			}
			out = append(out, fmt.Sprintf("%s payload=%s qos=%d expiry=%d by=%s type=%s response=%s correlation=%s user=%v",
				m.Topic, m.Payload, m.QoS, m.Expiry, m.PublisherID, m.ContentType, m.ResponseTopic, m.CorrelationData, m.UserProperties))
		}
		after = page[len(page)-1].Topic
	}
}

func (w *world) post(ctx context.Context, org string, a args) ([]string, error) {
	r := w.organizations[org]
	g, err := access.NewAuthenticator(w.directory, access.AuthConfig{}).Standing(r.Number, a.text("as", access.ServerUser), "http")
	if err != nil {
		return nil, err
	}
	m := &broker.Message{
		Topic: a.text("topic", ""), Payload: bytesOf(a.text("payload", "")), QoS: uint8(a.number("qos", 1)), Retain: a.has("retain"),
		Expiry: uint32(a.number("expiry", 0)), ContentType: a.text("content-type", ""), ResponseTopic: a.text("response-topic", ""),
		CorrelationData: []byte(a.text("correlation", "")),
	}
	if a.has("user") {
		key, value, _ := strings.Cut(a.text("user", ""), ":")
		m.UserProperties = [][2]string{{key, value}}
	}
	receipt, err := w.broker.Publish(ctx, g, m)
	if err != nil {
		return []string{"refused: " + err.Error()}, nil //nolint:nilerr // it is what is asked for
	}
	return []string{fmt.Sprintf("kept %v matched %v", receipt.Position > 0, receipt.Matched)}, nil
}
