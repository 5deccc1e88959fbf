package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Organization is the way to everything an organization has, for one actor. It may name one that is not there, or is not the actor's: then
// every method fails with NotFound. What the actor may not do is Forbidden.
type Organization struct {
	store *Store
	actor Actor
	id    string
}

// In is the handle of an organization, by its id or its UUID, for an actor.
func (s *Store) In(a Actor, organization string) *Organization {
	return &Organization{s, a, organization}
}

// scope is a transaction inside one organization. Its statements have the organization's number as $1 whatever they are
// given: one that does not use it is refused by the database.
type scope struct {
	ctx    context.Context
	tx     *sql.Tx
	now    time.Time
	rand   io.Reader
	number int64
	id     string

	// What the change touched: what has to be read again, and who is told.
	users    []string
	ruleSets bool
	keys     bool
}

// read runs f in a transaction that sees one state of the database.
func (o *Organization) read(ctx context.Context, f func(*scope) error) error {
	tx, err := o.store.begin(ctx, false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	t, err := o.store.scope(ctx, tx, o.id)
	if err == nil {
		err = f(t)
	}
	return failed(err)
}

// change runs f in a transaction, raises the revision, commits, puts the new picture into the Directory and announces.
func (o *Organization) change(ctx context.Context, f func(*scope) error) error {
	s := o.store
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	tx, err := s.begin(ctx, true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	t, err := s.scope(context.WithoutCancel(ctx), tx, o.id)
	if err == nil {
		err = f(t)
	}
	if err != nil {
		return failed(err)
	}
	return s.commit(t)
}

// commit ends a change. The new picture is read before the commit, so that nothing can fail after it.
func (s *Store) commit(t *scope) error {
	if _, err := t.exec(`UPDATE organizations SET revision = revision + 1 WHERE number = $1`); err != nil {
		return failed(err)
	}
	base, _ := s.directory.Organization(t.id)
	record, err := t.record(base)
	if err != nil {
		return failed(err)
	}
	if err := t.tx.Commit(); err != nil {
		return s.resync(t.id, err)
	}
	s.directory.Put(record)
	s.announce(Change{Organization: record.ID, Number: record.Number, Revision: record.Revision, Users: t.announced()})
	return nil
}

// announced is nil, everybody, unless only some users were touched.
func (t *scope) announced() []string {
	users := slices.Clone(t.users)
	switch {
	case t.ruleSets:
		return nil
	case t.keys:
		users = append(users, access.ServerUser)
	}
	return users
}

// resync reads an organization again after a commit whose outcome is not known. The result is the commit's error.
func (s *Store) resync(id string, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), resyncTimeout)
	defer cancel()
	var record access.OrganizationRecord
	err := s.In(System(), id).read(ctx, func(t *scope) (err error) {
		record, err = t.record(nil)
		return err
	})
	switch {
	case err == nil:
		s.directory.Put(record)
		s.announce(Change{Organization: id, Number: record.Number, Revision: record.Revision})
	case fault.CodeOf(err) == fault.NotFound:
		s.directory.Remove(id)
		s.announce(Change{Organization: id, Deleted: true})
	}
	return failed(cause)
}

// scope finds the organization inside tx.
func (s *Store) scope(ctx context.Context, tx *sql.Tx, idOrUUID string) (*scope, error) {
	t := &scope{ctx: ctx, tx: tx, now: s.now(), rand: s.rand}
	err := tx.QueryRowContext(ctx, `SELECT number, id FROM organizations WHERE id = $1 OR uuid = lower($1)`, idOrUUID).Scan(&t.number, &t.id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "there is no organization %q", idOrUUID)
	}
	return t, err
}

func (t *scope) arguments(args []any) []any { return append([]any{t.number}, args...) }

// exec runs a statement and returns the number of rows it touched.
func (t *scope) exec(query string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(t.ctx, query, t.arguments(args)...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// row reads one row into dest. It is false if there is none.
func (t *scope) row(dest []any, query string, args ...any) (bool, error) {
	err := t.tx.QueryRowContext(t.ctx, query, t.arguments(args)...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rows calls f for every row; f calls scan once.
func (t *scope) rows(f func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := t.tx.QueryContext(t.ctx, query, t.arguments(args)...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // Err has what matters
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// atMost is an Exhausted error if there are already so many rows in a table of this organization.
func (t *scope) atMost(limit int, what, query string) error {
	var n int
	if _, err := t.row([]any{&n}, query); err != nil {
		return err
	}
	if n >= limit {
		return fault.New(fault.Exhausted, "an organization has at most %d %s; delete one first", limit, what)
	}
	return nil
}

// record is the picture for the Directory. What the change did not touch is taken from base, if there is one.
func (t *scope) record(base *access.OrganizationRecord) (access.OrganizationRecord, error) {
	r := access.OrganizationRecord{Number: uint64(t.number)}
	_, err := t.row([]any{&r.ID, &r.UUID, &r.Revision, &r.Disabled, &r.Limits.MaxConnections},
		`SELECT id, uuid, revision, disabled, max_connections FROM organizations WHERE number = $1`)
	if err != nil {
		return r, err
	}
	if base == nil {
		base = &access.OrganizationRecord{}
		t.ruleSets, t.keys = true, true
		if r.Users, err = t.loadUsers(); err != nil {
			return r, err
		}
	} else if r.Users, err = t.reloadUsers(base.Users); err != nil {
		return r, err
	}
	if r.RuleSets = base.RuleSets; t.ruleSets {
		if r.RuleSets, err = t.listRuleSets(); err != nil {
			return r, err
		}
	}
	if r.Keys = base.Keys; t.keys {
		if r.Keys, err = t.loadKeys(); err != nil {
			return r, err
		}
	}
	return r, nil
}

const userRecordColumns = `name, password_hash, disabled, COALESCE(rule_set, '')`

func (t *scope) loadUsers() (map[string]access.UserRecord, error) {
	users := make(map[string]access.UserRecord)
	err := t.rows(func(scan func(...any) error) error {
		var name string
		var u access.UserRecord
		if err := scan(&name, &u.PasswordHash, &u.Disabled, &u.RuleSet); err != nil {
			return err
		}
		users[name] = u
		return nil
	}, `SELECT `+userRecordColumns+` FROM users WHERE organization = $1`)
	return users, err
}

// reloadUsers is a copy of old with the touched users read again.
func (t *scope) reloadUsers(old map[string]access.UserRecord) (map[string]access.UserRecord, error) {
	if len(t.users) == 0 {
		return old, nil
	}
	users := maps.Clone(old)
	for _, name := range t.users {
		var u access.UserRecord
		found, err := t.row([]any{&name, &u.PasswordHash, &u.Disabled, &u.RuleSet},
			`SELECT `+userRecordColumns+` FROM users WHERE organization = $1 AND name = $2`, name)
		if err != nil {
			return nil, err
		}
		if found {
			users[name] = u
		} else {
			delete(users, name)
		}
	}
	return users, nil
}

func (t *scope) loadKeys() ([]access.KeyRecord, error) {
	var keys []access.KeyRecord
	err := t.rows(func(scan func(...any) error) error {
		var k access.KeyRecord
		var hash string
		if err := scan(&k.ID, &k.Kind, &hash); err != nil {
			return err
		}
		var err error
		if k.Hash, err = access.ParseKeyHash(hash); err != nil {
			return fmt.Errorf("key %s: %w", k.ID, err)
		}
		keys = append(keys, k)
		return nil
	}, `SELECT id, kind, hash FROM api_keys WHERE organization = $1 ORDER BY id`)
	return keys, err
}
