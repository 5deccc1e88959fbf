package broker

import (
	"context"
	"errors"
	"time"

	"cloudsignal/internal/access"
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
	Month         string // "2026-11", UTC
	Messages      int64  // accepted in the month
}

// UsageDelta is what one organization has used since it was last asked for.
type UsageDelta struct {
	Number     uint64
	Month      string // "2026-11", UTC
	Messages   int64  // PUBLISH accepted
	Deliveries int64  // PUBLISH sent
	BytesIn    int64  // of topics and payloads accepted
	BytesOut   int64  // of topics and payloads sent
	Refused    int64  // messages, filters and log-ins over a limit or against the rules
}

var errUnfinished = errors.New("broker: not there yet")

// Changed says that something about who may do what has changed: users are names, nil is everybody. It returns at once; what
// follows (ends, re-checked subscriptions, lower limits) is done by the broker's own goroutine, in force well below a second.
func (b *Broker) Changed(number uint64, users []string) {}

// Deleted says that an organization is gone: its connections end, what it kept is dropped.
func (b *Broker) Deleted(number uint64) {}

// Publish publishes a message as a client of g would, under its rules and limits, and returns when it is durable.
func (b *Broker) Publish(ctx context.Context, g *access.Grant, m *Message) (Receipt, error) {
	return Receipt{}, errUnfinished
}

// Retained lists the retained messages under a filter whose topics are behind after, in their order, at most limit.
func (b *Broker) Retained(number uint64, filter, after string, limit int) ([]Message, error) {
	return nil, errUnfinished
}

// RetainedMessage is the retained message of a topic, if there is one.
func (b *Broker) RetainedMessage(number uint64, topic string) (Message, bool, error) {
	return Message{}, false, errUnfinished
}

// DeleteRetained removes the retained message of a topic, and tells whether there was one. It is durable when it returns.
func (b *Broker) DeleteRetained(ctx context.Context, number uint64, topic string) (bool, error) {
	return false, errUnfinished
}

// Sessions lists sessions, live and stored, in the order of client identifiers, without their subscriptions.
func (b *Broker) Sessions(number uint64, q SessionQuery) ([]SessionInfo, error) {
	return nil, errUnfinished
}

// Session is one session with its subscriptions, if it is there.
func (b *Broker) Session(number uint64, clientID string) (SessionInfo, bool, error) {
	return SessionInfo{}, false, errUnfinished
}

// Disconnect ends the connection of a client, and with forget its stored session too. It returns when that is done.
func (b *Broker) Disconnect(ctx context.Context, number uint64, clientID string, forget bool) (found bool, err error) {
	return false, errUnfinished
}

// Terminate ends all connections of a user and tells how many there were.
func (b *Broker) Terminate(ctx context.Context, number uint64, user string) (int, error) {
	return 0, errUnfinished
}

// Usage is what an organization takes now.
func (b *Broker) Usage(number uint64) Usage { return Usage{} }

// TakeUsage is what all organizations have used since the last call.
func (b *Broker) TakeUsage() []UsageDelta { return nil }

// SetMonth says what an organization had published in a month before this run.
func (b *Broker) SetMonth(number uint64, month string, messages int64) {}
