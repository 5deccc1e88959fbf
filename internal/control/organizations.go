package control

import (
	"context"
	"database/sql"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// MaxOrganizations is how many there may be: every one is in memory.
const MaxOrganizations = 100_000

// OrganizationInfo is an organization as its operator sees it.
type OrganizationInfo struct {
	ID        string
	UUID      string
	Number    uint64
	Name      string
	Revision  uint64
	Disabled  bool
	Limits    access.Limits
	CreatedAt time.Time // to the millisecond
}

// OrganizationUpdate is what UpdateOrganization changes: what is not nil.
type OrganizationUpdate struct {
	Name     *string
	Disabled *bool
	Limits   *access.Limits
}

const organizationColumns = `id, uuid, number, name, revision, disabled, max_connections, created_at`

func scanOrganization(scan func(...any) error) (o OrganizationInfo, err error) {
	var created int64
	err = scan(&o.ID, &o.UUID, &o.Number, &o.Name, &o.Revision, &o.Disabled, &o.Limits.MaxConnections, &created)
	o.CreatedAt = fromMillis(created)
	return o, err
}

// Organizations lists all organizations, for the operator, in the order in which they were made.
func (s *Store) Organizations(ctx context.Context) ([]OrganizationInfo, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+organizationColumns+` FROM organizations ORDER BY number`)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { _ = rows.Close() }() // Err has what matters
	var all []OrganizationInfo
	for rows.Next() {
		o, err := scanOrganization(rows.Scan)
		if err != nil {
			return nil, failed(err)
		}
		all = append(all, o)
	}
	return all, failed(rows.Err())
}

// Info is the organization itself.
func (o *Organization) Info(ctx context.Context) (info OrganizationInfo, err error) {
	err = o.read(ctx, func(t *scope) (err error) {
		info, err = t.info()
		return err
	})
	return info, err
}

func (t *scope) info() (o OrganizationInfo, err error) {
	err = t.rows(func(scan func(...any) error) error {
		o, err = scanOrganization(scan)
		return err
	}, `SELECT `+organizationColumns+` FROM organizations WHERE number = $1`)
	return o, err
}

// CreateOrganization makes an organization with no users, rules, keys or limits. Fields: name.
func (s *Store) CreateOrganization(ctx context.Context, name string) (info OrganizationInfo, err error) {
	if err := access.CheckTitle("name", name); err != nil {
		return OrganizationInfo{}, err
	}
	if err := s.lock(ctx); err != nil {
		return OrganizationInfo{}, err
	}
	defer s.unlock()
	tx, err := s.begin(ctx, true)
	if err != nil {
		return OrganizationInfo{}, err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	t, err := s.createOrganization(context.WithoutCancel(ctx), tx, name)
	if err != nil {
		return OrganizationInfo{}, failed(err)
	}
	if info, err = t.info(); err != nil {
		return OrganizationInfo{}, failed(err)
	}
	info.Revision++ // by the commit
	if err := s.commit(t); err != nil {
		return OrganizationInfo{}, err
	}
	return info, nil
}

func (s *Store) createOrganization(ctx context.Context, tx *sql.Tx, name string) (*scope, error) {
	var there int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM organizations`).Scan(&there); err != nil {
		return nil, err
	}
	if there >= MaxOrganizations {
		return nil, fault.New(fault.Exhausted, "there are at most %d organizations", MaxOrganizations)
	}
	var number int64
	err := tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = 'organization' RETURNING value`).Scan(&number)
	if err != nil {
		return nil, err
	}
	id, uuid, err := access.NewOrganizationID(s.rand)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO organizations (number, id, uuid, name, revision, disabled, max_connections, created_at)
		VALUES ($1, $2, $3, $4, 0, FALSE, 0, $5)`, number, id, uuid, name, s.now().UnixMilli())
	if err != nil {
		return nil, err
	}
	return s.scope(ctx, tx, id)
}

// UpdateOrganization changes an organization, for the operator. Fields: name, limits.max_connections.
func (s *Store) UpdateOrganization(ctx context.Context, id string, u OrganizationUpdate) error {
	if u.Name != nil {
		if err := access.CheckTitle("name", *u.Name); err != nil {
			return err
		}
	}
	if u.Limits != nil && u.Limits.MaxConnections < 0 {
		return fault.Field("limits.max_connections", "must not be negative; 0 is unlimited")
	}
	return s.In(id).change(ctx, func(t *scope) error {
		o, err := t.info()
		if err != nil {
			return err
		}
		set(&o.Name, u.Name)
		set(&o.Disabled, u.Disabled)
		set(&o.Limits, u.Limits)
		_, err = t.exec(`UPDATE organizations SET name = $2, disabled = $3, max_connections = $4 WHERE number = $1`,
			o.Name, o.Disabled, o.Limits.MaxConnections)
		return err
	})
}

// DeleteOrganization deletes an organization and everything it has here.
func (s *Store) DeleteOrganization(ctx context.Context, id string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	tx, err := s.begin(ctx, true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	t, err := s.scope(context.WithoutCancel(ctx), tx, id)
	if err != nil {
		return failed(err)
	}
	info, err := t.info()
	if err != nil {
		return failed(err)
	}
	for _, statement := range []string{ // in an order in which no reference is left dangling
		`DELETE FROM users WHERE organization = $1`,
		`DELETE FROM rules WHERE organization = $1`,
		`DELETE FROM rule_sets WHERE organization = $1`,
		`DELETE FROM api_keys WHERE organization = $1`,
		`DELETE FROM organizations WHERE number = $1`,
	} {
		if _, err := t.exec(statement); err != nil {
			return failed(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return s.resync(t.id, err)
	}
	s.directory.Remove(t.id)
	s.announce(Change{Organization: t.id, Revision: info.Revision + 1})
	return nil
}

// set puts *value into *field, if there is one.
func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
