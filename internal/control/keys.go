package control

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// MaxKeys is how many keys an organization may have.
const MaxKeys = 1000

// Key is an API key as it can be shown again.
type Key struct {
	ID         string
	Kind       access.KeyKind
	Name       string
	Masked     string         // sk_...x7m4
	Scopes     []access.Scope // of a restricted key
	CreatedAt  time.Time
	LastUsedAt time.Time // zero: never; true to a minute
}

// NewKey is a key to be made.
type NewKey struct {
	Kind   access.KeyKind // secret, publishable or restricted
	Name   string
	Scopes []access.Scope // of a restricted key, at least one
}

// CreateKey makes a key. Its secret is returned once and kept nowhere. A restricted key makes only keys that may no more than it may itself.
// Fields: kind (secret, publishable or restricted), name, scopes, scopes[0].
func (o *Organization) CreateKey(ctx context.Context, n NewKey) (key Key, secret string, err error) {
	if err := o.may(access.KeysWrite); err != nil {
		return Key{}, "", err
	}
	if err := n.validate(); err != nil {
		return Key{}, "", err
	}
	if err := o.actor.covers(n.Kind, n.Scopes); err != nil {
		return Key{}, "", err
	}
	err = o.change(ctx, access.KeysWrite, func(t *scope) (err error) {
		key, secret, err = t.createKey(n)
		return err
	})
	if err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

func (n *NewKey) validate() error {
	if n.Kind != access.SecretKey && n.Kind != access.PublishableKey && n.Kind != access.RestrictedKey {
		return fault.Field("kind", "must be %s, %s or %s", access.SecretKey, access.PublishableKey, access.RestrictedKey)
	}
	if err := access.CheckTitle("name", n.Name); err != nil {
		return err
	}
	switch {
	case n.Kind == access.RestrictedKey && len(n.Scopes) == 0:
		return fault.Field("scopes", "a restricted key needs at least one")
	case n.Kind != access.RestrictedKey && len(n.Scopes) > 0:
		return fault.Field("scopes", "only a restricted key has scopes")
	}
	for i, s := range n.Scopes {
		if !s.Known() || slices.Contains(n.Scopes[:i], s) {
			return fault.Field("scopes["+itoa(i)+"]", "must be, once, one of %s", joined(access.Scopes()))
		}
	}
	return nil
}

// covers is nil if a, by what it may itself, may have the secret of such a key, or end it. Else a key for keys alone were one for everything.
func (a Actor) covers(kind access.KeyKind, scopes []access.Scope) error {
	switch kind {
	case access.RestrictedKey:
	case access.PublishableKey:
		scopes = publishableScopes
	default:
		scopes = access.Scopes()
	}
	for _, s := range scopes {
		if !a.May(s) {
			return fault.New(fault.Forbidden, "a key can neither give nor take what it has not: %s", s)
		}
	}
	return nil
}

// keyDetail is what the audit shows of a key.
type keyDetail struct {
	Kind   access.KeyKind `json:"kind"`
	Name   string         `json:"name"`
	Masked string         `json:"masked"`
	Scopes []access.Scope `json:"scopes,omitempty"`
}

func (k *Key) detail() keyDetail { return keyDetail{k.Kind, k.Name, k.Masked, k.Scopes} }

func (t *scope) createKey(n NewKey) (Key, string, error) {
	if err := t.atMost(MaxKeys, "keys", `SELECT count(*) FROM api_keys WHERE organization = $1`); err != nil {
		return Key{}, "", err
	}
	id, err := access.NewID(t.rand, "key_")
	if err != nil {
		return Key{}, "", err
	}
	secret, err := access.NewKey(t.rand, n.Kind)
	if err != nil {
		return Key{}, "", err
	}
	k := Key{
		ID: id, Kind: n.Kind, Name: n.Name, Masked: access.Mask(secret), Scopes: slices.Clone(n.Scopes), CreatedAt: fromMillis(t.now.UnixMilli()),
	}
	_, err = t.exec(`INSERT INTO api_keys (organization, id, kind, name, hash, masked, scopes, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		k.ID, string(k.Kind), k.Name, access.HashKey(secret).String(), k.Masked, joined(k.Scopes), k.CreatedAt.UnixMilli())
	if err != nil {
		return Key{}, "", err
	}
	t.keys = true
	return k, secret, t.audit("key.create", k.ID, nil, k.detail())
}

const keyColumns = `id, kind, name, masked, scopes, created_at, last_used_at`

func scanKey(scan func(...any) error) (k Key, err error) {
	var scopes string
	var created, used int64
	err = scan(&k.ID, &k.Kind, &k.Name, &k.Masked, &scopes, &created, &used)
	k.Scopes, k.CreatedAt, k.LastUsedAt = scopesOf(scopes), fromMillis(created), fromMillisOrNever(used)
	return k, err
}

func (t *scope) key(id string) (k Key, err error) {
	found := false
	err = t.rows(func(scan func(...any) error) error {
		found = true
		k, err = scanKey(scan)
		return err
	}, `SELECT `+keyColumns+` FROM api_keys WHERE organization = $1 AND id = $2`, id)
	if err == nil && !found {
		err = fault.New(fault.NotFound, "there is no key %q", id)
	}
	return k, err
}

// Key is one key.
func (o *Organization) Key(ctx context.Context, id string) (key Key, err error) {
	err = o.read(ctx, access.KeysRead, func(t *scope) (err error) {
		if key, err = t.key(id); err == nil {
			o.store.used.fill(t.id, &key)
		}
		return err
	})
	if err != nil {
		return Key{}, err
	}
	return key, nil
}

// ListKeys lists up to limit keys (1 to MaxPage) in order of their ids, those after the id given. Fields: limit.
func (o *Organization) ListKeys(ctx context.Context, after string, limit int) ([]Key, error) {
	if err := o.may(access.KeysRead); err != nil {
		return nil, err
	}
	if err := checkLimit(limit); err != nil {
		return nil, err
	}
	var keys []Key
	err := o.read(ctx, access.KeysRead, func(t *scope) error {
		return t.rows(func(scan func(...any) error) error {
			k, err := scanKey(scan)
			o.store.used.fill(t.id, &k)
			keys = append(keys, k)
			return err
		}, `SELECT `+keyColumns+` FROM api_keys WHERE organization = $1 AND id > $2 ORDER BY id LIMIT $3`, after, limit)
	})
	return keys, err
}

// RotateKey gives a key another secret, which is returned once and kept nowhere. The old one is valid no longer, and what logged in with it has
// to end. A legacy key becomes a secret one.
func (o *Organization) RotateKey(ctx context.Context, id string) (key Key, secret string, err error) {
	err = o.change(ctx, access.KeysWrite, func(t *scope) error {
		if key, err = t.key(id); err != nil {
			return err
		}
		if err := o.actor.covers(key.Kind, key.Scopes); err != nil {
			return err
		}
		before := key.detail()
		if key.Kind == access.LegacyKey {
			key.Kind = access.SecretKey
		}
		if secret, err = access.NewKey(t.rand, key.Kind); err != nil {
			return err
		}
		key.Masked = access.Mask(secret)
		_, err = t.exec(`UPDATE api_keys SET kind = $3, hash = $4, masked = $5 WHERE organization = $1 AND id = $2`,
			id, string(key.Kind), access.HashKey(secret).String(), key.Masked)
		if err != nil {
			return err
		}
		t.keys = true
		o.store.used.fill(t.id, &key)
		return t.audit("key.rotate", id, before, key.detail())
	})
	if err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

// RevokeKey deletes a key. What logged in with it has to end. A restricted key revokes only keys that may no more than it may itself.
func (o *Organization) RevokeKey(ctx context.Context, id string) error {
	return o.change(ctx, access.KeysWrite, func(t *scope) error {
		k, err := t.key(id)
		if err != nil {
			return err
		}
		if err := o.actor.covers(k.Kind, k.Scopes); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM api_keys WHERE organization = $1 AND id = $2`, id); err != nil {
			return err
		}
		t.keys = true
		return t.audit("key.revoke", id, k.detail(), nil)
	})
}

func joined(scopes []access.Scope) string {
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = string(s)
	}
	return strings.Join(texts, " ")
}

// scopesOf reads what joined wrote.
func scopesOf(text string) (scopes []access.Scope) {
	for s := range strings.FieldsSeq(text) {
		scopes = append(scopes, access.Scope(s))
	}
	return scopes
}

func itoa(i int) string { return strconv.Itoa(i) }
