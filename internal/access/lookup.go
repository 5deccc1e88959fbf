package access

import (
	"slices"

	"cloudsignal/internal/fault"
	"cloudsignal/internal/topic"
)

// Key finds any organization's key by its secret. What it returns is not to be changed.
func (d *Directory) Key(secret string) (*OrganizationRecord, *KeyRecord, bool) {
	if len(secret) > maxKey {
		return nil, nil, false
	}
	if _, err := ParseKey(secret); err != nil {
		return nil, nil, false
	}
	h := HashKey(secret) // a hash can be looked up: how much of it is right tells nothing about the secret
	d.mu.RLock()
	defer d.mu.RUnlock()
	o := d.byNumber[d.byKey[h]]
	if o == nil || o.keys[h] == nil {
		return nil, nil, false
	}
	return &o.record, o.keys[h], true
}

// KeyGrant is what a key may publish over HTTP: as the server, or, with a publishable key, what the default rule set lets a user do
// whose name and client identifier are the key's id. A *Refusal says that the key is gone or may not publish.
func (d *Directory) KeyGrant(organization, keyID string) (*Grant, error) {
	o := d.find(organization)
	switch {
	case o == nil:
		return nil, refuse(WhyUnknownOrganization)
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	}
	k := o.keysByID[keyID]
	switch {
	case k == nil:
		return nil, refuse(WhyRevoked)
	case k.Kind == PublishableKey:
		return o.userGrant(k.ID, UserRecord{PasswordHash: string(k.Hash[:])}, k.ID), nil
	case k.Kind.Full() || k.Kind == RestrictedKey && slices.Contains(k.Scopes, PublishMessages):
		return o.serverGrant(k, k.ID), nil
	}
	return nil, refuse(WhyNotAllowed)
}

// ServerGrant is what somebody who may do everything in an organization publishes with: a member, or an operator. id goes for its client
// identifier. A *Refusal says that the organization is gone or disabled.
func (d *Directory) ServerGrant(organization, id string) (*Grant, error) {
	o := d.find(organization)
	switch {
	case o == nil:
		return nil, refuse(WhyUnknownOrganization)
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	}
	return o.standing(ServerUser, id), nil
}

// HasKey says whether an organization has a key of this id.
func (d *Directory) HasKey(organization, id string) bool {
	o := d.find(organization)
	return o != nil && o.keysByID[id] != nil
}

// Explain says what a user may do, connected or not, disabled or not, and why. Of several tokens the one that ends last is meant. Fields:
// action, topic. An unknown user or organization is NotFound.
func (d *Directory) Explain(organization, user, clientID string, a Action, name string) (Decision, error) {
	var err error
	switch a {
	case Publish:
		err = topic.CheckName(name, topic.Limits{})
	case Subscribe:
		err = topic.CheckFilter(name, topic.Limits{})
	default:
		return Decision{}, fault.Field("action", "must be %s or %s", Publish, Subscribe)
	}
	if err != nil {
		return Decision{}, fault.Field("topic", "%s", err.Error())
	}
	o := d.find(organization)
	if o == nil {
		return Decision{}, fault.New(fault.NotFound, "there is no organization %q", organization)
	}
	g := o.standing(user, clientID)
	if g == nil {
		return Decision{}, fault.New(fault.NotFound, "there is no user %q", user)
	}
	return g.Explain(a, []byte(name)), nil
}

// Limits are those of an organization, by its number.
func (d *Directory) Limits(number uint64) (Limits, bool) {
	o := d.findNumber(number)
	if o == nil {
		return Limits{}, false
	}
	return o.record.Limits, true
}

// Has says whether an organization has a user, disabled or not: one of its users, one whom tokens log in as, or server.
func (d *Directory) Has(number uint64, user string) bool {
	o := d.findNumber(number)
	if o == nil {
		return false
	}
	if user == ServerUser {
		return true
	}
	if _, ok := o.users.Get(user); ok {
		return true
	}
	_, ok := o.identities.Get(user)
	return ok
}

// Users is how many users an organization has, those of tokens aside.
func (d *Directory) Users(organization string) int {
	o := d.find(organization)
	if o == nil {
		return 0
	}
	return o.users.Len()
}

// Tokens is how many identities and tokens, not revoked, are known of an organization: those that were not forgotten yet.
func (d *Directory) Tokens(organization string) (identities, tokens int) {
	if o := d.find(organization); o != nil {
		identities, tokens = o.identities.Len(), o.tokens
	}
	return identities, tokens
}

// Has is Directory.Has.
func (a *Authenticator) Has(number uint64, user string) bool { return a.directory.Has(number, user) }

// Limits is Directory.Limits.
func (a *Authenticator) Limits(number uint64) (Limits, bool) { return a.directory.Limits(number) }

// standing compiles what a user may do whatever it logs in with; nil if there is none, or its tokens were all revoked.
func (o *organization) standing(user, clientID string) *Grant {
	if user == ServerUser {
		g := o.grant(ServerUser, clientID, "")
		g.Server = true
		return g
	}
	if u, ok := o.users.Get(user); ok {
		return o.userGrant(user, u, clientID)
	}
	i, _ := o.identities.Get(user)
	var last *TokenRecord
	for n := range i.Tokens {
		if t := &i.Tokens[n]; last == nil || !t.Expires.Before(last.Expires) {
			last = t
		}
	}
	if last == nil {
		return nil
	}
	return o.tokenGrant(user, last, clientID)
}

// userGrant compiles what a user may do with a client identifier.
func (o *organization) userGrant(name string, u UserRecord, clientID string) *Grant {
	g := o.grant(name, clientID, u.PasswordHash)
	o.compile(g, u.RuleSet)
	return g
}

// tokenGrant compiles what a token may do with a client identifier.
func (o *organization) tokenGrant(name string, t *TokenRecord, clientID string) *Grant {
	g := o.grant(name, clientID, t.ID)
	g.Token, g.Expires = true, t.Expires
	g.narrow = &narrowing{permission: t.Permission, any: t.Topics == nil}
	for _, filter := range t.Topics {
		if _, rest, _, err := topic.SplitShare(filter); err == nil && rest != "" { // others match nothing
			g.narrow.topics = append(g.narrow.topics, rest)
		}
	}
	o.compile(g, t.RuleSet)
	return g
}

func (o *organization) compile(g *Grant, set string) {
	switch {
	case !o.hasRules:
		g.open = true
	case set != "":
		if p := o.sets[set]; p != nil { // a set that is not there allows nothing
			p.compile(g)
		}
	case o.standard != nil:
		o.standard.compile(g)
	}
}

func (o *organization) serverGrant(k *KeyRecord, clientID string) *Grant {
	g := o.grant(ServerUser, clientID, string(k.Hash[:])) // a rotated key has another hash
	g.Server = true
	return g
}

func (o *organization) grant(user, clientID, credential string) *Grant {
	return &Grant{
		User: user, Organization: o.record.ID, OrganizationNumber: o.record.Number, ClientID: clientID,
		Limits: o.record.Limits, Revision: o.record.Revision, credential: credential,
	}
}
