package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/lxzan/gws"

	"cloudsignal/internal/mqtt"
)

// writeTimeout is how long one write may take before the connection is given up.
const writeTimeout = 30 * time.Second

// Target is where to connect: a URL of scheme mqtt, mqtts, ws or wss, and for the encrypted ones whom to trust.
type Target struct {
	URL *url.URL
	TLS *tls.Config // nil: the system's authorities
}

// ParseURL checks an address: mqtt://HOST[:1883], mqtts://HOST[:8883], ws://HOST[:PORT]/PATH or wss://HOST[:18885]/PATH.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, errors.New("url: want mqtts://HOST:PORT or wss://HOST:PORT/")
	}
	port, ok := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "18885"}[u.Scheme]
	switch {
	case !ok:
		return nil, fmt.Errorf("url: scheme %q is not one of mqtt, mqtts, ws, wss", u.Scheme)
	case u.User != nil:
		return nil, errors.New("url: credentials do not belong into an address; give them by themselves")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// link carries the bytes of one connection.
type link interface {
	// read hands over bytes as they come until the connection ends or take fails.
	read(take func([]byte) error) error
	write(b []byte) error
	closeWrite() // says that nothing more will be written
	close()
}

func (t *Target) dial(ctx context.Context) (link, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", t.URL.Host)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", t.URL.Host, err)
	}
	web := t.URL.Scheme == "ws" || t.URL.Scheme == "wss"
	if t.URL.Scheme == "mqtts" || t.URL.Scheme == "wss" {
		cfg := &tls.Config{}
		if t.TLS != nil {
			cfg = t.TLS.Clone()
		}
		cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
		if cfg.ServerName == "" {
			cfg.ServerName = t.URL.Hostname()
		}
		if web {
			cfg.NextProtos = []string{"http/1.1"}
		}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close() //nolint:errcheck // the handshake's error says it all
			return nil, fmt.Errorf("TLS with %s: %w", t.URL.Host, err)
		}
		conn = secure
	}
	if web {
		return dialWeb(ctx, t.URL, conn)
	}
	return &stream{conn}, nil
}

// stream is MQTT over TCP or TLS.
type stream struct{ conn net.Conn }

func (s *stream) read(take func([]byte) error) error {
	b := make([]byte, 32<<10)
	for {
		n, err := s.conn.Read(b)
		if n > 0 {
			if err := take(b[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

func (s *stream) closeWrite() {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() //nolint:errcheck // the connection is closed next
	}
}

func (s *stream) close() { s.conn.Close() } //nolint:errcheck // nothing is left to be done about it

// web is MQTT over WebSocket: one message per packet out, any division in.
type web struct {
	gws.BuiltinEventHandler
	ws   *gws.Conn
	take func([]byte) error
	err  error
}

func dialWeb(ctx context.Context, u *url.URL, conn net.Conn) (link, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it only ends the handshake
	defer stop()
	w := &web{}
	//nolint:bodyclose // the body of an upgrade is the connection, which is closed
	ws, response, err := gws.NewClientFromConn(w, &gws.ClientOption{
		Addr:               u.String(),
		RequestHeader:      http.Header{"Sec-Websocket-Protocol": {"mqtt"}},
		ReadMaxPayloadSize: mqtt.MaxRemainingLength + 5,
	}, conn)
	if err != nil {
		conn.Close() //nolint:errcheck // the handshake's error says it all
		if response != nil {
			err = fmt.Errorf("%w (the server answered %s)", err, response.Status)
		}
		return nil, fmt.Errorf("WebSocket with %s: %w", u.Host, err)
	}
	if ws.SubProtocol() != "mqtt" { // [MQTT-6.0.0-3]
		conn.Close() //nolint:errcheck // it is not what we want
		return nil, fmt.Errorf("%s does not speak the subprotocol mqtt", u.Host)
	}
	w.ws = ws
	return w, nil
}

func (w *web) read(take func([]byte) error) error {
	w.take = take
	w.ws.ReadLoop()
	if w.err == nil {
		return io.EOF
	}
	return w.err
}

// OnMessage hands a message's bytes over.
func (w *web) OnMessage(ws *gws.Conn, m *gws.Message) {
	defer m.Close() //nolint:errcheck // it only gives the buffer back
	if w.err != nil {
		return
	}
	if w.err = w.take(m.Bytes()); w.err != nil {
		w.close()
	}
}

// OnClose keeps why it ended.
func (w *web) OnClose(_ *gws.Conn, err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *web) write(b []byte) error {
	if err := w.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return w.ws.WriteMessage(gws.OpcodeBinary, b)
}

func (w *web) closeWrite() { w.ws.WriteClose(1000, nil) } //nolint:errcheck // the connection is closed next

func (w *web) close() { w.ws.NetConn().Close() } //nolint:errcheck // nothing is left to be done about it
