package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

// Every test here goes through the whole document, so that a new operation is among them.

// target is a path of an operation about what n has.
func (n *tenant) target(op documented) string {
	id := n.ruleSet
	switch {
	case strings.HasPrefix(op.path, "/v2/keys/"):
		id = n.key
	case strings.HasPrefix(op.path, "/v2/tokens/"):
		id = n.token
	}
	path := op.path
	for name, value := range map[string]string{"organization": n.id, "name": n.user, "id": id, "rule": n.rule} {
		path = strings.ReplaceAll(path, "{"+name+"}", value)
	}
	for { // any other is of something that is not there
		before, rest, ok := strings.Cut(path, "{")
		if !ok {
			return path + needed(op)
		}
		_, after, _ := strings.Cut(rest, "}")
		path = before + "absent" + after
	}
}

// needed is the query that an operation cannot do without, made of the examples.
func needed(op documented) string {
	q := make(url.Values)
	for _, p := range op.Parameters {
		if p.In == "query" && p.Required {
			q.Set(p.Name, fmt.Sprint(p.Schema.Examples[0]))
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// ofOne tells of an operation about one thing, which the path or the query names.
func ofOne(op documented) bool { return strings.Contains(op.path, "{") || needed(op) != "" }

// sample is a body that an operation takes, made of the examples in its schema; nil if it takes none.
func (f *fixture) sample(op documented) map[string]any {
	s := f.bodyOf(op)
	if s == nil {
		return nil
	}
	body, _ := f.example(s, false).(map[string]any)
	return body
}

func (f *fixture) bodyOf(op documented) *huma.Schema {
	if op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	return f.resolve(op.RequestBody.Content["application/json"].Schema)
}

func (f *fixture) resolve(s *huma.Schema) *huma.Schema {
	for s.Ref != "" {
		s = f.api.huma.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
	}
	return s
}

// example is a value that a schema takes: of what is required, or of everything.
func (f *fixture) example(s *huma.Schema, all bool) any {
	s = f.resolve(s)
	switch {
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Type == huma.TypeObject:
		out := make(map[string]any)
		for name, p := range s.Properties {
			if all || slices.Contains(s.Required, name) {
				out[name] = f.example(p, all)
			}
		}
		return out
	case s.Type == huma.TypeArray:
		return []any{f.example(s.Items, all)}
	}
	return nil
}

// wants tells of an operation that needs credentials, and the scope if it needs one.
func wants(op documented) (credentials bool, scope access.Scope) {
	o := declared(op.Operation)
	return o.auth == required, o.scope
}

// retainedExample is the topic in the examples of the operations about a retained message.
const retainedExample = "agents/agent-01/card"

func TestEveryOperationIsDescribed(t *testing.T) {
	f := newFixture(t)
	ids := make(map[string]bool)
	for _, op := range f.document() {
		if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 || op.Security == nil {
			t.Errorf("%s %s: %+v", op.method, op.path, op.Operation)
		}
		ids[op.OperationID] = true
		for _, name := range regexp.MustCompile(`{(.+?)}`).FindAllStringSubmatch(op.path, -1) {
			if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "path" && p.Name == name[1] }) {
				t.Errorf("%s does not read {%s}", op.OperationID, name[1])
			}
		}
		if op.RequestBody == nil {
			continue
		}
		s := f.bodyOf(op)
		result := new(huma.ValidateResult)
		for _, all := range []bool{false, true} {
			v := f.example(s, all)
			huma.Validate(f.api.huma.OpenAPI().Components.Schemas, s, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, plain(v), result)
		}
		for _, err := range result.Errors {
			t.Errorf("%s: the examples do not make a body: %v", op.OperationID, err)
		}
	}
	for status, response := range f.api.huma.OpenAPI().Components.Responses {
		text, err := json.Marshal(response.Content[problemType].Example)
		f.must(err)
		x := &answer{f: f, what: "the example of " + status, ResponseRecorder: httptest.NewRecorder()}
		x.Header().Set("Content-Type", problemType)
		f.must(json.Unmarshal(text, &x.body))
		f.matches(x, response)
	}
	if len(ids) < 35 {
		t.Errorf("only %d operations", len(ids))
	}
}

// plain makes the examples of tags what JSON would make of them.
func plain(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			x[k] = plain(x[k])
		}
	case []any:
		for i := range x {
			x[i] = plain(x[i])
		}
	case []string:
		out := make([]any, len(x))
		for i := range x {
			out[i] = x[i]
		}
		return out
	}
	return v
}

func TestWithoutCredentials(t *testing.T) {
	f := newFixture(t)
	n := 0
	for _, op := range f.document() {
		if needed, _ := wants(op); !needed {
			continue
		}
		n++
		secrets := map[string]string{
			"none": "", "of no form": "nonsense", "changed": f.a.secret[:len(f.a.secret)-1] + "1", "of nobody": unknownKey(t), "revoked": f.a.revoked,
			"another kind": "pk_" + f.a.secret[3:], "in capitals": strings.ToUpper(f.a.secret), "very long": "sk_" + strings.Repeat("a", 8000),
			"a blank": f.a.secret + " x", "a session of nobody": "ses_" + f.a.secret[3:],
		}
		for _, what := range slices.Sorted(maps.Keys(secrets)) {
			r := f.call(secrets[what], op.method, f.a.target(op), f.sample(op)).want(401)
			if r.is("code", "unauthorized"); r.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s, %s: no WWW-Authenticate", r.what, what)
			}
		}
		f.call("", op.method, f.a.target(op), f.sample(op), "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("x:"+f.a.secret))).want(401)
		f.call("", op.method, f.a.target(op), f.sample(op), secretHeader, f.a.revoked).want(401)
	}
	if n < 30 {
		t.Errorf("only %d operations", n)
	}
}

func unknownKey(t *testing.T) string {
	key, err := access.NewKey(zeros{}, access.SecretKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What one organization has is, for another one, not there: by its path, by X-Organization, and in lists.
func TestAsAnotherOrganization(t *testing.T) {
	f := newFixture(t)
	f.call(f.a.secret, "POST", "/v1/publish", map[string]any{"topic": retainedExample, "payload": "a's", "retain": true}).want(200)
	others := map[string]string{"key": f.b.secret, "member": f.b.session}
	for _, op := range f.document() {
		needed, scope := wants(op)
		if !needed || scope == "" {
			continue
		}
		for who, secret := range others {
			for _, id := range []string{f.a.id, f.a.uuid, "org_zzzzzzzzzzzz", "x"} {
				if r := f.call(secret, op.method, f.a.target(op), f.sample(op), organizationHeader, id); r.Code != http.StatusNotFound {
					t.Errorf("%s as a %s with X-Organization: %d %s", r.what, who, r.Code, r.Body)
				}
			}
			if !ofOne(op) {
				continue
			}
			r := f.call(secret, op.method, f.a.target(op), f.sample(op))
			if r.Code != http.StatusNotFound {
				t.Errorf("%s as a %s: %d %s", r.what, who, r.Code, r.Body)
			}
		}
		if op.method != "GET" || ofOne(op) {
			continue
		}
		for who, secret := range others {
			r := f.call(secret, op.method, op.path, nil).want(200)
			for _, id := range []string{f.a.id, f.a.user, f.a.key, f.a.ruleSet, f.a.rule, f.a.email, f.a.token, retainedExample} {
				if strings.Contains(r.Body.String(), id) {
					t.Errorf("%s as a %s shows %s: %s", r.what, who, id, r.Body)
				}
			}
		}
	}
	f.call(f.a.secret, "GET", "/v2/users/"+f.a.user, nil).want(200) // all of it is still there
	f.call(f.a.secret, "GET", "/v2/rule-sets/"+f.a.ruleSet, nil).want(200).is("rules.0.id", f.a.rule)
	f.call(f.a.secret, "GET", "/v2/keys/"+f.a.key, nil).want(200)
	f.call(f.a.secret, "GET", "/v2/tokens/"+f.a.token, nil).want(200)
	f.call(f.a.secret, "GET", "/v2/retained/message?topic="+retainedExample, nil).want(200)
}

func TestScopes(t *testing.T) {
	f := newFixture(t)
	narrow := make(map[access.Scope]string)
	for _, s := range []access.Scope{access.AuditRead, access.UsageRead} {
		narrow[s] = f.restricted(&f.a, s)
	}
	for _, op := range f.document() {
		needed, scope := wants(op)
		if !needed || scope == "" {
			continue
		}
		for s, secret := range narrow {
			if s != scope {
				f.call(secret, op.method, f.a.target(op), f.sample(op)).want(403).is("code", "forbidden")
			}
		}
		publishable := control.Actor{Kind: control.KeyActor, KeyKind: access.PublishableKey}
		r := f.call(f.a.publishable, op.method, f.a.target(op), f.sample(op))
		if allowed := publishable.May(scope); !allowed && r.Code != http.StatusForbidden || allowed && r.Code == http.StatusForbidden {
			t.Errorf("%s with a publishable key, which may: %t: %d", r.what, allowed, r.Code)
		}
		// With the one scope that it needs it is not refused, unless only operators and owners may, or it would gain by it.
		if r := f.call(f.restricted(&f.b, scope), op.method, f.b.target(op), f.sample(op)); r.Code == http.StatusForbidden &&
			!slices.Contains([]string{"create-organization", "update-limits", "delete-organization", "rotate-key", "revoke-key"}, op.OperationID) {
			t.Errorf("%s with scope %s: %d %s", r.what, scope, r.Code, r.Body)
		}
	}
}

func TestBodies(t *testing.T) {
	f := newFixture(t)
	n := 0
	for _, op := range f.document() {
		o := declared(op.Operation)
		secret := f.a.secret
		if o.auth != required {
			secret = ""
		}
		target := f.a.target(op)
		f.call(secret, op.method, target, strings.Repeat(" ", int(o.body)+1)).want(413).is(codeAt(o), "too_large")
		if op.RequestBody == nil {
			continue
		}
		n++
		f.call(secret, op.method, target, `{"`).want(400).is(codeAt(o), "invalid")
		f.call(secret, op.method, target, "{}{}").want(400)
		f.call(secret, op.method, target, "\"\xff\"").want(400)
		f.call(secret, op.method, target, "a=b", "Content-Type", "application/x-www-form-urlencoded").want(415)
		for _, body := range []string{"[]", "7", `"x"`, "true"} {
			f.call(secret, op.method, target, body).want(422)
		}
		f.call(secret, op.method, target, f.sample(op), "Content-Type", "").want(415)
		f.call(secret, op.method, target, "{\"\\ud800\":1}").want(400)
		for name, pointer := range map[string]string{"no_such_field": "/no_such_field", "a.b": "/a.b", "a[0]/~": "/a[0]~1~0", "": "/"} {
			body := f.sample(op)
			body[name] = 1
			f.call(secret, op.method, target, body).wrong(422, pointer)
		}
		f.wrongTypes(op, secret, target)
	}
	if n < 12 {
		t.Errorf("only %d bodies", n)
	}
}

func codeAt(o *operation) string {
	if o.shape != nil {
		return "error"
	}
	return "code"
}

// wrongTypes gives every field a value of another type, and none if it is required.
func (f *fixture) wrongTypes(op documented, secret, target string) {
	s := f.bodyOf(op)
	for name, p := range s.Properties {
		body := f.sample(op)
		switch f.resolve(p).Type {
		case huma.TypeString:
			body[name] = 7
		case "":
			continue // takes anything
		default:
			body[name] = "x"
		}
		f.call(secret, op.method, target, body).wrong(422, "/"+name)
		body[name] = nil
		f.call(secret, op.method, target, body).wrong(422, "/"+name)
		if f.resolve(p).Type == huma.TypeInteger {
			for _, number := range []string{"1.0", "1e0", "1e400", "99999999999999999999"} {
				body[name] = json.RawMessage(number)
				if r := f.call(secret, op.method, target, body); !strings.Contains(r.Body.String(), `"pointer":"/`+name+`"`) || r.Code != 422 && r.Code != 400 {
					f.t.Errorf("%s: %s as %s: %d %s", op.OperationID, name, number, r.Code, r.Body)
				}
			}
		}
		if slices.Contains(s.Required, name) {
			body = f.sample(op)
			delete(body, name)
			f.call(secret, op.method, target, body).wrong(422, "/"+name)
		}
		if n := f.resolve(p).MaxLength; n != nil && *n < 1<<16 {
			body[name] = strings.Repeat("a", *n+1)
			f.call(secret, op.method, target, body).wrong(422, "/"+name)
		}
		if f.resolve(p).Type == huma.TypeString && f.resolve(p).MaxLength == nil && len(f.resolve(p).Enum) == 0 && f.resolve(p).Format == "" {
			f.t.Errorf("%s: the text %s has no bound", op.OperationID, name)
		}
		if f.resolve(p).Type == huma.TypeArray && p.MaxItems == nil {
			f.t.Errorf("%s: the list %s has no bound", op.OperationID, name)
		}
	}
}

func TestParameters(t *testing.T) {
	f := newFixture(t)
	lists := 0
	for _, op := range f.document() {
		o := declared(op.Operation)
		if o.auth != required {
			continue
		}
		target := f.a.target(op)
		odd := "?no_such_parameter=1"
		if needed(op) != "" {
			odd = "&no_such_parameter=1"
		}
		f.call(f.a.secret, op.method, target+odd, f.sample(op)).wrong(422, "query no_such_parameter")
		for _, p := range op.Parameters {
			if p.Schema != nil && p.Schema.Type == huma.TypeString && p.Schema.MaxLength == nil && p.Schema.Pattern == "" && p.Schema.Format == "" && len(p.Schema.Enum) == 0 {
				t.Errorf("%s: the parameter %s has no bound", op.OperationID, p.Name)
			}
			if p.In == "path" && p.Name != "organization" {
				long := strings.Replace(op.path, "{"+p.Name+"}", strings.Repeat("a", *p.Schema.MaxLength+1), 1)
				f.call(f.a.secret, op.method, f.a.target(documented{op.method, long, op.Operation}), f.sample(op)).wrong(422, "path "+p.Name)
			}
		}
		if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "cursor" }) {
			continue
		}
		lists++
		for _, limit := range []string{"0", "-1", "1001", "x", "1.5", "99999999999999999999"} {
			f.call(f.a.secret, "GET", target+"?limit="+limit, nil).wrong(422, "query limit")
		}
		other := base64.RawURLEncoding.EncodeToString([]byte("another list\x00x"))
		for _, cursor := range []string{"x", "%00", "=", other, strings.Repeat("a", 6001)} {
			f.call(f.a.secret, "GET", target+"?cursor="+cursor, nil).wrong(422, "query cursor")
		}
	}
	if lists < 5 {
		t.Errorf("only %d lists", lists)
	}
}

// Pages of one, put together, are the list.
func TestEveryListHasPages(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.call(f.a.secret, "POST", "/v2/rule-sets", map[string]any{"name": fmt.Sprint("set ", i)}).want(201)
		f.call(f.a.secret, "POST", "/v2/users", map[string]any{"name": fmt.Sprint("u", i)}).want(201)
	}
	for _, op := range f.document() {
		if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "cursor" }) {
			continue
		}
		secret, header := f.a.secret, []string(nil)
		if declared(op.Operation).server {
			secret = f.operator
		}
		target := f.a.target(op)
		whole := f.call(secret, "GET", target, nil, header...).want(200)
		all := whole.at("data").([]any)
		if dig(whole.body, "next_cursor") != nil {
			t.Errorf("%s has more than a page", target)
		}
		cursor := ""
		for i := range all {
			r := f.call(secret, "GET", target+"?limit=1&cursor="+cursor, nil, header...).want(200)
			if got := fmt.Sprint(r.at("data")); got != fmt.Sprint(all[i:i+1]) {
				t.Errorf("%s: page %d is %s, want %s", target, i, got, all[i:i+1])
			}
			next := dig(r.body, "next_cursor")
			if last := i == len(all)-1; last != (next == nil) {
				t.Errorf("%s: after page %d of %d comes %v", target, i, len(all), next)
			}
			cursor, _ = next.(string)
		}
	}
}
