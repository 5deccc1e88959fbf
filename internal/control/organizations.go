package control

import (
	"context"
	"database/sql"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Bounds of organizations.
const (
	MaxOrganizations = 100_000        // every one is in memory
	MaxPage          = 1000           // entries of one list
	MaxLimit         = 1<<53 - 1      // of one of access.Limits: what JSON numbers hold exactly
	firstName        = "My Workspace" // of the organization that the first start makes
)

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

const organizationColumns = `id, uuid, number, name, revision, disabled, created_at, max_connections, max_message_bytes, max_publish_rate,
	max_message_rate, max_messages_per_month, max_subscriptions, max_sessions, max_retained, max_storage_bytes`

func scanOrganization(scan func(...any) error) (o OrganizationInfo, err error) {
	var created int64
	l := &o.Limits
	err = scan(&o.ID, &o.UUID, &o.Number, &o.Name, &o.Revision, &o.Disabled, &created, &l.MaxConnections, &l.MaxMessageBytes,
		&l.MaxPublishRate, &l.MaxMessageRate, &l.MaxMessagesPerMonth, &l.MaxSubscriptions, &l.MaxSessions, &l.MaxRetained, &l.MaxStorageBytes)
	o.CreatedAt = fromMillis(created)
	return o, err
}

// LastNumber is the last number that an organization was given, 0 if none ever was.
func (s *Store) LastNumber(ctx context.Context) (number uint64, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = 'organization'`).Scan(&number)
	return number, failed(err)
}

// Organizations lists up to limit (1 to MaxPage) of a's organizations in order of their ids, those after the id given: all of them for
// operators. Fields: limit.
func (s *Store) Organizations(ctx context.Context, a Actor, after string, limit int) ([]OrganizationInfo, error) {
	if err := checkLimit(limit); err != nil {
		return nil, err
	}
	query, args := `SELECT `+organizationColumns+` FROM organizations WHERE id > $1 ORDER BY id LIMIT $2`, []any{after, limit}
	switch {
	case a.above():
	case !a.May(access.OrganizationRead) && a.Kind != MemberActor:
		return nil, fault.New(fault.Forbidden, "this %s may not do that: it takes %s", a.Kind, access.OrganizationRead)
	case a.Kind == MemberActor:
		query = `SELECT ` + organizationColumns + ` FROM organizations WHERE id > $1
			AND number IN (SELECT organization FROM memberships WHERE member = $3) ORDER BY id LIMIT $2`
		args = append(args, a.ID)
	default:
		query = `SELECT ` + organizationColumns + ` FROM organizations WHERE id > $1 AND id = $3 ORDER BY id LIMIT $2`
		args = append(args, a.Organization)
	}
	rows, err := s.db.QueryContext(ctx, query, args...)
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

func checkLimit(limit int) error {
	if limit < 1 || limit > MaxPage {
		return fault.Field("limit", "must be from 1 to %d", MaxPage)
	}
	return nil
}

// Info is the organization itself.
func (o *Organization) Info(ctx context.Context) (info OrganizationInfo, err error) {
	err = o.read(ctx, access.OrganizationRead, func(t *scope) (err error) {
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
	if !a.above() {
		return OrganizationInfo{}, errNotOperator
	}
	if err := access.CheckTitle("name", name); err != nil {
		return OrganizationInfo{}, err
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		t, err := s.createOrganization(ctx, tx, a, name)
		if err != nil {
			return err
		}
		if info, err = t.info(); err != nil {
			return err
		}
		info.Revision++ // by the commit
		return s.commit(t)
	})
	if err != nil {
		return OrganizationInfo{}, err
	}
	return info, nil
}

func (s *Store) createOrganization(ctx context.Context, tx *sql.Tx, a Actor, name string) (*scope, error) {
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
	t, err := s.scope(ctx, tx, a, id)
	if err != nil {
		return nil, err
	}
	after := organizationDetail{name, false}
	if err := s.auditServer(t, "organization.create", id, nil, after); err != nil {
		return nil, err
	}
	return t, t.audit("organization.create", id, nil, after)
}

// organizationDetail is what the audit shows of an organization.
type organizationDetail struct {
	Name     string `json:"name"`
	Disabled bool   `json:"disabled"`
}

// Update changes an organization, if it differs. Fields: name.
func (o *Organization) Update(ctx context.Context, u OrganizationUpdate) (info OrganizationInfo, err error) {
	if err := o.may(access.OrganizationWrite); err != nil {
		return OrganizationInfo{}, err
	}
	if u.Disabled != nil {
		if err := o.mayAbove(); err != nil {
			return OrganizationInfo{}, err
		}
	}
	if u.Name != nil {
		if err := access.CheckTitle("name", *u.Name); err != nil {
			return OrganizationInfo{}, err
		}
	}
	err = o.change(ctx, access.OrganizationWrite, func(t *scope) error {
		if info, err = t.info(); err != nil {
			return err
		}
		before := organizationDetail{info.Name, info.Disabled}
		set(&info.Name, u.Name)
		set(&info.Disabled, u.Disabled)
		if before == (organizationDetail{info.Name, info.Disabled}) {
			return errUnchanged
		}
		info.Revision++ // by the commit
		if _, err = t.exec(`UPDATE organizations SET name = $2, disabled = $3 WHERE number = $1`, info.Name, info.Disabled); err != nil {
			return err
		}
		return t.audit("organization.update", t.id, before, organizationDetail{info.Name, info.Disabled})
	})
	if err != nil {
		return OrganizationInfo{}, err
	}
	return info, nil
}

// SetLimits changes an organization's limits, for operators. Fields: max_connections and the like.
func (o *Organization) SetLimits(ctx context.Context, u LimitsUpdate) (info OrganizationInfo, err error) {
	if err := o.mayAbove(); err != nil {
		return OrganizationInfo{}, err
	}
	if err := u.validate(); err != nil {
		return OrganizationInfo{}, err
	}
	err = o.change(ctx, access.OrganizationWrite, func(t *scope) error {
		if info, err = t.info(); err != nil {
			return err
		}
		before := info.Limits
		l := &info.Limits
		set(&l.MaxConnections, u.MaxConnections)
		set(&l.MaxMessageBytes, u.MaxMessageBytes)
		set(&l.MaxPublishRate, u.MaxPublishRate)
		set(&l.MaxMessageRate, u.MaxMessageRate)
		set(&l.MaxMessagesPerMonth, u.MaxMessagesPerMonth)
		set(&l.MaxSubscriptions, u.MaxSubscriptions)
		set(&l.MaxSessions, u.MaxSessions)
		set(&l.MaxRetained, u.MaxRetained)
		set(&l.MaxStorageBytes, u.MaxStorageBytes)
		if before == *l {
			return errUnchanged
		}
		info.Revision++ // by the commit
		if err := t.setLimits(*l); err != nil {
			return err
		}
		return t.audit("organization.limits", t.id, limitsDetail(before), limitsDetail(*l))
	})
	if err != nil {
		return OrganizationInfo{}, err
	}
	return info, nil
}

func (u *LimitsUpdate) validate() error {
	for _, l := range []struct {
		field string
		value *int
	}{
		{"max_connections", u.MaxConnections},
		{"max_message_bytes", u.MaxMessageBytes},
		{"max_publish_rate", u.MaxPublishRate},
		{"max_message_rate", u.MaxMessageRate},
		{"max_subscriptions", u.MaxSubscriptions},
		{"max_sessions", u.MaxSessions},
		{"max_retained", u.MaxRetained},
	} {
		if l.value != nil {
			if err := checkLimitValue(l.field, int64(*l.value)); err != nil {
				return err
			}
		}
	}
	if u.MaxMessagesPerMonth != nil {
		if err := checkLimitValue("max_messages_per_month", *u.MaxMessagesPerMonth); err != nil {
			return err
		}
	}
	if u.MaxStorageBytes != nil {
		return checkLimitValue("max_storage_bytes", *u.MaxStorageBytes)
	}
	return nil
}

func checkLimitValue(field string, value int64) error {
	if value < 0 || value > MaxLimit {
		return fault.Field(field, "must be from 0 to %d; 0 is unlimited", int64(MaxLimit))
	}
	return nil
}

func (t *scope) setLimits(l access.Limits) error {
	_, err := t.exec(`UPDATE organizations SET max_connections = $2, max_message_bytes = $3, max_publish_rate = $4, max_message_rate = $5,
		max_messages_per_month = $6, max_subscriptions = $7, max_sessions = $8, max_retained = $9, max_storage_bytes = $10
		WHERE number = $1`,
		l.MaxConnections, l.MaxMessageBytes, l.MaxPublishRate, l.MaxMessageRate, l.MaxMessagesPerMonth, l.MaxSubscriptions, l.MaxSessions,
		l.MaxRetained, l.MaxStorageBytes)
	return err
}

// limitsDetail is what the audit shows of limits: those there are.
func limitsDetail(l access.Limits) map[string]int64 {
	all := map[string]int64{
		"max_connections": int64(l.MaxConnections), "max_message_bytes": int64(l.MaxMessageBytes), "max_publish_rate": int64(l.MaxPublishRate),
		"max_message_rate": int64(l.MaxMessageRate), "max_messages_per_month": l.MaxMessagesPerMonth,
		"max_subscriptions": int64(l.MaxSubscriptions), "max_sessions": int64(l.MaxSessions), "max_retained": int64(l.MaxRetained),
		"max_storage_bytes": l.MaxStorageBytes,
	}
	for name, value := range all {
		if value == 0 {
			delete(all, name)
		}
	}
	return all
}

// Delete deletes the organization and everything it has here, its audit too, and members who have no other organization. The server's own
// audit says who did it. For operators, and its owner.
func (o *Organization) Delete(ctx context.Context) error {
	if err := o.mayDelete(); err != nil {
		return err
	}
	s := o.store
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := o.mayDelete(); err != nil {
			return err
		}
		t, err := s.scope(ctx, tx, o.actor, o.id)
		if err != nil {
			return err
		}
		info, err := t.info()
		if err != nil {
			return err
		}
		for _, statement := range []string{ // in an order in which no reference is left dangling
			`DELETE FROM users WHERE organization = $1`,
			`DELETE FROM rules WHERE organization = $1`,
			`DELETE FROM rule_sets WHERE organization = $1`,
			`DELETE FROM api_keys WHERE organization = $1`,
			`DELETE FROM identities WHERE organization = $1`, // tokens and their passwords with them
			`DELETE FROM audit WHERE organization = $1`,
			`DELETE FROM monthly_usage WHERE organization = $1`,
			`DELETE FROM members WHERE id IN (SELECT member FROM memberships WHERE organization = $1)
				AND id NOT IN (SELECT member FROM memberships WHERE organization <> $1)`,
			`DELETE FROM organizations WHERE number = $1`,
		} {
			if _, err := t.exec(statement); err != nil {
				return err
			}
		}
		if err := s.auditServer(t, "organization.delete", t.id, organizationDetail{info.Name, info.Disabled}, nil); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return s.resync(t.id, err)
		}
		s.directory.Remove(t.id)
		s.announce(Change{Organization: t.id, Number: info.Number, Revision: info.Revision + 1, Deleted: true})
		return nil
	})
}

func (o *Organization) mayDelete() error {
	if err := o.may(access.OrganizationWrite); err != nil {
		return err
	}
	if !o.actor.above() && o.actor.Role != Owner {
		return fault.New(fault.Forbidden, "only an owner, logged in, or an operator of the server may delete an organization")
	}
	return nil
}

// set puts *value into *field, if there is one.
func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// fromMillisOrNever is the zero time for 0.
func fromMillisOrNever(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return fromMillis(ms)
}
