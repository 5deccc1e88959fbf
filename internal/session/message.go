package session

import (
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/mqtt"
)

// maxPooledMessage is the largest buffer, in bytes, that goes back to the pool with its message; larger ones are left to
// the garbage collector so that a few big messages do not stay in memory for good.
const maxPooledMessage = 64 << 10

// Message is one publication on its way to any number of sessions: one body, shared. It is immutable after NewMessage
// and counted by reference: whoever keeps it beyond the call that handed it over calls Hold, and Release when done.
type Message struct {
	refs atomic.Int32

	// buf is the topic with its length prefix, the forwarded 5.0 properties with theirs, and the payload: what every
	// version and QoS is sent, encoded once.
	buf      []byte
	topicEnd int
	fields   int // where the properties begin behind their length prefix
	propsEnd int

	expires int64 // Unix nanoseconds, of an unpublished will nanoseconds; if hasExpiry
	qos     mqtt.QoS
	retain  bool

	hasExpiry bool
}

var messages = sync.Pool{New: func() any { return new(Message) }}

// NewMessage makes a message of a PUBLISH, copying what it needs; the caller holds the one reference. The properties that
// belong to the hop or to a will (topic alias, subscription identifiers, will delay) are removed from p. The time counts message expiry
// ([MQTT-3.3.2-5]).
func NewMessage(p *mqtt.Publish, now time.Time) *Message {
	m := messages.Get().(*Message)
	m.refs.Store(1)
	m.qos, m.retain, m.expires = p.QoS, p.Retain, 0
	props := &p.Properties
	if m.hasExpiry = props.Has(mqtt.MessageExpiry); m.hasExpiry {
		m.expires = now.UnixNano() + int64(props.MessageExpiry)*int64(time.Second)
		props.Clear(mqtt.MessageExpiry)
	}
	props.Clear(mqtt.TopicAlias)
	props.Clear(mqtt.WillDelay)
	props.Clear(mqtt.SubscriptionIdentifier)

	b := append(m.buf[:0], byte(len(p.Topic)>>8), byte(len(p.Topic)))
	b = append(b, p.Topic...)
	m.topicEnd = len(b)
	b = props.Append(b)
	m.propsEnd = len(b)
	m.fields = m.topicEnd + prefixLen(b[m.topicEnd:])
	m.buf = append(b, p.Payload...)
	return m
}

// prefixLen is the length of the variable byte integer at the start of b.
func prefixLen(b []byte) int {
	n := 0
	for b[n]&0x80 != 0 {
		n++
	}
	return n + 1
}

// Hold takes one more reference and returns m.
func (m *Message) Hold() *Message {
	m.refs.Add(1)
	return m
}

// Release gives one reference back; with the last one the message's memory is used again.
func (m *Message) Release() {
	switch n := m.refs.Add(-1); {
	case n == 0:
		if cap(m.buf) > maxPooledMessage {
			m.buf = nil
		}
		messages.Put(m)
	case n < 0:
		panic("session: message released more often than held")
	}
}

// Topic is the topic name; it belongs to the message.
func (m *Message) Topic() []byte { return m.buf[2:m.topicEnd] }

// Payload is the body; it belongs to the message.
func (m *Message) Payload() []byte { return m.buf[m.propsEnd:] }

// QoS is the quality of service it was published with.
func (m *Message) QoS() mqtt.QoS { return m.qos }

// Retain is the retain flag it was published with.
func (m *Message) Retain() bool { return m.retain }

// Size is the memory that the message holds, in bytes, near enough for the bounds of queues.
func (m *Message) Size() int { return len(m.buf) + 64 }

// Expires reports whether the message has an expiry.
func (m *Message) Expires() bool { return m.hasExpiry }

// Expired reports whether the message may no longer be sent ([MQTT-3.3.2-5]).
func (m *Message) Expired(now time.Time) bool { return m.hasExpiry && now.UnixNano() > m.expires }

// remaining is the message expiry interval to send on, in seconds, rounded up ([MQTT-3.3.2-6]).
func (m *Message) remaining(now time.Time) uint32 {
	return uint32(max(0, (m.expires-now.UnixNano()+int64(time.Second)-1)/int64(time.Second)))
}
