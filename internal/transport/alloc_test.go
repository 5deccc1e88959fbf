//go:build !race

package transport

import (
	"io"
	"net"
	"testing"
)

// The race detector makes sync.Pool forget, so this is measured without it.
func TestWritesDoNotAllocate(t *testing.T) {
	l, peers := serve(t, Config{Kind: MQTT}, nil)
	c := dial(t, l)
	p := await(t, peers, "the connection")
	drained := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c.Conn)
		drained <- err
	}()
	b := []byte("some bytes")
	if n := testing.AllocsPerRun(1000, func() { p.TryWrite(b) }); n != 0 {
		t.Errorf("TryWrite: %v", n)
	}
	vec := make(net.Buffers, 2)
	if n := testing.AllocsPerRun(1000, func() {
		vec = append(vec[:0], b, b)
		p.Write(vec)
	}); n != 0 {
		t.Errorf("Write: %v", n)
	}
	p.Shutdown()
	must(t, await(t, drained, "the end"))
}
