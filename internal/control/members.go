package control

import (
	"context"
	"net/netip"
	"time"

	"cloudsignal/internal/fault"
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

// SignUp makes a member, the organization "<Name>'s Workspace" with the member as its owner, and its first secret key. Fields: name,
// email, password. An e-mail address that is taken is a Conflict. Whether people may sign up is the caller's to know.
func (s *Store) SignUp(ctx context.Context, address netip.Addr, in SignUp) (SignedUp, error) {
	return SignedUp{}, fault.New(fault.Internal, "not there yet")
}

// LogIn makes a session for a member. It is Unauthorized if the e-mail address is not known or the password is wrong, TooManyRequests if
// it was tried too often, Unavailable if too many are waiting.
func (s *Store) LogIn(ctx context.Context, address netip.Addr, email, password string) (MemberSession, error) {
	return MemberSession{}, fault.New(fault.Internal, "not there yet")
}

// LogOut ends the session that a acts with.
func (s *Store) LogOut(ctx context.Context, a Actor) error {
	return fault.New(fault.Internal, "not there yet")
}
