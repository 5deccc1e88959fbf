package transport

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var kinds = []Kind{MQTT, MQTTS, WS, WSS}

// patience bounds every wait of the tests; it is reached only when they fail.
const patience = 20 * time.Second

// authorityFiles is one development CA for all tests.
var authorityFiles = sync.OnceValues(func() (files [3]string, err error) {
	dir, err := os.MkdirTemp("", "transport-test-")
	if err != nil {
		return files, err
	}
	files[0], files[1], files[2], err = DevCertificate(dir, nil, time.Now(), rand.Reader)
	return files, err
})

func serverTLS(t testing.TB) *tls.Config {
	t.Helper()
	files, err := authorityFiles()
	must(t, err)
	cfg, err := ServerTLS(files[0], files[1])
	must(t, err)
	return cfg
}

func clientTLS(t testing.TB) *tls.Config {
	t.Helper()
	files, err := authorityFiles()
	must(t, err)
	return trusting(t, files[2])
}

// trusting is the configuration of a client that trusts the CA in the file.
func trusting(t testing.TB, caFile string) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(caFile)
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("the CA file holds no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await takes one value from c.
func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("waited in vain for " + what)
		panic("unreachable")
	}
}

// peer is the server's side of a connection in a test.
type peer struct {
	Conn
	feed   func(p *peer, b []byte) error
	fed    chan []byte // each Feed's bytes, if feed is nil
	closed chan error
}

func (p *peer) Feed(b []byte) error {
	if p.feed == nil {
		p.fed <- bytes.Clone(b)
		return nil
	}
	return p.feed(p, b)
}

func (p *peer) Closed(err error) { p.closed <- err }

// until collects what is fed until it has n bytes.
func (p *peer) until(t testing.TB, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		got = append(got, await(t, p.fed, "bytes")...)
	}
	return got
}

func echo(p *peer, b []byte) error { return p.Write(net.Buffers{b[:len(b)/2], b[len(b)/2:]}) }

// serve starts a listener of the configuration on a free port; its connections come on the channel.
func serve(t testing.TB, cfg Config, feed func(p *peer, b []byte) error) (*Listener, <-chan *peer) {
	t.Helper()
	if cfg.Address = "127.0.0.1:0"; cfg.Kind.secure() {
		cfg.TLS = serverTLS(t)
	}
	l, err := Listen(cfg)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	peers := make(chan *peer, 1000)
	l.Serve(func(c Conn) Handler {
		p := &peer{Conn: c, feed: feed, fed: make(chan []byte, 1000), closed: make(chan error, 1)}
		peers <- p
		return p
	})
	return l, peers
}

func (k Kind) secure() bool { return k == MQTTS || k == WSS }

// dialRaw opens the TCP or TLS connection below.
func dialRaw(t testing.TB, l *Listener) net.Conn {
	t.Helper()
	return dialRawAt(t, l.cfg.Kind, l.Addr().String(), clientTLS(t))
}

func dialRawAt(t testing.TB, kind Kind, address string, cfg *tls.Config) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if kind.secure() {
		s := tls.Client(c, cfg)
		must(t, s.Handshake())
		return s
	}
	return c
}

// client is the client's side of a connection of any kind; Write and Read carry the application's bytes. Its WebSocket is
// written here, byte by byte, and shares no code with the server's.
type client struct {
	net.Conn
	r    *bufio.Reader
	ws   bool
	left int  // of the message being read
	code int  // of the close frame that came
	op   byte // of the last frame that was not data
	ctl  []byte
}

func dial(t testing.TB, l *Listener) *client {
	t.Helper()
	return dialAt(t, l.cfg.Kind, l.Addr().String(), clientTLS(t))
}

func dialAt(t testing.TB, kind Kind, address string, cfg *tls.Config) *client {
	t.Helper()
	c := &client{Conn: dialRawAt(t, kind, address, cfg), ws: kind.webSocket()}
	c.r = bufio.NewReader(c.Conn)
	if c.ws {
		_, err := io.WriteString(c.Conn, request("GET / HTTP/1.1"))
		must(t, err)
		res, err := http.ReadResponse(c.r, nil)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
			t.Fatalf("upgrade answered %v", res)
		}
	}
	return c
}

// request is a good upgrade request with another first line; change is "Header: value", or "Header:" to leave it out.
func request(first string, change ...string) string {
	lines := []string{
		"Host: localhost", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Origin: http://elsewhere.example",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: mqtt",
	}
	b := first + "\r\n"
	for _, l := range lines {
		name, _, _ := strings.Cut(l, ":")
		for _, c := range change {
			if n, v, _ := strings.Cut(c, ":"); n == name {
				l = c
				if v == "" {
					l = ""
				}
			}
		}
		if l != "" {
			b += l + "\r\n"
		}
	}
	return b + "\r\n"
}

// frame is a client's frame.
func frame(first byte, p string) []byte {
	b := []byte{first}
	switch n := len(p); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	default:
		b = append(b, 0x80|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	for i := range len(p) {
		b = append(b, p[i]^key[i%4])
	}
	return b
}

func (c *client) Write(p []byte) (int, error) {
	if !c.ws {
		return c.Conn.Write(p)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 50_000)
		if _, err := c.Conn.Write(frame(0x82, string(rest[:n]))); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// Read reads application bytes. A WebSocket that ended without a close frame is an error.
func (c *client) Read(p []byte) (int, error) {
	for c.ws && c.left == 0 {
		op, n, err := c.head()
		if err != nil {
			if err == io.EOF && c.code == 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if op == 2 {
			c.left = n
			continue
		}
		c.op, c.ctl = op, make([]byte, n)
		if _, err := io.ReadFull(c.r, c.ctl); err != nil {
			return 0, err
		}
		if op == 8 {
			c.code = int(binary.BigEndian.Uint16(c.ctl))
		}
	}
	if c.ws {
		p = p[:min(len(p), c.left)]
	}
	n, err := c.r.Read(p)
	c.left -= n
	return n, err
}

func (c *client) head() (op byte, n int, err error) {
	var h [8]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return 0, 0, err
	}
	if h[0]&0xf0 != 0x80 || h[1]&0x80 != 0 {
		return 0, 0, fmt.Errorf("the server sent a frame that begins %x", h[:2])
	}
	op, n = h[0]&0x0f, int(h[1])
	switch n {
	case 126:
		_, err = io.ReadFull(c.r, h[:2])
		n = int(binary.BigEndian.Uint16(h[:2]))
	case 127:
		_, err = io.ReadFull(c.r, h[:8])
		n = int(binary.BigEndian.Uint64(h[:8]))
	}
	return op, n, err
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>9)
	}
	return b
}
