package control

import (
	"context"
	"database/sql"
	"errors"
	"net/netip"
	"time"

	"cloudsignal/internal/access"
)

// Times after which ended tokens are forgotten.
const (
	forgetAfter = 70 * time.Minute    // by the Directory: a token's session and its will are gone an hour after its end
	keepFor     = 7 * 24 * time.Hour  // by the database
	unusedAfter = 30 * 24 * time.Hour // an identity, if room is needed for others

	sweepPage  = 1000 // rows of one transaction
	sweepPages = 100  // of one Sweep
)

// RefreshToken gives a token another password and a later end; the old password works until its own end. organization is the token's, in
// the org_ form. An unknown id is NotFound, a wrong password Unauthorized, one that has ended Expired.
func (s *Store) RefreshToken(ctx context.Context, address netip.Addr, id, password string) (token Token, newPassword, organization string, err error) {
	fail := func(err error) (Token, string, string, error) { return Token{}, "", "", err }
	if organization, err = s.organizationOfToken(ctx, id); err != nil {
		return fail(err)
	}
	a := Actor{Kind: TokenActor, ID: id, Organization: organization, Address: address}
	o := s.In(a, organization)
	// Only who has the password makes others wait for the transaction that writes.
	err = o.read(ctx, access.TokensRead, func(t *scope) error {
		k, err := t.token(id)
		if err != nil {
			return err
		}
		o.actor.Name = k.User
		return t.checkPassword(&k, password)
	})
	if err != nil {
		return fail(err)
	}
	err = o.change(ctx, access.TokensWrite, func(t *scope) error {
		old, err := t.token(id)
		if err != nil {
			return err
		}
		if err := t.checkPassword(&old, password); err != nil {
			return err
		}
		if newPassword, err = t.addPassword(id, old.User, old.ttl); err != nil {
			return err
		}
		if token, err = t.token(id); err != nil {
			return err
		}
		return t.audit("token.refresh", id, map[string]time.Time{"expires_at": old.ExpiresAt}, map[string]time.Time{"expires_at": token.ExpiresAt})
	})
	if err != nil {
		return fail(err)
	}
	return token, newPassword, organization, nil
}

// organizationOfToken is the one that has a token: the way from outside into the organization for whoever has a token and nothing else.
func (s *Store) organizationOfToken(ctx context.Context, id string) (organization string, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT o.id FROM tokens t JOIN organizations o ON o.number = t.organization WHERE t.id = $1`, id).Scan(&organization)
	if errors.Is(err, sql.ErrNoRows) {
		return "", noToken(id)
	}
	return organization, failed(err)
}

// touchedIdentities are those that the change touched, nil those that are gone.
func (t *scope) touchedIdentities() (map[string]*access.IdentityRecord, error) {
	records := make(map[string]*access.IdentityRecord)
	for _, user := range t.identities {
		one, err := t.identityRecords(`AND i.user_name = $3`, user)
		if err != nil {
			return nil, err
		}
		if records[user] = nil; one[user] != nil {
			records[user] = one[user]
		}
	}
	return records, nil
}

func (t *scope) loadIdentities() (map[string]access.IdentityRecord, error) {
	all, err := t.identityRecords(``)
	records := make(map[string]access.IdentityRecord, len(all))
	for user, r := range all {
		records[user] = *r
	}
	return records, err
}

// identityRecords reads what the Directory is to know of identities: those with a token that lives or ended lately, revoked ones too, so that it
// knows the user; but of their tokens only those that were not revoked.
func (t *scope) identityRecords(which string, args ...any) (map[string]*access.IdentityRecord, error) {
	args = append([]any{t.now.Add(-forgetAfter).UnixMilli()}, args...)
	records := make(map[string]*access.IdentityRecord)
	err := t.rows(func(scan func(...any) error) error {
		var user string
		var ends int64
		err := scan(&user, &ends)
		records[user] = &access.IdentityRecord{Until: fromMillis(ends)}
		return err
	}, `SELECT i.user_name, i.ends_at FROM identities i WHERE organization = $1 AND i.ends_at > $2 `+which, args...)
	if err != nil {
		return nil, err
	}
	err = t.rows(func(scan func(...any) error) error {
		var hash string
		var ends int64
		k, err := t.scanToken(func(dest ...any) error { return scan(append(dest, &hash, &ends)...) })
		if err != nil {
			return err
		}
		h, err := access.ParseKeyHash(hash)
		if r := records[k.User]; r != nil {
			addTokenPassword(r, &k, access.TokenPassHash{Hash: h, Expires: fromMillis(ends)})
		}
		return err
	}, `SELECT `+tokenColumns+`, p.hash, p.expires_at`+tokenTables+`
		JOIN token_passwords p ON p.organization = t.organization AND p.token = t.id
		WHERE t.organization = $1 AND t.expires_at > $2 AND t.revoked_at = 0 `+which+` ORDER BY t.created_at, t.id, p.number`, args...)
	return records, err
}

// addTokenPassword adds what one row says to a record: rows of one token come one after the other.
func addTokenPassword(r *access.IdentityRecord, k *Token, p access.TokenPassHash) {
	if n := len(r.Tokens); n == 0 || r.Tokens[n-1].ID != k.ID {
		permission := access.PermitBoth
		if len(k.Permissions) == 1 {
			if permission = access.PermitPublish; k.Permissions[0] == access.Subscribe.String() {
				permission = access.PermitSubscribe
			}
		}
		r.Tokens = append(r.Tokens, access.TokenRecord{
			ID: k.ID, Expires: k.ExpiresAt, RuleSet: k.RuleSet, Permission: permission, Topics: k.Topics,
		})
	}
	last := &r.Tokens[len(r.Tokens)-1]
	last.Passwords = append(last.Passwords, p)
}

// sweep is how far the Directory was swept.
type sweep struct{ from sweepPoint }

// sweepPoint is a place among all identities, in the order in which their last tokens end.
type sweepPoint struct {
	ends   int64
	number uint64
	user   string
}

// Sweep does what is due now and then: it writes when keys were last used, and forgets tokens and sessions that have ended, a bounded number
// at a time. Its owner calls it every minute, never twice at once.
func (s *Store) Sweep(ctx context.Context) error {
	return errors.Join(s.writeUsed(ctx), s.sweepDirectory(ctx), s.sweepDatabase(ctx))
}

// sweepDirectory takes identities out of the Directory whose last token ended some time ago. It is no change: they could do nothing any more.
func (s *Store) sweepDirectory(ctx context.Context) error {
	before := s.now().Add(-forgetAfter)
	for range sweepPages {
		n, err := s.sweepDirectoryPage(ctx, before)
		if n < sweepPage || err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sweepDirectoryPage(ctx context.Context, before time.Time) (n int, err error) {
	if err := s.lock(ctx); err != nil { // a token made meanwhile would be forgotten, or the other way round
		return 0, err
	}
	defer s.unlock()
	from := s.sweep.from
	rows, err := s.db.QueryContext(ctx, `SELECT ends_at, organization, user_name FROM identities
		WHERE (ends_at, organization, user_name) > ($1, $2, $3) AND ends_at <= $4 ORDER BY ends_at, organization, user_name LIMIT $5`,
		from.ends, int64(from.number), from.user, before.UnixMilli(), sweepPage)
	if err != nil {
		return 0, failed(err)
	}
	defer func() { _ = rows.Close() }() // Err has what matters
	users := make(map[uint64][]string)
	for ; rows.Next(); n++ {
		if err := rows.Scan(&from.ends, &from.number, &from.user); err != nil {
			return n, failed(err)
		}
		users[from.number] = append(users[from.number], from.user)
	}
	if err := rows.Err(); err != nil {
		return n, failed(err)
	}
	for number, names := range users {
		s.directory.Forget(number, names, before.Add(time.Millisecond))
	}
	s.sweep.from = from
	return n, nil
}

// sweepDatabase deletes tokens, with their passwords, and members' sessions some time after their end.
func (s *Store) sweepDatabase(ctx context.Context) error {
	now := s.now()
	for _, d := range []struct {
		statement string
		before    time.Time
	}{
		{`DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, now.Add(-keepFor)},
		{`DELETE FROM member_sessions WHERE hash IN (SELECT hash FROM member_sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, now},
	} {
		for range sweepPages {
			n, err := s.sweepRows(ctx, d.statement, d.before)
			if err != nil {
				return err
			}
			if n < sweepPage {
				break
			}
		}
	}
	return nil
}

func (s *Store) sweepRows(ctx context.Context, statement string, before time.Time) (n int64, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, statement, before.UnixMilli(), sweepPage)
		if err != nil {
			return err
		}
		if n, err = result.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return tx.Commit()
	})
	return n, err
}
