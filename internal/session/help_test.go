package session

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// noon is the time at which tests begin.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// wide are limits that no test meets unless it changes them.
func wide() Limits {
	return Limits{
		ReceiveMaximum: 100, RingBytes: 1 << 20, PacketBytes: 1 << 20, Window: 100, QueueBytes: 1 << 20, OutboundBytes: 1 << 20,
		TopicAliases: 10, Subscriptions: 100, Topic: topic.Limits{Bytes: 100, Levels: 8},
	}
}

// open makes a session with its CONNACK already taken.
func open(c *mqtt.Connect, l Limits) *Session {
	s := New(c, "c", l, noon)
	s.Accept(Accepted{Expiry: s.expiry})
	if b := s.TakeBatch(); b != nil {
		b.Release()
	}
	return s
}

// bytesOf takes what the session has to write, and gives the batch back.
func bytesOf(s *Session) []byte {
	b := s.TakeBatch()
	if b == nil {
		return nil
	}
	defer b.Release()
	return join(b.Buffers(0))
}

func join(bufs net.Buffers) []byte { return bytes.Join(bufs, nil) }

// often checks a property with more random operations than rapid does by itself.
func often(t *testing.T, f func(*rapid.T)) {
	t.Helper()
	for range 8 {
		rapid.Check(t, f)
	}
}

// fataler is what *testing.T and *rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// packets decodes whole packets, each by a decoder of its own: they stay valid.
func packets(t fataler, v mqtt.Version, b []byte) (all []mqtt.Packet) {
	t.Helper()
	for len(b) > 0 {
		h, n, err := mqtt.ReadHeader(b)
		if err != nil || n == 0 || len(b) < n+h.Length {
			t.Fatalf("no whole packet in %x: %v", b, err)
		}
		p, err := (&mqtt.Decoder{Version: v}).Decode(h, b[n:n+h.Length])
		if err != nil {
			t.Fatalf("%s cannot be decoded: %v", h.Type, err)
		}
		all = append(all, p)
		b = b[n+h.Length:]
	}
	return all
}

// sent is what the session has to write, decoded.
func sent(t fataler, s *Session) []mqtt.Packet {
	t.Helper()
	return packets(t, s.version, bytesOf(s))
}

// acks are the packets, all of which must be acknowledgements, without their properties.
func acks(t fataler, all []mqtt.Packet) (out []mqtt.Ack) {
	t.Helper()
	for _, p := range all {
		a, ok := p.(*mqtt.Ack)
		if !ok {
			t.Fatalf("%s is not an acknowledgement", p.Kind())
		}
		out = append(out, mqtt.Ack{Type: a.Type, ID: a.ID, Reason: a.Reason})
	}
	return out
}

// handle feeds one packet as it would come over the network.
func handle(t fataler, s *Session, p mqtt.Packet, now time.Time) (Action, mqtt.Packet, error) {
	t.Helper()
	b := p.Append(nil, s.version)
	got := packets(t, s.version, b)[0]
	a, err := s.Handle(got, len(b), now)
	return a, got, err
}

// message makes a message of n payload bytes.
func message(name string, q mqtt.QoS, n int) *Message {
	return NewMessage(&mqtt.Publish{Topic: []byte(name), QoS: q, Payload: []byte(strings.Repeat("m", n))}, noon)
}

// deliver delivers a message of one reference and gives that back.
func deliver(t *testing.T, s *Session, d Delivery, want Outcome) {
	t.Helper()
	if got := s.Deliver(&d, noon); got != want {
		t.Fatalf("outcome %d, want %d", got, want)
	}
	d.Message.Release()
}

// published are the PUBLISH packets of all.
func published(all []mqtt.Packet) (out []*mqtt.Publish) {
	for _, p := range all {
		if p, ok := p.(*mqtt.Publish); ok {
			out = append(out, p)
		}
	}
	return out
}

// references are those that the session itself holds on m.
func references(s *Session, b *Batch, m *Message) (n int) {
	for i := range s.inflight.slots {
		if p := &s.inflight.slots[i]; p.state != 0 && p.msg == m {
			n++
		}
	}
	for _, d := range s.queue.items[s.queue.first:] {
		if d.Message == m {
			n++
		}
	}
	if s.will == m {
		n++
	}
	for _, b := range []*Batch{s.out, b} {
		if b != nil {
			n += len(slices.DeleteFunc(slices.Clone(b.cuts), func(c cut) bool { return c.msg != m }))
		}
	}
	return n
}
