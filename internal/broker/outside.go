package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// Message is one publication, as it is seen from outside: what the API publishes, and a retained message. Strings and
// payload belong to the caller.
type Message struct {
	Topic           string
	Payload         []byte
	QoS             uint8
	Retain          bool
	Expiry          uint32 // seconds from its publication, of a retained one those that are left; 0: none
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  [][2]string
	At              time.Time // of a retained one: when it was published, if that is known
	PublisherID     string    // of a retained one: the client identifier of who published it, empty for the API
}

// Size is the bytes of what a message says: topic, payload and properties.
func (m *Message) Size() int {
	n := len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.CorrelationData)
	for _, p := range m.UserProperties {
		n += len(p[0]) + len(p[1])
	}
	return n
}

// Receipt says what became of a message.
type Receipt struct {
	Position uint64 // its place in the organization's log; 0: nothing had to be kept
	Matched  bool   // somebody subscribes to its topic
}

// SubscriptionInfo is one subscription of a session.
type SubscriptionInfo struct {
	Filter string // $share included
	QoS    uint8
}

// SessionInfo is one session, connected or stored.
type SessionInfo struct {
	ClientID       string
	User           string
	Connected      bool
	Address        string // of the connection; empty without one
	Protocol       string // "3.1", "3.1.1", "5.0"; empty without a connection
	Transport      string // "mqtt", "mqtts", "ws", "wss"; empty without a connection
	ConnectedAt    time.Time
	DisconnectedAt time.Time
	ExpiresAt      time.Time // when a stored session ends; zero: never, or it is connected
	Expiry         uint32    // seconds that it outlives its connection
	Clean          bool      // it ends with its connection
	KeepAlive      int       // seconds
	Subscriptions  []SubscriptionInfo
	Queued         int64 // messages that wait for it
	QueuedBytes    int64
	InFlight       int       // messages that it was sent and has not acknowledged
	TokenExpires   time.Time // of a connection with a temporary token
}

// SessionQuery selects sessions.
type SessionQuery struct {
	After     string // client identifier: those behind it
	Limit     int    // at most; from 1 to 1,000
	User      string // empty: of everybody
	Connected *bool  // nil: both
}

// Usage is what an organization takes now, and what it has published in the month.
type Usage struct {
	Connections   int
	Sessions      int // that outlive their connections, connected or not
	Subscriptions int // of connections
	Retained      int
	StorageBytes  int64
	Month         string            // "2026-11", UTC
	Messages      int64             // accepted in the month, before this run too
	Refusals      map[string]uint64 // of this run: messages, filters and connections that were refused, by reason
	Paused        map[string]uint64 // of this run: times that a connection was not read for a while, by the rate that was reached
}

// UsageDelta is what one organization has used since it was last asked for.
type UsageDelta struct {
	Number     uint64
	Month      string // "2026-11", UTC
	Messages   int64  // PUBLISH accepted
	Deliveries int64  // PUBLISH sent
	BytesIn    int64  // of those packets
	BytesOut   int64  // of those packets
	Refused    int64  // messages, filters and log-ins over a limit or against the rules
}

// bounds of what is asked for at a time.
const maxPage = 1000

// pageOf is a page's length within its bounds.
func pageOf(limit int) int { return min(max(1, limit), maxPage) }

// Publish publishes a message as a client of g would, under the same rules and limits, and returns when what is owed to anybody
// is durable. Who published it is nobody: no subscription with No Local leaves it out. If ctx ends before that, the message may
// have been published. Faults: Invalid (topic, qos, payload, response_topic, content_type, correlation_data, user_properties),
// Forbidden (the rules), TooManyRequests (the organization's messages of the second), Exhausted (a quota, or the disk),
// NotFound (the organization is gone), Unavailable.
func (b *Broker) Publish(ctx context.Context, g *access.Grant, m *Message) (Receipt, error) {
	o, err := b.organization(g.OrganizationNumber)
	switch {
	case errors.Is(err, errUnknown):
		return Receipt{}, fault.New(fault.NotFound, "the organization does not exist any more")
	case err != nil:
		return Receipt{}, fault.Wrap(fault.Unavailable, err, "the organization could not be loaded")
	case b.Draining():
		return Receipt{}, fault.New(fault.Unavailable, "the server is stopping; try again")
	}
	p, err := o.packet(m)
	if err != nil {
		return Receipt{}, err
	}
	now := b.cfg.Now()
	size := len(p.Append(nil, mqtt.V5))
	if over := o.mayPublish(g, p, size); over != nil {
		return Receipt{}, over
	}
	r := readers.Get().(*reader)
	defer r.release(o.counters)
	if over := o.accepts(r, size, now); over != none {
		o.dropped(over)
		return Receipt{}, exhausted(over)
	}
	if p.QoS > 0 || p.Retain {
		o.admit()
	}
	type result struct {
		position engine.Position
		err      error
	}
	done := make(chan result, 1)
	message := session.NewMessage(p, now)
	r.in[p.QoS]++
	matched := o.publish(r, message, &origin{
		size:    size,
		done:    func(_ *reader, first engine.Position, err error) { done <- result{first, err} },
		refused: func(over drop) { done <- result{err: exhausted(over)} },
	}, now)
	message.Release()
	o.fold(r, now)
	r.flush()
	select {
	case got := <-done:
		return Receipt{Position: uint64(got.position), Matched: matched}, publishFault(got.err)
	case <-ctx.Done():
		return Receipt{}, fault.Wrap(fault.Unavailable, ctx.Err(), "nobody waited until the message was on disk")
	}
}

// mayPublish refuses what the rules, the size or the organization's rate do not allow.
func (o *Organization) mayPublish(g *access.Grant, p *mqtt.Publish, size int) error {
	q := o.quota.Load()
	if most := least(int(o.limits.Session.PacketBytes), q.MaxMessageBytes); size > most {
		o.dropped(dropSize)
		return fault.Field("payload", "the message is a packet of %d bytes, of at most %d", size, most)
	}
	if !g.Check(access.Publish, p.Topic) {
		o.dropped(dropRefused)
		return fault.New(fault.Forbidden, "the rules do not allow publishing to this topic")
	}
	if q.MaxMessageRate > 0 && o.pace.take(q.MaxMessageRate, o.elapsed()) != 0 {
		o.dropped(dropRate)
		return fault.New(fault.TooManyRequests, "the organization publishes as many messages a second as it may; try again")
	}
	return nil
}

// exhausted is the refusal of a message that is over a limit.
func exhausted(over drop) error {
	sentence := map[drop]string{
		dropMonth:    "the organization has published as many messages this month as it may",
		dropRetained: "the organization has as many retained messages as it may",
		dropStorage:  "the organization's storage is full",
		dropSize:     "the message is larger than the organization allows",
		dropFilters:  "too many stored subscriptions match the topic",
	}[over]
	return fault.New(fault.Exhausted, "%s", sentence)
}

// publishFault is what a caller is told of a commit that has failed.
func publishFault(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if _, refused := refusalReason(err); refused {
		return fault.Wrap(fault.Exhausted, err, "the server has no room for the message")
	}
	return fault.Wrap(fault.Unavailable, err, "the message could not be kept")
}

// packet is the PUBLISH of a message from outside.
func (o *Organization) packet(m *Message) (*mqtt.Publish, error) {
	limits := o.limits.Session.Topic
	if err := topic.CheckName(m.Topic, limits); err != nil {
		return nil, fault.Field("topic", "%s", err.Error())
	}
	if m.QoS > 2 {
		return nil, fault.Field("qos", "%d is not 0, 1 or 2", m.QoS)
	}
	p := &mqtt.Publish{Topic: []byte(m.Topic), Payload: m.Payload, QoS: mqtt.QoS(m.QoS), Retain: m.Retain}
	if m.QoS > 0 {
		p.ID = 1 // counted among its bytes; it is nobody's
	}
	props := &p.Properties
	if m.Expiry > 0 {
		props.Set(mqtt.MessageExpiry)
		props.MessageExpiry = m.Expiry
	}
	if m.ResponseTopic != "" {
		if err := topic.CheckName(m.ResponseTopic, topic.Limits{Bytes: maxText, Levels: maxText}); err != nil {
			return nil, fault.Field("response_topic", "%s", err.Error())
		}
		props.Set(mqtt.ResponseTopic)
		props.ResponseTopic = []byte(m.ResponseTopic)
	}
	if m.ContentType != "" {
		if !isText(m.ContentType) {
			return nil, fault.Field("content_type", "it is not UTF-8 without U+0000, of at most %d bytes", maxText)
		}
		props.Set(mqtt.ContentType)
		props.ContentType = []byte(m.ContentType)
	}
	if len(m.CorrelationData) > maxText {
		return nil, fault.Field("correlation_data", "it is longer than %d bytes", maxText)
	}
	if len(m.CorrelationData) > 0 {
		props.Set(mqtt.CorrelationData)
		props.CorrelationData = m.CorrelationData
	}
	if len(m.UserProperties) > maxPage {
		return nil, fault.Field("user_properties", "there are more than %d", maxPage)
	}
	for i, u := range m.UserProperties {
		if !isText(u[0]) || !isText(u[1]) {
			return nil, fault.Field(fmt.Sprintf("user_properties[%d]", i), "it is not UTF-8 without U+0000, of at most %d bytes", maxText)
		}
		props.User = append(props.User, mqtt.UserProperty{Key: []byte(u[0]), Value: []byte(u[1])})
	}
	return p, nil
}

// maxText is what a string of MQTT may have, in bytes.
const maxText = 65535

func isText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.Contains(s, "\x00")
}
