package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTLSVersions(t *testing.T) {
	for _, kind := range []Kind{MQTTS, WSS} {
		l, peers := serve(t, Config{Kind: kind}, nil)
		for version, want := range map[uint16]bool{
			tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true,
		} {
			cfg := clientTLS(t)
			cfg.MinVersion, cfg.MaxVersion = version, version
			c, err := tls.Dial("tcp", l.Addr().String(), cfg)
			if want != (err == nil) {
				t.Errorf("%s, %s: %v", kind, tls.VersionName(version), err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "protocol version") {
					t.Errorf("%s, %s is refused by %v", kind, tls.VersionName(version), err)
				}
				continue
			}
			if got := c.ConnectionState().Version; got != version {
				t.Errorf("%s: %s was agreed, not %s", kind, tls.VersionName(got), tls.VersionName(version))
			}
			if kind == MQTTS {
				await(t, peers, "the connection")
			}
			c.Close()
		}
		eventually(t, "the count", func() bool { return l.Stats().HandshakeFailed[FailedTLSVersion] == 2 })
	}
}

// A configuration that allows more does not lower the bound.
func TestListenerRaisesTLSVersion(t *testing.T) {
	for _, own := range []uint16{0, tls.VersionTLS10, tls.VersionTLS12} {
		if got := listenerTLS(&tls.Config{MinVersion: own}, MQTTS).MinVersion; got != tls.VersionTLS12 {
			t.Errorf("%x becomes %x", own, got)
		}
	}
	if got := listenerTLS(&tls.Config{MinVersion: tls.VersionTLS13}, MQTTS).MinVersion; got != tls.VersionTLS13 {
		t.Errorf("1.3 becomes %x", got)
	}
}

func TestALPN(t *testing.T) {
	for kind, own := range map[Kind]string{MQTTS: "mqtt", WSS: "http/1.1"} {
		l, _ := serve(t, Config{Kind: kind}, nil)
		for _, offered := range [][]string{nil, {own}, {"x-other", own}, {"x-other"}, {"h2"}} {
			cfg := clientTLS(t)
			cfg.NextProtos = offered
			c, err := tls.Dial("tcp", l.Addr().String(), cfg)
			if err != nil {
				t.Errorf("%s, offered %q: %v", kind, offered, err)
				continue
			}
			want := ""
			if strings.Contains(strings.Join(offered, " "), own) {
				want = own
			}
			if got := c.ConnectionState().NegotiatedProtocol; got != want {
				t.Errorf("%s, offered %q: %q", kind, offered, got)
			}
			c.Close()
		}
	}
}

// Sessions are resumed with either of the listener's two configurations.
func TestResumption(t *testing.T) {
	l, _ := serve(t, Config{Kind: MQTTS}, echo)
	for _, protocols := range [][]string{nil, {"mqtt"}} {
		cfg := clientTLS(t)
		cfg.NextProtos, cfg.ClientSessionCache = protocols, tls.NewLRUClientSessionCache(1)
		for _, resumed := range []bool{false, true} {
			c, err := tls.Dial("tcp", l.Addr().String(), cfg)
			must(t, err)
			_, err = c.Write([]byte("xy"))
			must(t, err)
			_, err = io.ReadFull(c, make([]byte, 2)) // the ticket comes before
			must(t, err)
			if got := c.ConnectionState().DidResume; got != resumed {
				t.Errorf("%q: resumed %v", protocols, got)
			}
			c.Close()
		}
	}
}

// Who begins a handshake and falls silent is closed at the deadline, wherever it stopped.
func TestHalfHandshake(t *testing.T) {
	hello := clientHello(t)
	tests := []struct {
		name string
		kind Kind
		sent string
	}{
		{"nothing to TLS", MQTTS, ""},
		{"half a hello", MQTTS, hello[:len(hello)/2]},
		{"a hello, no answer", MQTTS, hello},
		{"nothing to HTTP", WS, ""},
		{"half a request", WS, "GET / HTTP/1.1\r\nHost: loc"},
		{"half a hello to WSS", WSS, hello[:len(hello)/2]},
		{"half a request in TLS", WSS, "GET / HTTP/1.1\r\nHost: loc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			timeout := 300 * time.Millisecond
			l, peers := serve(t, Config{Kind: tt.kind, HandshakeTimeout: timeout}, nil)
			start := time.Now()
			var c net.Conn
			if strings.HasSuffix(tt.name, "in TLS") {
				c = dialRaw(t, l)
			} else {
				var err error
				c, err = net.Dial("tcp", l.Addr().String())
				must(t, err)
				defer c.Close()
				must(t, c.SetDeadline(start.Add(patience)))
			}
			_, err := io.WriteString(c, tt.sent)
			must(t, err)
			_, err = io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("it was not closed")
			}
			if took := time.Since(start); took < timeout || took > 5*time.Second {
				t.Errorf("closed after %v", took)
			}
			must(t, l.Close())
			if s := l.Stats(); s.HandshakeFailed[FailedTimeout] != 1 || s.Open != 0 || s.Pending != 0 || len(peers) != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T) string {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		tls.Client(near, clientTLS(t)).Handshake() //nolint:errcheck // it ends by near's Close
	}()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	must(t, err)
	near.Close()
	far.Close()
	return string(b[:n])
}

func TestFailedHandshakes(t *testing.T) {
	tests := []struct {
		name string
		kind Kind
		why  Failure
		do   func(t *testing.T, c net.Conn)
	}{
		{"leaves at once", MQTTS, FailedClosed, func(_ *testing.T, c net.Conn) { c.Close() }},
		{"leaves at once, HTTP", WS, FailedClosed, func(_ *testing.T, c net.Conn) { c.Close() }},
		{"resets", MQTTS, FailedClosed, func(t *testing.T, c net.Conn) {
			must(t, c.(*net.TCPConn).SetLinger(0))
			c.Close()
		}},
		{"does not trust", MQTTS, FailedTLS, func(_ *testing.T, c net.Conn) {
			tls.Client(c, &tls.Config{ServerName: "localhost"}).Handshake() //nolint:errcheck // it must fail
			c.Close()
		}},
		{"plain MQTT", MQTTS, FailedNotTLS, func(t *testing.T, c net.Conn) {
			_, err := c.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"))
			must(t, err)
			got, err := io.ReadAll(c)
			if err != nil || len(got) > 0 {
				t.Errorf("answered %q, %v", got, err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, peers := serve(t, Config{Kind: tt.kind}, nil)
			c, err := net.Dial("tcp", l.Addr().String())
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(patience)))
			tt.do(t, c)
			// A good connection after it has been accepted after it; its own handshake may overtake the failure.
			dial(t, l)
			await(t, peers, "the next connection").LoggedIn()
			c.Close()
			eventually(t, "the count", func() bool { return l.Stats().HandshakeFailed[tt.why] == 1 })
			eventually(t, "the slot", func() bool { s := l.Stats(); return s.Open == 1 && s.Pending == 0 })
			total := uint64(0)
			for _, n := range l.Stats().HandshakeFailed {
				total += n
			}
			if total != 1 || len(l.Stats().HandshakeFailed) != len(failures) {
				t.Errorf("counted %v", l.Stats().HandshakeFailed)
			}
		})
	}
}

// Who speaks HTTP without TLS to the WSS port is told what to do.
func TestPlainHTTPToWSS(t *testing.T) {
	l, _ := serve(t, Config{Kind: WSS}, nil)
	for _, req := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", request("GET /mqtt HTTP/1.1"),
		"POST /x HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("x", 50_000),
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(c, req)
		must(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if res.StatusCode != 400 || !strings.Contains(string(body), "wss://") {
			t.Errorf("%s: %s", res.Status, body)
		}
	}
	eventually(t, "the count", func() bool { return l.Stats().HandshakeFailed[FailedNotTLS] == 3 })
}

func TestServerTLSErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	files, err := authorityFiles()
	must(t, err)
	certFile, keyFile, caFile := files[0], files[1], files[2]
	junk := file("junk.pem", "no PEM")
	locked := file("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	for _, tt := range []struct{ cert, key, says string }{
		{filepath.Join(dir, "absent.pem"), keyFile, "absent.pem"},
		{certFile, filepath.Join(dir, "absent.pem"), "absent.pem"},
		{junk, keyFile, "certificate file " + junk + ": holds no PEM block"},
		{keyFile, keyFile, "needs a PEM block CERTIFICATE, but holds PRIVATE KEY"},
		{certFile, certFile, "needs a PEM block PRIVATE KEY, but holds CERTIFICATE"},
		{certFile, locked, "remove its passphrase"},
		{caFile, keyFile, "does not match"},
	} {
		_, err := ServerTLS(tt.cert, tt.key)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.says, err)
		}
	}
	cfg, err := ServerTLS(certFile, keyFile)
	if err != nil || cfg.MinVersion != tls.VersionTLS12 {
		t.Errorf("%+v, %v", cfg, err)
	}
}
