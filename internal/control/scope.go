package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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
	ctx       context.Context
	tx        *sql.Tx
	directory *access.Directory
	now       time.Time
	rand      io.Reader
	actor     Actor
	number    int64
	id        string

	// What the change touched: what has to be read again, and who is told.
	users      []string
	identities []string // by user name
	ruleSets   bool
	keys       bool
}

// may is nil if the actor may do in this organization what s stands for. Every method begins with it, so that nobody learns from another error
// what another organization has.
func (o *Organization) may(s access.Scope) error {
	r, err := o.known()
	switch {
	case err != nil:
		return err
	case r.Disabled && !o.actor.above() && s != access.OrganizationRead:
		return fault.New(fault.Forbidden, "the organization is disabled")
	case !o.actor.May(s):
		return fault.New(fault.Forbidden, "this %s may not do that: it takes %s", o.actor.Kind, s)
	}
	return nil
}

// known is the organization, if the actor is of it, or above all.
func (o *Organization) known() (*access.OrganizationRecord, error) {
	r, ok := o.store.directory.Organization(o.id)
	switch {
	case !ok, !o.actor.above() && o.actor.Organization != r.ID:
		return nil, noOrganization(o.id)
	case o.actor.Kind == KeyActor && !o.store.directory.HasKey(r.ID, o.actor.ID): // revoked since it was authenticated
		return nil, errNobody
	}
	return r, nil
}

// mayAbove is may for what only operators may do. Others are told so, whatever else they may.
func (o *Organization) mayAbove() error {
	if _, err := o.known(); err != nil {
		return err
	}
	if !o.actor.above() {
		return errNotOperator
	}
	return nil
}

var errNotOperator = fault.New(fault.Forbidden, "only an operator of the server may do that: it takes the key op_... that the first start wrote")

func noOrganization(id string) error {
	return fault.New(fault.NotFound, "there is no organization %q", id)
}

// read runs f in a transaction that sees one state of the database, if the actor may do what needed stands for.
func (o *Organization) read(ctx context.Context, needed access.Scope, f func(*scope) error) error {
	if err := o.may(needed); err != nil {
		return err
	}
	tx, err := o.store.begin(ctx, false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	t, err := o.store.scope(ctx, tx, o.actor, o.id)
	if err == nil {
		err = f(t)
	}
	return failed(err)
}

// change runs f in a transaction, if the actor may do what needed stands for, raises the revision, commits, puts the new picture into the
// Directory and announces. What f does not touch is not read again; if f changes nothing (errUnchanged), all of that is left out.
func (o *Organization) change(ctx context.Context, needed access.Scope, f func(*scope) error) error {
	if err := o.may(needed); err != nil {
		return err
	}
	return o.store.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := o.may(needed); err != nil { // while it waited for its turn, the key may have been revoked, the organization disabled
			return err
		}
		t, err := o.store.scope(ctx, tx, o.actor, o.id)
		if err == nil {
			err = f(t)
		}
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
		return o.store.commit(t)
	})
}

// errUnchanged is what the function of a change returns if everything is already as it is to be: then nothing is written, no revision, no
// audit, and change has no error.
var errUnchanged = errors.New("control: nothing changes")

// write runs f, alone among all that write, in a transaction that f commits.
func (s *Store) write(ctx context.Context, f func(context.Context, *sql.Tx) error) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	tx, err := s.begin(ctx, true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	return failed(f(context.WithoutCancel(ctx), tx))
}

// commit ends a change. What differs in the new picture is read before the commit, so that nothing can fail after it.
func (s *Store) commit(t *scope) error {
	if _, err := t.exec(`UPDATE organizations SET revision = revision + 1 WHERE number = $1`); err != nil {
		return err
	}
	u, err := t.update()
	if err != nil {
		return err
	}
	record := access.OrganizationRecord{}
	_, known := s.directory.Organization(t.id)
	if !known {
		if record, err = t.record(); err != nil {
			return err
		}
	}
	if err := t.tx.Commit(); err != nil {
		return s.resync(t.id, err)
	}
	if known {
		s.directory.Update(u)
	} else {
		s.directory.Put(record)
	}
	s.announce(Change{Organization: t.id, Number: uint64(t.number), Revision: u.Revision, Users: t.announced()})
	return nil
}

// announced is nil, everybody, unless only some users were touched.
func (t *scope) announced() []string {
	users := slices.Concat(t.users, t.identities)
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
	was, _ := s.directory.Organization(id)
	record, err := s.load(ctx, id)
	switch {
	case err == nil:
		s.directory.Put(record)
		s.announce(Change{Organization: id, Number: record.Number, Revision: record.Revision})
	case fault.CodeOf(err) == fault.NotFound && was != nil:
		s.directory.Remove(id)
		s.announce(Change{Organization: id, Number: was.Number, Revision: was.Revision + 1, Deleted: true})
	}
	return failed(cause)
}

// load reads all that the Directory is to know of an organization.
func (s *Store) load(ctx context.Context, id string) (record access.OrganizationRecord, err error) {
	tx, err := s.begin(ctx, false)
	if err != nil {
		return record, err
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	t, err := s.scope(ctx, tx, System(), id)
	if err == nil {
		record, err = t.record()
	}
	return record, failed(err)
}

// scope finds the organization inside tx.
func (s *Store) scope(ctx context.Context, tx *sql.Tx, a Actor, idOrUUID string) (*scope, error) {
	t := &scope{ctx: ctx, tx: tx, directory: s.directory, now: s.now(), rand: s.rand, actor: a}
	err := tx.QueryRowContext(ctx, `SELECT number, id FROM organizations WHERE id = $1 OR uuid = $2`, idOrUUID, strings.ToLower(idOrUUID)).
		Scan(&t.number, &t.id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noOrganization(idOrUUID)
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

// update is what differs in the next picture for the Directory.
func (t *scope) update() (access.Update, error) {
	o, err := t.info()
	if err != nil {
		return access.Update{}, err
	}
	u := access.Update{ID: o.ID, Revision: o.Revision, Disabled: o.Disabled, Limits: o.Limits}
	if u.Users, err = t.touchedUsers(); err != nil {
		return u, err
	}
	if u.Identities, err = t.touchedIdentities(); err != nil {
		return u, err
	}
	if t.ruleSets {
		sets, err := t.listRuleSets()
		if err != nil {
			return u, err
		}
		u.RuleSets = &sets
	}
	if t.keys {
		keys, err := t.loadKeys()
		if err != nil {
			return u, err
		}
		u.Keys = &keys
	}
	return u, nil
}

// record is the whole picture for the Directory.
func (t *scope) record() (access.OrganizationRecord, error) {
	o, err := t.info()
	if err != nil {
		return access.OrganizationRecord{}, err
	}
	r := access.OrganizationRecord{ID: o.ID, UUID: o.UUID, Number: o.Number, Revision: o.Revision, Disabled: o.Disabled, Limits: o.Limits}
	if r.Users, err = t.loadUsers(); err != nil {
		return r, err
	}
	if r.Identities, err = t.loadIdentities(); err != nil {
		return r, err
	}
	if r.RuleSets, err = t.listRuleSets(); err != nil {
		return r, err
	}
	r.Keys, err = t.loadKeys()
	return r, err
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

// touchedUsers are those that the change touched, nil those that are gone.
func (t *scope) touchedUsers() (map[string]*access.UserRecord, error) {
	users := make(map[string]*access.UserRecord)
	for _, name := range t.users {
		var u access.UserRecord
		found, err := t.row([]any{&name, &u.PasswordHash, &u.Disabled, &u.RuleSet},
			`SELECT `+userRecordColumns+` FROM users WHERE organization = $1 AND name = $2`, name)
		if err != nil {
			return nil, err
		}
		if users[name] = &u; !found {
			users[name] = nil
		}
	}
	return users, nil
}

func (t *scope) loadKeys() ([]access.KeyRecord, error) {
	var keys []access.KeyRecord
	err := t.rows(func(scan func(...any) error) error {
		var k access.KeyRecord
		var scopes, hash string
		if err := scan(&k.ID, &k.Kind, &k.Name, &scopes, &hash); err != nil {
			return err
		}
		k.Scopes = scopesOf(scopes)
		var err error
		if k.Hash, err = access.ParseKeyHash(hash); err != nil {
			return fmt.Errorf("key %s: %w", k.ID, err)
		}
		keys = append(keys, k)
		return nil
	}, `SELECT id, kind, name, scopes, hash FROM api_keys WHERE organization = $1 ORDER BY id`)
	return keys, err
}
