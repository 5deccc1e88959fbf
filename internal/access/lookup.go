package access

import "cloudsignal/internal/fault"

// Key finds any organization's key by its secret. What it returns is not to be changed.
func (d *Directory) Key(secret string) (*OrganizationRecord, *KeyRecord, bool) {
	if len(secret) > maxKey {
		return nil, nil, false
	}
	if _, err := ParseKey(secret); err != nil {
		return nil, nil, false
	}
	h := HashKey(secret)
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, o := range d.byNumber {
		if k := o.keys[h]; k != nil {
			return &o.record, k, true
		}
	}
	return nil, nil, false
}

// KeyGrant is what a key may publish over HTTP: as the server, or, with a publishable key, what the default rule set lets a user do
// whose name and client identifier are the key's id. A *Refusal says that the key is gone or may not publish.
func (d *Directory) KeyGrant(organization, keyID string) (*Grant, error) {
	return nil, fault.New(fault.Internal, "not there yet")
}

// Explain says what a user may do, connected or not, and why. Fields: topic. An unknown user or organization is NotFound.
func (d *Directory) Explain(organization, user, clientID string, a Action, topic string) (Decision, error) {
	return Decision{}, fault.New(fault.Internal, "not there yet")
}

// Limits are those of an organization, by its number.
func (d *Directory) Limits(number uint64) (Limits, bool) {
	o := d.findNumber(number)
	if o == nil {
		return Limits{}, false
	}
	return o.record.Limits, true
}

// Has says whether an organization has a user, disabled or not: one of its users, one that a token logs in as, or server.
func (d *Directory) Has(number uint64, user string) bool {
	o := d.findNumber(number)
	if o == nil {
		return false
	}
	_, ok := o.record.Users[user]
	return ok || user == ServerUser
}

// Has is Directory.Has.
func (a *Authenticator) Has(number uint64, user string) bool { return a.directory.Has(number, user) }

// Limits is Directory.Limits.
func (a *Authenticator) Limits(number uint64) (Limits, bool) { return a.directory.Limits(number) }
