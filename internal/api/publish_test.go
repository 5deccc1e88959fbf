package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/mqtt"
)

// Every kind of payload arrives as it should.
func TestPublishPayloads(t *testing.T) {
	w := newWorld(t)
	c := w.server(w.ours, "c")
	w.subscribe(c, "a/#")
	for _, p := range []struct{ name, payload, encoding, want string }{
		{"object", `{ "b": 1.0, "a": [1, "x y"] }`, "", `{"b":1.0,"a":[1,"x y"]}`},
		{"array", `[ ]`, "", `[]`},
		{"number", `123456789012345678901234567890.50`, "", `123456789012345678901234567890.50`},
		{"true", `true`, "", `true`},
		{"null", `null`, "", `null`},
		{"string", `"\"ä\u0000 \ud83c\udf89\""`, "", "\"ä\x00 🎉\""},
		{"empty string", `""`, "", ""},
		{"base64", `"` + base64.StdEncoding.EncodeToString([]byte{0xff, 0, 0xfe}) + `"`, "base64", "\xff\x00\xfe"},
	} {
		body := `{"topic":"a/b","payload":` + p.payload
		if p.encoding != "" {
			body += `,"encoding":"` + p.encoding + `"`
		}
		a := w.call("POST", "/v1/publish", w.ours.key, body+"}")
		if a.status != 200 || len(a.body) != 2 || !strings.HasPrefix(a.str("message_id"), "msg_") || a.get("matched") != true {
			t.Fatalf("%s: %d %s", p.name, a.status, a.text)
		}
		if m := w.next(c); m.Topic != "a/b" || string(m.Payload) != p.want || m.QoS != 1 || m.Retain {
			t.Errorf("%s: got %+v, want %q", p.name, m, p.want)
		}
	}
}

func TestPublishOptions(t *testing.T) {
	w := newWorld(t)
	c := w.server(w.ours, "c")
	w.subscribe(c, "a/#", "replies/#")
	for i, path := range []string{"/v1/publish", "/publish", "/api/v1/publish", "/v2/publish"} {
		a := w.call("POST", path, "", map[string]any{
			"topic": "a/b", "payload": path, "qos": i % 3, "expiry": 60, "content_type": "text/plain", "response_topic": "replies/17",
			"correlation_data": base64.StdEncoding.EncodeToString([]byte{0, 0xff}), "user_properties": [][]string{{"z", "1"}, {"a", "2"}, {"z", "3"}},
		}, "X-Secret-Key", w.ours.key)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", path, a.status, a.text)
		}
		m := w.next(c)
		p := &m.Properties
		if string(m.Payload) != path || m.QoS != min(1, mqtt.QoS(i%3)) || p.MessageExpiry != 60 || string(p.ContentType) != "text/plain" ||
			string(p.ResponseTopic) != "replies/17" || string(p.CorrelationData) != "\x00\xff" || fmt.Sprintf("%s", p.User) != "[{z 1} {a 2} {z 3}]" {
			t.Errorf("%s: got %+v", path, m)
		}
	}
	if a := w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "nobody/here", "payload": 1, "qos": 0}); a.status != 200 || a.get("matched") != false {
		t.Errorf("%d %s", a.status, a.text)
	}
	d := w.server(w.theirs, "d")
	w.subscribe(d, "#")
	w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "a/b", "payload": "ours"})
	w.call("POST", "/v1/publish", w.theirs.key, map[string]any{"topic": "a/b", "payload": "theirs"})
	if m := w.next(d); string(m.Payload) != "theirs" {
		t.Errorf("another organization got %+v", m)
	}
}

// Who may publish, and what, is as it is for MQTT.
func TestPublishRules(t *testing.T) {
	w := newWorld(t)
	_, err := w.ours.CreateRuleSet(t.Context(), control.NewRuleSet{Name: "Default", Default: true, Rules: []access.Rule{
		{User: "key_%", Topic: "public/#", Permission: access.PermitPublish, Effect: access.Allow},
	}})
	w.must(err)
	keys := map[string]string{
		"secret": w.ours.key, "publishable": w.key(w.ours, access.PublishableKey), "restricted": w.key(w.ours, access.RestrictedKey, access.PublishMessages),
		"restricted to something else": w.key(w.ours, access.RestrictedKey, access.UsersRead), "none": "", "wrong": "sk_wrong",
	}
	signed, err := w.store.SignUp(t.Context(), callerOf(t.Context()).address, control.SignUp{Name: "Ada", Email: "ada@example.com", Password: "correct horse battery"})
	w.must(err)
	keys["member"] = signed.Session.Token
	c := w.connect("server@"+signed.Organization.ID, signed.SecretKey, "c")
	w.subscribe(c, "#")
	for _, p := range []struct {
		key, topic string
		status     int
		code       string
	}{
		{"secret", "private/x", 200, ""},
		{"publishable", "public/x", 200, ""},
		{"publishable", "private/x", 403, "forbidden"},
		{"restricted", "private/x", 200, ""},
		{"restricted to something else", "public/x", 403, "forbidden"},
		{"member", "private/x", 200, ""},
		{"none", "public/x", 401, "unauthorized"},
		{"wrong", "public/x", 401, "unauthorized"},
	} {
		a := w.call("POST", "/v1/publish", keys[p.key], map[string]any{"topic": p.topic, "payload": p.key})
		if a.status != p.status || a.str("code") != p.code {
			t.Errorf("%s to %s: %d %s, want %d %s", p.key, p.topic, a.status, a.text, p.status, p.code)
		}
	}
	if m := w.next(c); string(m.Payload) != "member" {
		t.Errorf("the member's organization got %+v", m)
	}
}

func TestPublishErrors(t *testing.T) {
	w := newWorld(t)
	for _, p := range []struct {
		body, pointer string
		status        int
	}{
		{`{"topic":"a/+","payload":1}`, "/topic", 422},
		{`{"topic":"","payload":1}`, "/topic", 422},
		{`{"topic":"a\u0000","payload":1}`, "/topic", 422},
		{`{"topic":"` + strings.Repeat("a", 5000) + `","payload":1}`, "/topic", 422},
		{`{"payload":1}`, "/topic", 422},
		{`{"topic":"a"}`, "/payload", 422},
		{`{"topic":"a","payload":1,"qos":3}`, "/qos", 422},
		{`{"topic":"a","payload":1,"retain":"yes"}`, "/retain", 422},
		{`{"topic":"a","payload":1,"expiry":-1}`, "/expiry", 422},
		{`{"topic":"a","payload":1,"encoding":"base64"}`, "/payload", 422},
		{`{"topic":"a","payload":"%","encoding":"base64"}`, "/payload", 422},
		{`{"topic":"a","payload":"x","encoding":"hex"}`, "/encoding", 422},
		{`{"topic":"a","payload":"x","correlation_data":"%"}`, "/correlation_data", 422},
		{`{"topic":"a","payload":"x","user_properties":[["a"]]}`, "/user_properties/0", 422},
		{`{"topic":"a","payload":"x","response_topic":"a/#"}`, "/response_topic", 422},
		{`{"topic":"a","payload":"` + strings.Repeat("a", 1<<20) + `"}`, "/payload", 422},
		{`{"topic":"a","payload":"` + strings.Repeat("a", maxPublishBody) + `"}`, "", 413},
		{`{"topic":"a","payload":`, "", 400},
	} {
		a := w.call("POST", "/v1/publish", w.ours.key, p.body)
		if a.status != p.status || a.str("errors.0.pointer") != p.pointer || a.header.Get("Content-Type") != problemType {
			t.Errorf("%.80s: %d %.300s, want %d at %s", p.body, a.status, a.text, p.status, p.pointer)
		}
	}
}

// What was answered is on disk: a power cut behind the answer loses nothing.
func TestPublishIsDurable(t *testing.T) {
	w := newWorld(t)
	kept := func(p *mqtt.Connect) {
		p.CleanStart = false
		p.Properties.Set(mqtt.SessionExpiry)
		p.Properties.SessionExpiry = 3600
	}
	c := w.connect("server@"+w.ours.id, w.ours.key, "sleeper", kept)
	w.subscribe(c, "a/#")
	w.must(c.Close())
	var want, got []string
	for i := range 5 {
		text := fmt.Sprintf("number %d", i)
		want = append(want, text)
		if a := w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "a/b", "payload": text, "qos": 1 + i%2, "retain": true}); a.status != 200 || a.get("matched") != true {
			t.Fatalf("%d %s", a.status, a.text)
		}
	}
	w.cut()
	c = w.connect("server@"+w.ours.id, w.ours.key, "sleeper", kept)
	for range want {
		got = append(got, string(w.next(c).Payload))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if a := w.call("GET", "/v2/retained/message?topic=a/b", w.ours.key, nil); a.str("payload") != want[4] {
		t.Errorf("the retained message is %d %s", a.status, a.text)
	}
}

func TestPublishingIsLimited(t *testing.T) {
	w := newWorld(t)
	other := w.key(w.ours, access.SecretKey)
	body, err := json.Marshal(map[string]any{"topic": "a", "payload": 1, "qos": 0})
	w.must(err)
	for i := range 200 {
		if a := w.call("POST", "/v1/publish", w.ours.key, string(body)); a.status != 200 {
			t.Fatalf("request %d: %d %s", i, a.status, a.text)
		}
	}
	a := w.wants(w.call("POST", "/v2/publish", w.ours.key, string(body)), 429, "too_many_requests")
	for name, want := range map[string]string{
		"Retry-After": "1", "RateLimit": `"publish";r=0;t=2`, "RateLimit-Policy": `"publish";q=200;w=2`, "X-RateLimit-Remaining": "0",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if a := w.call("POST", "/v1/publish", other, string(body)); a.status != 200 {
		t.Errorf("another key: %d %s", a.status, a.text)
	}
	w.pass(time.Second)
	for i := range 101 {
		if a := w.call("POST", "/v1/publish", w.ours.key, string(body)); (a.status == 200) != (i < 100) {
			t.Errorf("a second later, request %d: %d %s", i, a.status, a.text)
		}
	}
}

// A limit of the organization holds for its messages by HTTP, and changes nothing for another.
func TestPublishQuota(t *testing.T) {
	w := newWorld(t)
	two, small := int64(2), 200
	_, err := w.ours.SetLimits(t.Context(), control.LimitsUpdate{MaxMessagesPerMonth: &two, MaxMessageBytes: &small})
	w.must(err)
	a := w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "a", "payload": strings.Repeat("x", 201)})
	if w.wants(a, 422, "invalid"); a.str("errors.0.pointer") != "/payload" {
		t.Errorf("%s", a.text)
	}
	for i, want := range []int{200, 200, 403} {
		a := w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "a", "payload": i})
		if a.status != want || want == 403 && a.str("code") != "exhausted" {
			t.Errorf("message %d: %d %s, want %d", i, a.status, a.text, want)
		}
		if a := w.call("POST", "/v1/publish", w.theirs.key, map[string]any{"topic": "a", "payload": i}); a.status != 200 {
			t.Errorf("another organization: %d %s", a.status, a.text)
		}
	}
	one := 1
	_, err = w.theirs.SetLimits(t.Context(), control.LimitsUpdate{MaxMessageRate: &one})
	w.must(err)
	for i := 0; ; i++ {
		a := w.call("POST", "/v1/publish", w.theirs.key, map[string]any{"topic": "a", "payload": i, "qos": 0})
		if a.status == 429 && a.str("code") == "too_many_requests" && a.header.Get("Retry-After") != "" {
			break
		}
		if a.status != 200 || i > 10 {
			t.Fatalf("more than one a second: %d %s", a.status, a.text)
		}
	}
}

// Nobody publishes in an organization that is disabled, or with a key that is revoked.
func TestPublishAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	yes, no := true, false
	_, err := w.ours.Update(t.Context(), control.OrganizationUpdate{Disabled: &yes})
	w.must(err)
	if a := w.call("POST", "/v1/publish", w.ours.key, map[string]any{"topic": "a", "payload": 1}); a.status != 401 && a.status != 403 {
		t.Errorf("%d %s", a.status, a.text)
	}
	_, err = w.ours.Update(t.Context(), control.OrganizationUpdate{Disabled: &no})
	w.must(err)
	key, secret, err := w.ours.CreateKey(t.Context(), control.NewKey{Kind: access.SecretKey, Name: "Gone"})
	w.must(err)
	body := map[string]any{"topic": "a", "payload": 1}
	if a := w.call("POST", "/v1/publish", secret, body); a.status != 200 {
		t.Errorf("%d %s", a.status, a.text)
	}
	w.must(w.ours.RevokeKey(t.Context(), key.ID))
	w.wants(w.call("POST", "/v1/publish", secret, body), 401, "unauthorized")
}
