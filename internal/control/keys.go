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
	ID        string
	Kind      access.KeyKind
	Name      string
	Masked    string // sk_...x7m4
	CreatedAt time.Time
}

// CreateKey makes a key. Its secret is returned once and kept nowhere. Fields: kind (secret or publishable), name.
func (o *Organization) CreateKey(ctx context.Context, kind access.KeyKind, name string) (key Key, secret string, err error) {
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

// ListKeys lists all keys in the order in which they were made.
func (o *Organization) ListKeys(ctx context.Context) ([]Key, error) {
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
