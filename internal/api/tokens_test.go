package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/mqtt"
)

// ticket is what a token service's answer is good for.
type ticket struct{ id, username, password string }

// mint makes a token for an identity; more are further fields.
func (w *world) mint(email string, more map[string]any) (ticket, response) {
	w.t.Helper()
	body := map[string]any{"organization_id": w.ours.id, "secret_key": w.ours.key, "user_email": email}
	for name, v := range more {
		body[name] = v
	}
	a := w.call("POST", "/v2/tokens/create", "", body)
	if a.status != 200 {
		w.t.Fatalf("%d %s", a.status, a.text)
	}
	return ticket{a.str("token_id"), a.str("mqtt_credentials.username"), a.str("mqtt_credentials.password")}, a
}

func (w *world) refresh(old ticket) response {
	w.t.Helper()
	return w.call("POST", "/v2/tokens/refresh", "", map[string]any{"token_id": old.id, "current_token_password": old.password})
}

func TestCreateToken(t *testing.T) {
	w := newWorld(t)
	first, a := w.mint("ada@example.com", nil)
	want := map[string]any{
		"access_token": first.password, "token_type": "Bearer", "expires_in": 3600.0, "user_email": "ada@example.com", "provider": "cloudsignal",
		"expires_at": "2026-11-03T10:30:00.000Z", "refresh_recommended_at": "2026-11-03T10:24:00.000Z",
	}
	for name, v := range want {
		if got := a.get(name); got != v {
			t.Errorf("%s: %v, want %v", name, got, v)
		}
	}
	if len(a.body) != len(want)+2 || !strings.HasPrefix(first.id, "tok_") || !strings.HasPrefix(first.password, "tkn_") ||
		!strings.HasPrefix(first.username, "token_") || len(first.username) != len("token_")+12+1+len(w.ours.id) {
		t.Errorf("%s", a.text)
	}
	again, _ := w.mint("ada@example.com", nil)
	other, _ := w.mint("bob@example.com", map[string]any{"ttl": 60, "organization_id": w.ours.uuid, "integration_id": "cloudsignal"})
	if again.username != first.username || again.password == first.password || again.id == first.id || other.username == first.username {
		t.Errorf("%+v, %+v, %+v", first, again, other)
	}

	// The first version's answer, and the key in the header.
	a = w.call("POST", "/v1/create", w.ours.key, map[string]any{"organization_id": w.ours.id, "user_email": "ada@example.com", "ttl": 86400})
	if a.status != 200 || len(a.body) != 5 || a.str("mqtt_username") != first.username || a.str("org_short_id") != w.ours.id ||
		a.str("expires_at") != "2026-11-04T09:30:00.000Z" || a.str("refresh_recommended_at") == "" {
		t.Errorf("%d %s", a.status, a.text)
	}
	w.lives(w.connect(a.str("mqtt_username"), a.str("token_password"), "c"))
	w.quiet(w.ours, first.password, again.password, other.password, a.str("token_password"), w.ours.key)
}

func TestTokenEnds(t *testing.T) {
	w := newWorld(t)
	k, _ := w.mint("ada@example.com", nil)
	c := w.connect(k.username, k.password, "c")
	w.pass(time.Hour - time.Second)
	w.lives(c)
	w.lives(w.connect(k.username, k.password, "other"))
	w.pass(time.Second)
	w.ends(c, mqtt.MaximumConnectTime)
	w.refused(k.username, k.password)
	a := w.wants(w.refresh(k), 401, "token_expired")
	for _, name := range []string{"error_description", "detail", "message"} {
		if a.str("error") != "token_expired" || a.str(name) == "" || a.str(name) != a.str("detail") {
			t.Errorf("%s", a.text)
		}
	}
}

// A refresh moves the end of the live connection; the old password works until its own end.
func TestRefreshToken(t *testing.T) {
	w := newWorld(t)
	old, _ := w.mint("ada@example.com", nil)
	c := w.connect(old.username, old.password, "c")
	w.pass(54 * time.Minute)
	a := w.refresh(old)
	next := ticket{a.str("token_id"), a.str("mqtt_credentials.username"), a.str("mqtt_credentials.password")}
	if a.status != 200 || next.id != old.id || next.username != old.username || next.password == old.password || a.str("access_token") != next.password ||
		a.get("expires_in") != 3600.0 || a.str("expires_at") != "2026-11-03T11:24:00.000Z" || a.str("user_email") != "ada@example.com" {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.until("the live connection's end is moved", func() bool {
		return w.call("GET", "/v2/sessions/c", w.ours.key, nil).str("token_expires_at") == a.str("expires_at")
	})
	w.lives(w.connect(old.username, old.password, "with the old one"))
	w.pass(6 * time.Minute)
	w.refused(old.username, old.password)
	w.lives(c)
	w.lives(w.connect(next.username, next.password, "with the new one"))
	w.wants(w.refresh(old), 401, "token_expired")
	w.pass(54*time.Minute - time.Second)
	w.lives(c)
	w.pass(time.Second)
	w.ends(c, mqtt.MaximumConnectTime)
	w.refused(next.username, next.password)
	w.quiet(w.ours, old.password, next.password)
}

func TestReplaceToken(t *testing.T) {
	w := newWorld(t)
	first, _ := w.mint("ada@example.com", nil)
	c := w.connect(first.username, first.password, "first")
	beside, _ := w.mint("ada@example.com", map[string]any{"replace_existing": false})
	d := w.connect(beside.username, beside.password, "beside")
	w.lives(c)
	w.lives(w.connect(first.username, first.password, "first again"))

	instead, _ := w.mint("ada@example.com", map[string]any{"replace_existing": true})
	w.ends(c, mqtt.NotAuthorized)
	w.ends(d, mqtt.NotAuthorized)
	w.refused(first.username, first.password)
	w.refused(beside.username, beside.password)
	w.lives(w.connect(instead.username, instead.password, "instead"))
	w.wants(w.refresh(first), 401, "unauthorized")
}

func TestRevokeToken(t *testing.T) {
	w := newWorld(t)
	k, _ := w.mint("ada@example.com", nil)
	other, _ := w.mint("bob@example.com", nil)
	c, d := w.connect(k.username, k.password, "c"), w.connect(other.username, other.password, "d")
	w.wants(w.call("DELETE", "/v2/tokens/"+k.id, w.theirs.key, nil), 404, "not_found")
	w.lives(c)
	if a := w.call("DELETE", "/v2/tokens/"+k.id, w.ours.key, nil); a.status != 204 || a.text != "" {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.ends(c, mqtt.NotAuthorized)
	w.refused(k.username, k.password)
	w.wants(w.refresh(k), 401, "unauthorized")
	w.lives(d)
	if a := w.call("GET", "/v2/tokens/"+k.id, w.ours.key, nil); a.str("revoked_at") != "2026-11-03T09:30:00.000Z" {
		t.Errorf("%s", a.text)
	}
	w.audited(w.ours, "token.revoke", k.id, control.KeyActor)
}

func TestListTokens(t *testing.T) {
	w := newWorld(t)
	made := make(map[string]bool)
	for i := range 5 {
		k, _ := w.mint(fmt.Sprintf("user-%d@example.com", i), nil)
		made[k.id] = true
	}
	k, _ := w.mint("ada@example.com", map[string]any{"topics": []string{"chat/#"}, "permissions": []string{"subscribe"}})
	made[k.id] = true
	one := w.call("GET", "/v2/tokens/"+k.id, w.ours.key, nil)
	for name, want := range map[string]string{
		"token_id": k.id, "username": k.username, "provider": "cloudsignal", "subject": "ada@example.com", "user_email": "ada@example.com",
		"permissions.0": "subscribe", "topics.0": "chat/#", "created_at": "2026-11-03T09:30:00.000Z", "expires_at": "2026-11-03T10:30:00.000Z",
		"refresh_recommended_at": "2026-11-03T10:24:00.000Z",
	} {
		if got := one.str(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	target := "/v2/tokens?limit=2"
	for pages := 1; ; pages++ {
		a := w.call("GET", target, w.ours.key, nil)
		for _, v := range a.get("data").([]any) {
			id := v.(map[string]any)["token_id"].(string)
			if !made[id] {
				t.Errorf("%s is listed twice, or was not made", id)
			}
			delete(made, id)
		}
		cursor := a.str("next_cursor")
		if cursor == "" {
			if len(made) > 0 || pages != 3 {
				t.Errorf("%d pages, and %v are missing", pages, made)
			}
			break
		}
		target = "/v2/tokens?limit=2&cursor=" + cursor
	}
	for user, want := range map[string]int{strings.Split(k.username, "@")[0]: 1, k.username: 1, "token_000000000000": 0, "x@" + w.theirs.id: 0} {
		if a := w.call("GET", "/v2/tokens?user="+user, w.ours.key, nil); len(a.get("data").([]any)) != want {
			t.Errorf("of %s: %s", user, a.text)
		}
	}
	if a := w.call("GET", "/v2/tokens", w.theirs.key, nil); len(a.get("data").([]any)) != 0 {
		t.Errorf("another organization sees %s", a.text)
	}
	w.wants(w.call("GET", "/v2/tokens/"+k.id, w.theirs.key, nil), 404, "not_found")
}

// A token narrows what the rules allow.
func TestNarrowToken(t *testing.T) {
	w := newWorld(t)
	a := w.call("POST", "/v2/tokens", w.ours.key, map[string]any{
		"organization_id": w.ours.id, "user_id": "visitor-17", "permissions": []string{"subscribe"}, "topics": []string{"chat/#"},
	})
	if a.status != 201 || !strings.HasPrefix(a.str("token"), "tkn_") || a.str("expires_at") != "2026-11-03T10:30:00.000Z" {
		t.Fatalf("%d %s", a.status, a.text)
	}
	c := w.connect(a.str("mqtt_username"), a.str("token"), "c")
	if got := w.trySubscribe(c, "chat/+", "other/x", "#"); got[0] != 1 || got[1] != mqtt.NotAuthorized || got[2] != mqtt.NotAuthorized {
		t.Errorf("subscribing: %v", got)
	}
	if r := w.tryPublish(c, &mqtt.Publish{Topic: []byte("chat/x"), QoS: 1}); r != mqtt.NotAuthorized {
		t.Errorf("publishing: %s", r)
	}
	a = w.call("POST", "/v2/tokens", w.ours.key, map[string]any{"user_id": "visitor-17", "topics": []string{"chat/#/x"}})
	if w.wants(a, 422, "invalid"); a.str("errors.0.pointer") != "/topics/0" {
		t.Errorf("%s", a.text)
	}
	w.lives(c) // another token of the same identity ends none
}

// A token that names a rule set is judged by it.
func TestTokenOfRuleSet(t *testing.T) {
	w := newWorld(t)
	set, err := w.ours.CreateRuleSet(t.Context(), control.NewRuleSet{Name: "Visitors", Rules: []access.Rule{
		{User: "%", Topic: "chat/#", Permission: access.PermitBoth, Effect: access.Allow},
	}})
	w.must(err)
	plain, _ := w.mint("bob@example.com", nil)
	k, _ := w.mint("ada@example.com", map[string]any{"rule_set": set.ID})
	for _, c := range []struct {
		ticket
		want mqtt.Reason
	}{{k, mqtt.GrantedQoS1}, {plain, mqtt.NotAuthorized}} {
		if got := w.trySubscribe(w.connect(c.username, c.password, c.username), "chat/x"); got[0] != c.want {
			t.Errorf("%s: %v, want %v", c.username, got, c.want)
		}
	}
	a := w.call("POST", "/v2/tokens/create", w.ours.key, map[string]any{"organization_id": w.ours.id, "user_email": "a@b.c", "rule_set": "set_000000000000"})
	if w.wants(a, 422, "invalid"); a.str("errors.0.pointer") != "/rule_set" {
		t.Errorf("%s", a.text)
	}
}

func TestTokenErrors(t *testing.T) {
	w := newWorld(t)
	publishable, restricted := w.key(w.ours, access.PublishableKey), w.key(w.ours, access.RestrictedKey, access.TokensWrite)
	revoked, secret, err := w.ours.CreateKey(t.Context(), control.NewKey{Kind: access.SecretKey, Name: "Gone"})
	w.must(err)
	w.must(w.ours.RevokeKey(t.Context(), revoked.ID))
	k, _ := w.mint("ada@example.com", nil)
	create := func(more map[string]any) map[string]any {
		body := map[string]any{"organization_id": w.ours.id, "secret_key": w.ours.key, "user_email": "ada@example.com"}
		for name, v := range more {
			body[name] = v
		}
		return body
	}
	for _, c := range []struct {
		name, target string
		body         map[string]any
		status       int
		code         string
	}{
		{"no key", "/v2/tokens/create", create(map[string]any{"secret_key": ""}), 401, "unauthorized"},
		{"a wrong key", "/v2/tokens/create", create(map[string]any{"secret_key": "sk_wrong"}), 401, "unauthorized"},
		{"a revoked key", "/v2/tokens/create", create(map[string]any{"secret_key": secret}), 401, "unauthorized"},
		{"a publishable key", "/v2/tokens/create", create(map[string]any{"secret_key": publishable}), 403, "forbidden"},
		{"a restricted key", "/v2/tokens/create", create(map[string]any{"secret_key": restricted}), 200, ""},
		{"another organization", "/v2/tokens/create", create(map[string]any{"organization_id": w.theirs.id}), 404, "not_found"},
		{"another organization's key", "/v1/create", create(map[string]any{"secret_key": w.theirs.key}), 404, "not_found"},
		{"no such organization", "/v2/tokens/create", create(map[string]any{"organization_id": "org_000000000000"}), 404, "not_found"},
		{"no such provider", "/v2/tokens/create", create(map[string]any{"integration_id": "firebase"}), 404, "provider_not_found"},
		{"too short", "/v2/tokens/create", create(map[string]any{"ttl": 59}), 422, "invalid"},
		{"too long", "/v2/tokens/create", create(map[string]any{"ttl": 86401}), 422, "invalid"},
		{"no address", "/v2/tokens/create", create(map[string]any{"user_email": ""}), 422, "invalid"},
		{"an unknown field", "/v2/tokens/create", create(map[string]any{"user": "x"}), 422, "invalid"},
		{"null", "/v1/create", create(map[string]any{"replace_existing": nil}), 422, "invalid"},
		{"permission", "/v2/tokens/create", create(map[string]any{"permissions": []string{"write"}}), 422, "invalid"},
		{"refresh of nothing", "/v2/tokens/refresh", map[string]any{}, 422, "invalid"},
		{"refresh of an unknown one", "/v2/tokens/refresh", map[string]any{"token_id": "tok_000000000000", "current_token_password": k.password}, 401, "unauthorized"},
		{"refresh with a wrong password", "/v2/tokens/refresh", map[string]any{"token_id": k.id, "current_token_password": k.password + "x"}, 401, "unauthorized"},
		{"narrow without a key", "/v2/tokens", map[string]any{"user_id": "x"}, 401, "unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.call("POST", c.target, "", c.body)
			if a.status != c.status || a.str("code") != c.code {
				t.Fatalf("%d %s, want %d %s", a.status, a.text, c.status, c.code)
			}
			if a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%v", a.header)
			}
			if c.code == "" {
				return
			}
			text := a.str("detail")
			if a.str("error") != c.code || text == "" || a.str("error_description") != text || a.str("message") != text ||
				a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s", a.text)
			}
		})
	}
	w.quiet(w.ours, k.password, w.ours.key, secret, publishable, restricted)
}

// A browser asks first whether it may.
func TestTokenPreflight(t *testing.T) {
	w := newWorld(t)
	for _, target := range []string{"/v2/tokens/create", "/v2/tokens/refresh", "/v1/create", "/v2/tokens", "/v1/publish"} {
		a := w.call("OPTIONS", target, "", nil, "Origin", "https://app.example", "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,content-type,x-secret-key")
		if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Methods") != http.MethodPost ||
			a.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", target, a.status, a.header)
		}
		for _, name := range []string{"Authorization", "Content-Type", "X-Secret-Key"} {
			if !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), name) {
				t.Errorf("%s: %v does not allow %s", target, a.header, name)
			}
		}
		a = w.call("PUT", target, "", nil, "Origin", "https://app.example")
		if shape := a.str("error"); a.status != 405 || a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(a.header.Get("Allow"), "POST") ||
			(shape == "method_not_allowed") != strings.Contains(target, "/v2/tokens") && target != "/v1/create" {
			t.Errorf("%s: %d %v %s", target, a.status, a.header, a.text)
		}
	}
	if a := w.call("OPTIONS", "/v2/sessions", "", nil); a.status != 405 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// Whoever guesses passwords is answered with 429, and hinders nobody who has the right one.
func TestGuessingPasswords(t *testing.T) {
	w := newWorld(t)
	k, _ := w.mint("ada@example.com", nil)
	wrong := ticket{k.id, k.username, k.password[:len(k.password)-1] + "0"}
	statuses := make(map[int]int)
	for range 2 * guesses {
		statuses[w.refresh(wrong).status]++
	}
	if statuses[401] != guesses || statuses[429] != guesses {
		t.Errorf("guesses were answered %v", statuses)
	}
	a := w.refresh(wrong)
	if w.wants(a, 429, "too_many_requests"); a.header.Get("Retry-After") == "" || a.str("error") != "too_many_requests" {
		t.Errorf("%v %s", a.header, a.text)
	}
	if a := w.refresh(k); a.status != 200 {
		t.Errorf("the right one is answered %d %s", a.status, a.text)
	}
	for i := 0; ; i++ {
		if a := w.refresh(wrong); a.header.Get("RateLimit-Policy") == `"refresh";q=200;w=10` && a.status == 429 {
			break
		} else if i > 250 {
			t.Fatal("refreshing is not limited by address")
		}
	}
}

func TestMakingTokensIsLimited(t *testing.T) {
	w := newWorld(t)
	w.api.minting = newBuckets("tokens", 1, 3)
	for i, want := range []int{200, 200, 200, 429} {
		a := w.call("POST", "/v2/tokens/create", "", map[string]any{"organization_id": w.ours.id, "secret_key": w.ours.key, "user_email": "ada@example.com"},
			"X-Request-Id", fmt.Sprintf("request-%d", i))
		if a.status != want || want == 429 && (a.str("error") != "too_many_requests" || a.header.Get("Retry-After") == "") ||
			a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("request %d: %d %v %s", i, a.status, a.header, a.text)
		}
	}
	// Whoever tries keys is limited by address, and hinders nobody who has one.
	w.api.minting = newBuckets("tokens", 100, 200)
	statuses := make(map[int]int)
	for range 100 {
		statuses[w.call("POST", "/v2/tokens/create", "", map[string]any{"organization_id": w.ours.id, "secret_key": "sk_wrong", "user_email": "ada@example.com"}).status]++
	}
	if statuses[401] != 60 || statuses[429] != 40 {
		t.Errorf("wrong keys were answered %v", statuses)
	}
	w.mint("ada@example.com", nil)
}

// Two identities are never one: what an organization calls its users is not an address, and keeps its case.
func TestIdentities(t *testing.T) {
	w := newWorld(t)
	names := make(map[string]string)
	for _, id := range []string{"ada", "Ada", "ada@example.com"} {
		a := w.call("POST", "/v2/tokens", w.ours.key, map[string]any{"user_id": id})
		names[a.str("mqtt_username")] = id
	}
	for _, address := range []string{"ada@example.com", "Ada@Example.com"} {
		k, _ := w.mint(address, nil)
		names[k.username] = address
	}
	if len(names) != 4 {
		t.Errorf("%v", names)
	}
}
