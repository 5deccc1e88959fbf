package control

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxUsed is how many keys' uses are in memory between two Sweeps; those of more are not noted.
const maxUsed = 1 << 16

// used is when keys were last used, as far as it is not written yet.
type used struct {
	mu sync.Mutex
	at map[usedKey]time.Time
}

type usedKey struct{ organization, key string } // no organization: an operator's key

func (u *used) note(organization, key string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := usedKey{organization, key}
	if _, ok := u.at[k]; !ok && len(u.at) >= maxUsed {
		return
	}
	if u.at == nil {
		u.at = make(map[usedKey]time.Time)
	}
	u.at[k] = fromMillis(now.UnixMilli())
}

// fill puts what is not written yet into k.
func (u *used) fill(organization string, k *Key) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at := u.at[usedKey{organization, k.ID}]; at.After(k.LastUsedAt) {
		k.LastUsedAt = at
	}
}

// KeyUsed notes that a key of an organization (org_...) was used; it returns at once (access.AuthConfig.KeyUsed).
func (s *Store) KeyUsed(organization, key string) { s.used.note(organization, key, s.now()) }

// writeUsed writes what was noted. What cannot be written stays noted. It is no change: neither revision nor audit.
func (s *Store) writeUsed(ctx context.Context) error {
	s.used.mu.Lock()
	at := maps.Clone(s.used.at)
	s.used.mu.Unlock()
	if len(at) == 0 {
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(at), func(a, b usedKey) int {
		return slices.Compare([]string{a.organization, a.key}, []string{b.organization, b.key})
	})
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var t *scope
		for _, k := range keys {
			if k.organization == "" {
				if err := setOperatorUsed(ctx, tx, k.key, at[k]); err != nil {
					return err
				}
				continue
			}
			if _, ok := s.directory.Organization(k.organization); !ok { // deleted meanwhile
				continue
			}
			if t == nil || t.id != k.organization {
				var err error
				if t, err = s.scope(ctx, tx, System(), k.organization); err != nil {
					return err
				}
			}
			if _, err := t.exec(`UPDATE api_keys SET last_used_at = $3 WHERE organization = $1 AND id = $2`, k.key, at[k].UnixMilli()); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
	if err != nil {
		return err
	}
	s.used.mu.Lock()
	defer s.used.mu.Unlock()
	for k, when := range at {
		if s.used.at[k].Equal(when) {
			delete(s.used.at, k)
		}
	}
	return nil
}
