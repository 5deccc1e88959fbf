package session

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"cloudsignal/internal/mqtt"
)

// payloadSizes lie around the size from which payloads are shared, and those at which length prefixes grow.
var payloadSizes = rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(sharePayload-3, sharePayload+3), rapid.IntRange(16_370, 16_390))

// text is some of n to most bytes: their number is drawn, and one of them.
func text(n, most int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		return bytes.Repeat([]byte{rapid.ByteRange('a', 'z').Draw(t, "letter")}, rapid.IntRange(n, most).Draw(t, "length"))
	})
}

// publishes are PUBLISH packets as a client may send them.
var publishes = rapid.Custom(func(t *rapid.T) *mqtt.Publish {
	p := &mqtt.Publish{
		QoS: mqtt.QoS(rapid.IntRange(0, 2).Draw(t, "qos")), Retain: rapid.Bool().Draw(t, "retain"),
		Topic:   text(1, 300).Draw(t, "topic"),
		Payload: bytes.Repeat([]byte{byte(rapid.IntRange(0, 255).Draw(t, "byte"))}, payloadSizes.Draw(t, "size")),
	}
	props := &p.Properties
	has := func(id mqtt.Property) bool {
		if !rapid.Bool().Draw(t, fmt.Sprintf("has %d", id)) {
			return false
		}
		props.Set(id)
		return true
	}
	if has(mqtt.PayloadFormat) {
		props.PayloadFormat = 1
	}
	if has(mqtt.MessageExpiry) {
		props.MessageExpiry = rapid.Uint32().Draw(t, "expiry")
	}
	if has(mqtt.ContentType) {
		props.ContentType = text(0, 20).Draw(t, "content type")
	}
	if has(mqtt.ResponseTopic) {
		props.ResponseTopic = text(1, 200).Draw(t, "response topic")
	}
	if has(mqtt.CorrelationData) {
		props.CorrelationData = text(0, 200).Draw(t, "correlation data")
	}
	for range rapid.IntRange(0, 3).Draw(t, "user properties") {
		props.User = append(props.User, mqtt.UserProperty{Key: text(0, 20).Draw(t, "key"), Value: text(0, 20).Draw(t, "value")})
	}
	// Of the hop alone: they must not get through.
	if has(mqtt.TopicAlias) {
		props.TopicAlias = 3
	}
	props.SubscriptionIDs = rapid.SliceOfN(rapid.Uint32Range(1, 9), 0, 1).Draw(t, "subscription ids of the publisher")
	return p
})

func clone(p *mqtt.Publish) *mqtt.Publish {
	c := *p
	c.Properties.SubscriptionIDs = append([]uint32(nil), p.Properties.SubscriptionIDs...)
	return &c
}

// samePublish compares all that is in two packets, properties by their encoding.
func samePublish(want, got *mqtt.Publish) string {
	flags := func(p *mqtt.Publish) string {
		return fmt.Sprint("dup ", p.Dup, " QoS ", p.QoS, " retain ", p.Retain, " id ", p.ID)
	}
	switch {
	case flags(want) != flags(got):
		return flags(got) + ", want " + flags(want)
	case !bytes.Equal(want.Topic, got.Topic):
		return fmt.Sprintf("topic %q, want %q", got.Topic, want.Topic)
	case !bytes.Equal(want.Payload, got.Payload):
		return fmt.Sprintf("payload of %d bytes is not that of %d", len(got.Payload), len(want.Payload))
	}
	if x, y := want.Properties.Append(nil), got.Properties.Append(nil); !bytes.Equal(x, y) {
		return fmt.Sprintf("properties %x, want %x", y, x)
	}
	return ""
}

// TestPublishEncoding: what a receiver decodes is the message that was published, with the receiver's own QoS, id, retain
// flag, subscription identifiers, alias and what is left of the expiry, whatever its version.
func TestPublishEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}).Draw(t, "version")
		c := &mqtt.Connect{Version: v}
		aliases := rapid.Uint16Range(0, 2).Draw(t, "topic alias maximum")
		c.Properties.Set(mqtt.TopicAliasMaximum)
		c.Properties.TopicAliasMaximum = aliases
		s := open(c, wide())

		var want []*mqtt.Publish
		var messages []*Message
		known := map[string]uint16{}
		id := uint16(0)
		for range rapid.IntRange(1, 4).Draw(t, "messages") {
			p := publishes.Draw(t, "publish")
			m := NewMessage(clone(p), noon)
			messages = append(messages, m)
			for range rapid.IntRange(1, 2).Draw(t, "copies") {
				d := Delivery{
					Message: m, QoS: mqtt.QoS(rapid.IntRange(0, int(p.QoS)).Draw(t, "granted")), Retain: rapid.Bool().Draw(t, "retain out"),
					Identifiers: rapid.SliceOfN(rapid.Uint32Range(1, 268_435_455), 0, 3).Draw(t, "identifiers"),
				}
				if got := s.Deliver(&d, noon); got != Sent {
					t.Fatalf("outcome %d", got)
				}
				w := clone(p)
				w.QoS, w.Retain, w.ID = d.QoS, d.Retain, 0
				if d.QoS > 0 {
					id++
					w.ID = id
				}
				w.Properties.Clear(mqtt.TopicAlias)
				w.Properties.SubscriptionIDs = d.Identifiers
				if v != mqtt.V5 {
					w.Properties = mqtt.Properties{}
				} else if a := known[string(p.Topic)]; a != 0 || len(known) < int(aliases) {
					if a == 0 {
						a = uint16(len(known) + 1)
						known[string(p.Topic)] = a
					} else {
						w.Topic = nil
					}
					w.Properties.Set(mqtt.TopicAlias)
					w.Properties.TopicAlias = a
				}
				want = append(want, w)
			}
		}
		b := s.TakeBatch()
		whole := append([]byte(nil), join(b.Buffers(0))...)
		checkBuffers(t, b, whole)
		got := packets(t, v, whole)
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d", len(got), len(want))
		}
		for i, w := range want {
			if d := samePublish(w, got[i].(*mqtt.Publish)); d != "" {
				t.Fatalf("packet %d: %s", i, d)
			}
		}
		for i, m := range messages {
			if n := 1 + references(s, b, m); int(m.refs.Load()) != n {
				t.Fatalf("message %d has %d references, want %d", i, m.refs.Load(), n)
			}
		}
		b.Release()
		s.Close(nil)
		released(t, messages)
	})
}

// checkBuffers compares all ways to read a batch: whole, its length, in one piece, and behind what was written of it.
func checkBuffers(t *rapid.T, b *Batch, whole []byte) {
	if b.Len() != len(whole) {
		t.Fatalf("Len %d, but there are %d bytes", b.Len(), len(whole))
	}
	flat := b.Flat()
	if (flat == nil) != (len(b.cuts) > 0) {
		t.Fatalf("in one piece: %v, with %d shared payloads", flat != nil, len(b.cuts))
	}
	if flat != nil && !bytes.Equal(flat, whole) {
		t.Fatalf("Flat is not what Buffers gives")
	}
	if flat != nil {
		skip := rapid.IntRange(0, len(whole)).Draw(t, "skip")
		if !bytes.Equal(join(b.Buffers(skip)), whole[skip:]) {
			t.Fatalf("Buffers(%d) is not what is behind", skip)
		}
	}
	for _, c := range b.cuts {
		if len(c.msg.Payload()) < sharePayload {
			t.Fatalf("a payload of %d bytes is shared", len(c.msg.Payload()))
		}
	}
}

// released gives back the tests' own references, which must be the last.
func released(t fataler, all []*Message) {
	t.Helper()
	for i, m := range all {
		if n := m.refs.Load(); n != 1 {
			t.Fatalf("message %d has %d references, want that of the test alone", i, n)
		}
		m.Release()
	}
}

// TestSharedPayloadIsNotCopied: above the size every receiver's batch points to the message's own bytes.
func TestSharedPayloadIsNotCopied(t *testing.T) {
	for _, n := range []int{sharePayload - 1, sharePayload} {
		m := message("t", 0, n)
		for range 2 {
			s := open(&mqtt.Connect{Version: mqtt.V5}, wide())
			s.Deliver(&Delivery{Message: m}, noon)
			b := s.TakeBatch()
			bufs := b.Buffers(0)
			last := bufs[len(bufs)-1]
			if shared := &last[len(last)-1] == &m.Payload()[n-1]; shared != (n >= sharePayload) {
				t.Errorf("payload of %d bytes: shared %v", n, shared)
			}
			b.Release()
		}
		released(t, []*Message{m})
	}
}

// TestReleaseTooOften: a reference that is given back twice is a crash, not a message that changes under a writer.
func TestReleaseTooOften(t *testing.T) {
	m := new(Message)
	m.refs.Store(0)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	m.Release()
}
