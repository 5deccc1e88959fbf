package script

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"cloudsignal/internal/mqtt"
)

// slowly: connections that never come to their CONNECT, in each phase before it. The server ends them, in its time.
func slowly(x *stranger) error {
	hello := []byte{22, 3, 1, 2, 0, 1} // a ClientHello of 512 bytes begins
	return together(300, func(i int) error {
		listener := []string{"mqtts", "wss", "wss"}[i%3]
		c, err := x.from(listener)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // then what follows fails too
		w, r := io.Writer(c), io.Reader(c)
		began := hello
		if i%3 > 0 { // TLS is done, and a part of the upgrade or the CONNECT
			t, err := x.over(c)
			if err != nil {
				return err
			}
			w, r = t, t
			began = []byte("GET / HTTP/1.1\r\nHost: ")
		}
		if _, err := w.Write(began); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("a slow connection (%s) is still open", listener)
		}
		return nil
	})
}

// beforeLogin: more connections that say nothing than one address may have.
func beforeLogin(x *stranger) error {
	const many = 1500
	conns := make([]net.Conn, many)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := x.from("mqtts")
		if err != nil {
			return err
		}
		conns[i] = c
	}
	// Others get in meanwhile.
	return together(20, func(int) error {
		a, err := x.dial("mqtts")
		if err != nil {
			return fmt.Errorf("a bystander: %w", err)
		}
		defer a.conn.Close()
		return x.login(a, mqtt.V5)
	})
}

// neverReading: clients that subscribe to what they publish, and read nothing of it.
func neverReading(x *stranger) error {
	return together(4, func(i int) error {
		a, err := x.enter(mqtt.Connect{CleanStart: true})
		if err != nil {
			return err
		}
		topic := fmt.Appendf(nil, "own/%d", i)
		if err := a.send((&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: topic}}}).Append(nil, mqtt.V5)); err != nil {
			return err
		}
		return a.until(publish(mqtt.Publish{Topic: topic, Payload: make([]byte, 64<<10)}))
	})
}

// until sends b again and again until floodTime is over, or the server reads no more.
func (a *attacker) until(b []byte) error {
	a.conn.SetDeadline(time.Now().Add(floodTime)) //nolint:errcheck // then what follows fails too
	for {
		if err := a.send(b); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
}

// discard reads what comes until the connection ends.
func (a *attacker) discard() { io.Copy(io.Discard, a.r) } //nolint:errcheck // it ends by an error

func (x *stranger) each(n int, b []byte) error {
	return together(n, func(int) error {
		a, err := x.enter(mqtt.Connect{CleanStart: true})
		if err != nil {
			return err
		}
		go a.discard()
		return a.until(b)
	})
}

func pings(x *stranger) error { return x.each(20, []byte(strings.Repeat("\xc0\x00", 4000))) }

func subscribes(x *stranger) error { return x.each(3, bytes.Repeat(manyFilters(1), 500)) }

// retains: small messages, until the organization has as many as it may.
func retains(x *stranger) error {
	return together(4, func(i int) error {
		a, err := x.enter(mqtt.Connect{CleanStart: true})
		if err != nil {
			return err
		}
		refused := make(chan error, 1)
		go func() {
			for {
				p, err := a.packet(mqtt.V5)
				if ack, ok := p.(*mqtt.Ack); err != nil || ok && ack.Reason == mqtt.QuotaExceeded {
					refused <- err
					return
				}
			}
		}()
		for n := range 100_000 {
			p := mqtt.Publish{Topic: fmt.Appendf(nil, "r/%d/%d", i, n), Payload: []byte("x"), Retain: true}
			if n%500 == 499 {
				p.QoS, p.ID = 1, uint16(n/500+1)
			}
			if err := a.send(publish(p)); err != nil {
				return err
			}
			select {
			case err := <-refused:
				return err
			default:
			}
		}
		return <-refused
	})
}

// wills: each connection leaves a session with a large will, and breaks.
func wills(x *stranger) error {
	end := time.Now().Add(floodTime)
	return together(8, func(i int) error {
		for n := 0; time.Now().Before(end); n++ {
			p := mqtt.Connect{
				CleanStart: true, ClientID: fmt.Appendf(nil, "will-%d-%d", i, n), HasWill: true, WillTopic: []byte("w"), WillPayload: make([]byte, 50<<10),
			}
			p.Properties.Set(mqtt.SessionExpiry)
			p.Properties.SessionExpiry = 600
			p.WillProperties.Set(mqtt.WillDelay)
			p.WillProperties.WillDelay = uint32(n % 2 * 600)
			a, err := x.enter(p)
			if err != nil {
				return err
			}
			a.abort()
		}
		return nil
	})
}

func connects(x *stranger) error {
	end := time.Now().Add(floodTime)
	return together(8, func(int) error {
		for time.Now().Before(end) {
			a, err := x.enter(mqtt.Connect{CleanStart: true})
			if err != nil {
				return err
			}
			if err := a.send((&mqtt.Disconnect{}).Append(nil, mqtt.V5)); err != nil {
				return err
			}
			a.conn.Close()
		}
		return nil
	})
}

// takeOver: clients with one identifier, each of which comes back at once.
func takeOver(x *stranger) error {
	end := time.Now().Add(floodTime)
	return together(4, func(int) error {
		for time.Now().Before(end) {
			a, err := x.enter(mqtt.Connect{ClientID: []byte("the one")})
			if a == nil {
				return err
			}
			if err == nil {
				a.conn.SetDeadline(end) //nolint:errcheck // then what follows fails too
				a.ended(mqtt.V5)
			}
			a.conn.Close()
		}
		return nil
	})
}

// subscribe enters filters over as many connections as it takes, until the server refuses one or n are there.
func (x *stranger) subscribe(n int, filter func(i int) []byte) error {
	const perConnection, perPacket = 10_000, 100
	for n > 0 {
		a, err := x.enter(mqtt.Connect{CleanStart: true})
		if err != nil {
			return err
		}
		for id := uint16(1); id <= perConnection/perPacket && n > 0; id++ {
			s := mqtt.Subscribe{ID: id}
			for range perPacket {
				n--
				s.Subscriptions = append(s.Subscriptions, mqtt.Subscription{Filter: filter(n)})
			}
			if err := a.send(s.Append(nil, mqtt.V5)); err != nil {
				return err
			}
			p, err := a.packet(mqtt.V5)
			if err != nil {
				return err
			}
			if ack, ok := p.(*mqtt.Suback); !ok || ack.Reasons[perPacket-1].Failed() {
				return nil
			}
		}
	}
	return nil
}

func million(x *stranger) error {
	return x.subscribe(1_000_000, func(i int) []byte { return fmt.Appendf(nil, "fleet/%d/device/%d", i/1000, i) })
}

// deep: filters of as many levels as one may have, which share none.
func deep(x *stranger) error {
	return x.subscribe(200_000, func(i int) []byte { return fmt.Appendf(nil, "%d%s", i, strings.Repeat(fmt.Sprintf("/%x", i), 63)) })
}

// wide: topics that nobody has, each once.
func wide(x *stranger) error {
	end := time.Now().Add(floodTime)
	return together(4, func(c int) error {
		a, err := x.enter(mqtt.Connect{CleanStart: true})
		if err != nil {
			return err
		}
		go a.discard()
		long := strings.Repeat("/x", 60)
		for i := 0; time.Now().Before(end); i++ {
			var b []byte
			for k := range 100 {
				b = append(b, publish(mqtt.Publish{Topic: fmt.Appendf(nil, "%d/%d/%d%s", c, i, k, long)})...)
			}
			if err := a.send(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// wildcards: every filter of 13 levels that are "+" or "a" matches one topic, which is published all the time. It is one message for
// the client that holds them.
func wildcards(x *stranger) error {
	const levels = 13
	if err := x.subscribe(1<<levels, func(i int) []byte {
		f := make([]string, levels)
		for k := range f {
			f[k] = []string{"+", "a"}[i>>k&1]
		}
		return []byte(strings.Join(f, "/"))
	}); err != nil {
		return err
	}
	topic := []byte(strings.Repeat("a/", levels-1) + "a")
	return x.each(2, publish(mqtt.Publish{Topic: topic, Payload: make([]byte, 1000)}))
}
