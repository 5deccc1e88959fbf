package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/control"
	"cloudsignal/internal/engine/pebble"
)

// fixture is the API over a control database and a broker with a store, all real, with two organizations. When the test ends it
// looks for secrets in everything that was answered and logged.
type fixture struct {
	t        testing.TB
	api      *API
	store    *control.Store
	broker   *broker.Broker
	log      *bytes.Buffer
	passed   atomic.Int64 // what of the clock's time has gone by; it moves by hand
	operator string
	a, b     tenant
	members  int

	answers []string
	shown   map[string]int // secrets, with the answer that was to show them; -1: none was
}

// tenant is an organization with credentials of every kind.
type tenant struct {
	id, uuid    string
	secret      string // key with everything
	publishable string
	revoked     string
	session     string // of its owner
	email       string
	user        string
	ruleSet     string
	rule        string
	key         string // the id of a key that nobody uses
	token       string // the id of a temporary token
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, log: new(bytes.Buffer), shown: make(map[string]int)}
	t.Cleanup(f.noSecrets) // the last of all, when nothing writes to the log any more
	directory := access.NewDirectory()
	log := slog.New(slog.NewTextHandler(f.log, nil))
	authenticator := access.NewAuthenticator(directory, access.AuthConfig{})
	var err error
	f.store, err = control.Open(t.Context(), control.Options{
		Path: filepath.Join(t.TempDir(), "control.db"), Directory: directory, Now: f.now,
		Announce: func(c control.Change) {
			if c.Deleted {
				f.broker.Deleted(c.Number)
			} else {
				f.broker.Changed(c.Number, c.Users)
			}
		},
	})
	f.must(err)
	t.Cleanup(func() { f.must(f.store.Close()) })
	disk, err := pebble.Open(pebble.Options{Dir: "store", FS: vfs.NewMem()})
	f.must(err)
	t.Cleanup(func() { f.must(disk.Close()) })
	f.broker, err = broker.New(broker.Config{Authenticator: authenticator, Store: disk, Log: log, Now: f.now})
	f.must(err)
	t.Cleanup(f.broker.Close)
	f.api = New(Config{Store: f.store, Directory: directory, Live: f.broker, Now: f.now, Log: log, SignUp: true})
	f.widen()
	_, err = f.store.EnsureOperator(t.Context(), func(secret string) error { f.operator = secret; return nil })
	f.must(err)
	f.shown[f.operator] = -1
	f.a, f.b = f.newTenant(), f.newTenant()
	return f
}

// now is the clock of everything in the fixture. It begins at half past nine on 3 November 2026.
func (f *fixture) now() time.Time {
	return time.Date(2026, 11, 3, 9, 30, 0, 0, time.UTC).Add(time.Duration(f.passed.Load()))
}

func (f *fixture) pass(d time.Duration) { f.passed.Add(int64(d)) }

// widen makes room for a test's requests, which all come from one address at one moment.
func (f *fixture) widen() {
	for _, b := range []**buckets{&f.api.addresses, &f.api.signUps, &f.api.callers, &f.api.publishing, &f.api.minting, &f.api.refreshing} {
		(*b).burst = 1 << 20
	}
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) newTenant() tenant {
	f.members++
	n := tenant{email: fmt.Sprintf("person%d@example.com", f.members)}
	r := f.call("", "POST", "/v2/signup", map[string]any{"name": "Person " + strconv.Itoa(f.members), "email": n.email, "password": f.chosen("password of " + n.email)}).want(201)
	n.id, n.uuid = r.text("organization.id"), r.text("organization.uuid")
	n.secret, n.session = r.text("secret_key"), r.text("session.token")
	n.publishable = f.call(n.secret, "POST", "/v2/keys", map[string]any{"name": "pk", "kind": "publishable"}).want(201).text("secret")
	revoked := f.call(n.secret, "POST", "/v2/keys", map[string]any{"name": "old", "kind": "secret"}).want(201)
	n.revoked = revoked.text("secret")
	f.call(n.secret, "DELETE", "/v2/keys/"+revoked.text("id"), nil).want(204)
	n.key = f.call(n.secret, "POST", "/v2/keys", map[string]any{"name": "spare", "kind": "secret"}).want(201).text("id")
	n.user = fmt.Sprintf("user-of-%d", f.members)
	f.call(n.secret, "POST", "/v2/users", map[string]any{"name": n.user}).want(201)
	set := f.call(n.secret, "POST", "/v2/rule-sets", map[string]any{
		"name": "Rules", "default": true, "rules": []any{map[string]any{"user": "%", "topic": "#", "permission": "pubsub"}},
	}).want(201)
	n.ruleSet, n.rule = set.text("id"), set.text("rules.0.id")
	token := map[string]any{"organization_id": n.id, "user_email": "visitor@example.com"}
	n.token = f.call(n.secret, "POST", "/v2/tokens/create", token).want(200).text("token_id")
	return n
}

// restricted is a key of an organization with these scopes.
func (f *fixture) restricted(n *tenant, scopes ...access.Scope) string {
	return f.call(n.secret, "POST", "/v2/keys", map[string]any{"name": "rk", "kind": "restricted", "scopes": scopes}).want(201).text("secret")
}

// chosen is a password that no answer may ever show.
func (f *fixture) chosen(password string) string {
	f.shown[password] = -1
	return password
}

// answer is what came back. Its body was held against the document.
type answer struct {
	f    *fixture
	what string
	*httptest.ResponseRecorder
	body any
}

// call sends a request. A secret of "" is none. body is made JSON, unless it is text.
func (f *fixture) call(secret, method, target string, body any, header ...string) *answer {
	f.t.Helper()
	text, isText := body.(string)
	if body != nil && !isText {
		b, err := json.Marshal(body)
		f.must(err)
		text = string(b)
	}
	r := httptest.NewRequest(method, target, strings.NewReader(text))
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, r)
	x := &answer{f: f, what: method + " " + target, ResponseRecorder: w}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &x.body); err != nil {
			f.t.Errorf("%s: %d %q is not JSON", x.what, w.Code, w.Body)
		}
	}
	f.keep(x)
	f.conforms(x, r)
	return x
}

// keep remembers an answer, and what in it is a secret that is shown this once.
func (f *fixture) keep(x *answer) {
	var head bytes.Buffer
	f.must(x.Header().Write(&head))
	f.answers = append(f.answers, x.what+"\n"+head.String()+x.Body.String())
	if x.Code >= 300 {
		return
	}
	for _, path := range []string{"secret", "secret_key", "password", "token", "session.token", "access_token"} {
		if s, ok := dig(x.body, path).(string); ok {
			if _, before := f.shown[s]; before {
				f.t.Errorf("%s shows a secret again", x.what)
			}
			f.shown[s] = len(f.answers) - 1
		}
	}
}

// noSecrets looks for every secret in all answers but the one that was to show it, and in the log.
func (f *fixture) noSecrets() {
	for secret, at := range f.shown {
		for i, text := range f.answers {
			if i != at && strings.Contains(text, secret) {
				f.t.Errorf("a secret (%.6s...) is in an answer that is not to show it:\n%s", secret, text)
			}
		}
		if strings.Contains(f.log.String(), secret) {
			f.t.Errorf("a secret (%.6s...) is in the log:\n%s", secret, f.log)
		}
	}
	if len(f.shown) < 10 {
		f.t.Errorf("only %d secrets are looked for", len(f.shown))
	}
}

// want fails the test unless the answer has this status.
func (x *answer) want(status int) *answer {
	x.f.t.Helper()
	if x.Code != status {
		x.f.t.Fatalf("%s: %d %s, want %d", x.what, x.Code, x.Body, status)
	}
	return x
}

// wrong says that the answer is a problem with this status about one value: a pointer, or a parameter ("query limit").
func (x *answer) wrong(status int, place string) *answer {
	x.f.t.Helper()
	x.want(status)
	var p Problem
	x.f.must(json.Unmarshal(x.Body.Bytes(), &p))
	if !slices.ContainsFunc(p.Errors, func(e ProblemError) bool {
		return place == e.Pointer && e.In == "" || place == e.In+" "+e.Parameter
	}) {
		x.f.t.Errorf("%s: %s, want an error at %s", x.what, x.Body, place)
	}
	return x
}

// at is a value inside the body: "rules.0.id".
func (x *answer) at(path string) any {
	x.f.t.Helper()
	v := dig(x.body, path)
	if v == nil {
		x.f.t.Fatalf("%s: %s has no %s", x.what, x.Body, path)
	}
	return v
}

func (x *answer) text(path string) string {
	x.f.t.Helper()
	return fmt.Sprint(x.at(path))
}

// is compares values inside the body, each by its text.
func (x *answer) is(pairs ...string) *answer {
	x.f.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := fmt.Sprint(dig(x.body, pairs[i])); got != pairs[i+1] {
			x.f.t.Errorf("%s: %s is %s, want %s", x.what, pairs[i], got, pairs[i+1])
		}
	}
	return x
}

func dig(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// documented is one operation of the document.
type documented struct {
	method, path string
	*huma.Operation
}

// document are all operations of the document, in order of their paths.
func (f *fixture) document() []documented {
	var all []documented
	for path, item := range f.api.huma.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{
			"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch, "DELETE": item.Delete,
		} {
			if op != nil {
				all = append(all, documented{method, path, op})
			}
		}
	}
	slices.SortFunc(all, func(x, y documented) int { return strings.Compare(x.path+x.method, y.path+y.method) })
	return all
}

// conforms holds an answer against what the document says of its operation, if the request reached one.
func (f *fixture) conforms(x *answer, r *http.Request) {
	f.t.Helper()
	_, pattern := f.api.mux.Handler(r)
	method, path, _ := strings.Cut(pattern, " ")
	for _, op := range f.document() {
		if op.method != method || op.path != path {
			continue
		}
		response := op.Responses[strconv.Itoa(x.Code)]
		if response == nil {
			f.t.Errorf("%s: the document has no answer %d (%s)", x.what, x.Code, x.Body)
			return
		}
		f.matches(x, response)
		return
	}
}

func (f *fixture) matches(x *answer, response *huma.Response) {
	f.t.Helper()
	components := f.api.huma.OpenAPI().Components
	if name, ok := strings.CutPrefix(response.Ref, "#/components/responses/"); ok {
		response = components.Responses[name]
	}
	if len(response.Content) == 0 {
		if x.Body.Len() > 0 {
			f.t.Errorf("%s: has a body, %s", x.what, x.Body)
		}
		return
	}
	content := response.Content[x.Header().Get("Content-Type")]
	if content == nil {
		f.t.Errorf("%s: the document has no Content-Type %s for %d", x.what, x.Header().Get("Content-Type"), x.Code)
		return
	}
	result := new(huma.ValidateResult)
	huma.Validate(components.Schemas, content.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, x.body, result)
	for _, err := range result.Errors {
		f.t.Errorf("%s: %s is not what the document says: %v", x.what, x.Body, err)
	}
}
