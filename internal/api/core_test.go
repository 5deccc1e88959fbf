package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

type echo struct {
	Page   int    `query:"page" minimum:"1" maximum:"9"`
	Name   string `path:"name" maxLength:"10"`
	Number string `header:"X-Number"`
	Body   struct {
		Title string `json:"title" maxLength:"5"`
		Kind  string `json:"kind,omitempty" enum:"a,b"`
		Count int64  `json:"count,omitempty" minimum:"0" maximum:"9"`
		Free  int64  `json:"free,omitempty"`
		Rules []struct {
			Topic string `json:"topic"`
			Rank  int    `json:"rank,omitempty"`
		} `json:"rules,omitempty" maxItems:"50"`
	}
}

// core is an API with operations that fail as they are told: the path's name chooses the error.
func core(t *testing.T, errs map[string]error) (*API, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	a := newAPI(Config{Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))})
	a.addresses = newBuckets("address", 1, 1000)
	declared := operation{id: "echo", method: http.MethodPost, path: "/echo/{name}", tag: "test", auth: open, status: http.StatusCreated, body: 500}
	route(a, declared, func(ctx context.Context, in *echo) (*nothing, error) {
		if in.Name == "panic" {
			panic("oh")
		}
		return nil, errs[in.Name]
	})
	declared.id, declared.path, declared.cors = "shaped", "/shaped/{name}", true
	declared.shape = func(p *Problem) any { return map[string]any{"error": p.Code, "message": p.Detail} }
	route(a, declared, func(ctx context.Context, in *echo) (*nothing, error) { return nil, errs[in.Name] })
	a.finish()
	return a, log
}

func ask(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// problemIn reads the problem document of an answer and looks at what all of them have.
func problemIn(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if p.Status != w.Code || p.Title != http.StatusText(w.Code) || p.Type != "about:blank" || p.Detail == "" || p.Code == "" ||
		p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") || w.Header().Get("Content-Type") != problemType {
		t.Errorf("%d %v: %+v", w.Code, w.Header(), p)
	}
	return p
}

func TestProblems(t *testing.T) {
	errs := map[string]error{
		"rules":    fault.Field("rules[2].topic", "must not be empty"),
		"name":     fault.Field("name", "is odd"),
		"page":     fault.Field("page", "is odd"),
		"taken":    &fault.Error{Code: fault.Conflict, Field: "title", Message: "is taken"},
		"tilde":    fault.Field("a/b~c", "is odd"),
		"gone":     fault.New(fault.NotFound, "there is no x"),
		"full":     fault.New(fault.Exhausted, "too many"),
		"expired":  fault.New(fault.Expired, "over"),
		"busy":     fault.New(fault.Unavailable, "busy"),
		"canceled": fmt.Errorf("x: %w", context.Canceled),
		"wrapped":  fmt.Errorf("x: %w", fault.New(fault.Forbidden, "no")),
	}
	a, log := core(t, errs)
	body := `{"title":"ab"}`
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		code                       fault.Code
		errors                     []ProblemError
	}{
		{"field of the body", "POST", "/echo/rules", body, 422, fault.Invalid, []ProblemError{{Pointer: "/rules/2/topic", Detail: "must not be empty"}}},
		{"field of the path", "POST", "/echo/name", body, 422, fault.Invalid, []ProblemError{{Parameter: "name", In: "path", Detail: "is odd"}}},
		{"field of the query", "POST", "/echo/page", body, 422, fault.Invalid, []ProblemError{{Parameter: "page", In: "query", Detail: "is odd"}}},
		{"conflict", "POST", "/echo/taken", body, 409, fault.Conflict, []ProblemError{{Pointer: "/title", Detail: "is taken"}}},
		{"escaped", "POST", "/echo/tilde", body, 422, fault.Invalid, []ProblemError{{Pointer: "/a~1b~0c", Detail: "is odd"}}},
		{"not found", "POST", "/echo/gone", body, 404, fault.NotFound, nil},
		{"exhausted", "POST", "/echo/full", body, 403, fault.Exhausted, nil},
		{"expired", "POST", "/echo/expired", body, 401, fault.Expired, nil},
		{"unavailable", "POST", "/echo/busy", body, 503, fault.Unavailable, nil},
		{"given up", "POST", "/echo/canceled", body, 503, fault.Unavailable, nil},
		{"wrapped", "POST", "/echo/wrapped", body, 403, fault.Forbidden, nil},

		{"no body", "POST", "/echo/a", "", 400, fault.Invalid, nil},
		{"not JSON", "POST", "/echo/a", `{"title":`, 400, fault.Invalid, []ProblemError{{Detail: "the body is not JSON: look at byte 9"}}},
		{"more than JSON", "POST", "/echo/a", body + body, 400, fault.Invalid, []ProblemError{{Detail: "the body is not JSON: look at byte 15"}}},
		{"not UTF-8", "POST", "/echo/a", "{\"title\":\"\xff\"}", 400, fault.Invalid, []ProblemError{{Detail: "the body is not UTF-8"}}},
		{"not an object", "POST", "/echo/a", `[]`, 422, fault.Invalid, []ProblemError{{Detail: "expected object"}}},
		{"missing", "POST", "/echo/a", `{}`, 422, fault.Invalid, []ProblemError{{Pointer: "/title", Detail: "is required"}}},
		{"unknown", "POST", "/echo/a", `{"title":"a","odd":1}`, 422, fault.Invalid, []ProblemError{{Pointer: "/odd", Detail: "there is no such field"}}},
		{"another case", "POST", "/echo/a", `{"title":"a","Title":"b"}`, 422, fault.Invalid, []ProblemError{{Pointer: "/Title", Detail: "there is no such field"}}},
		{"too long", "POST", "/echo/a", `{"title":"abcdef"}`, 422, fault.Invalid, []ProblemError{{Pointer: "/title", Detail: "at most 5 characters are possible"}}},
		{"wrong type", "POST", "/echo/a", `{"title":"a","rules":[{"topic":"a"},{"topic":7}]}`, 422, fault.Invalid, []ProblemError{{Pointer: "/rules/1/topic", Detail: "expected string"}}},
		{"not in the list", "POST", "/echo/a", `{"title":"a","kind":"c"}`, 422, fault.Invalid, []ProblemError{{Pointer: "/kind", Detail: `expected value to be one of "a, b"`}}},
		{"out of bounds", "POST", "/echo/a", `{"title":"a","count":10}`, 422, fault.Invalid, []ProblemError{{Pointer: "/count", Detail: "expected number <= 9"}}},
		{"query", "POST", "/echo/a?page=0", body, 422, fault.Invalid, []ProblemError{{Parameter: "page", In: "query", Detail: "expected number >= 1"}}},
		{"query of another type", "POST", "/echo/a?page=x", body, 422, fault.Invalid, []ProblemError{{Parameter: "page", In: "query", Detail: "invalid integer"}}},
		{"unknown query", "POST", "/echo/a?odd=1", body, 422, fault.Invalid, []ProblemError{{Parameter: "odd", In: "query", Detail: "unknown query parameter"}}},
		{"path", "POST", "/echo/abcdefghijk", body, 422, fault.Invalid, []ProblemError{{Parameter: "name", In: "path", Detail: "at most 10 characters are possible"}}},
		{"too large", "POST", "/echo/a", `{"title":"` + strings.Repeat("a", 500) + `"}`, 413, codeTooLarge, nil},

		{"no such path", "GET", "/nothing", "", 404, fault.NotFound, nil},
		{"unclean path", "POST", "/x/../echo/a", body, 404, fault.NotFound, nil},
		{"a slash too many", "POST", "/echo/a/", body, 404, fault.NotFound, nil},
		{"no such method", "DELETE", "/echo/a", "", 405, codeMethod, nil},
		{"an odd method", "BREW", "/echo/a", "", 405, codeMethod, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := problemIn(t, ask(a, c.method, c.target, c.body))
			if p.Status != c.status || p.Code != c.code {
				t.Errorf("%d %s (%s), want %d %s", p.Status, p.Code, p.Detail, c.status, c.code)
			}
			if d := cmp.Diff(c.errors, p.Errors); d != "" {
				t.Error(d)
			}
		})
	}
	for line := range strings.Lines(log.String()) { // busy and given up
		if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "status=503") || strings.Contains(line, "error=") {
			t.Errorf("logs what is the client's own mistake: %s", line)
		}
	}
	if w := ask(a, "POST", "/echo/a", body); w.Code != http.StatusCreated || w.Body.Len() > 0 {
		t.Errorf("%d %s, want 201", w.Code, w.Body)
	}
}

// A body without a length, larger than it may be.
func TestBodyOfUnknownLength(t *testing.T) {
	a, _ := core(t, nil)
	for size, want := range map[int]int{500: http.StatusCreated, 501: http.StatusRequestEntityTooLarge} {
		body := `{"title":"a"}` + strings.Repeat(" ", size-13)
		r := httptest.NewRequest("POST", "/echo/a", io.MultiReader(strings.NewReader(body)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if a.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%d bytes: %d %s, want %d", size, w.Code, w.Body, want)
		}
	}
}

func TestContentTypes(t *testing.T) {
	a, _ := core(t, nil)
	for contentType, want := range map[string]int{
		"application/json": 201, "application/json; charset=utf-8": 201, "application/merge-patch+json": 201, "Application/JSON": 201,
		`application/JSON;Charset="UTF-8"`: 201, "application/json; charset=utf8": 201,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "application/cbor": 415, ";+": 415, "": 415, "application/problem+json": 415,
		"application/json-patch+json": 415, "application/json; charset=iso-8859-1": 415, "application/json; charset=": 415, "text/json": 415,
	} {
		if w := ask(a, "POST", "/echo/a", `{"title":"a"}`, "Content-Type", contentType); w.Code != want {
			t.Errorf("%s: %d %s, want %d", contentType, w.Code, w.Body, want)
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	a, _ := core(t, nil)
	rules := strings.Repeat(`{},`, 30)
	p := problemIn(t, ask(a, "POST", "/echo/a", `{"title":"a","rules":[`+rules+`{}]}`))
	if len(p.Errors) != maxProblems || p.Detail != "/rules/0/topic: is required (and 30 more)" {
		t.Errorf("%d errors, %q", len(p.Errors), p.Detail)
	}
	p = problemIn(t, ask(a, "POST", "/echo/a", `{"title":"a","`+strings.Repeat("é", 200)+`":1}`))
	if n := len(p.Errors[0].Pointer); n > maxProblemPlace {
		t.Errorf("a pointer of %d bytes", n)
	}
}

// The server's own mistakes are hidden, and logged once under the id that the client sees.
func TestOwnMistakes(t *testing.T) {
	errs := map[string]error{
		"other":    errors.New("dsn=secret"),
		"internal": fault.Wrap(fault.Internal, errors.New("dsn=secret"), "the control database failed"),
		"panic":    nil,
	}
	for name := range errs {
		a, log := core(t, errs)
		w := ask(a, "POST", "/echo/"+name, `{"title":"a"}`, "X-Request-Id", "my-request-1")
		if p := problemIn(t, w); p.Code != fault.Internal || p.RequestID != "my-request-1" || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %+v", name, p)
		}
		text := log.String()
		if strings.Count(text, "my-request-1") != 1 || name != "panic" && !strings.Contains(text, "dsn=secret") || name == "panic" && !strings.Contains(text, "core_test.go") {
			t.Errorf("%s: logged %s", name, text)
		}
		c := a.Counters()
		if c.Failed+c.Panics != 1 {
			t.Errorf("%s: counted %+v", name, c)
		}
	}
}

// Every answer of status 500 and above is logged and counted, changes at level debug; nothing has the query.
func TestAnswersAreLogged(t *testing.T) {
	f := newFixture(t)
	log := new(bytes.Buffer)
	f.api.config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	line := func(want string) {
		t.Helper()
		for _, part := range strings.Fields(want) {
			if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String()+" ", part) || strings.Contains(log.String(), "limit") {
				t.Errorf("%q\nwant one line with %s", log, part)
			}
		}
		log.Reset()
	}
	me := f.call(f.a.secret, "GET", "/v2/me", nil).text("id")
	f.call(f.a.secret, "GET", "/v2/users?limit=0", nil).want(422)
	f.call(f.a.secret, "POST", "/v2/users", map[string]any{"name": ""}).want(422)
	f.call("", "GET", "/v2/users", nil).want(401)
	if log.Len() > 0 {
		t.Errorf("%q, want nothing", log)
	}
	f.call(f.a.secret, "DELETE", "/v2/users/"+f.a.user, nil, "X-Request-Id", "request-1").want(204)
	line("level=DEBUG request_id=request-1 method=DELETE route=/v2/users/{name} status=204 actor=" + me)
	f.call("", "POST", "/v2/users?limit=1", map[string]any{}, "X-Request-Id", "request-2").want(401)
	line(`level=DEBUG request_id=request-2 method=POST route=/v2/users status=401 actor=""`)
	f.call(f.a.publishable, "POST", "/v2/users?limit=1", map[string]any{}).want(403)
	line(`level=DEBUG method=POST route=/v2/users status=403 actor=key_`)
	failing := operation{id: "fail", method: http.MethodGet, path: "/v2/fail", tag: "test", scope: access.UsersRead}
	route(f.api, failing, func(context.Context, *Page) (*nothing, error) { return nil, errors.New("the disk is gone") })
	before := f.api.Counters().Failed
	f.call(f.a.secret, "GET", "/v2/fail?limit=7", nil, "X-Request-Id", "request-3").want(500)
	line("level=ERROR request_id=request-3 method=GET route=/v2/fail status=500 error= gone actor=" + me)
	if n := f.api.Counters().Failed - before; n != 1 {
		t.Errorf("counted %d", n)
	}
	for range maxErrorLines + 10 {
		f.call(f.a.secret, "GET", "/v2/fail", nil).want(500)
	}
	if n := strings.Count(log.String(), "\n"); n != maxErrorLines-1 {
		t.Errorf("%d lines in a second", n)
	}
	log.Reset()
	f.pass(time.Second)
	f.call(f.a.secret, "GET", "/v2/fail", nil).want(500)
	line("suppressed=11")
}

func TestOtherShape(t *testing.T) {
	a, _ := core(t, map[string]error{"gone": fault.New(fault.NotFound, "there is no x")})
	for _, c := range []struct {
		target, body string
		status       int
		want         string
	}{
		{"/shaped/gone", `{"title":"a"}`, 404, `{"error":"not_found","message":"there is no x"}`},
		{"/shaped/a", `{"title":7}`, 422, `{"error":"invalid","message":"/title: expected string"}`},
		{"/shaped/a", strings.Repeat(" ", 501), 413, `{"error":"too_large","message":"the body has more than 500 bytes"}`},
		{"/shaped/a", `{"title":"a"}`, 201, ""},
	} {
		w := ask(a, "POST", c.target, c.body)
		if w.Code != c.status || strings.TrimSpace(w.Body.String()) != c.want || c.want != "" && w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %s %s", c.target, c.body, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %v", c.target, w.Header())
		}
	}
	w := ask(a, "DELETE", "/shaped/x", "")
	if h := w.Header(); w.Code != 405 || h.Get("Allow") != "POST" || h.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(w.Body.String(), `{"error":"method_not_allowed"`) {
		t.Errorf("another method: %d %v %s", w.Code, h, w.Body)
	}
	for _, name := range []string{"X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Idempotent-Replayed"} {
		if !slices.Contains(strings.Split(w.Header().Get("Access-Control-Expose-Headers"), ", "), name) {
			t.Errorf("pages do not see %s", name)
		}
	}
	w = ask(a, "OPTIONS", "/shaped/x", "", "Origin", "https://example.com", "Access-Control-Request-Method", "POST")
	if h := w.Header(); w.Code != http.StatusNoContent || h.Get("Access-Control-Allow-Methods") != "POST" || h.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("preflight: %d %v", w.Code, h)
	}
	if w := ask(a, "OPTIONS", "/echo/x", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("OPTIONS of another: %d %v", w.Code, w.Header())
	}
}

func TestRequestIDs(t *testing.T) {
	a, _ := core(t, nil)
	seen := make(map[string]bool)
	for given, kept := range map[string]bool{
		"": false, "a1b2-c3d4": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, "short": false, "new\nline12": false,
		"sk_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": false, "blank in it": false, "ümlaut-id": false,
	} {
		id := ask(a, "GET", "/openapi.json", "", "X-Request-Id", given).Header().Get("X-Request-Id")
		if kept && id != given || !kept && (len(id) != 16 || !strings.HasPrefix(id, requestIDPrefix)) || seen[id] {
			t.Errorf("%q becomes %q", given, id)
		}
		seen[id] = true
	}
}

func TestEveryAnswerIsSafe(t *testing.T) {
	a, _ := core(t, nil)
	for _, target := range []string{"/echo/a", "/shaped/a", "/nothing", "/openapi.json", "/openapi.yaml", "/echo/panic"} {
		h := ask(a, "POST", target, `{"title":"a"}`).Header()
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %v", target, h)
		}
	}
	for _, target := range []string{"/openapi.json", "/openapi.yaml"} {
		if w := ask(a, "GET", target, ""); w.Code != 200 || !strings.Contains(w.Body.String(), "openapi") {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

func TestBuckets(t *testing.T) {
	b := newBuckets("test", 2, 3)
	now := time.Unix(1_800_000_000, 0)
	for i, want := range []verdict{
		{true, 2, 500 * time.Millisecond, 0},
		{true, 1, time.Second, 0},
		{true, 0, 1500 * time.Millisecond, 0},
		{false, 0, 1500 * time.Millisecond, 500 * time.Millisecond},
	} {
		if got := b.take("a", now); got != want {
			t.Errorf("request %d: %+v, want %+v", i, got, want)
		}
	}
	if !b.take("b", now).ok {
		t.Error("another caller is refused")
	}
	if now = now.Add(500 * time.Millisecond); !b.take("a", now).ok || b.take("a", now).ok {
		t.Error("half a second is one request")
	}
	h := make(http.Header)
	b.announce(h, b.take("a", now))
	for name, want := range map[string]string{
		"RateLimit-Policy": `"test";q=3;w=2`, "RateLimit": `"test";r=0;t=2`, "Retry-After": "1",
		"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// A caller who has used up a bucket is remembered while a flood of others comes by.
func TestBucketsAreBounded(t *testing.T) {
	b := newBuckets("test", 0.001, 2)
	now := time.Unix(1_800_000_000, 0)
	for range 2 {
		b.take("spent", now)
	}
	for i := range maxBuckets + 1000 {
		b.take(fmt.Sprint(i), now)
	}
	if len(b.of) > maxBuckets || b.forgotten.Load() != 1001 {
		t.Errorf("%d buckets, %d forgotten", len(b.of), b.forgotten.Load())
	}
	if b.take("spent", now).ok {
		t.Error("a spent bucket was forgotten before full ones")
	}
}

func TestUnknownCallersAreLimitedByAddress(t *testing.T) {
	a, _ := core(t, nil)
	a.addresses = newBuckets("address", 1, 2)
	for i, want := range []int{201, 404, 429} {
		target := []string{"/echo/a", "/nothing", "/echo/a"}[i]
		w := ask(a, "POST", target, `{"title":"a"}`)
		if w.Code != want {
			t.Fatalf("request %d: %d %s, want %d", i, w.Code, w.Body, want)
		}
		if want == 429 {
			if p := problemIn(t, w); p.Code != fault.TooManyRequests || w.Header().Get("Retry-After") == "" {
				t.Errorf("%+v %v", p, w.Header())
			}
		}
	}
	r := httptest.NewRequest("POST", "/nothing", nil)
	r.RemoteAddr = "[2001:db8::1]:4711"
	w := httptest.NewRecorder()
	if a.ServeHTTP(w, r); w.Code != 404 {
		t.Errorf("another address: %d", w.Code)
	}
	if n := a.Counters().Limited; n != 1 {
		t.Errorf("%d counted", n)
	}
}

func TestOrigins(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64",
	} {
		if got := origin(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s counts as %s, want %s", address, got, want)
		}
	}
	for given, want := range map[string]string{"192.0.2.7:1": "192.0.2.7", "[::ffff:192.0.2.7]:1": "192.0.2.7", "[fe80::1%eth0]:1": "fe80::1", "": "invalid IP"} {
		if got := remote(&http.Request{RemoteAddr: given}).String(); got != want {
			t.Errorf("%q is %s, want %s", given, got, want)
		}
	}
}

func TestPages(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	same := func(s string) string { return s }
	var got []string
	p := Page{Limit: 2}
	for range 4 {
		after, err := p.after("letters")
		if err != nil {
			t.Fatal(err)
		}
		rest := all
		for len(rest) > 0 && rest[0] <= after {
			rest = rest[1:]
		}
		out := pageOf(&p, "letters", rest[:min(len(rest), p.fetch())], same, same)
		got = append(got, out.Body.Data...)
		if p.Cursor = out.Body.NextCursor; p.Cursor == "" {
			break
		}
	}
	if d := cmp.Diff(all, got); d != "" {
		t.Error(d)
	}
	if text, _ := json.Marshal(pageOf(&p, "x", nil, same, same).Body); string(text) != `{"data":[]}` {
		t.Errorf("an empty page is %s", text)
	}
	first := pageOf(&Page{Limit: 1}, "letters", all[:2], same, same).Body.NextCursor
	for _, cursor := range []string{"x", "!", first + "a", first[:4], strings.Repeat("a", maxCursor+1)} {
		if _, err := (&Page{Cursor: cursor}).after("letters"); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
	if _, err := (&Page{Cursor: first}).after("numbers"); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("another list's cursor: %v", err)
	}
}
