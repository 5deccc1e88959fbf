package stateful

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloudsignal/internal/server"
)

const (
	patience = 10 * time.Second // how long the server may take for anything that a run waits for
	often    = time.Millisecond
	slowly   = 100 * time.Millisecond // what asks the API
	users    = 2                      // of each organization
	maxOrgs  = 4                      // the last one is the bystanders' own
)

// await asks again and again until ok, for as long as limit.
func await(limit time.Duration, ok func() bool) bool { return awaitEvery(often, limit, ok) }

func awaitEvery(every, limit time.Duration, ok func() bool) bool {
	ticker, end := time.NewTicker(every), time.NewTimer(limit)
	defer ticker.Stop()
	defer end.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-end.C:
			return ok()
		}
	}
	return true
}

// journal is the server's log: it keeps the lines that no client may cause, at most 20.
type journal struct {
	mu  sync.Mutex
	bad []string
}

func (j *journal) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) || bytes.Contains(b, []byte("level=ERROR")) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if len(j.bad) < 20 {
			j.bad = append(j.bad, string(b))
		}
	}
	return len(b), nil
}

func (j *journal) lines() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.bad, "")
}

// tenant is one organization on the server.
type tenant struct {
	id        string
	passwords map[string]string // by whole user name
	names     [users]string
}

// world is one live server, in this process: its goroutines and its memory can be counted.
type world struct {
	t       testing.TB
	server  *server.Server
	journal journal
	mqtt    string
	metrics string
	api     string
	key     string // the operator's
	http    *http.Client
	tenants []*tenant
	runs    int
	// patience is how long it may take for anything that a run waits for.
	patience time.Duration
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, patience: patience}
	cfg := server.DefaultConfig()
	cfg.Data, cfg.MQTT, cfg.MQTTS, cfg.WSS = t.TempDir(), "127.0.0.1:0", server.Off, server.Off
	cfg.HTTPS, cfg.Metrics, cfg.DiskReserve = "127.0.0.1:0", "127.0.0.1:0", "0"
	s, err := server.Run(context.Background(), cfg, slog.New(slog.NewTextHandler(&w.journal, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w.server, w.mqtt = s, s.Addresses()["mqtt"]
	w.metrics, w.api = "http://"+s.Addresses()["metrics"], "https://"+s.Addresses()["https"]
	// What is tested here is not whom to trust.
	w.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: patience}
	var operator struct {
		Key string `json:"operator_key"`
	}
	for _, file := range []string{"operator.json", "bootstrap.json"} {
		if b, err := os.ReadFile(filepath.Join(cfg.Data, file)); err == nil && operator.Key == "" {
			if err := json.Unmarshal(b, &operator); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.key = operator.Key
	for i := range maxOrgs {
		w.tenants = append(w.tenants, w.tenant(i))
	}
	return w
}

func (w *world) close() {
	w.http.CloseIdleConnections()
	if err := w.server.Close(); err != nil {
		w.t.Error(err)
	}
}

// tenant makes an organization with users who may do everything in it.
func (w *world) tenant(i int) *tenant {
	o := &tenant{passwords: make(map[string]string)}
	var made struct {
		ID string `json:"id"`
	}
	w.call(http.MethodPost, "/v2/organizations", "", map[string]any{"name": fmt.Sprintf("o%d", i)}, &made)
	o.id = made.ID
	w.call(http.MethodPost, "/v2/rule-sets", o.id, map[string]any{
		"name": "all", "default": true, "rules": []any{map[string]any{"user": "%", "topic": "#", "permission": "pubsub"}},
	}, nil)
	for k := range users {
		var user struct {
			Username string `json:"username"`
			Password string `json:"password"`
		}
		w.call(http.MethodPost, "/v2/users", o.id, map[string]any{"name": fmt.Sprintf("u%d", k)}, &user)
		o.names[k] = user.Username
		o.passwords[user.Username] = user.Password
	}
	return o
}

// call is one request to the API as the operator, in an organization.
func (w *world) call(method, path, organization string, body, answer any) {
	w.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	var b []byte
	var status int
	if !awaitEvery(slowly, patience, func() bool { // there is a rate that we may have reached
		b, status = w.request(method, path, organization, text)
		return status != http.StatusTooManyRequests
	}) || status >= 300 {
		w.t.Fatalf("%s %s: %d: %s", method, path, status, b)
	}
	if answer != nil {
		if err := json.Unmarshal(b, answer); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) request(method, path, organization string, text []byte) (body []byte, status int) {
	w.t.Helper()
	r, err := http.NewRequest(method, w.api+path, bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.key)
	r.Header.Set("Content-Type", "application/json")
	if organization != "" {
		r.Header.Set("X-Organization", organization)
	}
	response, err := w.http.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(response.Body); err != nil {
		w.t.Fatal(err)
	}
	return body, response.StatusCode
}

// kept is one retained message, or one session, as the API lists it.
type kept struct {
	Topic    string `json:"topic"`
	Payload  string `json:"payload"`
	Encoding string `json:"encoding"`
	ClientID string `json:"client_id"`
}

func (w *world) list(o *tenant, what string) []kept {
	var page struct {
		Data []kept `json:"data"`
	}
	w.call(http.MethodGet, "/v2/"+what+"?limit=1000", o.id, nil, &page)
	return page.Data
}

func (w *world) endSession(o *tenant, clientID string) {
	w.call(http.MethodDelete, "/v2/session?client_id="+url.QueryEscape(clientID), o.id, nil, nil)
}

func (w *world) unretain(o *tenant, topic string) {
	w.call(http.MethodDelete, "/v2/retained/message?topic="+url.QueryEscape(topic), o.id, nil, nil)
}

// gauges are the values of the metrics, by name and labels.
func (w *world) gauges() map[string]float64 {
	response, err := w.http.Get(w.metrics + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "cloudsignal_") {
			all[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all
}
