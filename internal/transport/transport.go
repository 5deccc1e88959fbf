// Package transport listens for clients and moves their bytes: TCP, TLS, WebSocket and both together. It pushes what
// comes to a Handler and knows nothing of MQTT but that bytes flow.
//
// WebSocket is at the paths / and /mqtt, from any Origin, without compression. The client must offer the subprotocol
// mqtt [MQTT-6.0.0-3], or mqttv3.1, which clients older than the standard offer; one that offers others only, or none,
// is refused with 400. Every other request is refused with a 4xx that says how to connect.
package transport

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Kind is a way to reach the server. Its text is also the name of the setting that holds the address.
type Kind string

// The kinds of listeners.
const (
	MQTT  Kind = "mqtt"
	MQTTS Kind = "mqtts"
	WS    Kind = "ws"
	WSS   Kind = "wss"
)

func (k Kind) webSocket() bool { return k == WS || k == WSS }

// Handler receives one connection's bytes, in order, from one goroutine.
type Handler interface {
	// Feed takes what came. p is valid during the call only. It may block: nothing more is read meanwhile. After an
	// error nothing more is fed, and the connection ends: by the owner's Shutdown or Close (another goroutine may still
	// write the last packet), and without one when Config.DiscardTime is over.
	//
	// A Feed that blocks must return when the Handler's owner ends the connection; the transport cannot make it.
	Feed(p []byte) error
	// Closed is called once, after the last Feed, when the connection is over and before the socket is given back. err
	// is Feed's error, or why reading ended: io.EOF if the peer closed, net.ErrClosed after Shutdown or Close.
	Closed(err error)
}

// Conn is one connection. Write, TryWrite and Shutdown belong to one caller at a time; the rest may be called from any
// goroutine.
type Conn interface {
	// Write writes all of bufs under the write deadline. It consumes bufs' slice, not the bytes. On WebSocket it is one
	// binary message, or several if it is large. After an error only Close is of use.
	Write(bufs net.Buffers) error
	// TryWrite writes what the kernel takes at once. It returns 0, nil where it cannot try: on TLS and WebSocket.
	TryWrite(p []byte) (int, error)
	// Shutdown ends the connection politely and returns at once: what was written arrives, then come a WebSocket close
	// frame, TLS close_notify and FIN. What the peer still sends is discarded, so that no RST destroys the last packet;
	// after Config.DiscardTime the socket is closed whatever the peer does. No Feed begins any more.
	Shutdown()
	// Close closes the socket at once. A blocked Write, and the reading, end with an error.
	Close() error
	// RemoteAddr is the peer's address; an IPv4 address is never in its IPv6 form.
	RemoteAddr() netip.AddrPort
	// Kind is the listener's.
	Kind() Kind
	// LoggedIn lifts the limits that hold before log-in and gives the connection's pending slot back.
	LoggedIn()
}

// Config is what a Listener needs. Only Kind and Address, and TLS for the secure kinds, have no default.
type Config struct {
	Kind    Kind
	Address string // host:port; port 0 takes a free one
	// TLS is copied; the copy has at least TLS 1.2, and its NextProtos and GetConfigForClient are the listener's own.
	TLS *tls.Config

	HandshakeTimeout time.Duration // TLS and HTTP upgrade together; default 10 s
	WriteTimeout     time.Duration // one Write; default 30 s
	DiscardTime      time.Duration // from Shutdown to the close; default 2 s
	DiscardBytes     int           // read and thrown away after Shutdown; over it nothing is read; default 256 KiB

	// MaxMessage bounds one WebSocket message, in bytes; over it the close is 1009. Messages are not put together, so that
	// it costs no memory: it is there to end what cannot be meant. Default 64 MiB.
	MaxMessage            int
	MaxMessageBeforeLogin int // the same until LoggedIn; default 64 KiB
	// MaxPending bounds the connections in handshake or before LoggedIn; the MQTT CONNECT is a part of the handshake.
	// Over it the newest is closed at accept and counted. Default 4096.
	MaxPending int
	// MaxPendingPerAddress is the same for one address (IPv6: its /64), so that it cannot take all of them. Default: a quarter.
	MaxPendingPerAddress int

	Log *slog.Logger // default: nothing is logged
}

func (c *Config) setDefaults() {
	orDefault(&c.HandshakeTimeout, 10*time.Second)
	orDefault(&c.WriteTimeout, 30*time.Second)
	orDefault(&c.DiscardTime, 2*time.Second)
	orDefault(&c.DiscardBytes, 256<<10)
	orDefault(&c.MaxMessage, 64<<20)
	orDefault(&c.MaxMessageBeforeLogin, 64<<10)
	orDefault(&c.MaxPending, 4096)
	orDefault(&c.MaxPendingPerAddress, max(1, c.MaxPending/4))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Failure is why a connection ended in TLS or in the HTTP upgrade. Its text is fit for the label of a counter.
type Failure string

// The reasons of failed handshakes.
const (
	FailedTimeout     Failure = "timeout"     // not done within Config.HandshakeTimeout
	FailedClosed      Failure = "closed"      // the client left, or the listener was closed
	FailedNotTLS      Failure = "not_tls"     // no TLS at all, on a port that wants it
	FailedTLSVersion  Failure = "tls_version" // TLS older than 1.2
	FailedTLS         Failure = "tls"         // all else in TLS: the client does not trust the certificate, above all
	FailedHTTP        Failure = "http"        // what came is not HTTP, or its headers are too long
	FailedPath        Failure = "path"        // HTTP for another path than / and /mqtt
	FailedUpgrade     Failure = "upgrade"     // HTTP, but not a correct WebSocket upgrade
	FailedSubprotocol Failure = "subprotocol" // neither mqtt nor mqttv3.1 was offered
)

// failures are all reasons, in the order of Listener.failed.
var failures = [...]Failure{
	FailedTimeout, FailedClosed, FailedNotTLS, FailedTLSVersion, FailedTLS, FailedHTTP, FailedPath, FailedUpgrade, FailedSubprotocol,
}

// Stats counts what a Listener did since it was made.
type Stats struct {
	Accepted        uint64             // connections taken from the kernel, OverPending and OverAddress included
	OverPending     uint64             // closed at accept: MaxPending were there
	OverAddress     uint64             // closed at accept: MaxPendingPerAddress of the address were there
	HandshakeFailed map[Failure]uint64 // ended in TLS or in the HTTP upgrade; every reason is there
	AcceptFailed    uint64             // errors of accept itself, no file descriptors left above all
	Open            int                // connections now
	Pending         int                // of them in handshake or before log-in
}
