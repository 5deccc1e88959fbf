package control

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// UsageTotals are what one organization has used in one month.
type UsageTotals struct {
	Month      string // 2026-11, UTC
	Messages   int64  // PUBLISH accepted
	Deliveries int64
	BytesIn    int64
	BytesOut   int64
	Refused    int64
}

// UsageAdd is what came to an organization's totals. The organization is given by its number.
type UsageAdd struct {
	Number uint64
	UsageTotals
}

const monthLayout = "2006-01"

// AddUsage adds to totals, all in one transaction. What belongs to organizations that are gone is dropped.
func (s *Store) AddUsage(ctx context.Context, adds []UsageAdd) error {
	for _, a := range adds {
		if err := checkMonth(a.Month); err != nil {
			return err
		}
	}
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, a := range adds {
			t, err := s.numbered(ctx, tx, a.Number)
			if fault.CodeOf(err) == fault.NotFound {
				continue
			}
			if err == nil {
				err = t.addUsage(a.UsageTotals)
			}
			if err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

func (t *scope) addUsage(u UsageTotals) error {
	_, err := t.exec(`INSERT INTO monthly_usage (organization, month, messages, deliveries, bytes_in, bytes_out, refused)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (organization, month) DO UPDATE SET
		messages = monthly_usage.messages + excluded.messages, deliveries = monthly_usage.deliveries + excluded.deliveries,
		bytes_in = monthly_usage.bytes_in + excluded.bytes_in, bytes_out = monthly_usage.bytes_out + excluded.bytes_out,
		refused = monthly_usage.refused + excluded.refused`,
		u.Month, u.Messages, u.Deliveries, u.BytesIn, u.BytesOut, u.Refused)
	return err
}

// numbered is the scope of an organization that is given by its number, for the server itself.
func (s *Store) numbered(ctx context.Context, tx *sql.Tx, number uint64) (*scope, error) {
	var id string
	err := tx.QueryRowContext(ctx, `SELECT id FROM organizations WHERE number = $1`, int64(number)).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "there is no organization with number %d", number)
	}
	if err != nil {
		return nil, err
	}
	return s.scope(ctx, tx, System(), id)
}

// UsageOf are an organization's totals, for the server itself; zero if there are none. Fields: month.
func (s *Store) UsageOf(ctx context.Context, number uint64, month string) (UsageTotals, error) {
	if err := checkMonth(month); err != nil {
		return UsageTotals{}, err
	}
	tx, err := s.begin(ctx, false)
	if err != nil {
		return UsageTotals{}, err
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	t, err := s.numbered(ctx, tx, number)
	if err != nil {
		return UsageTotals{}, failed(err)
	}
	u, err := t.usage(month)
	return u, failed(err)
}

// Usage are the totals of a month (2026-11); zero if there are none. Fields: month.
func (o *Organization) Usage(ctx context.Context, month string) (u UsageTotals, err error) {
	if err := o.may(access.UsageRead); err != nil {
		return UsageTotals{}, err
	}
	if err := checkMonth(month); err != nil {
		return UsageTotals{}, err
	}
	err = o.read(ctx, access.UsageRead, func(t *scope) (err error) {
		u, err = t.usage(month)
		return err
	})
	return u, err
}

func (t *scope) usage(month string) (UsageTotals, error) {
	u := UsageTotals{Month: month}
	_, err := t.row([]any{&u.Messages, &u.Deliveries, &u.BytesIn, &u.BytesOut, &u.Refused},
		`SELECT messages, deliveries, bytes_in, bytes_out, refused FROM monthly_usage WHERE organization = $1 AND month = $2`, month)
	return u, err
}

func checkMonth(month string) error {
	if t, err := time.Parse(monthLayout, month); err != nil || t.Format(monthLayout) != month {
		return fault.Field("month", "must be a year and a month, such as 2026-11")
	}
	return nil
}
