package api

import (
	"context"
	"net/http"
	"time"

	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// refusalDelay: a refused log-in or sign-up is answered so long after the request, or a multiple of it, whatever the reason.
const refusalDelay = 500 * time.Millisecond

type member struct {
	ID        string `json:"id" example:"mem_k7xm4pqr2n5t"`
	Name      string `json:"name" example:"Ada"`
	Email     string `json:"email" example:"ada@example.com"`
	CreatedAt string `json:"created_at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
}

func showMember(m control.Member) member {
	return member{ID: m.ID, Name: m.Name, Email: m.Email, CreatedAt: stamp(m.CreatedAt)}
}

type memberSession struct {
	Token     string `json:"token" doc:"For Authorization: Bearer. It is shown once." example:"ses_..."`
	ExpiresAt string `json:"expires_at" format:"date-time" example:"2026-11-10T09:30:00.000Z"`
}

type signUpInput struct {
	Body struct {
		Name     string `json:"name" minLength:"1" maxLength:"80" doc:"The person's." example:"Ada"`
		Email    string `json:"email" minLength:"3" maxLength:"254" example:"ada@example.com"`
		Password string `json:"password" minLength:"8" maxLength:"256" doc:"256 bytes at most." example:"correct horse battery staple"`
	} `nameHint:"SignUp"`
}

type signedUp struct {
	Body struct {
		Member       member        `json:"member"`
		Organization organization  `json:"organization" doc:"The workspace that was made; the member owns it."`
		SecretKey    string        `json:"secret_key" doc:"The organization's first key. It is shown once." example:"sk_..."`
		Session      memberSession `json:"session"`
	} `nameHint:"SignedUp"`
}

type logInInput struct {
	Body struct {
		Email    string `json:"email" minLength:"3" maxLength:"254" example:"ada@example.com"`
		Password string `json:"password" minLength:"1" maxLength:"1024" example:"correct horse battery staple"`
	} `nameHint:"LogIn"`
}

type membership struct {
	ID   string       `json:"id" doc:"The organization's." example:"org_k7xm4pqr2n5t"`
	Name string       `json:"name" example:"Ada's Workspace"`
	Role control.Role `json:"role" example:"owner"`
}

type loggedIn struct {
	Body struct {
		Token         string       `json:"token" doc:"For Authorization: Bearer. It is shown once." example:"ses_..."`
		ExpiresAt     string       `json:"expires_at" format:"date-time" example:"2026-11-10T09:30:00.000Z"`
		Member        member       `json:"member"`
		Organizations []membership `json:"organizations" doc:"The member's. With one alone, X-Organization is not needed."`
	} `nameHint:"LoggedIn"`
}

type me struct {
	Body struct {
		Kind         control.ActorKind `json:"kind" enum:"key,member,operator" example:"key"`
		ID           string            `json:"id" example:"key_k7xm4pqr2n5t"`
		Name         string            `json:"name" doc:"Of the key; of a member the e-mail address." example:"First key"`
		Organization string            `json:"organization,omitempty" doc:"The one that is acted in." example:"org_k7xm4pqr2n5t"`
		Role         control.Role      `json:"role,omitempty" doc:"Of a member in that organization." example:"owner"`
		KeyKind      string            `json:"key_kind,omitempty" enum:"secret,publishable,restricted,legacy" example:"secret"`
		Scopes       []scope           `json:"scopes,omitempty" doc:"Of a restricted key."`
	} `nameHint:"Me"`
}

func (a *API) registerAccount() {
	route(a, operation{
		id: "sign-up", method: http.MethodPost, path: "/v2/signup", tag: "account", summary: "Sign up", status: http.StatusCreated,
		text: "Makes a person and an organization for them. Forbidden where sign-up is closed. An address may sign up 20 times at once, and 20 times a minute.",
		auth: open, also: []int{http.StatusForbidden, http.StatusConflict},
	}, a.signUp)
	route(a, operation{
		id: "log-in", method: http.MethodPost, path: "/v2/login", tag: "account", summary: "Log in", auth: open,
		text: "Gives a session's token for an e-mail address and its password. Refusals alone are limited, by address and by person.", also: []int{http.StatusUnauthorized},
	}, a.logIn)
	route(a, operation{
		id: "log-out", method: http.MethodPost, path: "/v2/logout", tag: "account", summary: "Log out",
		text: "Ends the session whose token is shown. There is none with a key.", also: []int{http.StatusForbidden},
	}, func(ctx context.Context, _ *nothing) (*nothing, error) {
		return nil, a.config.Store.LogOut(ctx, callerOf(ctx).actor)
	})
	route(a, operation{
		id: "get-me", method: http.MethodGet, path: "/v2/me", tag: "account", summary: "Who the credentials are",
	}, a.me)
}

func (a *API) signUp(ctx context.Context, in *signUpInput) (*signedUp, error) {
	if !a.config.SignUp {
		return nil, fault.New(fault.Forbidden, "sign-up is closed on this server; its operator makes organizations")
	}
	c := callerOf(ctx)
	up := control.SignUp{Name: in.Body.Name, Email: in.Body.Email, Password: in.Body.Password}
	if _, err := up.Check(); err != nil {
		return nil, hold(ctx, err)
	}
	if v := a.signUps.take(origin(c.address), a.config.Now()); !v.ok {
		return nil, limitedBy(c.id, a.signUps, v)
	}
	made, err := a.config.Store.SignUp(ctx, c.address, up)
	if err != nil {
		return nil, hold(ctx, err)
	}
	out := new(signedUp)
	out.Body.Member = showMember(made.Member)
	out.Body.Organization = showOrganization(made.Organization)
	out.Body.SecretKey = made.SecretKey
	out.Body.Session = memberSession{Token: made.Session.Token, ExpiresAt: stamp(made.Session.ExpiresAt)}
	return out, nil
}

func (a *API) logIn(ctx context.Context, in *logInInput) (*loggedIn, error) {
	s, err := a.config.Store.LogIn(ctx, callerOf(ctx).address, in.Body.Email, in.Body.Password)
	if fault.CodeOf(err) == fault.TooManyRequests {
		p := a.problem(ctx, nil, err)
		p.header = http.Header{"Retry-After": {"60"}} // its sentence says a minute
		return nil, hold(ctx, p)
	}
	if err != nil {
		return nil, hold(ctx, err)
	}
	out := new(loggedIn)
	out.Body.Token, out.Body.ExpiresAt = s.Token, stamp(s.ExpiresAt)
	out.Body.Member = showMember(s.Member)
	out.Body.Organizations = make([]membership, len(s.Organizations))
	for i, m := range s.Organizations {
		out.Body.Organizations[i] = membership{ID: m.Organization, Name: m.Name, Role: m.Role}
	}
	return out, nil
}

// hold waits with a refusal until its time has come, which tells nothing of how long it took to find the reason.
func hold(ctx context.Context, err error) error {
	passed := time.Since(callerOf(ctx).began)
	t := time.NewTimer(passed.Truncate(refusalDelay) + refusalDelay - passed)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return err
}

func (a *API) me(ctx context.Context, _ *nothing) (*me, error) {
	actor := callerOf(ctx).actor
	out := new(me)
	b := &out.Body
	b.Kind, b.ID, b.Name, b.Organization, b.Role = actor.Kind, actor.ID, actor.Name, actor.Organization, actor.Role
	if actor.Kind == control.KeyActor {
		b.KeyKind, b.Scopes = kindName(actor.KeyKind), showScopes(actor.Scopes)
	}
	return out, nil
}
