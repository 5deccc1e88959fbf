package scenario

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cloudsignal/internal/broker"
	"cloudsignal/internal/mqtt"
)

// TestClientThatDoesNotRead: what a client causes and does not read is not kept without bound: it is not read any more
// itself, until it reads. Nothing is lost.
func TestClientThatDoesNotRead(t *testing.T) {
	const pings = 2 << 20 // each is answered by as many bytes as it has
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, noPacketRate)
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
		w.close()
	})
}

// TestClientThatDoesNotReadAndLeaves: the reader of such a client waits for room; when the client is gone it must not wait
// for ever, and the will is published.
func TestClientThatDoesNotReadAndLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, noPacketRate)
		w.organization("acme", []string{"ann"}, nil)
		connect := func(id string, will bool) *client {
			c := dial(w.broker, mqtt.V5, true, format)
			p := mqtt.Connect{
				Version: mqtt.V5, CleanStart: true, KeepAlive: 5, ClientID: []byte(id), HasUsername: true,
				Username: []byte("ann@" + organizationID("acme")), HasPassword: true, Password: []byte(w.passwords["ann@acme"]),
			}
			if will {
				p.HasWill, p.WillTopic, p.WillPayload = true, []byte("will"), []byte("gone")
			} else {
				p.KeepAlive = 0
			}
			c.conn.Write(p.Append(nil, mqtt.V5)) //nolint:errcheck // no answer is an error below
			synctest.Wait()
			return c
		}
		witness, c := connect("witness", false), connect("leaver", true)
		s := mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte("will")}}}
		witness.conn.Write(s.Append(nil, mqtt.V5)) //nolint:errcheck // as above
		synctest.Wait()
		witness.taken()
		c.pause(true)
		c.running.Go(func() {
			chunk := bytes.Repeat([]byte{0xc0, 0}, 32<<10)
			for {
				if _, err := c.conn.Write(chunk); err != nil {
					return
				}
			}
		})
		synctest.Wait()
		c.conn.Close()
		c.pause(false)
		synctest.Wait()
		if got := witness.taken(); len(got) != 1 || got[0] != "PUBLISH topic=will payload=gone" {
			t.Errorf("the witness got %q", got)
		}
		if n := w.broker.Stats().Connections; n != 1 {
			t.Errorf("%d connections are left, want one", n)
		}
		witness.conn.Close()
		c.running.Wait()
		witness.running.Wait()
		w.close()
	})
}

// noPacketRate lets a client send PINGREQ as fast as it can: the bound of what waits to be written is what is tested.
func noPacketRate(cfg *broker.Config) { cfg.Limits.PacketRate = 0 }
