package scenario

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cloudsignal/internal/mqtt"
)

// TestClientThatDoesNotRead: what a client causes and does not read is not kept without bound: it is not read any more
// itself, until it reads. Nothing is lost.
func TestClientThatDoesNotRead(t *testing.T) {
	const pings = 2 << 20 // each is answered by as many bytes as it has
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.organization("acme", []string{"ann"}, nil)
		var answers atomic.Int64
		c := dial(w.broker, mqtt.V5, true, func(p mqtt.Packet) string {
			if p.Kind() == mqtt.PINGRESP {
				answers.Add(1)
			}
			return ""
		})
		connect := mqtt.Connect{
			Version: mqtt.V5, CleanStart: true, ClientID: []byte("a"), HasUsername: true, Username: []byte("ann@" + organizationID("acme")),
			HasPassword: true, Password: []byte(w.passwords["ann@acme"]),
		}
		c.conn.Write(connect.Append(nil, mqtt.V5)) //nolint:errcheck // no answer is an error below
		synctest.Wait()
		c.pause(true)
		var sent atomic.Int64
		c.running.Go(func() {
			chunk := bytes.Repeat([]byte{0xc0, 0}, 1024)
			for range pings / 1024 {
				if n, err := c.conn.Write(chunk); err == nil {
					sent.Add(int64(n))
				}
			}
		})
		synctest.Wait()
		if n := sent.Load(); n >= 3<<20 || n < 1<<20 {
			t.Errorf("%d bytes were taken of a client that does not read", n)
		}
		c.pause(false)
		synctest.Wait()
		if n := answers.Load(); n != pings {
			t.Errorf("%d answers to %d pings", n, pings)
		}
		c.conn.Close()
		c.running.Wait()
		w.broker.Close()
	})
}
