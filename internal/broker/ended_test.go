package broker

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"weak"

	"cloudsignal/internal/transport"
)

// mute is a network connection that takes everything and says nothing.
type mute struct{ transport.Conn }

func (mute) Shutdown()                  {}
func (mute) Close() error               { return nil }
func (mute) RemoteAddr() netip.AddrPort { return netip.AddrPort{} }
func (mute) Kind() transport.Kind       { return transport.MQTT }
func (mute) Write(net.Buffers) error    { return nil }
func (mute) TryWrite(p []byte) (int, error) {
	return len(p), nil
}

// A connection that has ended is garbage at once: a flood of short connections must not stay in memory until the timer
// wheel has gone round.
func TestEndedConnectionIsGarbage(t *testing.T) {
	b := newServer(t, nil).Broker
	ended := func() weak.Pointer[conn] {
		c := b.Accept(mute{}).(*conn)
		c.Closed(net.ErrClosed)
		return weak.Make(c)
	}()
	for range 10 {
		runtime.GC()
		if ended.Value() == nil {
			return
		}
	}
	t.Error("the connection is still reachable")
}
