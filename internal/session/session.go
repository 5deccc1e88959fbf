// Package session is the protocol state machine of one client: packet identifiers, acknowledgements, windows, topic
// aliases, subscriptions, the will. It does no I/O and has no clock, no goroutine and no lock: its owner calls it under
// one, passes the time in, and writes what TakeBatch returns. One path serves 3.1, 3.1.1 and 5.0.
package session

import (
	"strings"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// Limits bound one session. All must be set.
type Limits struct {
	ReceiveMaximum uint16 // inbound QoS 1 and 2 packets without their last acknowledgement; announced on 5.0
	RingBytes      int    // bytes of inbound packets that wait for their answer
	PacketBytes    uint32 // inbound packet; announced on 5.0, enforced by the reader
	Window         int    // outbound QoS 1 and 2 messages in flight, at most
	QueueBytes     int    // messages that wait for the window or the writer
	OutboundBytes  int    // encoded bytes that wait to be written
	Stored         int    // stored messages that wait for the window or the writer
	TopicAliases   uint16 // per direction
	Subscriptions  int    // filters of one session
	Topic          topic.Limits
}

// Options are how one subscription wants its messages.
type Options struct {
	QoS               mqtt.QoS
	NoLocal           bool
	RetainAsPublished bool
	Identifier        uint32 // 0: none
}

// Session is one client's state. It must not be copied.
type Session struct {
	version  mqtt.Version
	clientID string
	limits   Limits

	problemInfo bool // false: reason strings and user properties are unwanted in most packets ([MQTT-3.1.2-29])
	maxPacket   uint32
	expiry      uint32 // what the client asked for at CONNECT, then what it was told, seconds
	will        *Message
	willDelay   uint32 // seconds

	ring     ring
	received map[uint16]incoming // QoS 2 ids whose PUBREL has not come ([MQTT-4.3.3-10])
	unacked  int                 // QoS 1 packets in the ring
	aliasIn  [][]byte

	window   int
	inflight inflight
	queue    queue
	aliasOut map[string]uint16
	aliasMax uint16

	subscriptions map[string]Options
	log           log

	out   *Batch
	tally Tally
}

// New makes the session of an accepted CONNECT. clientID is the client's own or the assigned one.
func New(c *mqtt.Connect, clientID string, limits Limits, now time.Time) *Session {
	s := &Session{version: c.Version, clientID: clientID, limits: limits, problemInfo: true, window: limits.Window}
	p := &c.Properties
	if p.Has(mqtt.RequestProblemInfo) {
		s.problemInfo = p.RequestProblemInfo == 1
	}
	if p.Has(mqtt.ReceiveMaximum) {
		s.window = min(s.window, int(p.ReceiveMaximum)) // [MQTT-3.3.4-9]
	}
	if p.Has(mqtt.MaximumPacketSize) {
		s.maxPacket = p.MaximumPacketSize
	}
	if p.Has(mqtt.TopicAliasMaximum) {
		s.aliasMax = min(limits.TopicAliases, p.TopicAliasMaximum) // [MQTT-3.1.2-26]
	}
	if p.Has(mqtt.SessionExpiry) {
		s.expiry = p.SessionExpiry
	}
	if c.HasWill {
		w := mqtt.Publish{QoS: c.WillQoS, Retain: c.WillRetain, Topic: c.WillTopic, Payload: c.WillPayload, Properties: c.WillProperties}
		if w.Properties.Has(mqtt.WillDelay) {
			s.willDelay = w.Properties.WillDelay
		}
		s.will = NewMessage(&w, now)
		// A will's expiry counts from its publication (3.1.3.2.4): until then it is an interval.
		if s.will.hasExpiry {
			s.will.expires -= now.UnixNano()
		}
	}
	return s
}

// Version is the client's protocol version.
func (s *Session) Version() mqtt.Version { return s.version }

// ClientID is the client's own identifier or the one it was assigned.
func (s *Session) ClientID() string { return s.clientID }

// Accepted is what CONNACK says beside the limits in force.
type Accepted struct {
	Assigned bool   // the client identifier is ours ([MQTT-3.1.3-7])
	Present  bool   // the session was there ([MQTT-3.2.2-2])
	Expiry   uint32 // seconds that the session is kept after the connection; 5.0 clients are told if they asked for another (3.2.2.3.2)
}

// Acceptable reports whether the client's Maximum Packet Size leaves room for the CONNACK.
func (s *Session) Acceptable(a Accepted) bool {
	ack := s.connack(a)
	_, fits := mqtt.AppendFitted(nil, &ack, s.version, s.maxPacket)
	return fits
}

// Accept appends the CONNACK, with the limits in force.
func (s *Session) Accept(a Accepted) {
	ack := s.connack(a)
	s.send(&ack)
	s.expiry = a.Expiry
}

func (s *Session) connack(a Accepted) mqtt.Connack {
	ack := mqtt.Connack{SessionPresent: a.Present && s.version != mqtt.V31} // 3.1 has no such bit
	if s.version != mqtt.V5 {
		return ack
	}
	p := &ack.Properties
	if s.expiry != a.Expiry {
		p.Set(mqtt.SessionExpiry)
		p.SessionExpiry = a.Expiry
	}
	p.Set(mqtt.ReceiveMaximum)
	p.ReceiveMaximum = s.limits.ReceiveMaximum
	p.Set(mqtt.MaximumPacketSize)
	p.MaximumPacketSize = s.limits.PacketBytes
	p.Set(mqtt.TopicAliasMaximum)
	p.TopicAliasMaximum = s.limits.TopicAliases
	if a.Assigned {
		p.Set(mqtt.AssignedClientID)
		p.AssignedClientID = []byte(s.clientID)
	}
	return ack
}

// Expiry is how many seconds the session is kept after its connection, as the client was told or has said since.
func (s *Session) Expiry() uint32 { return s.expiry }

// Kind is what a packet asks its owner to do.
type Kind uint8

// Kinds of actions.
const (
	None        Kind = iota // nothing; what had to be sent is in the batch
	Publish                 // route the PUBLISH, then Answer its Slot
	Refused                 // the PUBLISH was refused and answered here, for Action.Reason
	Subscribe               // judge each filter, Subscribe those granted, then Suback
	Unsubscribe             // Unsubscribe each filter, then Unsuback
	End                     // the client said DISCONNECT; the will is discarded unless it asked for it
	Release                 // take the record of an inbound identifier away, then Released
)

// Action is the answer to one packet.
type Action struct {
	Kind   Kind
	Slot   Slot
	ID     uint16
	Reason mqtt.Reason
}

// Handle takes one packet of the client, of size bytes in all. An error is an *mqtt.Error: the connection must end with
// its reason. The packet is not kept; a PUBLISH comes back with its topic alias resolved, its Topic then valid until the
// next packet.
func (s *Session) Handle(p mqtt.Packet, size int, now time.Time) (Action, error) {
	switch p := p.(type) {
	case *mqtt.Publish:
		return s.publish(p, size)
	case *mqtt.Ack:
		return s.ack(p, now)
	case *mqtt.Subscribe:
		return Action{Kind: Subscribe}, s.checkFilters(p)
	case *mqtt.Unsubscribe:
		return Action{Kind: Unsubscribe}, s.checkUnsubscribe(p)
	case *mqtt.Ping:
		if p.Type == mqtt.PINGREQ {
			s.send(&mqtt.Ping{Type: mqtt.PINGRESP}) // [MQTT-3.12.4-1]
			return Action{}, nil
		}
	case *mqtt.Disconnect:
		return s.disconnect(p)
	case *mqtt.Auth:
		// No authentication method was agreed on, so there is nothing to go on with (4.12).
		return Action{}, violation(mqtt.ProtocolError, "AUTH without an authentication method")
	case *mqtt.Connect:
		return Action{}, violation(mqtt.ProtocolError, "a second CONNECT") // [MQTT-3.1.0-2]
	}
	return Action{}, violation(mqtt.ProtocolError, p.Kind().String()+" is not for a client to send")
}

func violation(r mqtt.Reason, detail string) error { return &mqtt.Error{Reason: r, Detail: detail} }

func (s *Session) disconnect(p *mqtt.Disconnect) (Action, error) {
	if p.Properties.Has(mqtt.SessionExpiry) && p.Properties.SessionExpiry != 0 && s.expiry == 0 {
		return Action{}, violation(mqtt.ProtocolError, "session expiry was 0 at CONNECT and cannot be raised at DISCONNECT")
	}
	if p.Properties.Has(mqtt.SessionExpiry) {
		s.expiry = p.Properties.SessionExpiry
	}
	if p.Reason == mqtt.Success && s.will != nil { // [MQTT-3.14.4-3]; any other reason keeps it
		s.will.Release()
		s.will = nil
	}
	return Action{Kind: End, Reason: p.Reason}, nil
}

// checkFilters refuses a SUBSCRIBE with a filter that no one could mean: the connection ends, for 3.x
// ([MQTT-4.8.0-1]) as for 5.0 ([MQTT-4.13.1-1]). A filter that is only too long or too deep is refused by itself (Filter).
func (s *Session) checkFilters(p *mqtt.Subscribe) error {
	for i := range p.Subscriptions {
		if err := checkFilter(p.Subscriptions[i].Filter); err != nil {
			return err
		}
	}
	return nil
}

// checkUnsubscribe is checkFilters for UNSUBSCRIBE.
func (s *Session) checkUnsubscribe(p *mqtt.Unsubscribe) error {
	for _, f := range p.Filters {
		if err := checkFilter(f); err != nil {
			return err
		}
	}
	return nil
}

func checkFilter(f []byte) error {
	if err := topic.CheckFilter(f, topic.Limits{Bytes: 1 << 16, Levels: 1 << 16}); err != nil {
		return violation(mqtt.MalformedPacket, err.Error())
	}
	return nil
}

// Judge says whether the session itself has room for a filter: Success, TopicFilterInvalid (too long or too deep) or
// QuotaExceeded (too many subscriptions).
func (s *Session) Judge(filter []byte) mqtt.Reason {
	if topic.CheckFilter(filter, s.limits.Topic) != nil {
		return mqtt.TopicFilterInvalid
	}
	if _, had := s.subscriptions[string(filter)]; !had && len(s.subscriptions) >= s.limits.Subscriptions {
		return mqtt.QuotaExceeded
	}
	return mqtt.Success
}

// Subscribe records a granted subscription and reports whether the same filter was there before ([MQTT-3.8.4-3]).
func (s *Session) Subscribe(filter string, o Options) (existed bool) {
	_, existed = s.subscriptions[filter]
	if s.subscriptions == nil {
		s.subscriptions = make(map[string]Options)
	}
	s.subscriptions[strings.Clone(filter)] = o
	return existed
}

// Subscribed reports whether there is a subscription with this filter.
func (s *Session) Subscribed(filter string) bool {
	_, ok := s.subscriptions[filter]
	return ok
}

// Unsubscribe forgets a subscription and reports whether it was there ([MQTT-3.10.4-1]).
func (s *Session) Unsubscribe(filter string) (existed bool) {
	_, existed = s.subscriptions[filter]
	delete(s.subscriptions, filter)
	return existed
}

// Subscriptions calls f for each subscription, in no order.
func (s *Session) Subscriptions(f func(filter string, o Options)) {
	for filter, o := range s.subscriptions {
		f(filter, o)
	}
}

// errTooLarge ends a connection whose client takes no packet of the size of the answer that it waits for.
var errTooLarge = violation(mqtt.PacketTooLarge, "the answer is larger than the client's Maximum Packet Size")

// Suback appends SUBACK with one reason per filter ([MQTT-3.8.4-6]). An error, that the client takes no packet of this
// size, ends the connection: it would wait for ever.
func (s *Session) Suback(id uint16, reasons []mqtt.Reason) error {
	if !s.send(&mqtt.Suback{ID: id, Reasons: reasons}) {
		return errTooLarge
	}
	return nil
}

// Unsuback appends UNSUBACK with one reason per filter ([MQTT-3.11.3-1]). Its error is Suback's.
func (s *Session) Unsuback(id uint16, reasons []mqtt.Reason) error {
	if !s.send(&mqtt.Unsuback{ID: id, Reasons: reasons}) {
		return errTooLarge
	}
	return nil
}

// Disconnect appends the server's DISCONNECT with its reason; 3.x has none ([MQTT-3.14.0-1]). detail may be empty.
func (s *Session) Disconnect(r mqtt.Reason, detail string) {
	if s.version != mqtt.V5 {
		return
	}
	d := mqtt.Disconnect{Reason: r}
	if detail != "" {
		d.Properties.Set(mqtt.ReasonString)
		d.Properties.ReasonString = []byte(detail)
	}
	s.send(&d)
}

// Will is the will as it is to be kept, its expiry an interval in nanoseconds until it is published, and its delay in
// seconds; nil: there is none. The session keeps its reference.
func (s *Session) Will() (will *Message, delay uint32) { return s.will, s.willDelay }

// TakeWill removes the will and hands it over with its one reference; nil: there is none. Its expiry counts from now.
func (s *Session) TakeWill(now time.Time) *Message {
	w := s.will
	s.will = nil
	if w != nil && w.hasExpiry {
		w.expires += now.UnixNano()
	}
	return w
}

// TakeBatch hands over what is to be written, nil if nothing is. The taker releases it. Messages that waited for room to
// be written follow with the next Pump.
func (s *Session) TakeBatch() *Batch {
	b := s.out
	s.out = nil
	return b
}

// Pending is the number of encoded bytes that nobody has taken.
func (s *Session) Pending() int {
	if s.out == nil {
		return 0
	}
	return s.out.size
}

func (s *Session) batch() *Batch {
	if s.out == nil {
		s.out = batches.Get().(*Batch)
	}
	return s.out
}

// send appends a packet. What a 5.0 client has no room for is left out of it, and the packet itself if nothing helps
// ([MQTT-3.1.2-24]): then it is false.
func (s *Session) send(p mqtt.Packet) (fits bool) {
	b := s.batch()
	before := len(b.buf)
	b.buf, fits = mqtt.AppendFitted(b.buf, p, s.version, s.maxPacket)
	b.size += len(b.buf) - before
	return fits
}

// sendAck appends an acknowledgement, which is too small to leave anything out of.
func (s *Session) sendAck(t mqtt.Type, id uint16, r mqtt.Reason) {
	b := s.batch()
	before := len(b.buf)
	out := mqtt.AppendAck(b.buf, t, id, r, s.version)
	if n := len(out) - before; s.maxPacket == 0 || n <= int(s.maxPacket) {
		b.buf = out
		b.size += n
	}
}
