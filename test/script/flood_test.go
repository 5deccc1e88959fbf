package script

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

const (
	// floodTime is how long an attack goes on that has no end of its own.
	floodTime = 2 * time.Second
	// slower is how many times the p99 of a bystander's messages without an attack that with one may be. The attackers have the
	// same processors as the server and the bystander: most of it is theirs.
	slower = 1000
	// attackerAddress is where attackers come from: not where the bystander is.
	attackerAddress = "127.0.0.2"
)

// flood is one attack on a server by an organization that signed itself up.
type flood struct {
	name    string
	attack  func(*stranger) error
	counter string // of /metrics, that counts what the bound has stopped
}

var floods = []flood{
	{"slow TLS, WebSocket and CONNECT", slowly, `cloudsignal_handshakes_failed_total{listener="wss",reason="timeout"}`},
	{"connections before log-in", beforeLogin, `cloudsignal_over_pending_total{listener="mqtts",reason="address"}`},
	{"never reading", neverReading, `cloudsignal_messages_dropped_total{reason="queue_full"}`},
	{"PINGREQ", pings, `cloudsignal_reads_paused_total{reason="packet_rate"}`},
	{"SUBSCRIBE", subscribes, `cloudsignal_reads_paused_total{reason="packet_rate"}`},
	{"retained messages", retains, `cloudsignal_messages_dropped_total{reason="retained_full"}`},
	{"wills", wills, `cloudsignal_connections_ended_total{reason="closed_by_client"}`},
	{"connects", connects, `cloudsignal_connections_ended_total{reason="disconnect"}`},
	{"taking each other over", takeOver, `cloudsignal_logins_total{result="take_over_rate"}`},
	{"wide topics", wide, `cloudsignal_messages_total{direction="in",qos="0"}`},
	{"wildcards against every filter", wildcards, `cloudsignal_messages_total{direction="in",qos="0"}`},
	{"a million subscriptions", million, `cloudsignal_filters_refused_total{reason="quota_exceeded"}`},
	{"deep filters", deep, `cloudsignal_filters_refused_total{reason="quota_exceeded"}`},
}

// TestFloods: whatever an organization does, it is bounded and counted, the server stays below floodCap, and the messages of a
// bystander in another organization come in time.
func TestFloods(t *testing.T) {
	s := newTarget(t, "--sign-up", "open")
	w := s.watch()
	var calm []time.Duration // of all phases so far
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			calm = append(calm, w.during(w.calm)...)
			x := s.stranger(t)
			before, began := s.metric(t, f.counter), time.Now()
			s.peakMemory()
			disturbed := w.during(func() {
				if err := f.attack(x); err != nil {
					t.Error(err)
				}
			})
			took := time.Since(began)
			x.leave()
			peak := s.peakMemory()
			counted := s.metric(t, f.counter) - before
			t.Logf("%s: p99 %s calm (%d), %s disturbed (%d); peak %d MiB; %s +%.0f; took %s", f.name, p99(calm), len(calm), p99(disturbed), len(disturbed), peak>>20, f.counter, counted, took)
			if counted <= 0 {
				t.Errorf("%s counted nothing", f.counter)
			}
			if peak > floodCap {
				t.Errorf("peak memory is %d MiB, above the cap of %d MiB", peak>>20, floodCap>>20)
			}
			if len(calm) == 0 || len(disturbed) == 0 || p99(disturbed) > slower*p99(calm) {
				t.Errorf("a bystander's p99 is %s of %d messages, and %s of %d without the attack", p99(disturbed), len(disturbed), p99(calm), len(calm))
			}
		})
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if err := s.process.terminate(); err != nil {
		t.Errorf("the server did not end well: %v\n%s", err, s.process.stderr)
	}
	if strings.Contains(s.process.stderr.String(), "panic") {
		t.Error("the log holds a panic")
	}
}

func p99(all []time.Duration) time.Duration {
	all = slices.Clone(all)
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// watcher is a bystander: it publishes to itself and takes the time.
type watcher struct {
	mu    sync.Mutex
	times []time.Duration
	end   chan struct{}
	done  chan error
}

func (s *target) watch() *watcher {
	w := &watcher{end: make(chan struct{}), done: make(chan error, 1)}
	agent, dashboard := s.dialClient(0), s.dialClient(1)
	ctx := context.Background()
	if _, err := dashboard.Subscribe(ctx, &mqtt.Subscribe{Subscriptions: []mqtt.Subscription{{Filter: []byte("agents/#"), QoS: 1}}}); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer agent.Close()
		defer dashboard.Close()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-w.end:
				w.done <- nil
				return
			case <-tick.C:
			}
			want, began := strconv.Itoa(n), time.Now()
			if r, err := agent.Publish(ctx, &mqtt.Publish{Topic: []byte("agents/agent-01/tick"), Payload: []byte(want), QoS: 1}); err != nil || r != mqtt.Success {
				w.done <- fmt.Errorf("message %d: %s %w", n, r, err)
				return
			}
			if m, ok := <-dashboard.Messages(); !ok || string(m.Payload) != want {
				w.done <- fmt.Errorf("message %d: got %+v: %w", n, m, dashboard.Err())
				return
			}
			w.mu.Lock()
			w.times = append(w.times, time.Since(began))
			w.mu.Unlock()
		}
	}()
	return w
}

// during returns the times of the messages that were sent while f ran.
func (w *watcher) during(f func()) []time.Duration {
	w.mu.Lock()
	w.times = nil
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.times)
}

// calm waits for some messages.
func (w *watcher) calm() {
	await(func() (bool, error) { //nolint:errcheck // who asks for their times sees that they are missing
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.times) >= 200, nil
	})
}

func (w *watcher) stop() error {
	close(w.end)
	return <-w.done
}

// metric is the value of one series of /metrics, 0 if it is not there.
func (s *target) metric(t *testing.T, series string) float64 {
	t.Helper()
	b, _, err := get(http.DefaultClient, "http://"+s.ready.Addresses["metrics"]+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(b)
	if m == nil {
		return 0
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// stranger is an organization that signed itself up.
type stranger struct {
	*target
	username, password string

	mu  sync.Mutex
	all []*attacker
}

var strangers int

func (s *target) stranger(t *testing.T) *stranger {
	t.Helper()
	strangers++
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: s.trust, DisableKeepAlives: true}}
	in := fmt.Sprintf(`{"name":"Mal","email":"mal%d@example.com","password":"a passphrase of mine"}`, strangers)
	r, err := c.Post("https://"+s.ready.Addresses["https"]+"/v2/signup", "application/json", bytes.NewBufferString(in))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	var out struct {
		Organization struct {
			ID string `json:"id"`
		} `json:"organization"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(b, &out); err != nil || out.SecretKey == "" {
		t.Fatalf("sign-up: %d %s %v", r.StatusCode, b, err)
	}
	return &stranger{target: s, username: "server@" + out.Organization.ID, password: out.SecretKey}
}

// from dials as an attacker; on wss without the upgrade.
func (x *stranger) from(listener string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(attackerAddress)}, Timeout: patience}
	return d.Dial("tcp", x.ready.Addresses[listener])
}

// enter connects an attacker that has logged in. Its end is leave's.
func (x *stranger) enter(p mqtt.Connect) (*attacker, error) {
	raw, err := x.from("mqtts")
	if err != nil {
		return nil, err
	}
	t, err := x.over(raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	a := newAttacker(t)
	x.mu.Lock()
	x.all = append(x.all, a)
	x.mu.Unlock()
	p.Version, p.HasUsername, p.Username, p.HasPassword, p.Password = mqtt.V5, true, []byte(x.username), true, []byte(x.password)
	if err := a.send(p.Append(nil, mqtt.V5)); err != nil {
		return a, err
	}
	answer, err := a.packet(mqtt.V5)
	if err != nil {
		return a, err
	}
	if ack, ok := answer.(*mqtt.Connack); !ok || ack.Reason != mqtt.Success {
		return a, fmt.Errorf("log-in: %+v", answer)
	}
	return a, nil
}

// over makes TLS of a connection.
func (x *stranger) over(c net.Conn) (*tls.Conn, error) {
	cfg := x.trust.Clone()
	cfg.ServerName = "localhost"
	t := tls.Client(c, cfg)
	return t, t.Handshake()
}

func (x *stranger) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, a := range x.all {
		a.abort()
	}
	x.all = nil
}

// abort ends the TCP connection below TLS.
func (a *attacker) abort() {
	if t, ok := a.conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	a.conn.Close()
}

// together runs f n times at once.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
