package mqtt

import "fmt"

// Reason is a reason code of MQTT 5.0 (2.4), used for all versions inside the broker.
type Reason uint8

// Reason codes.
const (
	Success                     Reason = 0x00
	GrantedQoS0                 Reason = 0x00
	GrantedQoS1                 Reason = 0x01
	GrantedQoS2                 Reason = 0x02
	DisconnectWithWill          Reason = 0x04
	NoMatchingSubscribers       Reason = 0x10
	NoSubscriptionExisted       Reason = 0x11
	ContinueAuthentication      Reason = 0x18
	ReAuthenticate              Reason = 0x19
	UnspecifiedError            Reason = 0x80
	MalformedPacket             Reason = 0x81
	ProtocolError               Reason = 0x82
	ImplementationSpecific      Reason = 0x83
	UnsupportedProtocolVersion  Reason = 0x84
	ClientIDNotValid            Reason = 0x85
	BadUserNameOrPassword       Reason = 0x86
	NotAuthorized               Reason = 0x87
	ServerUnavailable           Reason = 0x88
	ServerBusy                  Reason = 0x89
	Banned                      Reason = 0x8A
	ServerShuttingDown          Reason = 0x8B
	BadAuthMethod               Reason = 0x8C
	KeepAliveTimeout            Reason = 0x8D
	SessionTakenOver            Reason = 0x8E
	TopicFilterInvalid          Reason = 0x8F
	TopicNameInvalid            Reason = 0x90
	PacketIDInUse               Reason = 0x91
	PacketIDNotFound            Reason = 0x92
	ReceiveMaximumExceeded      Reason = 0x93
	TopicAliasInvalid           Reason = 0x94
	PacketTooLarge              Reason = 0x95
	MessageRateTooHigh          Reason = 0x96
	QuotaExceeded               Reason = 0x97
	AdministrativeAction        Reason = 0x98
	PayloadFormatInvalid        Reason = 0x99
	RetainNotSupported          Reason = 0x9A
	QoSNotSupported             Reason = 0x9B
	UseAnotherServer            Reason = 0x9C
	ServerMoved                 Reason = 0x9D
	SharedNotSupported          Reason = 0x9E
	ConnectionRateExceeded      Reason = 0x9F
	MaximumConnectTime          Reason = 0xA0
	SubscriptionIDsNotSupported Reason = 0xA1
	WildcardNotSupported        Reason = 0xA2
)

// Failed reports whether the code is an error (0x80 and above).
func (r Reason) Failed() bool { return r >= 0x80 }

// Error is why bytes are not an MQTT packet, or a packet breaks the protocol: what a 5.0 peer is told before the
// connection is closed, and what goes to the log.
type Error struct {
	Reason Reason
	Detail string // a clause for people, without the peer's data
}

// Error is the reason and the detail.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Detail) }
