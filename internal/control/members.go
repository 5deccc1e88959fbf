package control

import (
	"context"
	"database/sql"
	"errors"
	"net/mail"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Bounds of members.
const (
	MemberSessionTTL  = 7 * 24 * time.Hour
	MaxMemberSessions = 50  // of a member: a log-in beyond ends the oldest
	maxEmail          = 254 // bytes, RFC 5321 section 4.5.3.1.3 with the brackets taken off
	maxMemberName     = 80  // characters, so that "'s Workspace" has room in the name of the organization
	membersRealm      = "members"
)

// Member is a person with access to organizations.
type Member struct {
	ID        string // mem_...
	Name      string
	Email     string // as it was written at sign-up
	CreatedAt time.Time
}

// Membership is one organization of a member.
type Membership struct {
	Organization string // org_...
	Name         string
	Role         Role
}

// MemberSession is what a log-in gives. Token is returned once and kept nowhere.
type MemberSession struct {
	Token         string // ses_...
	ExpiresAt     time.Time
	Member        Member
	Organizations []Membership
}

// SignUp is what a person gives to get an account and an organization.
type SignUp struct{ Name, Email, Password string }

// SignedUp is what a sign-up made. SecretKey and Session.Token are returned once and kept nowhere.
type SignedUp struct {
	Member       Member
	Organization OrganizationInfo
	SecretKey    string
	Session      MemberSession
}

// checkEmail wants a bare address. key is how addresses are compared: the domain has no case, and no mail service there is tells two
// mailboxes apart by the case of their names.
func checkEmail(field, email string) (key string, err error) {
	a, err := mail.ParseAddress(email)
	switch {
	case email == "":
		return "", fault.Field(field, "must not be empty")
	case len(email) > maxEmail:
		return "", fault.Field(field, "at most %d bytes are possible", maxEmail)
	case err != nil || a.Name != "" || a.Address != email || strings.ContainsAny(email, " \"\\"):
		return "", fault.Field(field, "must be an e-mail address, such as ana@example.com")
	}
	return strings.ToLower(email), access.CheckNoSecret(field, email)
}

// Check says what is wrong with a sign-up by itself, and how its e-mail address is compared. Fields: name, email, password.
func (in *SignUp) Check() (key string, err error) {
	if err := access.CheckTitle("name", in.Name); err != nil {
		return "", err
	}
	if utf8.RuneCountInString(in.Name) > maxMemberName {
		return "", fault.Field("name", "at most %d characters are possible", maxMemberName)
	}
	if key, err = checkEmail("email", in.Email); err != nil {
		return "", err
	}
	return key, access.CheckPassword(in.Password)
}

// SignUp makes a member, the organization "<Name>'s Workspace" with the member as its owner, and its first secret key. Fields: as of
// Check. An e-mail address that is taken is a Conflict. Whether people may sign up is the caller's to know.
func (s *Store) SignUp(ctx context.Context, address netip.Addr, in SignUp) (SignedUp, error) {
	key, err := in.Check()
	if err != nil {
		return SignedUp{}, err
	}
	_, hash, err := s.newPassword(ctx, membersRealm, in.Password)
	if err != nil {
		return SignedUp{}, err
	}
	var out SignedUp
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		now := fromMillis(s.now().UnixMilli())
		id, err := access.NewID(s.rand, "mem_")
		if err != nil {
			return err
		}
		out.Member = Member{ID: id, Name: in.Name, Email: in.Email, CreatedAt: now}
		if err := insertMember(ctx, tx, &out.Member, key, hash); err != nil {
			return err
		}
		a := Actor{Kind: MemberActor, ID: id, Name: in.Email, Role: Owner, Address: address}
		t, err := s.createOrganization(ctx, tx, a, in.Name+"'s Workspace")
		if err != nil {
			return err
		}
		return s.furnish(t, &out)
	})
	if err != nil {
		return SignedUp{}, err
	}
	return out, nil
}

// furnish gives a new organization its owner and a key, and commits.
func (s *Store) furnish(t *scope, out *SignedUp) error {
	m := &out.Member
	_, err := t.exec(`INSERT INTO memberships (organization, member, role, created_at) VALUES ($1, $2, $3, $4)`,
		m.ID, string(Owner), m.CreatedAt.UnixMilli())
	if err != nil {
		return err
	}
	if err := t.audit("member.create", m.ID, nil, map[string]string{"email": m.Email, "role": string(Owner)}); err != nil {
		return err
	}
	if _, out.SecretKey, err = t.createKey(NewKey{Kind: access.SecretKey, Name: "First key"}); err != nil {
		return err
	}
	if out.Session, err = s.createSession(t.ctx, t.tx, *m); err != nil {
		return err
	}
	if out.Organization, err = t.info(); err != nil {
		return err
	}
	out.Organization.Revision++ // by the commit
	return s.commit(t)
}

func insertMember(ctx context.Context, tx *sql.Tx, m *Member, key, hash string) error {
	result, err := tx.ExecContext(ctx, `INSERT INTO members (id, name, email, email_key, password_hash, created_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, m.ID, m.Name, m.Email, key, hash, m.CreatedAt.UnixMilli())
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = &fault.Error{Code: fault.Conflict, Field: "email", Message: "somebody has signed up with this e-mail address; log in instead"}
	}
	return err
}

// LogIn makes a session for a member. It is Unauthorized if the e-mail address is not known or the password is wrong, TooManyRequests if
// it was tried too often, Unavailable if too many are waiting.
//
// Addresses that are not known never enter the pool, so LogIn itself takes longer for those that are. The caller hides that as MQTT log-ins
// do: it answers every refusal a fixed time after the request came, by a timer, and gives ctx a deadline before it, so that the pool's queue
// does not show either. The number of failures is limited for unknown addresses as for known ones, with the same answers.
func (s *Store) LogIn(ctx context.Context, address netip.Addr, email, password string) (MemberSession, error) {
	key, err := checkEmail("email", email)
	if err != nil {
		key = "" // nobody's
	}
	m, hash, err := s.memberByEmail(ctx, key)
	if err != nil {
		return MemberSession{}, err
	}
	err = s.verifier.Check(ctx, address, membersRealm, key, hash, []byte(password))
	r, refused := errors.AsType[*access.Refusal](err)
	switch {
	case !refused && err != nil:
		return MemberSession{}, failed(err)
	case refused && r.Why == access.WhyTooManyFailures:
		return MemberSession{}, fault.New(fault.TooManyRequests, "too many log-ins have failed; try again in a minute")
	case refused && r.Why == access.WhyBusy:
		return MemberSession{}, errBusy
	case refused && hash == "":
		return MemberSession{}, errLogIn
	}
	a := Actor{Kind: MemberActor, ID: m.ID, Name: m.Email, Address: address}
	var out MemberSession
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if refused {
			if err := s.auditMember(ctx, tx, a, "member.login_refused"); err != nil {
				return err
			}
			return tx.Commit()
		}
		now, _, err := memberRow(tx.QueryRowContext(ctx, memberQuery, key))
		if err == nil && now.ID != m.ID { // deleted meanwhile
			err = errLogIn
		}
		if err == nil {
			err = s.auditMember(ctx, tx, a, "member.login")
		}
		if err == nil {
			out, err = s.createSession(ctx, tx, m)
		}
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return MemberSession{}, err
	}
	if refused {
		return MemberSession{}, errLogIn
	}
	return out, nil
}

var errLogIn = fault.New(fault.Unauthorized, "the e-mail address or the password is wrong")

// auditMember writes what a member did as such into the audit of every organization that it is a member of. It changes no organization's
// revision.
func (s *Store) auditMember(ctx context.Context, tx *sql.Tx, a Actor, action string) error {
	all, err := membershipsOf(ctx, tx, a.ID)
	if err != nil {
		return err
	}
	for _, m := range all {
		t, err := s.scope(ctx, tx, a, m.Organization)
		if err == nil {
			err = t.audit(action, a.ID, nil, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const memberQuery = `SELECT id, name, email, created_at, password_hash FROM members WHERE email_key = $1`

func (s *Store) memberByEmail(ctx context.Context, key string) (Member, string, error) {
	m, hash, err := memberRow(s.db.QueryRowContext(ctx, memberQuery, key))
	return m, hash, failed(err)
}

// memberRow is the zero Member if there is none.
func memberRow(row *sql.Row) (m Member, hash string, err error) {
	var created int64
	err = row.Scan(&m.ID, &m.Name, &m.Email, &created, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return Member{}, "", nil
	}
	m.CreatedAt = fromMillis(created)
	return m, hash, err
}

// createSession makes a session, and ends the oldest if there are too many.
func (s *Store) createSession(ctx context.Context, tx *sql.Tx, m Member) (MemberSession, error) {
	token, err := access.NewKey(s.rand, access.SessionKey)
	if err != nil {
		return MemberSession{}, err
	}
	now := s.now()
	out := MemberSession{Token: token, ExpiresAt: fromMillis(now.Add(MemberSessionTTL).UnixMilli()), Member: m}
	_, err = tx.ExecContext(ctx, `DELETE FROM member_sessions WHERE member = $1 AND hash NOT IN
		(SELECT hash FROM member_sessions WHERE member = $1 ORDER BY created_at DESC, hash LIMIT $2)`, m.ID, MaxMemberSessions-1)
	if err != nil {
		return MemberSession{}, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO member_sessions (hash, member, created_at, expires_at) VALUES ($1, $2, $3, $4)`,
		access.HashKey(token).String(), m.ID, now.UnixMilli(), out.ExpiresAt.UnixMilli())
	if err != nil {
		return MemberSession{}, err
	}
	out.Organizations, err = membershipsOf(ctx, tx, m.ID)
	return out, err
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// membershipsOf are the organizations of a member in order of their ids.
func membershipsOf(ctx context.Context, q querier, member string) ([]Membership, error) {
	rows, err := q.QueryContext(ctx, `SELECT o.id, o.name, m.role FROM memberships m JOIN organizations o ON o.number = m.organization
		WHERE m.member = $1 ORDER BY o.id`, member)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err has what matters
	var all []Membership
	for rows.Next() {
		var m Membership
		if err := rows.Scan(&m.Organization, &m.Name, &m.Role); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

// Memberships are the organizations of a member who acts, in order of their ids.
func (s *Store) Memberships(ctx context.Context, a Actor) ([]Membership, error) {
	if a.Kind != MemberActor {
		return nil, fault.New(fault.Forbidden, "only a member has memberships")
	}
	all, err := membershipsOf(ctx, s.db, a.ID)
	return all, failed(err)
}

// memberOf is the actor of a session that has not ended.
func (s *Store) memberOf(ctx context.Context, token string) (Actor, error) {
	a := Actor{Kind: MemberActor, session: access.HashKey(token).String()}
	err := s.db.QueryRowContext(ctx, `SELECT m.id, m.email FROM member_sessions s JOIN members m ON m.id = s.member
		WHERE s.hash = $1 AND s.expires_at > $2`, a.session, s.now().UnixMilli()).Scan(&a.ID, &a.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return Actor{}, errNobody
	}
	if err != nil {
		return Actor{}, failed(err)
	}
	all, err := membershipsOf(ctx, s.db, a.ID)
	if err == nil && len(all) == 1 {
		a.Organization, a.Role = all[0].Organization, all[0].Role
	}
	return a, failed(err)
}

// roleOf is what a member is in an organization; empty if it is none of its members.
func (s *Store) roleOf(ctx context.Context, member string, number uint64) (role Role, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT role FROM memberships WHERE organization = $1 AND member = $2`, int64(number), member).Scan(&role)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return role, failed(err)
}

// LogOut ends the session that a acts with.
func (s *Store) LogOut(ctx context.Context, a Actor) error {
	if a.session == "" {
		return fault.New(fault.Forbidden, "only a member who has logged in can log out")
	}
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM member_sessions WHERE hash = $1`, a.session); err != nil {
			return err
		}
		if err := s.auditMember(ctx, tx, a, "member.logout"); err != nil {
			return err
		}
		return tx.Commit()
	})
}
