package control

import (
	"context"
	"strconv"
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

// CreateKey makes a key. Its secret is returned once and kept nowhere. Fields: kind (secret, publishable or restricted), name,
// scopes, scopes[0].
func (o *Organization) CreateKey(ctx context.Context, n NewKey) (key Key, secret string, err error) {
	kind, name := n.Kind, n.Name
	if kind != access.SecretKey && kind != access.PublishableKey {
		return Key{}, "", fault.Field("kind", "must be %s or %s", access.SecretKey, access.PublishableKey)
	}
	if err := access.CheckTitle("name", name); err != nil {
		return Key{}, "", err
	}
	err = o.change(ctx, func(t *scope) (err error) {
		key, secret, err = t.createKey(kind, name)
		return err
	})
	if err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

func (t *scope) createKey(kind access.KeyKind, name string) (Key, string, error) {
	if err := t.atMost(MaxKeys, "keys", `SELECT count(*) FROM api_keys WHERE organization = $1`); err != nil {
		return Key{}, "", err
	}
	id, err := access.NewID(t.rand, "key_")
	if err != nil {
		return Key{}, "", err
	}
	secret, err := access.NewKey(t.rand, kind)
	if err != nil {
		return Key{}, "", err
	}
	k := Key{ID: id, Kind: kind, Name: name, Masked: access.Mask(secret), CreatedAt: fromMillis(t.now.UnixMilli())}
	_, err = t.exec(`INSERT INTO api_keys (organization, id, kind, name, hash, masked, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		k.ID, string(k.Kind), k.Name, access.HashKey(secret).String(), k.Masked, k.CreatedAt.UnixMilli())
	t.keys = true
	return k, secret, err
}

// Key is one key.
func (o *Organization) Key(ctx context.Context, id string) (Key, error) {
	return Key{}, fault.New(fault.Internal, "not there yet")
}

// RotateKey gives a key another secret, which is returned once and kept nowhere. The old one is valid no longer.
func (o *Organization) RotateKey(ctx context.Context, id string) (key Key, secret string, err error) {
	return Key{}, "", fault.New(fault.Internal, "not there yet")
}

// ListKeys lists up to limit keys (1 to MaxPage) in order of their ids, those after the id given.
func (o *Organization) ListKeys(ctx context.Context, after string, limit int) ([]Key, error) {
	var keys []Key
	err := o.read(ctx, func(t *scope) error {
		return t.rows(func(scan func(...any) error) error {
			var k Key
			var created int64
			err := scan(&k.ID, &k.Kind, &k.Name, &k.Masked, &created)
			k.CreatedAt = fromMillis(created)
			keys = append(keys, k)
			return err
		}, `SELECT id, kind, name, masked, created_at FROM api_keys WHERE organization = $1 ORDER BY created_at, id`)
	})
	return keys, err
}

// RevokeKey deletes a key. What logged in with it has to end.
func (o *Organization) RevokeKey(ctx context.Context, id string) error {
	return o.change(ctx, func(t *scope) error {
		n, err := t.exec(`DELETE FROM api_keys WHERE organization = $1 AND id = $2`, id)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, "there is no key %q", id)
		}
		t.keys = true
		return err
	})
}

func itoa(i int) string { return strconv.Itoa(i) }

// KeyUsed notes that a key was used; it returns at once (access.AuthConfig.KeyUsed).
func (s *Store) KeyUsed(organization, key string) {}
