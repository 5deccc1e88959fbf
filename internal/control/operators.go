package control

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// EnsureOperator makes a key of the server's operator (op_...) if there is none. save is called before the commit and must have kept the
// secret safely when it returns nil, as in Bootstrap.
func (s *Store) EnsureOperator(ctx context.Context, save func(secret string) error) (made bool, err error) {
	var unsaved error
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM operator_keys`).Scan(&there); err != nil || there > 0 {
			return err
		}
		secret, err := createOperatorKey(ctx, tx, s.rand, s.now())
		if err != nil {
			return err
		}
		if unsaved = save(secret); unsaved != nil {
			return nil
		}
		made = true
		return tx.Commit()
	})
	if err = errors.Join(err, unsaved); err != nil {
		return false, err
	}
	return made, nil
}

func createOperatorKey(ctx context.Context, tx *sql.Tx, rand io.Reader, now time.Time) (string, error) {
	id, err := access.NewID(rand, "op_")
	if err != nil {
		return "", err
	}
	secret, err := access.NewKey(rand, access.OperatorKey)
	if err != nil {
		return "", err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO operator_keys (id, name, hash, masked, created_at, last_used_at) VALUES ($1, $2, $3, $4, $5, 0)`,
		id, "First operator key", access.HashKey(secret).String(), access.Mask(secret), now.UnixMilli())
	return secret, err
}

func (s *Store) operator(ctx context.Context, secret string) (Actor, error) {
	a := Actor{Kind: OperatorActor}
	err := s.db.QueryRowContext(ctx, `SELECT id, name FROM operator_keys WHERE hash = $1`, access.HashKey(secret).String()).Scan(&a.ID, &a.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return Actor{}, errNobody
	}
	return a, failed(err)
}

func setOperatorUsed(ctx context.Context, tx *sql.Tx, id string, at time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE operator_keys SET last_used_at = $2 WHERE id = $1`, id, at.UnixMilli())
	return err
}

var errNobody = fault.New(fault.Unauthorized, "this credential is not known; it was mistyped, has ended, or was revoked")
