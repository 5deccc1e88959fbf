package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/control"
)

// replayed says that an answer is another one again.
func (x *answer) replayed(first *answer) {
	x.f.t.Helper()
	if x.Code != first.Code || x.Body.String() != first.Body.String() || x.Header().Get(replayedHeader) != "true" ||
		x.Header().Get("Content-Type") != first.Header().Get("Content-Type") || x.Header().Get("X-Request-Id") == first.Header().Get("X-Request-Id") {
		x.f.t.Errorf("%s: %d %s, not again %d %s", x.what, x.Code, x.Body, first.Code, first.Body)
	}
}

// again sends a request that was sent before: its answer may show what was shown then.
func (f *fixture) again(secret, method, target string, body any, header ...string) *answer {
	f.t.Helper()
	shown := f.shown
	f.shown = make(map[string]int)
	x := f.call(secret, method, target, body, header...)
	f.answers[len(f.answers)-1] = ""
	f.shown = shown
	return x
}

// Every POST of the document, with a key: the second time nothing is done, and the answer is the first again.
func TestIdempotencyKeys(t *testing.T) {
	f := newFixture(t)
	n := 0
	for _, op := range f.document() {
		if op.method != "POST" {
			continue
		}
		o := declared(op.Operation)
		secret, body := f.a.secret, f.sample(op)
		if o.ours {
			secret = f.operator
		}
		if !o.repeatable() { // what is in the body may be credentials, which may not be valid the next time
			for range 2 {
				if r := f.again(secret, op.method, f.a.target(op), body, idempotencyHeader, "k"); r.Header().Get(replayedHeader) != "" {
					t.Errorf("%s: an answer to credentials in the body is kept", r.what)
				}
			}
			continue
		}
		n++
		key := "key of " + op.OperationID
		f.call(secret, op.method, f.a.target(op), body, idempotencyHeader, key).wrong(422, "header "+idempotencyHeader) // it has blanks
		key = "key-of-" + op.OperationID
		first := f.call(secret, op.method, f.a.target(op), body, idempotencyHeader, key)
		second := f.again(secret, op.method, f.a.target(op), body, idempotencyHeader, key)
		if kept := first.Code != http.StatusUnauthorized; kept {
			second.replayed(first)
			other := map[string]any{"another": "body"}
			f.call(secret, op.method, f.a.target(op), other, idempotencyHeader, key).wrong(422, "header "+idempotencyHeader)
		} else if second.Header().Get(replayedHeader) != "" {
			t.Errorf("%s: a 401 is kept", second.what)
		}
	}
	if n < 10 {
		t.Errorf("only %d operations", n)
	}
	if c := f.api.Counters(); c.Replayed == 0 || c.Unkept != 0 {
		t.Errorf("%+v", c)
	}
}

func TestIdempotencyKeysAreTheCallers(t *testing.T) {
	f := newFixture(t)
	user := object{"name": "once"}
	first := f.call(f.a.secret, "POST", "/v2/users", user, idempotencyHeader, "k").want(201)
	f.call(f.a.session, "POST", "/v2/users", user, idempotencyHeader, "k").want(409).is("errors.0.pointer", "/name") // a caller of its own
	f.call(f.b.secret, "POST", "/v2/users", user, idempotencyHeader, "k").want(201)
	f.call(f.a.secret, "POST", "/v2/users", user).want(409)
	f.call(f.a.secret, "POST", "/v2/users?x=1", user, idempotencyHeader, "k").wrong(422, "header "+idempotencyHeader)
	f.call(f.a.secret, "POST", "/v2/keys", user, idempotencyHeader, "k").wrong(422, "header "+idempotencyHeader)
	f.call(f.operator, "POST", "/v2/users", object{"name": "by-op"}, idempotencyHeader, "k", organizationHeader, f.a.id).want(201)
	f.call(f.operator, "POST", "/v2/users", object{"name": "by-op"}, idempotencyHeader, "k", organizationHeader, f.b.id).wrong(422, "header "+idempotencyHeader)
	f.call(f.a.publishable, "POST", "/v2/users", user, idempotencyHeader, "k").want(403)
	f.call(f.a.revoked, "POST", "/v2/users", user, idempotencyHeader, "k").want(401)
	for _, key := range []string{"", " ", "a b", "ü", strings.Repeat("a", maxIdempotencyKey+1), "a\x7f"} {
		f.call(f.a.secret, "POST", "/v2/users", user, idempotencyHeader, key).wrong(422, "header "+idempotencyHeader)
	}
	longest := strings.Repeat("~", maxIdempotencyKey)
	f.call(f.a.secret, "POST", "/v2/users", object{"name": "long"}, idempotencyHeader, longest).want(201)
	f.call(f.a.secret, "PATCH", "/v2/users/once", object{"disabled": true}, idempotencyHeader, "k").want(200) // not of a POST

	yes, no := object{"disabled": true}, object{"disabled": false} // nothing that was answered before holds for who is disabled
	f.call(f.operator, "PATCH", "/v2/organizations/"+f.a.id, yes).want(200)
	if r := f.again(f.a.secret, "POST", "/v2/users", user, idempotencyHeader, "k"); r.Header().Get(replayedHeader) != "" {
		t.Errorf("disabled: %d %s", r.Code, r.Body)
	}
	f.call(f.operator, "PATCH", "/v2/organizations/"+f.a.id, no).want(200)
	f.pass(keepAnswers - time.Second)
	second := f.again(f.a.secret, "POST", "/v2/users", user, idempotencyHeader, "k")
	if second.Header().Get(replayedHeader) != "true" || second.text("password") != first.text("password") {
		t.Errorf("within a day: %d %s", second.Code, second.Body)
	}
	f.pass(time.Second)
	f.call(f.a.secret, "POST", "/v2/users", user, idempotencyHeader, "k").want(409).is("errors.0.pointer", "/name")
}

// While the first request is under way, the second is told so; what failed is not kept.
func TestIdempotencyUnderWay(t *testing.T) {
	a, _ := core(t, nil)
	o := &operation{id: "slow", method: http.MethodPost, path: "/slow", tag: "test", auth: required}
	post := func(key string, handle func(http.ResponseWriter)) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/slow", http.NoBody)
		r.Header.Set(idempotencyHeader, key)
		c := &caller{id: "req_abcdefghijkl", header: w.Header(), actor: control.Actor{Kind: control.OperatorActor, ID: "op_abcdefghijkl"}}
		out := &writer{ResponseWriter: w, counters: &a.counters}
		a.once(o, out, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)), nil, func() { handle(out) })
		return w
	}
	status := func(code int) func(http.ResponseWriter) { return func(w http.ResponseWriter) { w.WriteHeader(code) } }
	enter, leave, answered := make(chan struct{}), make(chan struct{}), make(chan int)
	go func() {
		answered <- post("k", func(w http.ResponseWriter) {
			enter <- struct{}{}
			<-leave
			w.WriteHeader(http.StatusNoContent)
		}).Code
	}()
	<-enter
	if w := post("k", status(200)); w.Code != 409 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	leave <- struct{}{}
	if code := <-answered; code != 204 {
		t.Errorf("the first: %d", code)
	}
	if w := post("k", status(200)); w.Code != 204 || w.Header().Get(replayedHeader) != "true" {
		t.Errorf("after it: %d %v", w.Code, w.Header())
	}
	for _, code := range []int{500, 503, 429, 408, 401} {
		for range 2 {
			if w := post(strconv.Itoa(code), status(code)); w.Code != code || w.Header().Get(replayedHeader) != "" {
				t.Errorf("%d: %d %v", code, w.Code, w.Header())
			}
		}
	}
	if len(a.answers.of) != 1 {
		t.Errorf("%d are kept, want one", len(a.answers.of))
	}
}

// The oldest answers go, of the organization that has too many.
func TestKeptAnswersAreBounded(t *testing.T) {
	s := newAnswers()
	now := time.Unix(1_800_000_000, 0)
	put := func(owner, key string, size int) {
		t.Helper()
		k, err := s.begin(answerKey{owner, key}, owner, [32]byte{}, now)
		if err != nil || k.done {
			t.Fatalf("%s %s: %v", owner, key, err)
		}
		s.end(k, 200, "", make([]byte, size), now)
	}
	has := func(owner, key string) bool { return s.of[answerKey{owner, key}] != nil }
	put("small", "first", 10)
	for i := range ownAnswers + 5 {
		put("many", fmt.Sprint(i), 0)
	}
	if !has("small", "first") || has("many", "4") || !has("many", "5") || s.forgotten.Load() != 5 || s.owners["many"].Len() != ownAnswers {
		t.Errorf("%d forgotten of many", s.forgotten.Load())
	}
	for i := range ownAnswerBytes / (maxAnswer + answerOverhead) {
		put("large", fmt.Sprint(i), maxAnswer)
	}
	before := s.forgotten.Load()
	put("large", "more", maxAnswer)
	if !has("small", "first") || has("large", "0") || !has("large", "1") || s.forgotten.Load() != before+1 || s.owners["large"].bytes > ownAnswerBytes {
		t.Errorf("%d bytes of large", s.owners["large"].bytes)
	}
	for i := range 2 * maxAnswerBytes / maxAnswer {
		put(fmt.Sprint("owner ", i), "k", maxAnswer)
	}
	if s.all.bytes > maxAnswerBytes || has("small", "first") || len(s.of) != s.all.Len() {
		t.Errorf("%d bytes in all, %d entries, %d in the list", s.all.bytes, len(s.of), s.all.Len())
	}
	now = now.Add(keepAnswers)
	put("last", "k", 0)
	if len(s.of) != 1 || len(s.owners) != 1 || s.all.bytes != answerOverhead {
		t.Errorf("after a day %d are left of %d, %d bytes", len(s.of), len(s.owners), s.all.bytes)
	}
}
