package control

import (
	"context"
	"net/netip"
	"slices"

	"cloudsignal/internal/access"
)

// ActorKind says what kind of credential somebody acts with.
type ActorKind string

// Kinds of actors.
const (
	KeyActor      ActorKind = "key"      // an organization's API key
	MemberActor   ActorKind = "member"   // a person who has logged in
	OperatorActor ActorKind = "operator" // the server's operator, in any organization
	SystemActor   ActorKind = "system"   // the server itself
	TokenActor    ActorKind = "token"    // whoever has a temporary token, to refresh it
)

// Role is what a member is in an organization.
type Role string

// Owner may do everything in the organization.
const Owner Role = "owner"

// Actor is who does something: what it may do is looked at by every method, and the audit names it.
type Actor struct {
	Kind         ActorKind
	ID           string         // key_..., mem_..., op_...; empty for the system
	Name         string         // of the key; the member's e-mail
	Organization string         // the org_ id that it acts in; empty for operator and system
	KeyKind      access.KeyKind // of a key
	Scopes       []access.Scope // of a restricted key
	Role         Role           // of a member, in Organization
	Address      netip.Addr     // that the request came from; the zero value if there is none

	session string // of a member: the hash of the session
}

// System is the server itself.
func System() Actor { return Actor{Kind: SystemActor, Name: "system"} }

// above says whether a is of no organization and may act in any.
func (a Actor) above() bool { return a.Kind == SystemActor || a.Kind == OperatorActor }

// publishableScopes are what may be done with a key that anybody can read in a web page. What it publishes is judged by the default rule set
// (access.Directory.KeyGrant).
var publishableScopes = []access.Scope{access.OrganizationRead, access.PublishMessages}

// May says whether a may do what a scope stands for, in its organization.
func (a Actor) May(s access.Scope) bool {
	switch a.Kind {
	case SystemActor, OperatorActor:
		return true
	case MemberActor:
		return a.Role == Owner
	case TokenActor: // it is RefreshToken alone that makes one
		return s == access.TokensRead || s == access.TokensWrite
	case KeyActor:
		switch a.KeyKind {
		case access.SecretKey, access.LegacyKey:
			return true
		case access.RestrictedKey:
			return slices.Contains(a.Scopes, s)
		case access.PublishableKey:
			return slices.Contains(publishableScopes, s)
		}
	}
	return false
}

// Authenticate says who a credential is: an organization's key, an operator's key, or a member's session. Anything else is
// Unauthorized. It notes that a key was used. A member of one organization acts in it; one of several has to name it (Within).
func (s *Store) Authenticate(ctx context.Context, secret string, address netip.Addr) (Actor, error) {
	kind, err := access.ParseKey(secret)
	if err != nil {
		return Actor{}, errNobody
	}
	var a Actor
	switch kind {
	case access.SessionKey:
		a, err = s.memberOf(ctx, secret)
	case access.OperatorKey:
		if a, err = s.operator(ctx, secret); err == nil {
			s.KeyUsed("", a.ID)
		}
	case access.TokenPassword:
		return Actor{}, errNobody
	default:
		o, k, ok := s.directory.Key(secret)
		if !ok {
			return Actor{}, errNobody
		}
		a = Actor{Kind: KeyActor, ID: k.ID, Name: k.Name, Organization: o.ID, KeyKind: k.Kind, Scopes: slices.Clone(k.Scopes)}
		s.KeyUsed(o.ID, k.ID)
	}
	if err != nil {
		return Actor{}, err
	}
	a.Address = address
	return a, nil
}

// Within is a as it acts in an organization, which it names by its id or its UUID. NotFound if it is not a's.
func (s *Store) Within(ctx context.Context, a Actor, organization string) (Actor, error) {
	r, ok := s.directory.Organization(organization)
	if !ok {
		return Actor{}, noOrganization(organization)
	}
	switch {
	case a.above():
	case a.Kind == MemberActor:
		role, err := s.roleOf(ctx, a.ID, r.Number)
		if err != nil {
			return Actor{}, err
		}
		if role == "" {
			return Actor{}, noOrganization(organization)
		}
		a.Role = role
	case a.Organization != r.ID:
		return Actor{}, noOrganization(organization)
	}
	a.Organization = r.ID
	return a, nil
}
