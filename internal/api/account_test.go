package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignUpAndLogIn(t *testing.T) {
	f := newFixture(t)
	r := f.call("", "POST", "/v2/signup", map[string]any{"name": "Ada", "email": "Ada@example.com", "password": f.chosen("twelve ravens")}).want(201)
	r.is("member.name", "Ada", "member.email", "Ada@example.com", "organization.name", "Ada's Workspace", "organization.disabled", "false",
		"member.created_at", "2026-11-03T09:30:00.000Z")
	id := r.text("organization.id")
	f.call(r.text("secret_key"), "GET", "/v2/me", nil).want(200).is("kind", "key", "key_kind", "secret", "organization", id)
	f.call(r.text("session.token"), "GET", "/v2/me", nil).want(200).is("kind", "member", "id", r.text("member.id"), "name", "Ada@example.com",
		"organization", id, "role", "owner")

	in := f.call("", "POST", "/v2/login", map[string]any{"email": "ada@example.com", "password": "twelve ravens"}).want(200)
	in.is("member.id", r.text("member.id"), "organizations.0.id", id, "organizations.0.name", "Ada's Workspace", "organizations.0.role", "owner")
	session := in.text("token")
	f.call(session, "POST", "/v2/users", map[string]any{"name": "by-hand"}).want(201).is("username", "by-hand@"+id)
	f.call(session, "GET", "/v2/audit?action=user.create", nil).want(200).is("data.0.actor.kind", "member", "data.0.actor.id", r.text("member.id"),
		"data.0.target", "by-hand", "data.0.address", "192.0.2.1")
	f.call(session, "POST", "/v2/logout", nil).want(204)
	f.call(session, "GET", "/v2/me", nil).want(401)
	f.call(r.text("session.token"), "GET", "/v2/me", nil).want(200) // another log-in of the same person

	f.call("", "POST", "/v2/signup", map[string]any{"name": "Eve", "email": "ada@EXAMPLE.com", "password": f.chosen("other ravens")}).wrong(409, "/email")
	f.call("", "POST", "/v2/signup", map[string]any{"name": "Eve", "email": "eve", "password": "other ravens"}).wrong(422, "/email")
	f.call("", "POST", "/v2/signup", map[string]any{"name": "Eve", "email": "eve@example.com", "password": f.chosen("short7!")}).wrong(422, "/password")
	f.call("", "POST", "/v2/signup", map[string]any{"name": " ", "email": "eve@example.com", "password": "other ravens"}).wrong(422, "/name")
	known := f.call("", "POST", "/v2/login", map[string]any{"email": "ada@example.com", "password": f.chosen("wrong ravens")}).want(401)
	unknown := f.call("", "POST", "/v2/login", map[string]any{"email": "nobody@example.com", "password": "wrong ravens"}).want(401)
	if known.text("detail") != unknown.text("detail") {
		t.Errorf("%s differs from %s", known.Body, unknown.Body)
	}
}

func TestSignUpIsClosed(t *testing.T) {
	f := newFixture(t)
	f.api.config.SignUp = false
	f.call("", "POST", "/v2/signup", map[string]any{"name": "Ada", "email": "ada@example.com", "password": f.chosen("twelve ravens")}).want(403).is("code", "forbidden")
	f.call("", "POST", "/v2/login", map[string]any{"email": "ada@example.com", "password": "twelve ravens"}).want(401)
}

// A refusal comes when its time has come, whatever its reason; what succeeds does not wait.
func TestRefusalsTakeTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.api.config.SignUp = true
		took := func(path string, body map[string]any, status int) time.Duration {
			began := time.Now()
			f.call("", "POST", path, body).want(status)
			return time.Since(began)
		}
		right := f.chosen("password of " + f.a.email)
		if d := took("/v2/login", map[string]any{"email": f.a.email, "password": right}, 200); d != 0 {
			t.Errorf("the right password took %v", d)
		}
		for what, d := range map[string]time.Duration{
			"a wrong password":  took("/v2/login", map[string]any{"email": f.a.email, "password": "wrong ravens"}, 401),
			"nobody's address":  took("/v2/login", map[string]any{"email": "nobody@example.com", "password": "wrong ravens"}, 401),
			"no address at all": took("/v2/login", map[string]any{"email": "nobody", "password": "wrong ravens"}, 401),
			"a taken address":   took("/v2/signup", map[string]any{"name": "Eve", "email": f.a.email, "password": "wrong ravens"}, 409),
		} {
			if d != refusalDelay {
				t.Errorf("%s took %v, want %v", what, d, refusalDelay)
			}
		}
	})
}

// Sign-ups have a bucket of their own, which what is malformed and log-ins do not empty.
func TestSignUpsAreLimitedByAddress(t *testing.T) {
	f := newFixture(t)
	f.api.signUps = newBuckets("sign-ups", 1.0/3, 2)
	up := func(i int, password string) *answer {
		return f.call("", "POST", "/v2/signup", map[string]any{"name": "P", "email": fmt.Sprintf("p%d@example.com", i), "password": password})
	}
	for range 3 {
		up(0, "short").wrong(422, "/password")
		f.call("", "POST", "/v2/signup", map[string]any{"name": "P", "email": "nonsense", "password": "right or wrong"}).wrong(422, "/email")
		f.call("", "POST", "/v2/login", map[string]any{"email": "nobody@example.com", "password": "right or wrong"}).want(401)
	}
	up(1, f.chosen("password of p1")).want(201)
	up(1, "password of p1").want(409)
	r := up(2, "password of p2").want(429)
	if r.Header().Get("Retry-After") != "3" || !strings.Contains(r.Header().Get("RateLimit"), `"sign-ups";r=0`) {
		t.Errorf("%v", r.Header())
	}
	f.call("", "POST", "/v2/login", map[string]any{"email": "p1@example.com", "password": "password of p1"}).want(200)
	f.pass(3 * time.Second)
	up(2, f.chosen("password of p2")).want(201)
}

// Log-ins are limited by those that were refused. Who has logged in from the address goes on, and so does everything else behind it.
func TestLogInsAreLimitedByRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // refusals take their time
		f := newFixture(t)
		right := map[string]any{"email": f.a.email, "password": f.chosen("password of " + f.a.email)}
		for range 30 {
			f.call("", "POST", "/v2/login", right).want(200)
		}
		limited := 0
		for i := range 120 {
			r := f.call("", "POST", "/v2/login", map[string]any{"email": fmt.Sprintf("p%d@example.com", i), "password": "right or wrong"})
			if r.Code != http.StatusTooManyRequests {
				r.want(401)
				continue
			}
			limited++
			if !strings.Contains(r.text("detail"), "a minute") || r.Header().Get("Retry-After") != "60" {
				t.Errorf("%s, and Retry-After: %s", r.text("detail"), r.Header().Get("Retry-After"))
			}
		}
		if limited != 20 {
			t.Errorf("%d of 120 were refused for their number, want 20", limited)
		}
		f.call("", "POST", "/v2/login", right).want(200)
		f.call(f.a.secret, "GET", "/v2/me", nil).want(200)
	})
}
