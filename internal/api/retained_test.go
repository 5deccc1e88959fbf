package api

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudsignal/internal/control"
	"cloudsignal/internal/mqtt"
)

func (w *world) retain(h home, topic, payload string) {
	w.t.Helper()
	if a := w.call("POST", "/v1/publish", h.key, map[string]any{"topic": topic, "payload": payload, "retain": true}); a.status != 200 {
		w.t.Fatalf("%d %s", a.status, a.text)
	}
}

func TestRetained(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.retain(w.ours, fmt.Sprintf("agents/%d/card", i), "hello")
	}
	w.retain(w.ours, "$spaces/1", "space")
	w.retain(w.theirs, "agents/9/card", "theirs")
	cards := []string{"agents/0/card", "agents/1/card", "agents/2/card", "agents/3/card", "agents/4/card"}
	for target, want := range map[string][]string{
		"/v2/retained?limit=2":                           append([]string{"$spaces/1"}, cards...),
		"/v2/retained?filter=agents/%2B/card&limit=2":    cards,
		"/v2/retained?filter=agents/3/%23":               cards[3:4],
		"/v2/retained?filter=%23&limit=3":                cards,
		"/v2/retained?filter=nothing":                    {},
		"/v2/retained?filter=%24spaces/%2B":              {"$spaces/1"},
		"/v2/retained?filter=agents/%2B/card&limit=1000": cards,
	} {
		if d := cmp.Diff(want, w.all(target, w.ours.key, "topic")); d != "" {
			t.Errorf("%s: %s", target, d)
		}
	}
	a := w.call("GET", "/v2/retained?filter=a/%23/b", w.ours.key, nil)
	if w.wants(a, 422, "invalid"); a.str("errors.0.parameter") != "filter" {
		t.Errorf("%s", a.text)
	}
	w.wants(w.call("GET", "/v2/retained/message?topic=agents/9/card", w.ours.key, nil), 404, "not_found")
	w.wants(w.call("GET", "/v2/retained/message", w.ours.key, nil), 422, "invalid")

	c := w.server(w.ours, "c")
	p := &mqtt.Publish{Topic: []byte("bytes"), Payload: []byte{0xff, 1}, QoS: 1, Retain: true}
	p.Properties.Set(mqtt.MessageExpiry)
	p.Properties.MessageExpiry = 60
	p.Properties.Set(mqtt.ContentType)
	p.Properties.ContentType = []byte("image/png")
	p.Properties.User = []mqtt.UserProperty{{Key: []byte("k"), Value: []byte("v")}}
	if r := w.tryPublish(c, p); r.Failed() {
		t.Fatal(r)
	}
	a = w.call("GET", "/v2/retained/message?topic=bytes", w.ours.key, nil)
	for name, want := range map[string]any{
		"topic": "bytes", "payload": base64.StdEncoding.EncodeToString([]byte{0xff, 1}), "encoding": "base64", "qos": 1.0, "expires_in": 60.0,
		"content_type": "image/png", "user_properties.0.0": "k", "user_properties.0.1": "v", "response_topic": nil, "correlation_data": nil,
	} {
		if got := a.get(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestDeleteRetained(t *testing.T) {
	w := newWorld(t)
	w.retain(w.ours, "a/b", "private words")
	w.retain(w.ours, "emptied", "x")
	w.retain(w.ours, "emptied", "") // as in MQTT
	w.wants(w.call("DELETE", "/v2/retained/message?topic=a/b", w.theirs.key, nil), 404, "not_found")
	if a := w.call("DELETE", "/v2/retained/message?topic=a/b", w.ours.key, nil); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	w.audited(w.ours, "retained.delete", "a/b", control.KeyActor)
	w.quiet(w.ours, "private words")
	w.cut()
	w.wants(w.call("GET", "/v2/retained/message?topic=a/b", w.ours.key, nil), 404, "not_found")
	w.wants(w.call("DELETE", "/v2/retained/message?topic=a/b", w.ours.key, nil), 404, "not_found")
	if got := w.all("/v2/retained?limit=1", w.ours.key, "topic"); len(got) > 0 {
		t.Errorf("%v is there", got)
	}
}

// A page has no more payload than there is room for, and the list goes on behind it.
func TestRetainedPagesAreBounded(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("x", 900_000)
	for i := range 7 {
		w.retain(w.ours, fmt.Sprintf("big/%d", i), big)
	}
	a := w.call("GET", "/v2/retained?filter=big/%2B", w.ours.key, nil)
	if n := len(a.get("data").([]any)); n != 5 || a.str("next_cursor") == "" {
		t.Errorf("%d messages on a page", n)
	}
	if n := len(w.all("/v2/retained?filter=big/%2B", w.ours.key, "topic")); n != 7 {
		t.Errorf("%d messages in all", n)
	}
}
