package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/client"
	"cloudsignal/internal/control"
	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/transport"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// world is a whole server but for its HTTP listener: the real store, broker and MQTT listener, on a clock that the test moves.
type world struct {
	t         *testing.T
	mu        sync.Mutex
	now       time.Time
	directory *access.Directory
	store     *control.Store
	disk      *vfs.MemFS
	engine    *pebble.Store
	live      atomic.Pointer[broker.Broker]
	listener  *transport.Listener
	api       *API
	log       strings.Builder

	ours, theirs home
}

// home is one organization with a secret key.
type home struct {
	id, uuid, key string
	*control.Organization
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 3, 9, 30, 0, 0, time.UTC), directory: access.NewDirectory(), disk: vfs.NewCrashableMem()}
	var err error
	w.store, err = control.Open(t.Context(), control.Options{
		Path: filepath.Join(t.TempDir(), "control.db"), Directory: w.directory, Now: w.clock, Announce: w.announce,
	})
	w.must(err)
	t.Cleanup(func() { w.must(w.store.Close()) })
	w.start()
	t.Cleanup(w.stop)
	w.ours, w.theirs = w.organization("Ours"), w.organization("Theirs")
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) announce(c control.Change) {
	b := w.live.Load()
	switch {
	case b == nil:
	case c.Deleted:
		b.Deleted(c.Number)
	default:
		b.Changed(c.Number, c.Users)
	}
}

// start starts the broker with what is on the disk, and the API before it.
func (w *world) start() {
	w.t.Helper()
	var err error
	w.engine, err = pebble.Open(pebble.Options{Dir: "store", FS: w.disk})
	w.must(err)
	b, err := broker.New(broker.Config{
		Authenticator: access.NewAuthenticator(w.directory, access.AuthConfig{Now: w.clock, Failures: -1}), Store: w.engine, Now: w.clock,
		RefusalDelay: time.Millisecond,
	})
	w.must(err)
	w.live.Store(b)
	w.listener, err = transport.Listen(transport.Config{Kind: transport.MQTT, Address: "127.0.0.1:0"})
	w.must(err)
	w.listener.Serve(b.Accept)
	w.api = New(Config{
		Store: w.store, Directory: w.directory, Live: b, Now: w.clock, SignUp: true, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

func (w *world) stop() {
	w.must(w.listener.Close())
	w.live.Load().Close()
	w.must(w.engine.Close())
}

// cut cuts the power: what is there again afterwards is what was synced.
func (w *world) cut() {
	disk := w.disk.CrashClone(vfs.CrashCloneCfg{})
	w.stop()
	w.disk = disk
	w.start()
}

func (w *world) organization(name string) home {
	w.t.Helper()
	info, err := w.store.CreateOrganization(w.t.Context(), control.System(), name)
	w.must(err)
	h := home{id: info.ID, uuid: info.UUID, Organization: w.store.In(control.System(), info.ID)}
	h.key = w.key(h, access.SecretKey)
	return h
}

func (w *world) key(h home, kind access.KeyKind, scopes ...access.Scope) string {
	w.t.Helper()
	_, secret, err := h.CreateKey(w.t.Context(), control.NewKey{Kind: kind, Name: "A key", Scopes: scopes})
	w.must(err)
	return secret
}

// user makes a user and returns its password.
func (w *world) user(h home, name string) string {
	w.t.Helper()
	_, password, err := h.CreateUser(w.t.Context(), control.NewUser{Name: name})
	w.must(err)
	return password
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// response is what the API answered.
type response struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// call asks the API with a key; a body that is no string is sent as its JSON.
func (w *world) call(method, target, key string, body any, header ...string) response {
	w.t.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		b, err := json.Marshal(body)
		w.must(err)
		text = string(b)
	}
	if key != "" {
		header = append(header, "Authorization", "Bearer "+key)
	}
	r := httptest.NewRequest(method, target, strings.NewReader(text))
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, r)
	out := response{status: rec.Code, header: rec.Header(), text: strings.TrimSpace(rec.Body.String())}
	if out.text != "" {
		if err := json.Unmarshal([]byte(out.text), &out.body); err != nil {
			w.t.Fatalf("%s %s: %d %s: %v", method, target, out.status, out.text, err)
		}
	}
	return out
}

// get is a field of an answer, by its path: mqtt_credentials.username, data.0.topic; nil if it is not there.
func (a response) get(path string) any {
	var v any = a.body
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func (a response) str(path string) string {
	s, _ := a.get(path).(string)
	return s
}

// wants fails unless the API answers with this status, and with an error with this code.
func (w *world) wants(a response, status int, code string) response {
	w.t.Helper()
	if a.status != status || a.str("code") != code {
		w.t.Fatalf("answered %d %s, want %d %s", a.status, a.text, status, code)
	}
	return a
}

// dial connects an MQTT client.
func (w *world) dial(username, password, clientID string, change ...func(*mqtt.Connect)) (*client.Client, error) {
	w.t.Helper()
	u, err := client.ParseURL("mqtt://" + w.listener.Addr().String())
	w.must(err)
	p := mqtt.Connect{
		Version: mqtt.V5, CleanStart: true, ClientID: []byte(clientID), HasUsername: true, HasPassword: true,
		Username: []byte(username), Password: []byte(password),
	}
	for _, f := range change {
		f(&p)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Target: client.Target{URL: u}, Connect: p})
	if err == nil {
		w.t.Cleanup(c.Abort)
	}
	return c, err
}

func (w *world) connect(username, password, clientID string, change ...func(*mqtt.Connect)) *client.Client {
	w.t.Helper()
	c, err := w.dial(username, password, clientID, change...)
	w.must(err)
	return c
}

// server connects as the organization's back end.
func (w *world) server(h home, clientID string) *client.Client {
	w.t.Helper()
	return w.connect("server@"+h.id, h.key, clientID)
}

// refused fails unless these credentials are not taken.
func (w *world) refused(username, password string) {
	w.t.Helper()
	_, err := w.dial(username, password, "refused")
	if r, ok := errors.AsType[*client.Refused](err); !ok || r.Packet != mqtt.CONNACK || r.Reason != mqtt.BadUserNameOrPassword {
		w.t.Fatalf("connecting as %s: %v, want a refusal with 0x86", username, err)
	}
}

// lives fails unless the connection is there and the server answers.
func (w *world) lives(c *client.Client) {
	w.t.Helper()
	w.subscribe(c, "chat/alive")
}

// until asks until ok: what follows a change on live connections is behind the answer.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	again, end := time.NewTicker(5*time.Millisecond), time.After(patience)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-end:
			w.t.Fatal("not so: " + what)
		}
	}
}

// subscribe subscribes, which must be granted, at QoS 1.
func (w *world) subscribe(c *client.Client, filters ...string) {
	w.t.Helper()
	for i, r := range w.trySubscribe(c, filters...) {
		if r.Failed() {
			w.t.Fatalf("subscribing to %s: %s", filters[i], r)
		}
	}
}

func (w *world) trySubscribe(c *client.Client, filters ...string) []mqtt.Reason {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	p := mqtt.Subscribe{}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: []byte(f), QoS: 1})
	}
	reasons, err := c.Subscribe(ctx, &p)
	w.must(err)
	return reasons
}

func (w *world) tryPublish(c *client.Client, p *mqtt.Publish) mqtt.Reason {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	r, err := c.Publish(ctx, p)
	w.must(err)
	return r
}

// next is the next message of a client.
func (w *world) next(c *client.Client) *client.Message {
	w.t.Helper()
	select {
	case m, ok := <-c.Messages():
		if ok {
			return m
		}
		w.t.Fatalf("the connection has ended: %v", c.Err())
	case <-time.After(patience):
		w.t.Fatal("no message came")
	}
	return nil
}

// ends fails unless the server ends the connection with this reason.
func (w *world) ends(c *client.Client, reason mqtt.Reason) {
	w.t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		w.t.Fatal("the connection goes on")
	}
	if r, ok := errors.AsType[*client.Refused](c.Err()); !ok || r.Packet != mqtt.DISCONNECT || r.Reason != reason || r.Detail == "" {
		w.t.Fatalf("the connection ended with %v, want %s and a sentence", c.Err(), reason)
	}
}

// audited fails unless the newest row of the organization's audit is this.
func (w *world) audited(h home, action, target string, actor control.ActorKind) {
	w.t.Helper()
	rows, err := h.Audit(w.t.Context(), control.AuditQuery{Limit: 1})
	w.must(err)
	if len(rows) != 1 || rows[0].Action != action || rows[0].Target != target || rows[0].Actor.Kind != actor {
		w.t.Errorf("the newest row of the audit is %+v, want %s of %s by a %s", rows, action, target, actor)
	}
}

// quiet fails if the log or an audit row holds one of the secrets.
func (w *world) quiet(h home, secrets ...string) {
	w.t.Helper()
	rows, err := h.Audit(w.t.Context(), control.AuditQuery{Limit: control.MaxPage})
	w.must(err)
	b, err := json.Marshal(rows)
	w.must(err)
	for _, text := range []string{w.log.String(), string(b)} {
		if i := slices.IndexFunc(secrets, func(s string) bool { return s != "" && strings.Contains(text, s) }); i >= 0 {
			w.t.Errorf("secret number %d is in %s", i, text)
		}
	}
}
