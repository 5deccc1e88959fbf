package script

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloudsignal/internal/client"
	"cloudsignal/internal/mqtt"
)

// attacker is a connection that does wrong things by hand.
type attacker struct {
	conn net.Conn
	r    *bufio.Reader
	web  bool
	rest []byte // of a WebSocket frame: whole packets
}

// target is the server under test and who may log in.
type target struct {
	t           *testing.T
	process     *process
	ready       ready
	credentials credentials
	trust       *tls.Config
}

func newTarget(t *testing.T, args ...string) *target {
	t.Helper()
	p, r, err := startServer(t.TempDir(), os.Environ(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	s := &target{t: t, process: p, ready: r, trust: &tls.Config{RootCAs: x509.NewCertPool()}}
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		t.Fatal(err)
	}
	s.trust.RootCAs.AppendCertsFromPEM(pem)
	c, err := readCredentials(r.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	s.credentials = c
	return s
}

func newAttacker(c net.Conn) *attacker {
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // then what follows fails too
	return &attacker{conn: c, r: bufio.NewReader(c)}
}

func (s *target) dial(listener string) (*attacker, error) {
	var c net.Conn
	var err error
	if listener == "mqtt" {
		c, err = net.Dial("tcp", s.ready.Addresses[listener])
	} else {
		c, err = tls.Dial("tcp", s.ready.Addresses[listener], s.trust)
	}
	if err != nil {
		return nil, err
	}
	a := newAttacker(c)
	if a.web = listener == "wss"; a.web {
		// An offer of compression is declined: frames that are compressed are an error, and there is nothing to inflate.
		_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
		r, err := http.ReadResponse(a.r, nil)
		if err != nil || r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Sec-WebSocket-Extensions") != "" {
			return nil, fmt.Errorf("upgrade: %v %w", r, err)
		}
	}
	return a, nil
}

// send writes bytes, on WebSocket as one binary message.
func (a *attacker) send(b []byte) error {
	if a.web {
		b = append(frameHeader(2, uint64(len(b))), b...) // a mask of zeros leaves the payload as it is
	}
	_, err := a.conn.Write(b)
	return err
}

// frameHeader is a WebSocket header of a final, masked frame that announces n bytes.
func frameHeader(opcode byte, n uint64) []byte {
	h := []byte{0x80 | opcode, 0x80 | 127}
	h = binary.BigEndian.AppendUint64(h, n)
	return append(h, 0, 0, 0, 0)
}

// login connects as the agent.
func (s *target) login(a *attacker, v mqtt.Version) error {
	u := s.credentials.Users[0]
	c := mqtt.Connect{
		Version: v, CleanStart: true, ClientID: fmt.Appendf(nil, "abuser-%p", a), HasUsername: true, Username: []byte(u.Username),
		HasPassword: true, Password: []byte(u.Password),
	}
	if err := a.send(c.Append(nil, v)); err != nil {
		return err
	}
	p, err := a.packet(v)
	if err != nil {
		return err
	}
	if ack, ok := p.(*mqtt.Connack); !ok || ack.Reason != mqtt.Success {
		return fmt.Errorf("log-in: %+v", p)
	}
	return nil
}

// packet reads the next packet; on WebSocket the next frame, whose close code is an error.
func (a *attacker) packet(v mqtt.Version) (mqtt.Packet, error) {
	if len(a.rest) > 0 {
		return a.next(v)
	}
	if a.web {
		h := make([]byte, 2)
		if _, err := io.ReadFull(a.r, h); err != nil {
			return nil, err
		}
		n := int(h[1])
		if n == 126 {
			var l [2]byte
			if _, err := io.ReadFull(a.r, l[:]); err != nil {
				return nil, err
			}
			n = int(binary.BigEndian.Uint16(l[:]))
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(a.r, b); err != nil {
			return nil, err
		}
		if h[0]&15 == 8 {
			return nil, closeCode(binary.BigEndian.Uint16(b))
		}
		a.rest = b
		return a.next(v)
	}
	head, err := a.r.Peek(2)
	if err != nil {
		return nil, err
	}
	if head[1] >= 0x80 {
		if head, err = a.r.Peek(3); err != nil {
			return nil, err
		}
	}
	h, n, err := mqtt.ReadHeader(head)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n+h.Length)
	if _, err := io.ReadFull(a.r, b); err != nil {
		return nil, err
	}
	return decode(v, b)
}

// next takes a packet from a frame.
func (a *attacker) next(v mqtt.Version) (mqtt.Packet, error) {
	h, n, err := mqtt.ReadHeader(a.rest)
	if err != nil || n+h.Length > len(a.rest) {
		return nil, fmt.Errorf("a packet that is not whole: %w", err)
	}
	b := a.rest[:n+h.Length]
	a.rest = a.rest[n+h.Length:]
	return decode(v, b)
}

type closeCode uint16

func (c closeCode) Error() string { return fmt.Sprintf("WebSocket close %d", uint16(c)) }

func decode(v mqtt.Version, b []byte) (mqtt.Packet, error) {
	h, n, err := mqtt.ReadHeader(b)
	if err != nil {
		return nil, err
	}
	d := mqtt.Decoder{Version: v}
	return d.Decode(h, b[n:n+h.Length])
}

// ended reads until the connection ends and says how: the reason of DISCONNECT or CONNACK, a WebSocket close code, or
// that it was closed.
func (a *attacker) ended(v mqtt.Version) string {
	why := "closed"
	for {
		p, err := a.packet(v)
		var code closeCode
		switch {
		case errors.As(err, &code):
			if why == "closed" {
				why = code.Error()
			}
			return why
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "still open"
		case err != nil:
			return why
		}
		switch p := p.(type) {
		case *mqtt.Disconnect:
			why = "DISCONNECT " + p.Reason.String()
		case *mqtt.Connack:
			why = "CONNACK " + p.Reason.String()
		case *mqtt.Suback:
			why = "SUBACK " + p.Reasons[0].String()
			return why
		case *mqtt.Ack:
			why = "ACK " + p.Reason.String()
			return why
		}
	}
}

func publish(p mqtt.Publish) []byte { return p.Append(nil, mqtt.V5) }

func connect(p mqtt.Connect) []byte { return p.Append(nil, p.Version) }

// abuses are what clients do wrong, and what they are told. Those with open have no end of their own: half a packet, then
// silence, is ended by its time limit (see the scenario keep_alive).
var abuses = []struct {
	name     string
	listener string
	login    bool
	bytes    []byte
	raw      bool // not as a WebSocket message
	want     string
	open     bool
	once     bool // one round is enough
}{
	{name: "wrong first packet", listener: "mqtts", bytes: publish(mqtt.Publish{Topic: []byte("a")}), want: "closed"},
	{name: "HTTP on the MQTT port", listener: "mqtts", bytes: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), want: "closed"},
	{name: "noise", listener: "mqtts", bytes: []byte(strings.Repeat("\x00\xff\x7f", 5000)), want: "closed"},
	{name: "1 byte of CONNECT", listener: "mqtts", bytes: []byte{0x10}, open: true},
	{name: "256 MB CONNECT announced", listener: "mqtts", bytes: append([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}, connect(mqtt.Connect{Version: mqtt.V5})[2:]...), want: "CONNACK Packet too large"},
	{name: "64 KB credentials", listener: "mqtts", bytes: connect(mqtt.Connect{
		Version: mqtt.V5, HasUsername: true, Username: []byte(strings.Repeat("u", 65535)),
		HasPassword: true, Password: []byte(strings.Repeat("p", 65535)),
	}), want: "CONNACK Packet too large"},
	{name: "64 KB credentials on 3.1.1", listener: "mqtts", bytes: connect(mqtt.Connect{
		Version: mqtt.V311, HasUsername: true, Username: []byte(strings.Repeat("u", 65535)),
		HasPassword: true, Password: []byte(strings.Repeat("p", 65535)),
	}), want: "closed"},
	{name: "60 KB user name", listener: "mqtts", bytes: connect(mqtt.Connect{
		Version: mqtt.V5, HasUsername: true, Username: []byte(strings.Repeat("u@", 30000)),
		HasPassword: true, Password: []byte("p"),
	}), want: "CONNACK Bad User Name or Password", once: true}, // more of them are too many failures
	{name: "bad UTF-8 in CONNECT", listener: "mqtts", bytes: connect(mqtt.Connect{Version: mqtt.V5, ClientID: []byte{0xc3, 0x28}}), want: "CONNACK Malformed Packet"},
	{name: "half a PUBLISH", listener: "mqtts", login: true, bytes: publish(mqtt.Publish{Topic: []byte("a"), Payload: make([]byte, 1<<20-100)})[:1<<19], open: true},
	{name: "256 MB PUBLISH announced", listener: "mqtts", login: true, bytes: []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, want: "DISCONNECT Packet too large"},
	{name: "2 MB PUBLISH", listener: "mqtts", login: true, bytes: publish(mqtt.Publish{Topic: []byte("a"), Payload: make([]byte, 2<<20)}), want: "DISCONNECT Packet too large"},
	{name: "bad UTF-8 in a topic", listener: "mqtts", login: true, bytes: publish(mqtt.Publish{Topic: []byte{'a', 0xff}}), want: "DISCONNECT Malformed Packet"},
	{name: "10,000 levels published", listener: "mqtts", login: true, bytes: publish(mqtt.Publish{QoS: 1, ID: 1, Topic: []byte(strings.Repeat("/", 9999))}), want: "ACK Topic Name invalid"},
	{
		name: "10,000 levels subscribed", listener: "mqtts", login: true, bytes: (&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte(strings.Repeat("+/", 9999))}}}).Append(nil, mqtt.V5),
		want: "SUBACK Topic Filter invalid",
	},
	{name: "10,000 filters", listener: "mqtts", login: true, bytes: manyFilters(10_000), want: "DISCONNECT Quota exceeded"},
	{name: "malformed packet", listener: "mqtts", login: true, bytes: []byte{0x36, 0x02, 0x00, 0x00}, want: "DISCONNECT Malformed Packet"},
	{name: "second CONNECT", listener: "mqtts", login: true, bytes: connect(mqtt.Connect{Version: mqtt.V5}), want: "DISCONNECT Protocol Error"},
	{name: "wrong first packet on WSS", listener: "wss", bytes: publish(mqtt.Publish{Topic: []byte("a")}), want: "WebSocket close 1000"},
	{name: "frame of 1 GB announced before log-in", listener: "wss", raw: true, bytes: frameHeader(2, 1<<30), want: "WebSocket close 1009"},
	{name: "frame of 1 GB announced", listener: "wss", login: true, raw: true, bytes: frameHeader(2, 1<<30), want: "WebSocket close 1009"},
	{name: "text frame", listener: "wss", login: true, raw: true, bytes: append(frameHeader(1, 2), "hi"...), want: "WebSocket close 1003"},
	{name: "frame without a mask", listener: "wss", login: true, raw: true, bytes: []byte{0x82, 0x02, 0xc0, 0x00}, want: "WebSocket close 1002"},
	{name: "compressed frame", listener: "wss", login: true, raw: true, bytes: append([]byte{0xc2, 0x82, 0, 0, 0, 0}, 0xc0, 0x00), want: "WebSocket close 1002"},
	{name: "half a frame", listener: "wss", login: true, raw: true, bytes: append(frameHeader(2, 1<<20), publish(mqtt.Publish{Topic: []byte("a"), Payload: make([]byte, 1<<20-100)})[:1<<19]...), open: true},
	{name: "malformed packet on WSS", listener: "wss", login: true, bytes: []byte{0x36, 0x02, 0x00, 0x00}, want: "DISCONNECT Malformed Packet"},
}

func manyFilters(n int) []byte {
	s := mqtt.Subscribe{ID: 1}
	for i := range n {
		s.Subscriptions = append(s.Subscriptions, mqtt.Subscription{Filter: fmt.Appendf(nil, "f/%d", i)})
	}
	return s.Append(nil, mqtt.V5)
}

// TestAbuse: every abuse is answered as it should be, many times at once; the server's memory stays below memoryCap, and
// a bystander's messages arrive, each once and in order.
func TestAbuse(t *testing.T) {
	s := newTarget(t)
	stop := make(chan struct{})
	bystander := s.bystander(stop)
	for _, abuse := range abuses {
		t.Run(abuse.name, func(t *testing.T) {
			for round := range 4 {
				if round > 0 && abuse.once {
					break
				}
				s.abuse(t, abuse.listener, 50, func(a *attacker) error {
					if abuse.login {
						if err := s.login(a, mqtt.V5); err != nil {
							return err
						}
					}
					if abuse.raw {
						_, _ = a.conn.Write(abuse.bytes)
					} else {
						_ = a.send(abuse.bytes) // the server may close before it has all
					}
					if abuse.open {
						return nil
					}
					if got := a.ended(mqtt.V5); got != abuse.want {
						return fmt.Errorf("the end was %q, want %q", got, abuse.want)
					}
					return nil
				})
			}
			if peak := s.peakMemory(); peak > memoryCap {
				t.Errorf("peak memory is %d MiB, above the cap of %d MiB", peak>>20, memoryCap>>20)
			}
		})
	}
	close(stop)
	if n, err := bystander(); err != nil || n == 0 {
		t.Errorf("the bystander got %d messages: %v", n, err)
	} else {
		t.Logf("the bystander got %d messages", n)
	}
	if err := s.process.terminate(); err != nil {
		t.Errorf("the server did not end well: %v\n%s", err, s.process.stderr)
	}
	if log := s.process.stderr.String(); strings.Contains(log, "panic") || strings.Contains(log, s.credentials.Users[0].Password) {
		t.Error("the log holds a panic or a password")
	}
}

// abuse runs f with n connections at once; they are closed when all are done.
func (s *target) abuse(t *testing.T, listener string, n int, f func(*attacker) error) {
	t.Helper()
	errs := make(chan error, n)
	var all, done sync.WaitGroup
	done.Add(1)
	for range n {
		all.Go(func() {
			a, err := s.dial(listener)
			if err == nil {
				defer a.conn.Close()
				err = f(a)
			}
			errs <- err
			done.Wait()
		})
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	done.Done()
	all.Wait()
}

// dialClient connects as one of the users.
func (s *target) dialClient(user int) *client.Client {
	s.t.Helper()
	u := s.credentials.Users[user]
	c, err := client.Dial(context.Background(), client.Options{
		Target: client.Target{URL: &url.URL{Scheme: "mqtts", Host: s.ready.Addresses["mqtts"]}, TLS: s.trust},
		Connect: mqtt.Connect{
			Version: mqtt.V5, CleanStart: true, HasUsername: true, Username: []byte(u.Username),
			HasPassword: true, Password: []byte(u.Password),
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// bystander publishes and receives messages until stop; what it returns waits for the end and says how many came.
func (s *target) bystander(stop <-chan struct{}) func() (int, error) {
	ctx := context.Background()
	agent, dashboard := s.dialClient(0), s.dialClient(1)
	if _, err := dashboard.Subscribe(ctx, &mqtt.Subscribe{Subscriptions: []mqtt.Subscription{{Filter: []byte("agents/#"), QoS: 2}}}); err != nil {
		s.t.Fatal(err)
	}
	result := make(chan error, 1)
	n := 0
	go func() {
		defer agent.Close()
		defer dashboard.Close()
		for {
			select {
			case <-stop:
				result <- nil
				return
			default:
			}
			want := strconv.Itoa(n)
			p := &mqtt.Publish{Topic: []byte("agents/agent-01/tick"), Payload: []byte(want), QoS: mqtt.QoS(n % 3)}
			if r, err := agent.Publish(ctx, p); err != nil || r != mqtt.Success {
				result <- fmt.Errorf("message %d: %s %w", n, r, err)
				return
			}
			if m, ok := <-dashboard.Messages(); !ok || string(m.Payload) != want {
				result <- fmt.Errorf("message %d: got %+v: %w", n, m, dashboard.Err())
				return
			}
			n++
		}
	}()
	return func() (int, error) {
		err := <-result
		return n, err
	}
}

// peakMemory is the most resident memory that the server had since it was last asked.
func (s *target) peakMemory() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	reset := fmt.Sprintf("/proc/%d/clear_refs", s.process.cmd.Process.Pid)
	if err := os.WriteFile(reset, []byte("5"), 0); err != nil {
		s.t.Fatal(err)
	}
	return kb << 10
}
