package conformance

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/lxzan/gws"
)

// link is one connection's bytes.
type link interface {
	io.ReadWriter
	Close() error
}

// dialLink connects over a transport.
func dialLink(s *server, transport string) (link, error) {
	address := s.addresses[map[string]string{overTCP: "mqtt", overTLS: "mqtts", overWSS: "wss"}[transport]]
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil || transport == overTCP {
		return conn, err
	}
	config := s.tls.Clone()
	config.ServerName = "127.0.0.1"
	secure := tls.Client(conn, config)
	if err := secure.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := secure.Handshake(); err != nil {
		conn.Close()
		return nil, err
	}
	if transport == overTLS {
		return secure, secure.SetDeadline(time.Time{})
	}
	w := &webLink{conn: conn}
	w.r, w.w = io.Pipe()
	w.ws, _, err = gws.NewClientFromConn(w, &gws.ClientOption{
		Addr: "wss://" + address + "/mqtt", RequestHeader: http.Header{"Sec-Websocket-Protocol": {"mqtt"}},
	}, secure)
	if err != nil {
		conn.Close()
		return nil, err
	}
	go w.ws.ReadLoop()
	return w, secure.SetDeadline(time.Time{})
}

// maxMessage is the largest WebSocket message that is sent: one of more than 64 KiB before log-in is not taken, whatever is in it.
const maxMessage = 16 << 10

// webLink is MQTT over WebSocket: each write is a message, or several.
type webLink struct {
	gws.BuiltinEventHandler
	conn net.Conn
	ws   *gws.Conn
	r    *io.PipeReader
	w    *io.PipeWriter
}

func (w *webLink) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	if m.Opcode != gws.OpcodeBinary { // [MQTT-6.0.0-1]
		w.w.CloseWithError(errText)
		return
	}
	w.w.Write(m.Bytes()) //nolint:errcheck // the reader has gone
}

func (w *webLink) OnClose(*gws.Conn, error) { w.w.Close() }

func (w *webLink) Read(b []byte) (int, error) { return w.r.Read(b) }

func (w *webLink) Write(b []byte) (int, error) {
	for part := range slices.Chunk(b, maxMessage) {
		if err := w.ws.WriteMessage(gws.OpcodeBinary, part); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (w *webLink) Close() error {
	w.r.Close()
	return w.conn.Close()
}
