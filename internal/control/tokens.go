package control

import (
	"context"
	"net/netip"
	"time"

	"cloudsignal/internal/fault"
)

// NewToken is a temporary token to be made.
type NewToken struct {
	Provider    string        // who knows the identity; default cloudsignal
	Subject     string        // the identity at the provider; default Email
	Email       string        // of the identity
	TTL         time.Duration // default one hour; at least Options.MinTokenTTL, at most MaxTokenTTL
	Keep        bool          // the identity's other tokens stay; else they are revoked
	Permissions []string      // publish, subscribe; nil: both
	Topics      []string      // filters: what the rules allow is narrowed to them; nil: it is not
	RuleSet     string        // id of the set that judges it; empty: the default one
}

// Token is a temporary token: the credentials of one identity for a while.
type Token struct {
	ID          string // tok_...
	User        string // token_..., the same for every token of the identity
	Provider    string
	Subject     string
	Email       string // empty if none was given
	RuleSet     string // empty: the default one
	Permissions []string
	Topics      []string
	CreatedAt   time.Time
	ExpiresAt   time.Time // of the newest password
	RefreshAt   time.Time // when to ask for another password; never in the past
	RevokedAt   time.Time // zero if it was not
}

// TokenQuery chooses what ListTokens lists. Limit is 1 to MaxPage.
type TokenQuery struct {
	User  string // of this user name; empty: all
	After string // those after this id
	Limit int
}

// CreateToken makes a token. Its password is returned once and kept nowhere. Fields: provider, subject, user_email, ttl, permissions,
// permissions[0], topics, topics[0], rule_set.
func (o *Organization) CreateToken(ctx context.Context, n NewToken) (token Token, password string, err error) {
	return Token{}, "", fault.New(fault.Internal, "not there yet")
}

// RefreshToken gives a token another password and a later end; the old password works until its own end. organization is the token's, in
// the org_ form. An unknown id is NotFound, a wrong password Unauthorized, one that has ended Expired.
func (s *Store) RefreshToken(ctx context.Context, address netip.Addr, id, password string) (token Token, newPassword, organization string, err error) {
	return Token{}, "", "", fault.New(fault.Internal, "not there yet")
}

// Token is one token, as long as it is kept: some days after its end.
func (o *Organization) Token(ctx context.Context, id string) (Token, error) {
	return Token{}, fault.New(fault.Internal, "not there yet")
}

// ListTokens lists tokens, those that have ended too, in order of their ids.
func (o *Organization) ListTokens(ctx context.Context, q TokenQuery) ([]Token, error) {
	return nil, fault.New(fault.Internal, "not there yet")
}

// RevokeToken ends a token now. One that has ended stays as it is.
func (o *Organization) RevokeToken(ctx context.Context, id string) error {
	return fault.New(fault.Internal, "not there yet")
}

// Sweep does what is due now and then: it writes when keys were last used, and forgets tokens and sessions that have ended. Its owner
// calls it every minute.
func (s *Store) Sweep(ctx context.Context) error {
	return fault.New(fault.Internal, "not there yet")
}
