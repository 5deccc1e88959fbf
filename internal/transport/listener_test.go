package transport

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits for what no channel tells.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	for _, tt := range []struct {
		cfg  Config
		says string
	}{
		{Config{Kind: "http"}, `unknown kind of listener "http": it is mqtt, mqtts, ws or wss`},
		{Config{Kind: MQTTS}, "setting mqtts: needs a certificate"},
		{Config{Kind: WSS}, "setting wss: needs a certificate"},
		{Config{Kind: MQTT, TLS: &tls.Config{}}, "setting mqtt: is unencrypted, but has a certificate; use mqtts"},
		{Config{Kind: WS, TLS: &tls.Config{}}, "use wss"},
		{Config{Kind: WS, Address: taken.Addr().String()}, "address already in use"},
		{Config{Kind: MQTT, Address: "127.0.0.1"}, "missing port"},
	} {
		if l, err := Listen(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v, %v", tt.cfg, l, err)
		}
	}
}

// The newest is closed when MaxPending are there; log-in and the end give a slot back.
func TestMaxPending(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind, MaxPending: 2, MaxPendingPerAddress: 2}, nil)
			connect := func() net.Conn {
				t.Helper()
				c, err := net.Dial("tcp", l.Addr().String())
				must(t, err)
				t.Cleanup(func() { c.Close() })
				must(t, c.SetDeadline(time.Now().Add(patience)))
				return c
			}
			refused := func() {
				t.Helper()
				before := l.Stats().OverPending
				if n, err := connect().Read(make([]byte, 1)); n != 0 || err == nil {
					t.Error("it was not closed")
				}
				if n := l.Stats().OverPending; n != before+1 {
					t.Errorf("counted %d", n-before)
				}
			}
			dial(t, l)
			first := await(t, peers, "the connection")
			silent := connect() // where there is a handshake it stays in it
			eventually(t, "two pending", func() bool { return l.Stats().Pending == 2 })
			refused()
			first.LoggedIn()
			first.LoggedIn() // once is enough
			dial(t, l)
			refused()
			silent.Close()
			eventually(t, "one pending", func() bool { return l.Stats().Pending == 1 })
			dial(t, l)
			refused()
			must(t, l.Close())
			if s := l.Stats(); s.Accepted != 7 || s.OverPending != 3 || s.Open != 0 || s.Pending != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// One address has no more than its share before log-in, the newest is closed; others get in meanwhile, and who leaves or logs in
// gives a slot back.
func TestMaxPendingPerAddress(t *testing.T) {
	l, peers := serve(t, Config{Kind: MQTT, MaxPending: 8}, nil)
	connect := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(patience)))
		return c
	}
	enter := func(from string) net.Conn {
		t.Helper()
		c := connect(from)
		await(t, peers, "the connection")
		return c
	}
	refused := uint64(0)
	refuse := func(from string) {
		t.Helper()
		if n, err := connect(from).Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("it was not closed")
		}
		if refused++; l.Stats().OverAddress != refused {
			t.Errorf("%d are counted, want %d", l.Stats().OverAddress, refused)
		}
	}
	connect("127.0.0.2")
	first := await(t, peers, "the connection")
	second := enter("127.0.0.2")
	refuse("127.0.0.2")
	enter("127.0.0.3")
	first.LoggedIn()
	enter("127.0.0.2")
	refuse("127.0.0.2")
	second.Close()
	eventually(t, "two pending", func() bool { return l.Stats().Pending == 2 })
	enter("127.0.0.2")
	refuse("127.0.0.2")
	must(t, l.Close())
	if s := l.Stats(); s.OverPending != 0 || s.Pending != 0 || len(l.origins) != 0 {
		t.Errorf("%+v, %d addresses", s, len(l.origins))
	}
}

func TestStopAccepting(t *testing.T) {
	for _, kind := range kinds {
		l, peers := serve(t, Config{Kind: kind}, echo)
		c := dial(t, l)
		p := await(t, peers, "the connection")
		l.StopAccepting()
		l.StopAccepting()
		if late, err := net.Dial("tcp", l.Addr().String()); err == nil {
			late.Close()
			t.Errorf("%s: the port is open", kind)
		}
		_, err := c.Write([]byte("alive"))
		must(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		must(t, err)
		must(t, l.Close())
		if err := <-p.closed; err != net.ErrClosed {
			t.Errorf("%s: closed by %v", kind, err)
		}
	}
}

func TestCloseWithoutServe(t *testing.T) {
	l, err := Listen(Config{Kind: MQTT, Address: "127.0.0.1:0"})
	must(t, err)
	must(t, l.Close())
	l.Serve(func(Conn) Handler { t.Error("accepted"); return nil })
	must(t, l.Close())
}

// Anyone can make the server log; a second's lines are bounded, the rest is counted.
func TestRefusalsAreLoggedWithinABound(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(p)
	}), nil))
	l, peers := serve(t, Config{Kind: MQTT, MaxPending: 1, Log: log}, nil)
	dial(t, l)
	await(t, peers, "the connection")
	start := time.Now()
	const refusals = 200
	for range refusals {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		io.Copy(io.Discard, c) //nolint:errcheck // it is closed, one way or the other
		c.Close()
	}
	must(t, l.Close())
	seconds := int(time.Since(start)/time.Second) + 2
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(out.String(), "too many connections before log-in"); n == 0 || n > seconds*logPerSecond {
		t.Errorf("%d lines in %d seconds", n, seconds)
	}
	if n := l.Stats().OverPending; n != refusals {
		t.Errorf("%d were refused", n)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
