package control

import (
	"context"
	"database/sql"
	"slices"
	"strings"
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

// OrganizationUpdate is what Update changes: what is not nil.
type OrganizationUpdate struct {
	Name     *string
	Disabled *bool // operators only
}

// LimitsUpdate is what SetLimits changes: what is not nil. Zero means unlimited.
type LimitsUpdate struct {
	MaxConnections      *int
	MaxMessageBytes     *int
	MaxPublishRate      *int
	MaxMessageRate      *int
	MaxMessagesPerMonth *int64
	MaxSubscriptions    *int
	MaxSessions         *int
	MaxRetained         *int
	MaxStorageBytes     *int64
}

const organizationColumns = `id, uuid, number, name, revision, disabled, max_connections, created_at`

func scanOrganization(scan func(...any) error) (o OrganizationInfo, err error) {
	var created int64
	err = scan(&o.ID, &o.UUID, &o.Number, &o.Name, &o.Revision, &o.Disabled, &o.Limits.MaxConnections, &created)
	o.CreatedAt = fromMillis(created)
	return o, err
}

// Organizations lists up to limit (1 to MaxPage) of a's organizations in order of their ids, those after the id given: all of them for
// operators. Fields: limit.
func (s *Store) Organizations(ctx context.Context, a Actor, after string, limit int) ([]OrganizationInfo, error) {
	all, err := s.allOrganizations(ctx)
	slices.SortFunc(all, func(a, b OrganizationInfo) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

func (s *Store) allOrganizations(ctx context.Context) ([]OrganizationInfo, error) {
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

// CreateOrganization makes an organization with no users, rules, keys or limits, for operators. Fields: name.
func (s *Store) CreateOrganization(ctx context.Context, a Actor, name string) (info OrganizationInfo, err error) {
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

// Update changes an organization. Fields: name.
func (o *Organization) Update(ctx context.Context, u OrganizationUpdate) (info OrganizationInfo, err error) {
	if u.Name != nil {
		if err := access.CheckTitle("name", *u.Name); err != nil {
			return OrganizationInfo{}, err
		}
	}
	err = o.change(ctx, func(t *scope) error {
		if info, err = t.info(); err != nil {
			return err
		}
		set(&info.Name, u.Name)
		set(&info.Disabled, u.Disabled)
		info.Revision++ // by the commit
		_, err = t.exec(`UPDATE organizations SET name = $2, disabled = $3 WHERE number = $1`, info.Name, info.Disabled)
		return err
	})
	return info, err
}

// SetLimits changes an organization's limits, for operators. Fields: max_connections and the like.
func (o *Organization) SetLimits(ctx context.Context, u LimitsUpdate) (info OrganizationInfo, err error) {
	if u.MaxConnections != nil && *u.MaxConnections < 0 {
		return OrganizationInfo{}, fault.Field("max_connections", "must not be negative; 0 is unlimited")
	}
	err = o.change(ctx, func(t *scope) error {
		if info, err = t.info(); err != nil {
			return err
		}
		set(&info.Limits.MaxConnections, u.MaxConnections)
		info.Revision++ // by the commit
		_, err = t.exec(`UPDATE organizations SET max_connections = $2 WHERE number = $1`, info.Limits.MaxConnections)
		return err
	})
	return info, err
}

// Delete deletes the organization and everything it has here. For operators, and its owner.
func (o *Organization) Delete(ctx context.Context) error {
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
	s.announce(Change{Organization: t.id, Number: info.Number, Revision: info.Revision + 1, Deleted: true})
	return nil
}

// set puts *value into *field, if there is one.
func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
