package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

const (
	nativeProvider            = "cloudsignal"
	ownProvider               = "organization" // of identities that an organization names as it likes
	codeNoProvider fault.Code = "provider_not_found"
	guesses                   = 10 // wrong passwords that one address may try on one token at once, and as many a minute
)

// tokenError is what errors of the token service look like: one sentence under the names of several generations of clients.
type tokenError struct {
	Error            fault.Code     `json:"error" doc:"The kind of error, for programs: token_expired, unauthorized, not_found, provider_not_found, invalid, too_many_requests and the codes of problems." example:"token_expired"`
	ErrorDescription string         `json:"error_description" doc:"A sentence for people." example:"this token has ended; make a new one"`
	Detail           string         `json:"detail" doc:"The same." example:"this token has ended; make a new one"`
	Message          string         `json:"message" doc:"The same." example:"this token has ended; make a new one"`
	Code             fault.Code     `json:"code" doc:"The same as error." example:"token_expired"`
	RequestID        string         `json:"request_id" example:"req_k7xm4pqr2n5t"`
	Errors           []ProblemError `json:"errors,omitempty" nullable:"false" doc:"The values that are wrong, 20 at most."`
}

func showTokenError(p *Problem) any {
	return tokenError{p.Code, p.Detail, p.Detail, p.Detail, p.Code, p.RequestID, p.Errors}
}

// mintInput is what /v2/tokens/create and /v1/create take.
type mintInput struct {
	Body struct {
		Organization string   `json:"organization_id" minLength:"1" maxLength:"64" doc:"By id or UUID." example:"org_k7xm4pqr2n5t"`
		Secret       string   `json:"secret_key,omitempty" maxLength:"1024" doc:"A key of the organization, or a member's session; it may be in the header Authorization instead." example:"sk_..."`
		Email        string   `json:"user_email" minLength:"1" maxLength:"254" doc:"Who the token is for. The same address always gets the same user name." example:"ada@example.com"`
		Replace      *bool    `json:"replace_existing,omitempty" nullable:"false" default:"true" doc:"The identity's other tokens are revoked, and their connections end."`
		Integration  string   `json:"integration_id,omitempty" maxLength:"64" doc:"The identity provider; cloudsignal is this service itself." example:"cloudsignal"`
		TTL          int64    `json:"ttl,omitempty" minimum:"1" maximum:"86400" doc:"Seconds; 3600 unless given. The server has a floor, of 60 unless its operator says otherwise." example:"3600"`
		Permissions  []string `json:"permissions,omitempty" nullable:"false" maxItems:"2" enum:"publish,subscribe" example:"[\"subscribe\"]" doc:"All that the token may do at most; both unless given."`
		Topics       []string `json:"topics,omitempty" nullable:"false" maxItems:"1000" doc:"Filters that narrow what the rules allow." example:"[\"chat/#\"]"`
		RuleSet      string   `json:"rule_set,omitempty" maxLength:"64" doc:"The rule set that judges the token; the default one unless given." example:"set_k7xm4pqr2n5t"`
	} `nameHint:"NewToken"`
}

type credentialPair struct {
	Username string `json:"username" example:"token_k7xm4pqr2n5t@org_k7xm4pqr2n5t"`
	Password string `json:"password" doc:"It is shown once." example:"tkn_..."`
}

// minted is what /v2/tokens/create and /v2/tokens/refresh answer.
type minted struct {
	Body struct {
		AccessToken        string         `json:"access_token" doc:"The password." example:"tkn_..."`
		TokenType          string         `json:"token_type" enum:"Bearer" example:"Bearer"`
		ExpiresIn          int64          `json:"expires_in" doc:"Seconds." example:"3600"`
		Credentials        credentialPair `json:"mqtt_credentials"`
		ID                 string         `json:"token_id" example:"tok_k7xm4pqr2n5t"`
		Email              string         `json:"user_email" example:"ada@example.com"`
		Provider           string         `json:"provider" example:"cloudsignal"`
		ExpiresAt          string         `json:"expires_at" format:"date-time" example:"2026-11-03T10:30:00.000Z"`
		RefreshRecommended string         `json:"refresh_recommended_at" format:"date-time" doc:"When to refresh it; never in the past." example:"2026-11-03T10:24:00.000Z"`
	} `nameHint:"MintedToken"`
}

// mintedFirst is what /v1/create answers.
type mintedFirst struct {
	Body struct {
		Username           string `json:"mqtt_username" example:"token_k7xm4pqr2n5t@org_k7xm4pqr2n5t"`
		Password           string `json:"token_password" doc:"It is shown once." example:"tkn_..."`
		Organization       string `json:"org_short_id" example:"org_k7xm4pqr2n5t"`
		ExpiresAt          string `json:"expires_at" format:"date-time" example:"2026-11-03T10:30:00.000Z"`
		RefreshRecommended string `json:"refresh_recommended_at" format:"date-time" example:"2026-11-03T10:24:00.000Z"`
	} `nameHint:"MintedTokenV1"`
}

type refreshInput struct {
	Body struct {
		ID       string `json:"token_id" minLength:"1" maxLength:"64" example:"tok_k7xm4pqr2n5t"`
		Password string `json:"current_token_password" minLength:"1" maxLength:"1024" example:"tkn_..."`
	} `nameHint:"RefreshToken"`
}

// narrowInput is what POST /v2/tokens takes.
type narrowInput struct {
	Body struct {
		Organization string   `json:"organization_id,omitempty" maxLength:"64" doc:"By id or UUID; the caller's own unless given." example:"org_k7xm4pqr2n5t"`
		User         string   `json:"user_id" minLength:"1" maxLength:"254" doc:"Who the token is for, as the caller names them." example:"visitor-17"`
		Permissions  []string `json:"permissions,omitempty" nullable:"false" maxItems:"2" enum:"publish,subscribe" example:"[\"subscribe\"]" doc:"All that the token may do at most; both unless given."`
		Topics       []string `json:"topics,omitempty" nullable:"false" maxItems:"1000" doc:"Filters that narrow what the rules allow." example:"[\"chat/#\"]"`
	} `nameHint:"NarrowToken"`
}

type narrowed struct {
	Body struct {
		Token     string `json:"token" doc:"The password. It is shown once." example:"tkn_..."`
		ExpiresAt string `json:"expires_at" format:"date-time" example:"2026-11-03T10:30:00.000Z"`
		ID        string `json:"token_id" example:"tok_k7xm4pqr2n5t"`
		Username  string `json:"mqtt_username" example:"token_k7xm4pqr2n5t@org_k7xm4pqr2n5t"`
	} `nameHint:"NarrowedToken"`
}

// token is a token as it can be shown again.
type token struct {
	ID                 string   `json:"token_id" example:"tok_k7xm4pqr2n5t"`
	Username           string   `json:"username" doc:"To connect with; the same for every token of the identity." example:"token_k7xm4pqr2n5t@org_k7xm4pqr2n5t"`
	Provider           string   `json:"provider" example:"cloudsignal"`
	Subject            string   `json:"subject" doc:"The identity, as the provider names it." example:"ada@example.com"`
	Email              string   `json:"user_email,omitempty" example:"ada@example.com"`
	RuleSet            string   `json:"rule_set,omitempty" doc:"The set that judges it, if not the default one." example:"set_k7xm4pqr2n5t"`
	Permissions        []string `json:"permissions,omitempty" nullable:"false" enum:"publish,subscribe" example:"[\"subscribe\"]"`
	Topics             []string `json:"topics,omitempty" nullable:"false" example:"[\"chat/#\"]"`
	CreatedAt          string   `json:"created_at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	ExpiresAt          string   `json:"expires_at" format:"date-time" example:"2026-11-03T10:30:00.000Z"`
	RefreshRecommended string   `json:"refresh_recommended_at" format:"date-time" example:"2026-11-03T10:24:00.000Z"`
	RevokedAt          string   `json:"revoked_at,omitempty" format:"date-time" example:"2026-11-03T09:45:00.000Z"`
}

type tokenListInput struct {
	Page
	User string `query:"user" maxLength:"128" doc:"Of this user name alone, with or without its organization." example:"token_k7xm4pqr2n5t"`
}

type tokenPath struct {
	ID string `path:"id" maxLength:"64" example:"tok_k7xm4pqr2n5t"`
}

type oneToken struct{ Body token }

func (a *API) registerTokens() {
	mint := operation{
		id: "create-token", method: http.MethodPost, path: "/v2/tokens/create", tag: "tokens", summary: "Make a temporary token",
		text: "For an identity that the caller vouches for by its e-mail address. Errors have the form of the token service.",
		auth: optional, scope: access.TokensWrite, server: true, bucket: a.minting, cors: true, shape: showTokenError,
	}
	route(a, mint, a.createToken)
	mint.id, mint.path, mint.summary = "create-token-v1", "/v1/create", "Make a temporary token, as the first version did"
	mint.text = "The same with an answer of other names."
	route(a, mint, a.createTokenV1)
	route(a, operation{
		id: "create-narrow-token", method: http.MethodPost, path: "/v2/tokens", tag: "tokens", summary: "Make a token with permissions and topics",
		text: "For an identity that the caller names. The identity's other tokens stay.", status: http.StatusCreated,
		scope: access.TokensWrite, server: true, bucket: a.minting, cors: true, shape: showTokenError,
	}, a.createNarrowToken)
	route(a, operation{
		id: "refresh-token", method: http.MethodPost, path: "/v2/tokens/refresh", tag: "tokens", summary: "Refresh a temporary token",
		text: "Needs no key. Gives another password and a later end, to the live connection too; the old password works until its own end.",
		auth: open, bucket: a.refreshing, cors: true, shape: showTokenError, also: []int{http.StatusUnauthorized},
	}, a.refreshToken)
	route(a, operation{
		id: "list-tokens", method: http.MethodGet, path: "/v2/tokens", tag: "tokens", summary: "List temporary tokens",
		text: "Those that have ended too, as long as they are kept.", scope: access.TokensRead,
	}, a.listTokens)
	route(a, operation{
		id: "get-token", method: http.MethodGet, path: "/v2/tokens/{id}", tag: "tokens", summary: "Get a temporary token", scope: access.TokensRead,
	}, func(ctx context.Context, in *tokenPath) (*oneToken, error) {
		t, err := a.own(ctx).Token(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return &oneToken{a.showToken(ctx, t)}, nil
	})
	route(a, operation{
		id: "revoke-token", method: http.MethodDelete, path: "/v2/tokens/{id}", tag: "tokens", summary: "Revoke a temporary token",
		text: "Its connections end at once.", scope: access.TokensWrite,
	}, func(ctx context.Context, in *tokenPath) (*nothing, error) {
		return nil, a.own(ctx).RevokeToken(ctx, in.ID)
	})
}

// minter is the organization in which the caller may make tokens. The secret in the body, if there is one, counts before the header.
func (a *API) minter(ctx context.Context, organization, secret string) (*control.Organization, error) {
	c := callerOf(ctx)
	if secret != "" || c.actor.Kind == "" {
		actor, err := a.authenticate(ctx, secret)
		if p, ok := errors.AsType[*Problem](err); ok && secret == "" && p.Code == fault.Unauthorized {
			p.Detail = "credentials are missing: send secret_key, or Authorization: Bearer KEY"
		}
		if err != nil {
			return nil, err
		}
		if v := a.minting.take(string(actor.Kind)+" "+actor.ID, a.config.Now()); !v.ok {
			return nil, limitedBy(c.id, a.minting, v)
		}
		c.actor = actor
	}
	if organization != "" {
		actor, err := a.config.Store.Within(ctx, c.actor, organization)
		if err != nil {
			return nil, err
		}
		c.actor = actor
	}
	return a.own(ctx), nil
}

// mint makes the token of a mintInput.
func (a *API) mint(ctx context.Context, in *mintInput) (control.Token, string, error) {
	b := &in.Body
	o, err := a.minter(ctx, b.Organization, b.Secret)
	if err != nil {
		return control.Token{}, "", err
	}
	if b.Integration != "" && b.Integration != nativeProvider {
		p := newProblem(callerOf(ctx).id, fault.NotFound, "there is no identity provider of that name")
		p.Code = codeNoProvider
		return control.Token{}, "", p
	}
	return o.CreateToken(ctx, control.NewToken{
		Email: b.Email, TTL: time.Duration(b.TTL) * time.Second, Keep: b.Replace != nil && !*b.Replace,
		Permissions: b.Permissions, Topics: b.Topics, RuleSet: b.RuleSet,
	})
}

func (a *API) createToken(ctx context.Context, in *mintInput) (*minted, error) {
	t, password, err := a.mint(ctx, in)
	if err != nil {
		return nil, err
	}
	return a.showMinted(t, password, callerOf(ctx).actor.Organization), nil
}

func (a *API) createTokenV1(ctx context.Context, in *mintInput) (*mintedFirst, error) {
	t, password, err := a.mint(ctx, in)
	if err != nil {
		return nil, err
	}
	out := new(mintedFirst)
	out.Body.Organization = callerOf(ctx).actor.Organization
	out.Body.Username, out.Body.Password = t.User+"@"+out.Body.Organization, password
	out.Body.ExpiresAt, out.Body.RefreshRecommended = stamp(t.ExpiresAt), a.refreshStamp(t)
	return out, nil
}

func (a *API) createNarrowToken(ctx context.Context, in *narrowInput) (*narrowed, error) {
	o, err := a.minter(ctx, in.Body.Organization, "")
	if err != nil {
		return nil, err
	}
	t, password, err := o.CreateToken(ctx, control.NewToken{
		Provider: ownProvider, Subject: in.Body.User, Keep: true, Permissions: in.Body.Permissions, Topics: in.Body.Topics,
	})
	if err != nil {
		return nil, renamed(err, "subject", "user_id")
	}
	out := new(narrowed)
	out.Body.Token, out.Body.ExpiresAt, out.Body.ID = password, stamp(t.ExpiresAt), t.ID
	out.Body.Username = t.User + "@" + callerOf(ctx).actor.Organization
	return out, nil
}

// renamed gives a fault about one field the name that the field has here.
func renamed(err error, from, to string) error {
	e, ok := err.(*fault.Error) //nolint:errorlint // what control returns, which nobody has wrapped
	if !ok || e.Field != from {
		return err
	}
	other := *e
	other.Field = to
	return &other
}

// refreshToken answers for a token that is not there as for a wrong password. Who has the right one is not hindered by those who
// guess elsewhere: guesses are counted by address and token.
func (a *API) refreshToken(ctx context.Context, in *refreshInput) (*minted, error) {
	c := callerOf(ctx)
	t, password, organization, err := a.config.Store.RefreshToken(ctx, c.address, in.Body.ID, in.Body.Password)
	switch fault.CodeOf(err) {
	case "":
		return a.showMinted(t, password, organization), nil
	case fault.NotFound, fault.Unauthorized:
		if v := a.guessing.take(origin(c.address)+" "+in.Body.ID, a.config.Now()); !v.ok {
			return nil, limitedBy(c.id, a.guessing, v)
		}
		return nil, fault.New(fault.Unauthorized, "this is no token with this password, or it was revoked; make a new one")
	}
	return nil, err
}

func (a *API) showMinted(t control.Token, password, organization string) *minted {
	out := new(minted)
	b := &out.Body
	b.AccessToken, b.TokenType = password, "Bearer"
	b.ExpiresIn = int64(max(0, t.ExpiresAt.Sub(a.config.Now())).Round(time.Second) / time.Second)
	b.Credentials = credentialPair{t.User + "@" + organization, password}
	b.ID, b.Email, b.Provider = t.ID, t.Email, t.Provider
	b.ExpiresAt, b.RefreshRecommended = stamp(t.ExpiresAt), a.refreshStamp(t)
	return out
}

// refreshStamp is when to refresh a token, as shown: never in the past, where clients would begin to refresh without end.
func (a *API) refreshStamp(t control.Token) string {
	at := t.RefreshAt
	if now := a.config.Now(); !at.After(now) {
		at = now.Add(time.Millisecond) // what stamp cuts off
	}
	return stamp(at)
}

func (a *API) listTokens(ctx context.Context, in *tokenListInput) (*listed[token], error) {
	after, err := in.after("tokens")
	if err != nil {
		return nil, err
	}
	user, ok := ownName(ctx, in.User)
	if !ok {
		return pageOf(&in.Page, "tokens", nil, tokenID, func(control.Token) token { return token{} }), nil
	}
	all, err := a.own(ctx).ListTokens(ctx, control.TokenQuery{User: user, After: after, Limit: in.fetch()})
	if err != nil {
		return nil, err
	}
	return pageOf(&in.Page, "tokens", all, tokenID, func(t control.Token) token { return a.showToken(ctx, t) }), nil
}

func tokenID(t control.Token) string { return t.ID }

// ownName is a user's name without its organization, which is the caller's if it is named. ok is false if it is another one.
func ownName(ctx context.Context, name string) (short string, ok bool) {
	i := strings.LastIndexByte(name, '@')
	if i < 0 {
		return name, true
	}
	return name[:i], name[i+1:] == callerOf(ctx).actor.Organization
}

func (a *API) showToken(ctx context.Context, t control.Token) token {
	return token{
		ID: t.ID, Username: t.User + "@" + callerOf(ctx).actor.Organization, Provider: t.Provider, Subject: t.Subject, Email: t.Email,
		RuleSet: t.RuleSet, Permissions: t.Permissions, Topics: t.Topics, CreatedAt: stamp(t.CreatedAt), ExpiresAt: stamp(t.ExpiresAt),
		RefreshRecommended: stamp(t.RefreshAt), RevokedAt: stamp(t.RevokedAt),
	}
}
