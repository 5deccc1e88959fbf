package api

import (
	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/access"
)

// keyKinds are the kinds of keys by the names that they have here.
var keyKinds = map[string]access.KeyKind{
	"secret": access.SecretKey, "publishable": access.PublishableKey, "restricted": access.RestrictedKey, "legacy": access.LegacyKey,
}

func kindName(k access.KeyKind) string {
	for name, kind := range keyKinds {
		if kind == k {
			return name
		}
	}
	return string(k)
}

// scope is an access.Scope whose schema has all that there are.
type scope string

// Schema is for huma.
func (scope) Schema(huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString, Examples: []any{string(access.UsersRead)}}
	for _, known := range access.Scopes() {
		s.Enum = append(s.Enum, string(known))
	}
	s.PrecomputeMessages()
	return s
}

func showScopes(scopes []access.Scope) []scope {
	out := make([]scope, len(scopes))
	for i, s := range scopes {
		out[i] = scope(s)
	}
	return out
}

func readScopes(scopes []scope) []access.Scope {
	out := make([]access.Scope, len(scopes))
	for i, s := range scopes {
		out[i] = access.Scope(s)
	}
	return out
}
