package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"
)

// ending reads until the server has ended the connection and returns the bytes that came and the close code.
func (c *client) ending(t testing.TB) ([]byte, int) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %q and close code %d: %v", got, c.code, err)
	}
	return got, c.code
}

func (c *client) raw(t testing.TB, b ...[]byte) {
	t.Helper()
	_, err := c.Conn.Write(bytes.Join(b, nil))
	must(t, err)
}

// A packet may be split over frames and a frame may hold several; TCP may cut both anywhere.
func TestFramesSplitAndJoined(t *testing.T) {
	stream := slices.Concat(
		frame(0x82, "one"), frame(0x82, ""), frame(0x82, "two and three"),
		frame(0x02, "be"), frame(0x89, "are you there"), frame(0x00, "tw"), frame(0x8a, "unasked"), frame(0x80, "een"),
		frame(0x02, ""), frame(0x80, ""), frame(0x82, string(pattern(200))), frame(0x82, string(pattern(70_000)[:60_000])),
	)
	want := "onetwo and threebetween" + string(pattern(200)) + string(pattern(60_000))
	for _, kind := range []Kind{WS, WSS} {
		for _, step := range []int{1, 2, 7, 511, len(stream)} {
			t.Run(fmt.Sprintf("%s/%d", kind, step), func(t *testing.T) {
				var got []byte
				l, peers := serve(t, Config{Kind: kind}, func(_ *peer, b []byte) error { got = append(got, b...); return nil })
				c := dial(t, l)
				p := await(t, peers, "the connection")
				sent := stream
				if step == 1 {
					sent = stream[:400] // and the rest in one piece
				}
				for part := range slices.Chunk(sent, step) {
					c.raw(t, part)
				}
				c.raw(t, stream[len(sent):], frame(0x88, "\x03\xe8"))
				if _, code := c.ending(t); code != 1000 {
					t.Errorf("closed with %d", code)
				}
				c.Close()
				if err := await(t, p.closed, "Closed"); err != io.EOF {
					t.Errorf("closed by %v", err)
				}
				if string(got) != want {
					t.Errorf("%d bytes were fed, not the %d that were sent", len(got), len(want))
				}
			})
		}
	}
}

func TestPing(t *testing.T) {
	for _, kind := range []Kind{WS, WSS} {
		l, _ := serve(t, Config{Kind: kind}, echo)
		c := dial(t, l)
		for _, payload := range []string{"", "x", strings.Repeat("p", 125)} {
			c.raw(t, frame(0x89, payload))
			op, n, err := c.head()
			must(t, err)
			got := make([]byte, n)
			_, err = io.ReadFull(c.r, got)
			must(t, err)
			if op != 10 || string(got) != payload {
				t.Errorf("%s: ping %q was answered by %d %q", kind, payload, op, got)
			}
		}
		// One that waits for its pongs late gets the last of them, between messages.
		for range 1000 {
			c.raw(t, frame(0x89, "early"))
		}
		c.raw(t, frame(0x89, "last"), frame(0x82, "data"))
		got := make([]byte, 4)
		_, err := io.ReadFull(c, got)
		must(t, err)
		if string(got) != "data" {
			t.Errorf("%s: got %q", kind, got)
		}
		c.raw(t, frame(0x88, ""))
		c.ending(t)
	}
}

func TestFramesThatEndTheConnection(t *testing.T) {
	announce := func(first byte, n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{first, 0xff}, n), 1, 2, 3, 4)
	}
	tests := []struct {
		name string
		sent []byte
		code int
	}{
		{"text", frame(0x81, "hello"), 1003},
		{"text, fragmented", frame(0x01, "hello"), 1003},
		{"announces 1 GB", announce(0x82, 1<<30), 1009},
		{"announces 2^63 + 1", announce(0x82, 1<<63+1), 1009},
		{"announces too much in a fragment", slices.Concat(frame(0x02, "12345"), announce(0x80, 1<<64-1)), 1009},
		{"many fragments", slices.Concat(frame(0x02, string(make([]byte, 600))), frame(0x80, string(make([]byte, 425)))), 1009},
		{"one more than allowed", frame(0x82, string(make([]byte, 1025))), 1009},
		{"not masked", []byte("\x82\x04keyxdata"), 1002}, // were the bit not looked at, all would be well
		{"reserved bit: compressed", frame(0xc2, "x"), 1002},
		{"reserved bit of a ping", frame(0x99, "x"), 1002},
		{"unknown data opcode", frame(0x83, "x"), 1002},
		{"unknown control opcode", frame(0x8b, "x"), 1002},
		{"fragmented ping", frame(0x09, "x"), 1002},
		{"long ping", frame(0x89, strings.Repeat("x", 126)), 1002},
		{"continuation of nothing", frame(0x80, "x"), 1002},
		{"continuation after the end", slices.Concat(frame(0x82, ""), frame(0x80, "x")), 1002},
		{"message in a message", slices.Concat(frame(0x02, ""), frame(0x82, "x")), 1002},
		{"close", frame(0x88, ""), 1000},
		{"close with code", frame(0x88, "\x03\xe9going away"), 1001},
		{"close with an application's code", frame(0x88, "\x0f\xa0"), 4000},
		{"close in a message", slices.Concat(frame(0x02, ""), frame(0x88, "\x03\xe8")), 1000},
		{"close with half a code", frame(0x88, "\x03"), 1002},
		{"close with a code nobody sends", frame(0x88, "\x03\xed"), 1002},
		{"close with a text that is no text", frame(0x88, "\x03\xe8\xff"), 1007},
	}
	for _, kind := range []Kind{WS, WSS} {
		l, peers := serve(t, Config{Kind: kind, MaxMessageBeforeLogin: 1024}, nil)
		for _, tt := range tests {
			t.Run(string(kind)+"/"+tt.name, func(t *testing.T) {
				c := dial(t, l)
				p := await(t, peers, "the connection")
				c.raw(t, frame(0x82, "before"), tt.sent, frame(0x82, "after"))
				if got, code := c.ending(t); len(got) > 0 || code != tt.code {
					t.Errorf("got %q and the code %d, not %d", got, code, tt.code)
				}
				c.Close()
				err := await(t, p.closed, "Closed")
				if byClient := strings.HasPrefix(tt.name, "close"); byClient != (err == io.EOF) {
					t.Errorf("closed by %v", err)
				}
				close(p.fed)
				var fed []byte
				for b := range p.fed {
					fed = append(fed, b...)
				}
				// Of a message that becomes too long by a later fragment the start has been fed.
				if s := string(fed); !strings.HasPrefix(s, "before") || strings.Contains(s, "after") {
					t.Errorf("fed %q", s)
				}
			})
		}
	}
}

func TestMessageLimitRisesAtLogin(t *testing.T) {
	var got int
	l, peers := serve(t, Config{Kind: WS, DiscardBytes: 4 << 20, MaxMessage: 1<<20 + 64<<10}, func(p *peer, b []byte) error {
		if got == 0 {
			p.LoggedIn()
		}
		got += len(b)
		return nil
	})
	before, after := 64<<10, 1<<20+64<<10
	c := dial(t, l)
	p := await(t, peers, "the connection")
	c.raw(t, frame(0x82, string(make([]byte, before))), frame(0x82, string(make([]byte, after))), frame(0x88, ""))
	if _, code := c.ending(t); code != 1000 || got != before+after {
		t.Errorf("%d bytes, then the code %d", got, code)
	}
	c.Close()
	await(t, p.closed, "Closed")
	for _, login := range []bool{false, true} {
		got = 1 // Feed does not log in
		limit := before
		c := dial(t, l)
		p := await(t, peers, "the connection")
		if login {
			p.LoggedIn()
			limit = after
		}
		c.raw(t, frame(0x82, string(make([]byte, limit+1))))
		if _, code := c.ending(t); code != 1009 || got != 1 {
			t.Errorf("login %v: %d bytes, then the code %d", login, got-1, code)
		}
		c.Close()
		await(t, p.closed, "Closed")
	}
}

// A header costs 14 bytes to send; it must not cost what it announces, be that allowed or not.
func TestAnnouncedLengthTakesNoMemory(t *testing.T) {
	const clients, bound = 50, 16 << 10 // bytes for each
	l, peers := serve(t, Config{Kind: WS}, nil)
	header := func(first byte, n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{first, 0xff}, n), 0, 0, 0, 0)
	}
	var all []*client
	var servers []*peer
	for range clients {
		all = append(all, dial(t, l))
		servers = append(servers, await(t, peers, "the connection"))
		servers[len(servers)-1].LoggedIn()
	}
	var start, allowed, end runtime.MemStats
	runtime.ReadMemStats(&start)
	for i, c := range all {
		c.raw(t, header(0x02, 1<<20), []byte("x")) // and the rest of the message never comes
		servers[i].until(t, 1)
	}
	runtime.ReadMemStats(&allowed)
	if took := allowed.TotalAlloc - start.TotalAlloc; took > clients*bound {
		t.Errorf("an allowed frame's header took %d bytes", took/clients)
	}
	all, servers = nil, nil
	for range clients {
		all = append(all, dial(t, l))
		servers = append(servers, await(t, peers, "the connection"))
	}
	runtime.ReadMemStats(&start)
	for _, c := range all {
		c.raw(t, header(0x82, 1<<30))
		if _, code := c.ending(t); code != 1009 {
			t.Errorf("closed with %d", code)
		}
		c.Close()
	}
	for _, p := range servers {
		await(t, p.closed, "Closed")
	}
	runtime.ReadMemStats(&end)
	if took := end.TotalAlloc - start.TotalAlloc; took > clients*bound {
		t.Errorf("a refused frame's header took %d bytes", took/clients)
	}
}

func TestUpgradeRefused(t *testing.T) {
	tests := []struct {
		name, request string
		status        int
		says          string
		why           Failure
	}{
		{"browser", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "connect with an MQTT client over WebSocket", FailedUpgrade},
		{"old HTTP", request("GET / HTTP/1.0"), 426, "connect with an MQTT client over WebSocket", FailedUpgrade},
		{"no upgrade", request("GET / HTTP/1.1", "Upgrade:"), 426, "connect with", FailedUpgrade},
		{"no connection", request("GET / HTTP/1.1", "Connection: keep-alive"), 426, "connect with", FailedUpgrade},
		{"version", request("GET / HTTP/1.1", "Sec-WebSocket-Version: 8"), 426, "must be 13", FailedUpgrade},
		{"no key", request("GET / HTTP/1.1", "Sec-WebSocket-Key:"), 400, "Sec-WebSocket-Key", FailedUpgrade},
		{"short key", request("GET / HTTP/1.1", "Sec-WebSocket-Key: c2hvcnQ="), 400, "Sec-WebSocket-Key", FailedUpgrade},
		{"POST", request("POST / HTTP/1.1"), 405, "GET", FailedUpgrade},
		{"path", request("GET /other HTTP/1.1"), 404, "/mqtt", FailedPath},
		{"no subprotocol", request("GET / HTTP/1.1", "Sec-WebSocket-Protocol:"), 400, "subprotocol mqtt", FailedSubprotocol},
		{"other subprotocols", request("GET / HTTP/1.1", "Sec-WebSocket-Protocol: chat, mqttv5"), 400, "subprotocol mqtt", FailedSubprotocol},
		{"not HTTP", "\x10\x0c\x00\x04MQTT\r\n\r\n", 400, "not an HTTP request", FailedHTTP},
		{"too long", request("GET / HTTP/1.1", "Origin: "+strings.Repeat("x", 9000)), 431, "8192", FailedHTTP},
	}
	for _, kind := range []Kind{WS, WSS} {
		l, peers := serve(t, Config{Kind: kind}, nil)
		for _, tt := range tests {
			t.Run(string(kind)+"/"+tt.name, func(t *testing.T) {
				before := l.Stats().HandshakeFailed[tt.why]
				c := dialRaw(t, l)
				_, err := io.WriteString(c, tt.request)
				must(t, err)
				r := bufio.NewReader(c)
				res, err := http.ReadResponse(r, nil)
				must(t, err)
				body, err := io.ReadAll(res.Body)
				must(t, err)
				if res.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
					t.Errorf("%s: %s", res.Status, body)
				}
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("after the answer: %v", err)
				}
				if n := l.Stats().HandshakeFailed[tt.why]; n != before+1 {
					t.Errorf("counted %d of %s", n-before, tt.why)
				}
			})
		}
		if len(peers) > 0 {
			t.Errorf("%s: a refused connection was accepted", kind)
		}
	}
}

func TestUpgradeAccepted(t *testing.T) {
	l, _ := serve(t, Config{Kind: WS}, echo)
	for want, requests := range map[string][]string{
		"mqtt": {
			request("GET / HTTP/1.1"), request("GET /mqtt HTTP/1.1"), request("GET /mqtt?x=y HTTP/1.1"),
			request("GET / HTTP/1.1", "Sec-WebSocket-Protocol: mqttv3.1,other , mqtt"),
			request("GET / HTTP/1.1", "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: mqtt"),
			request("GET / HTTP/1.1", "Upgrade: WebSocket", "Connection: UPGRADE"),
			request("GET / HTTP/1.1", "Origin: null\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
		},
		"mqttv3.1": {request("GET / HTTP/1.1", "Sec-WebSocket-Protocol: mqttv3.1")},
	} {
		for _, req := range requests {
			c := &client{Conn: dialRaw(t, l), ws: true}
			c.r = bufio.NewReader(c.Conn)
			c.raw(t, []byte(req), frame(0x82, "at once")) // what comes with the request is not lost
			res, err := http.ReadResponse(c.r, nil)
			must(t, err)
			if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Protocol") != want {
				t.Fatalf("%q was answered %v", req, res)
			}
			if a := res.Header.Get("Sec-WebSocket-Accept"); a != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455, 1.3
				t.Errorf("Sec-WebSocket-Accept: %s", a)
			}
			if e := res.Header.Values("Sec-WebSocket-Extensions"); len(e) > 0 {
				t.Errorf("extensions %q were agreed", e)
			}
			got := make([]byte, 7)
			_, err = io.ReadFull(c, got)
			must(t, err)
			if string(got) != "at once" {
				t.Errorf("got %q", got)
			}
			c.Close()
		}
	}
}

// gwsClient is somebody else's WebSocket client.
type gwsClient struct {
	gws.BuiltinEventHandler
	got    chan []byte
	pong   chan string
	closed chan error
}

func (g *gwsClient) OnMessage(_ *gws.Conn, m *gws.Message) {
	g.got <- bytes.Clone(m.Bytes())
	m.Close() //nolint:errcheck // it gives a buffer back
}
func (g *gwsClient) OnPong(_ *gws.Conn, b []byte)   { g.pong <- string(b) }
func (g *gwsClient) OnClose(_ *gws.Conn, err error) { g.closed <- err }

func TestAnotherImplementation(t *testing.T) {
	for _, kind := range []Kind{WS, WSS} {
		l, peers := serve(t, Config{Kind: kind}, echo)
		g := &gwsClient{got: make(chan []byte, 100), pong: make(chan string, 1), closed: make(chan error, 1)}
		c, res, err := gws.NewClient(g, &gws.ClientOption{
			Addr: string(kind) + "://" + l.Addr().String() + "/mqtt", TlsConfig: clientTLS(t), HandshakeTimeout: patience,
			RequestHeader:     http.Header{"Sec-WebSocket-Protocol": {"mqtt"}},
			PermessageDeflate: gws.PermessageDeflate{Enabled: true}, ReadMaxPayloadSize: 1 << 20,
		})
		must(t, err)
		if res.Header.Get("Sec-WebSocket-Protocol") != "mqtt" || res.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("agreed: %v", res.Header)
		}
		go c.ReadLoop()
		p := await(t, peers, "the connection")
		p.LoggedIn()
		for _, n := range []int{1, 125, 126, 65_535, 65_536, 1 << 20} {
			want := pattern(n)
			must(t, c.WriteMessage(gws.OpcodeBinary, want))
			var got []byte
			for len(got) < n {
				got = append(got, await(t, g.got, "a message")...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as others", n)
			}
		}
		must(t, c.WritePing([]byte("there?")))
		if s := await(t, g.pong, "a pong"); s != "there?" {
			t.Errorf("pong %q", s)
		}
		must(t, p.Write(net.Buffers{[]byte("last words")}))
		p.Shutdown()
		if s := await(t, g.got, "the last words"); string(s) != "last words" {
			t.Errorf("last came %q", s)
		}
		if e, ok := await(t, g.closed, "the end").(*gws.CloseError); !ok || e.Code != 1000 {
			t.Errorf("closed by %v", e)
		}
		c.NetConn().Close() //nolint:errcheck // it is over
		await(t, p.closed, "Closed")
	}
}

// A close frame waits behind a Write to a peer that does not read, but not longer than DiscardTime.
func TestProtocolErrorOfAPeerThatDoesNotRead(t *testing.T) {
	for _, kind := range []Kind{WS, WSS} {
		l, peers := serve(t, Config{Kind: kind, DiscardTime: 50 * time.Millisecond}, nil)
		c := dial(t, l)
		p := await(t, peers, "the connection")
		ended := make(chan error, 1)
		go func() {
			for {
				if err := p.Write(net.Buffers{make([]byte, 1<<20)}); err != nil {
					ended <- err
					return
				}
			}
		}()
		c.raw(t, frame(0x81, "text"))
		start := time.Now()
		await(t, p.closed, "Closed")
		await(t, ended, "the write's end")
		if took := time.Since(start); took > 4*time.Second { // crypto/tls would give close_notify 5 s
			t.Errorf("%s: it took %v", kind, took)
		}
	}
}

// The log-in may be in the first frame of a read, and a frame that only its limit allows behind it in the same read.
func TestMessageLimitRisesWithinARead(t *testing.T) {
	var got int
	l, peers := serve(t, Config{Kind: WS}, func(p *peer, b []byte) error {
		if got == 0 {
			p.LoggedIn()
		}
		got += len(b)
		return nil
	})
	c := dial(t, l)
	p := await(t, peers, "the connection")
	large := string(make([]byte, 100<<10))
	c.raw(t, append(append(frame(0x82, "log-in"), frame(0x82, large)...), frame(0x88, "")...))
	if _, code := c.ending(t); code != 1000 || got != len("log-in")+len(large) {
		t.Errorf("%d bytes, then the code %d", got, code)
	}
	c.Close()
	await(t, p.closed, "Closed")
}
