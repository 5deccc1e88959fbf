package api

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudsignal/internal/control"
	"cloudsignal/internal/mqtt"
)

// all are the values of a field of a list's entries, through all of its pages.
func (w *world) all(target, key, field string) []string {
	w.t.Helper()
	at, out := target, []string{}
	for range 50 {
		a := w.call("GET", at, key, nil)
		if a.status != 200 {
			w.t.Fatalf("%s: %d %s", at, a.status, a.text)
		}
		for _, v := range a.get("data").([]any) {
			out = append(out, fmt.Sprint(v.(map[string]any)[field]))
		}
		cursor := a.str("next_cursor")
		if cursor == "" {
			return out
		}
		at = target + "&cursor=" + url.QueryEscape(cursor)
	}
	w.t.Fatalf("%s has no end", target)
	return nil
}

func stored(expiry uint32) func(*mqtt.Connect) {
	return func(p *mqtt.Connect) {
		p.CleanStart = false
		p.Properties.Set(mqtt.SessionExpiry)
		p.Properties.SessionExpiry = expiry
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.user(w.ours, "ada"), w.user(w.ours, "bob")
	odd := "a/b c%2F?#ü"
	c := w.connect("ada@"+w.ours.id, ada, odd, stored(600))
	w.subscribe(c, "chat/#", "$share/g/x")
	gone := w.connect("bob@"+w.ours.id, bob, "gone", stored(60))
	w.subscribe(gone, "chat/+")
	w.must(gone.Close())
	w.connect("bob@"+w.ours.id, bob, "here")
	w.connect("server@"+w.theirs.id, w.theirs.key, "theirs")
	w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "chat/1", "payload": "hello"})
	w.next(c)

	for target, want := range map[string][]string{
		"/v2/sessions?limit=1": {odd, "gone", "here"}, "/v2/sessions?user=bob": {"gone", "here"}, "/v2/sessions?user=ada@" + w.ours.id: {odd},
		"/v2/sessions?connected=true": {odd, "here"}, "/v2/sessions?connected=false&user=bob": {"gone"}, "/v2/sessions?user=x@" + w.theirs.id: {},
	} {
		if d := cmp.Diff(want, w.all(target, w.ours.key, "client_id")); d != "" {
			t.Errorf("%s: %s", target, d)
		}
	}
	if d := cmp.Diff([]string{"theirs"}, w.all("/v2/sessions?limit=1", w.theirs.key, "client_id")); d != "" {
		t.Errorf("another organization sees %s", d)
	}
	a := w.call("GET", "/v2/sessions/"+url.PathEscape(odd), w.ours.key, nil)
	for name, want := range map[string]any{
		"client_id": odd, "user": "ada", "connected": true, "protocol": "5.0", "transport": "mqtt", "connected_at": "2026-11-03T09:30:00.000Z",
		"expiry": 600.0, "clean": false, "expires_at": nil, "disconnected_at": nil, "subscriptions.0.filter": "$share/g/x",
		"subscriptions.1.filter": "chat/#", "subscriptions.1.qos": 1.0, "subscriptions.2": nil,
	} {
		if got := a.get(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if a.str("address") == "" {
		t.Errorf("%s", a.text)
	}
	a = w.call("GET", "/v2/sessions/gone", w.ours.key, nil)
	for name, want := range map[string]any{
		"connected": false, "queued": 1.0, "disconnected_at": "2026-11-03T09:30:00.000Z", "expires_at": "2026-11-03T09:31:00.000Z", "address": nil,
	} {
		if got := a.get(name); got != want {
			t.Errorf("of the stored one %s is %v, want %v", name, got, want)
		}
	}
	w.wants(w.call("GET", "/v2/sessions/"+url.PathEscape(odd), w.theirs.key, nil), 404, "not_found")
	w.wants(w.call("GET", "/v2/sessions?connected=perhaps", w.ours.key, nil), 422, "invalid")
}

// Whatever a client calls itself, its session can be named: in a path, as far as paths go, and in the query.
func TestOddClientIDs(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"/", ".", "..", "//", "a//b", "a/../b", "%", "%2F", "a b", "?x=1", "#", "disconnect", "ü🎉", "a+b&c=d;e"} {
		path, query := "/v2/sessions/"+strings.ReplaceAll(url.PathEscape(id), ".", "%2E"), "?client_id="+url.QueryEscape(id)
		for _, target := range [][2]string{{path, path + "/disconnect"}, {"/v2/session" + query, "/v2/session/disconnect" + query}} {
			if id == "/" && target[0] == path {
				continue // the one that net/http does not give
			}
			c := w.server(w.ours, id)
			if a := w.call("GET", target[0], w.ours.key, nil); a.status != 200 || a.str("client_id") != id {
				t.Errorf("%q: %d %s", id, a.status, a.text)
			}
			w.wants(w.call("GET", target[0], w.theirs.key, nil), 404, "not_found")
			if a := w.call("POST", target[1], w.ours.key, nil); a.get("disconnected") != true || a.str("client_id") != id {
				t.Errorf("%q: %d %s", id, a.status, a.text)
			}
			w.ends(c, mqtt.AdministrativeAction)
		}
		c := w.connect("server@"+w.ours.id, w.ours.key, id, stored(600))
		if a := w.call("DELETE", "/v2/session"+query, w.ours.key, nil); a.status != 204 {
			t.Errorf("%q: %d %s", id, a.status, a.text)
		}
		w.ends(c, mqtt.AdministrativeAction)
		w.wants(w.call("GET", "/v2/session"+query, w.ours.key, nil), 404, "not_found")
	}
	for _, target := range []string{"/v2/session", "/v2/session?client_id="} {
		w.wants(w.call("GET", target, w.ours.key, nil), 422, "invalid")
	}
}

func TestDisconnect(t *testing.T) {
	w := newWorld(t)
	odd := "room/1"
	c := w.connect("server@"+w.ours.id, w.ours.key, odd, stored(600))
	w.subscribe(c, "a")
	target := "/v2/sessions/" + url.PathEscape(odd)
	w.wants(w.call("POST", target+"/disconnect", w.theirs.key, nil), 404, "not_found")
	w.wants(w.call("DELETE", target, w.theirs.key, nil), 404, "not_found")
	w.lives(c)
	a := w.call("POST", target+"/disconnect", w.ours.key, nil)
	if a.status != 200 || a.str("client_id") != odd || a.get("disconnected") != true {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.ends(c, mqtt.AdministrativeAction)
	w.audited(w.ours, "session.disconnect", odd, control.KeyActor)
	if a = w.call("POST", target+"/disconnect", w.ours.key, nil); a.status != 200 || a.get("disconnected") != false {
		t.Errorf("a stored session: %d %s", a.status, a.text)
	}

	// It was stored, and goes on.
	c = w.connect("server@"+w.ours.id, w.ours.key, odd, stored(600))
	if !c.Connack().SessionPresent {
		t.Error("the session is gone")
	}
	if a = w.call("DELETE", target, w.ours.key, nil); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.ends(c, mqtt.AdministrativeAction)
	w.audited(w.ours, "session.delete", odd, control.KeyActor)
	w.wants(w.call("GET", target, w.ours.key, nil), 404, "not_found")
	w.wants(w.call("DELETE", target, w.ours.key, nil), 404, "not_found")
	if c = w.connect("server@"+w.ours.id, w.ours.key, odd, stored(600)); c.Connack().SessionPresent {
		t.Error("the session was not ended")
	}
}

func TestTerminate(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.user(w.ours, "ada"), w.user(w.ours, "bob")
	w.user(w.theirs, "ada")
	c, d := w.connect("ada@"+w.ours.id, ada, "c"), w.connect("ada@"+w.ours.id, ada, "d", stored(600))
	other := w.connect("bob@"+w.ours.id, bob, "other")
	w.wants(w.call("POST", "/v2/utilities/users/ada@"+w.ours.id+"/terminate", w.theirs.key, nil), 404, "not_found")
	if a := w.call("POST", "/v2/utilities/users/ada/terminate", w.theirs.key, nil); a.get("sessions_terminated") != 0.0 {
		t.Errorf("another organization's user: %s", a.text)
	}
	w.lives(c)
	a := w.call("POST", "/v2/utilities/users/ada/terminate", w.ours.key, nil)
	if a.status != 200 || len(a.body) != 2 || a.str("username") != "ada@"+w.ours.id || a.get("sessions_terminated") != 2.0 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.ends(c, mqtt.AdministrativeAction)
	w.ends(d, mqtt.AdministrativeAction)
	w.lives(other)
	w.audited(w.ours, "user.terminate", "ada", control.KeyActor)
	w.lives(w.connect("ada@"+w.ours.id, ada, "c"))
	w.wants(w.call("POST", "/v2/utilities/users/nobody/terminate", w.ours.key, nil), 404, "not_found")
	k, _ := w.mint("ada@example.com", nil)
	e := w.connect(k.username, k.password, "with a token")
	if a := w.call("POST", "/v2/utilities/users/"+k.username+"/terminate", w.ours.key, nil); a.get("sessions_terminated") != 1.0 {
		t.Errorf("of a token: %d %s", a.status, a.text)
	}
	w.ends(e, mqtt.AdministrativeAction)
	w.quiet(w.ours, ada, bob, k.password)
}
