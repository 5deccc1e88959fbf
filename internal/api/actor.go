package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

const (
	secretHeader       = "X-Secret-Key"
	organizationHeader = "X-Organization"
	maxOrganization    = 64 // bytes of an id or a UUID that is looked for, and repeated if there is none
)

// admit lets a request reach its operation: it knows who asks, and that they may and not too often. Else it says why not.
func (a *API) admit(o *operation, w http.ResponseWriter, r *http.Request) *Problem {
	ctx := r.Context()
	c := callerOf(ctx)
	secret, given := credentials(r)
	if o.auth == open || o.auth == optional && !given {
		if p := a.limitAddress(o, w.Header(), c); p != nil {
			return p
		}
	} else if p := a.identify(ctx, o, w.Header(), r, secret); p != nil {
		return p
	}
	if r.ContentLength > o.body {
		return newProblem(c.id, codeTooLarge, tooLarge(o.body))
	}
	return nil
}

// limitAddress counts a request of nobody in particular.
func (a *API) limitAddress(o *operation, h http.Header, c *caller) *Problem {
	b := o.bucket
	if b == nil {
		b = a.addresses
	}
	v := b.take(origin(c.address), a.config.Now())
	if !v.ok {
		return limitedBy(c.id, b, v)
	}
	b.announce(h, v)
	return nil
}

// identify finds out who asks, counts the request, and looks at what the operation needs.
func (a *API) identify(ctx context.Context, o *operation, h http.Header, r *http.Request, secret string) *Problem {
	c := callerOf(ctx)
	actor, err := a.authenticate(ctx, secret)
	if err != nil {
		return a.problem(ctx, o, err)
	}
	b := o.bucket
	if b == nil {
		b = a.callers
	}
	v := b.take(string(actor.Kind)+" "+actor.ID, a.config.Now())
	if !v.ok {
		return limitedBy(c.id, b, v)
	}
	b.announce(h, v)
	named := r.Header.Get(organizationHeader)
	if inPath := r.PathValue("organization"); inPath != "" && actor.Kind != control.KeyActor {
		named = inPath // a key's path is looked at by Store.In
	}
	if len(named) > maxOrganization {
		return newProblem(c.id, fault.NotFound, "there is no such organization")
	}
	if named != "" {
		if actor, err = a.config.Store.Within(ctx, actor, named); err != nil {
			return a.problem(ctx, o, err)
		}
	}
	c.actor = actor
	if o.scope == "" || o.server && (o.ours || actor.Kind != control.KeyActor) || o.above && actor.Kind == control.OperatorActor {
		return nil
	}
	if actor.Organization == "" {
		return a.problem(ctx, o, fault.Field(organizationHeader, "say which organization this is about; GET /v2/organizations lists yours"))
	}
	if !o.ours && !actor.May(o.scope) {
		return newProblem(c.id, fault.Forbidden, "this needs the scope "+string(o.scope)+", which these credentials do not have")
	}
	return nil
}

// authenticate finds out whose secret it is. A wrong one is counted against the address, and beyond that limit it is told
// apart from no other error; the right one is always known, whatever others behind the same address do.
func (a *API) authenticate(ctx context.Context, secret string) (control.Actor, error) {
	c := callerOf(ctx)
	err := error(fault.New(fault.Unauthorized, "credentials are missing: send Authorization: Bearer KEY, or X-Secret-Key: KEY"))
	if secret != "" {
		var actor control.Actor
		if actor, err = a.config.Store.Authenticate(ctx, secret, c.address); err == nil {
			return actor, nil
		}
	}
	if fault.CodeOf(err) != fault.Unauthorized {
		return control.Actor{}, err
	}
	if v := a.addresses.take(origin(c.address), a.config.Now()); !v.ok {
		return control.Actor{}, limitedBy(c.id, a.addresses, v)
	}
	p := newProblem(c.id, fault.Unauthorized, "")
	if e, ok := errors.AsType[*fault.Error](err); ok {
		p.Detail = e.Error()
	}
	p.header = http.Header{"Www-Authenticate": {`Bearer realm="cloudsignal"`}}
	return control.Actor{}, p
}

// credentials are the secret that a request shows. given says that there is something, if only a scheme that is not known.
func credentials(r *http.Request) (secret string, given bool) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, rest, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", true
		}
		return strings.TrimSpace(rest), true
	}
	secret = r.Header.Get(secretHeader)
	return secret, secret != ""
}

// own is the organization that the caller acts in.
func (a *API) own(ctx context.Context) *control.Organization {
	actor := callerOf(ctx).actor
	return a.config.Store.In(actor, actor.Organization)
}

// named is an organization, as the caller may see it.
func (a *API) named(ctx context.Context, organization string) *control.Organization {
	return a.config.Store.In(callerOf(ctx).actor, organization)
}
