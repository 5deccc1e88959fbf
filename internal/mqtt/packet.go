// Package mqtt holds the packets of MQTT 3.1, 3.1.1 and 5.0 in one set of types.
//
// The protocol version is an argument of decoding and encoding, never a type of its own. Packets are decoded in place:
// every []byte of a decoded packet points into the slice that was decoded and belongs to its owner; a packet is valid
// until that slice is overwritten or the Decoder decodes again. Packets are encoded by appending to a slice.
package mqtt

import "fmt"

// Version is the protocol level byte of CONNECT.
type Version uint8

// The versions that the broker speaks.
const (
	V31  Version = 3 // protocol name "MQIsdp"
	V311 Version = 4
	V5   Version = 5
)

// String gives the version as people write it: "3.1", "3.1.1", "5.0".
func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return fmt.Sprintf("level %d", uint8(v))
}

// Type is the control packet type, the high half of a packet's first byte.
type Type uint8

// Control packet types (MQTT 5.0, 2.1.2).
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

var typeNames = [16]string{
	"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

// String is the packet's name in the specification.
func (t Type) String() string { return typeNames[t&15] }

// QoS is a quality of service, 0 to 2.
type QoS uint8

// Packet is one control packet: *Connect, *Connack, *Publish, *Ack, *Subscribe, *Suback, *Unsubscribe, *Unsuback,
// *Ping, *Disconnect or *Auth.
type Packet interface {
	// Kind is the packet's type.
	Kind() Type
	// Append encodes the packet for version v behind dst and returns the longer slice. Properties and reason codes that
	// v does not know are left out. The caller has made sure that every field fits its length prefix.
	Append(dst []byte, v Version) []byte
}

// Connect is CONNECT.
type Connect struct {
	Version    Version
	CleanStart bool // 3.x: clean session
	KeepAlive  uint16
	ClientID   []byte

	HasUsername bool
	HasPassword bool
	Username    []byte
	Password    []byte

	HasWill        bool
	WillQoS        QoS
	WillRetain     bool
	WillTopic      []byte
	WillPayload    []byte
	WillProperties Properties

	Properties Properties
}

// Connack is CONNACK. For 3.x Reason is turned into a return code by ConnectReturnCode.
type Connack struct {
	SessionPresent bool
	Reason         Reason
	Properties     Properties
}

// Publish is PUBLISH.
type Publish struct {
	Dup        bool
	QoS        QoS
	Retain     bool
	ID         uint16 // 0 at QoS 0
	Topic      []byte
	Payload    []byte
	Properties Properties
}

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP, as Type says.
type Ack struct {
	Type       Type
	ID         uint16
	Reason     Reason // 5.0 only
	Properties Properties
}

// RetainHandling says which retained messages a SUBSCRIBE asks for (5.0; 3.x always sends).
type RetainHandling uint8

// The three values of retain handling.
const (
	RetainSend      RetainHandling = 0 // send at every SUBSCRIBE
	RetainSendIfNew RetainHandling = 1 // send if the subscription did not exist
	RetainDoNotSend RetainHandling = 2
)

// Subscription is one filter of SUBSCRIBE with its options.
type Subscription struct {
	Filter            []byte
	QoS               QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    RetainHandling
}

// Subscribe is SUBSCRIBE.
type Subscribe struct {
	ID            uint16
	Subscriptions []Subscription
	Properties    Properties
}

// Suback is SUBACK: one reason per filter, in order. For 3.1.1 codes of 0x80 and above are sent as 0x80; 3.1 knows no
// failure and is sent 0.
type Suback struct {
	ID         uint16
	Reasons    []Reason
	Properties Properties
}

// Unsubscribe is UNSUBSCRIBE.
type Unsubscribe struct {
	ID         uint16
	Filters    [][]byte
	Properties Properties
}

// Unsuback is UNSUBACK: one reason per filter on 5.0, none on 3.x.
type Unsuback struct {
	ID         uint16
	Reasons    []Reason
	Properties Properties
}

// Ping is PINGREQ or PINGRESP, as Type says.
type Ping struct{ Type Type }

// Disconnect is DISCONNECT.
type Disconnect struct {
	Reason     Reason // 5.0 only
	Properties Properties
}

// Auth is AUTH (5.0 only).
type Auth struct {
	Reason     Reason
	Properties Properties
}

// Kind is CONNECT.
func (*Connect) Kind() Type { return CONNECT }

// Kind is CONNACK.
func (*Connack) Kind() Type { return CONNACK }

// Kind is PUBLISH.
func (*Publish) Kind() Type { return PUBLISH }

// Kind is PUBACK, PUBREC, PUBREL or PUBCOMP.
func (p *Ack) Kind() Type { return p.Type }

// Kind is SUBSCRIBE.
func (*Subscribe) Kind() Type { return SUBSCRIBE }

// Kind is SUBACK.
func (*Suback) Kind() Type { return SUBACK }

// Kind is UNSUBSCRIBE.
func (*Unsubscribe) Kind() Type { return UNSUBSCRIBE }

// Kind is UNSUBACK.
func (*Unsuback) Kind() Type { return UNSUBACK }

// Kind is PINGREQ or PINGRESP.
func (p *Ping) Kind() Type { return p.Type }

// Kind is DISCONNECT.
func (*Disconnect) Kind() Type { return DISCONNECT }

// Kind is AUTH.
func (*Auth) Kind() Type { return AUTH }
