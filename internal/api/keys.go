package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
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

// Key is an API key as it is shown.
type Key struct {
	ID         string  `json:"id" example:"key_k7xm4pqr2n5t"`
	Kind       string  `json:"kind" enum:"secret,publishable,restricted,legacy" example:"restricted"`
	Name       string  `json:"name" example:"Dashboard"`
	Masked     string  `json:"masked" doc:"The kind and the last letters of the secret." example:"rk_...x7m4"`
	Scopes     []scope `json:"scopes,omitempty" doc:"What a restricted key may do."`
	CreatedAt  string  `json:"created_at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	LastUsedAt string  `json:"last_used_at,omitempty" format:"date-time" doc:"To a minute. Left out if it never was." example:"2026-11-03T09:31:00.000Z"`
}

func showKey(k control.Key) Key {
	return Key{
		ID: k.ID, Kind: kindName(k.Kind), Name: k.Name, Masked: k.Masked, Scopes: showScopes(k.Scopes),
		CreatedAt: stamp(k.CreatedAt), LastUsedAt: stamp(k.LastUsedAt),
	}
}

type keyPath struct {
	ID string `path:"id" maxLength:"64" example:"key_k7xm4pqr2n5t"`
}

type oneKey struct{ Body Key }

// keyWithSecret is a key when it is made or rotated.
type keyWithSecret struct {
	Body struct {
		Key
		Secret string `json:"secret" doc:"The key itself. It is shown once." example:"rk_..."`
	} `nameHint:"KeyWithSecret"`
}

func showSecret(k control.Key, secret string, err error) (*keyWithSecret, error) {
	out := new(keyWithSecret)
	out.Body.Key, out.Body.Secret = showKey(k), secret
	return out, err
}

type newKeyInput struct {
	Body struct {
		Name   string  `json:"name" minLength:"1" maxLength:"100" example:"Dashboard"`
		Kind   string  `json:"kind" enum:"secret,publishable,restricted" doc:"secret: everything inside the organization. publishable: for browsers. restricted: what scopes say." example:"restricted"`
		Scopes []scope `json:"scopes,omitempty" maxItems:"50" doc:"For a restricted key, at least one."`
	} `nameHint:"NewKey"`
}

func (a *API) registerKeys() {
	const tag, all, one = "keys", "/v2/keys", "/v2/keys/{id}"
	route(a, operation{
		id: "list-keys", method: http.MethodGet, path: all, tag: tag, summary: "List API keys", text: "In order of their ids.", scope: access.KeysRead,
	}, a.listKeys)
	route(a, operation{
		id: "create-key", method: http.MethodPost, path: all, tag: tag, summary: "Make an API key", scope: access.KeysWrite, status: http.StatusCreated,
	}, func(ctx context.Context, in *newKeyInput) (*keyWithSecret, error) {
		b := &in.Body
		return showSecret(a.own(ctx).CreateKey(ctx, control.NewKey{Kind: keyKinds[b.Kind], Name: b.Name, Scopes: readScopes(b.Scopes)}))
	})
	route(a, operation{
		id: "get-key", method: http.MethodGet, path: one, tag: tag, summary: "Get an API key", scope: access.KeysRead,
	}, func(ctx context.Context, in *keyPath) (*oneKey, error) {
		k, err := a.own(ctx).Key(ctx, in.ID)
		return &oneKey{Body: showKey(k)}, err
	})
	route(a, operation{
		id: "revoke-key", method: http.MethodDelete, path: one, tag: tag, summary: "Revoke an API key",
		text: "Connections made with it end at once.", scope: access.KeysWrite,
	}, func(ctx context.Context, in *keyPath) (*nothing, error) {
		return nil, a.own(ctx).RevokeKey(ctx, in.ID)
	})
	route(a, operation{
		id: "rotate-key", method: http.MethodPost, path: one + "/rotate", tag: tag, summary: "Give an API key another secret",
		text: "The old one is valid no longer, and connections made with it end at once.", scope: access.KeysWrite,
	}, func(ctx context.Context, in *keyPath) (*keyWithSecret, error) {
		return showSecret(a.own(ctx).RotateKey(ctx, in.ID))
	})
}

func (a *API) listKeys(ctx context.Context, in *Page) (*listed[Key], error) {
	after, err := in.after("keys")
	if err != nil {
		return nil, err
	}
	keys, err := a.own(ctx).ListKeys(ctx, after, in.fetch())
	if err != nil {
		return nil, err
	}
	return pageOf(in, "keys", keys, func(k control.Key) string { return k.ID }, showKey), nil
}
