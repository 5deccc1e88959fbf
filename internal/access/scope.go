package access

import "slices"

// Scope is something that a restricted key may be allowed to do.
type Scope string

// Scopes. One that ends in :write does not include the one that ends in :read.
const (
	OrganizationRead  Scope = "organization:read"
	OrganizationWrite Scope = "organization:write"
	UsersRead         Scope = "users:read"
	UsersWrite        Scope = "users:write"
	RulesRead         Scope = "rules:read"
	RulesWrite        Scope = "rules:write"
	KeysRead          Scope = "keys:read"
	KeysWrite         Scope = "keys:write"
	TokensRead        Scope = "tokens:read"
	TokensWrite       Scope = "tokens:write"
	SessionsRead      Scope = "sessions:read"
	SessionsWrite     Scope = "sessions:write"
	RetainedRead      Scope = "retained:read"
	RetainedWrite     Scope = "retained:write"
	PublishMessages   Scope = "publish"
	AuditRead         Scope = "audit:read"
	UsageRead         Scope = "usage:read"
)

var scopes = []Scope{
	OrganizationRead, OrganizationWrite, UsersRead, UsersWrite, RulesRead, RulesWrite, KeysRead, KeysWrite, TokensRead, TokensWrite,
	SessionsRead, SessionsWrite, RetainedRead, RetainedWrite, PublishMessages, AuditRead, UsageRead,
}

// Scopes are all scopes there are.
func Scopes() []Scope { return slices.Clone(scopes) }

// Known says whether there is such a scope.
func (s Scope) Known() bool { return slices.Contains(scopes, s) }
