package api

import (
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/control"
)

// TestMisplacedSecrets puts a secret everywhere but where it belongs: into each parameter, each field, the name of a field and of a
// parameter, the path and X-Organization, of every operation. noSecrets looks at every answer that refuses it and at the log.
func TestMisplacedSecrets(t *testing.T) {
	f := newFixture(t)
	secret := f.call(f.a.secret, "POST", "/v2/keys", map[string]any{"name": "misplaced", "kind": "secret"}).want(201).text("secret")
	made := f.call(f.a.secret, "POST", "/v2/users", map[string]any{"name": "misplaced"}).want(201).text("password")
	for _, s := range []string{secret, made} {
		f.misplace(s)
	}
	rows, err := f.store.In(control.System(), f.a.id).Audit(t.Context(), control.AuditQuery{Limit: control.MaxPage})
	f.must(err)
	for _, r := range rows {
		for _, s := range []string{secret, made} {
			if text := r.Target + string(r.Before) + string(r.After) + r.Actor.Name; strings.Contains(text, s[3:]) {
				t.Errorf("the audit has a secret: %s %s", r.Action, text)
			}
		}
	}
}

// misplace gives a secret to every operation in every place. Answers that show what was kept are none that refuse it.
func (f *fixture) misplace(secret string) {
	f.t.Helper()
	refused := func(r *answer) {
		f.t.Helper()
		last := &f.answers[len(f.answers)-1]
		if _, *last, _ = strings.Cut(*last, "\n"); r.Code < 300 { // without what was asked
			*last = "" // it shows what it took: a topic, a client identifier
		}
		if r.Code >= 500 {
			f.t.Errorf("%s: %d %s", r.what, r.Code, r.Body)
		}
	}
	for _, op := range f.document() {
		o := declared(op.Operation)
		who := f.a.secret
		if o.auth == open || op.method == "DELETE" && !ofOne(op) {
			who = ""
		}
		for _, p := range op.Parameters {
			if p.In != "path" {
				continue
			}
			path := strings.Replace(op.path, "{"+p.Name+"}", secret, 1)
			refused(f.call(who, op.method, f.a.target(documented{op.method, path, op.Operation}), f.sample(op)))
			path = strings.Replace(op.path, "{"+p.Name+"}", "a"+secret+strings.Repeat("b", 200), 1)
			refused(f.call(who, op.method, f.a.target(documented{op.method, path, op.Operation}), f.sample(op)))
		}
		if ofOne(op) && op.method == "DELETE" {
			continue // what else there is to it would end what the test needs
		}
		for _, p := range op.Parameters {
			if p.In == "query" {
				refused(f.call(who, op.method, strings.Split(f.a.target(op), "?")[0]+"?"+p.Name+"="+secret, f.sample(op)))
			}
		}
		refused(f.call(who, op.method, f.a.target(op)+"?"+secret+"=1", f.sample(op)))
		refused(f.call(who, op.method, f.a.target(op), f.sample(op), organizationHeader, secret))
		refused(f.call("", op.method, f.a.target(op), f.sample(op), secretHeader, "x "+secret))
		f.misplaceInBody(op, who, secret, refused)
	}
	refused(f.call(f.a.secret, "GET", "/nothing/"+secret, nil))
	refused(f.call(f.a.secret, "POST", "/v2/audit?"+secret, nil))
	refused(f.call(f.a.secret, "BREW", "/v2/audit", nil, "X-Request-Id", secret))
}

func (f *fixture) misplaceInBody(op documented, who, secret string, refused func(*answer)) {
	f.t.Helper()
	s := f.bodyOf(op)
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		if strings.Contains(name, "password") || strings.HasPrefix(name, "secret") {
			continue // there it belongs
		}
		body := f.sample(op)
		switch f.resolve(p).Type {
		case huma.TypeString:
			body[name] = secret
		case huma.TypeArray:
			body[name] = []any{secret}
		default:
			body[name] = map[string]any{secret: 1}
		}
		refused(f.call(who, op.method, f.a.target(op), body))
	}
	body := f.sample(op)
	body[secret] = 1
	refused(f.call(who, op.method, f.a.target(op), body))
	body = f.sample(op)
	body[strings.Repeat("a", maxProblemPlace-20)+secret] = 1
	refused(f.call(who, op.method, f.a.target(op), body))
}

// Texts that are kept and shown hold no secret: they are refused by the name of their field.
func TestNamesHoldNoSecret(t *testing.T) {
	f := newFixture(t)
	secret := f.call(f.a.secret, "POST", "/v2/keys", map[string]any{"name": "misplaced", "kind": "secret"}).want(201).text("secret")
	user := "/v2/users/" + f.a.user
	for _, c := range []struct {
		method, target, field string
		body                  map[string]any
	}{
		{"POST", "/v2/users", "/name", map[string]any{"name": secret}},
		{"POST", "/v2/users", "/display_name", map[string]any{"name": "x", "display_name": "of " + secret}},
		{"PATCH", user, "/display_name", map[string]any{"display_name": secret}},
		{"POST", "/v2/keys", "/name", map[string]any{"name": secret, "kind": "secret"}},
		{"POST", "/v2/rule-sets", "/name", map[string]any{"name": secret}},
		{"POST", "/v2/rule-sets/" + f.a.ruleSet + "/rules", "/topic", map[string]any{"user": "%", "topic": "a/" + secret + "/#", "permission": "publish"}},
		{"POST", "/v2/rule-sets/" + f.a.ruleSet + "/rules", "/user", map[string]any{"user": secret, "topic": "a", "permission": "publish"}},
		{"PATCH", "/v2/rule-sets/" + f.a.ruleSet, "/name", map[string]any{"name": secret}},
		{"PATCH", "/v2/organizations/" + f.a.id, "/name", map[string]any{"name": secret}},
		{"POST", "/v2/signup", "/name", map[string]any{"name": secret, "email": "eve@example.com", "password": "other ravens"}},
		{"POST", "/v2/signup", "/email", map[string]any{"name": "Eve", "email": secret + "@example.com", "password": "other ravens"}},
		{"POST", "/v2/tokens", "/user_id", map[string]any{"user_id": secret}},
		{"POST", "/v2/tokens/create", "/user_email", map[string]any{"organization_id": f.a.id, "user_email": secret + "@example.com"}},
	} {
		f.call(f.a.secret, c.method, c.target, c.body).wrong(422, c.field)
	}
}
