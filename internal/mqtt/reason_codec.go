package mqtt

import "fmt"

var reasonNames = map[Reason]string{
	Success:                     "Success",
	GrantedQoS1:                 "Granted QoS 1",
	GrantedQoS2:                 "Granted QoS 2",
	DisconnectWithWill:          "Disconnect with Will Message",
	NoMatchingSubscribers:       "No matching subscribers",
	NoSubscriptionExisted:       "No subscription existed",
	ContinueAuthentication:      "Continue authentication",
	ReAuthenticate:              "Re-authenticate",
	UnspecifiedError:            "Unspecified error",
	MalformedPacket:             "Malformed Packet",
	ProtocolError:               "Protocol Error",
	ImplementationSpecific:      "Implementation specific error",
	UnsupportedProtocolVersion:  "Unsupported Protocol Version",
	ClientIDNotValid:            "Client Identifier not valid",
	BadUserNameOrPassword:       "Bad User Name or Password",
	NotAuthorized:               "Not authorized",
	ServerUnavailable:           "Server unavailable",
	ServerBusy:                  "Server busy",
	Banned:                      "Banned",
	ServerShuttingDown:          "Server shutting down",
	BadAuthMethod:               "Bad authentication method",
	KeepAliveTimeout:            "Keep Alive timeout",
	SessionTakenOver:            "Session taken over",
	TopicFilterInvalid:          "Topic Filter invalid",
	TopicNameInvalid:            "Topic Name invalid",
	PacketIDInUse:               "Packet Identifier in use",
	PacketIDNotFound:            "Packet Identifier not found",
	ReceiveMaximumExceeded:      "Receive Maximum exceeded",
	TopicAliasInvalid:           "Topic Alias invalid",
	PacketTooLarge:              "Packet too large",
	MessageRateTooHigh:          "Message rate too high",
	QuotaExceeded:               "Quota exceeded",
	AdministrativeAction:        "Administrative action",
	PayloadFormatInvalid:        "Payload format invalid",
	RetainNotSupported:          "Retain not supported",
	QoSNotSupported:             "QoS not supported",
	UseAnotherServer:            "Use another server",
	ServerMoved:                 "Server moved",
	SharedNotSupported:          "Shared Subscriptions not supported",
	ConnectionRateExceeded:      "Connection rate exceeded",
	MaximumConnectTime:          "Maximum connect time",
	SubscriptionIDsNotSupported: "Subscription Identifiers not supported",
	WildcardNotSupported:        "Wildcard Subscriptions not supported",
}

// String is the reason's name in the specification (2.4).
func (r Reason) String() string {
	if s, ok := reasonNames[r]; ok {
		return s
	}
	return fmt.Sprintf("reason 0x%02X", uint8(r))
}

// returnCodes are the reasons that the return codes of 3.x stand for (3.1.1: 3.2.2.3).
var returnCodes = [...]Reason{Success, UnsupportedProtocolVersion, ClientIDNotValid, ServerUnavailable, BadUserNameOrPassword, NotAuthorized}

// ConnectReturnCode is the CONNACK return code of 3.x that comes nearest to the reason.
func (r Reason) ConnectReturnCode() byte {
	switch r {
	case Success:
		return 0
	case UnsupportedProtocolVersion:
		return 1
	case ClientIDNotValid:
		return 2
	case BadUserNameOrPassword:
		return 4
	case NotAuthorized, Banned, BadAuthMethod:
		return 5
	}
	return 3
}

// reasonSet is a set of reason codes; all are below 0xC0.
type reasonSet [3]uint64

func set(reasons ...Reason) (s reasonSet) {
	for _, r := range reasons {
		s[r>>6] |= 1 << (r & 63)
	}
	return s
}

func (s *reasonSet) has(r Reason) bool { return r < 0xC0 && s[r>>6]&(1<<(r&63)) != 0 }

var reasonSets = [16]reasonSet{
	CONNACK: set(Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecific, UnsupportedProtocolVersion, ClientIDNotValid,
		BadUserNameOrPassword, NotAuthorized, ServerUnavailable, ServerBusy, Banned, BadAuthMethod, TopicNameInvalid, PacketTooLarge, QuotaExceeded,
		PayloadFormatInvalid, RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved, ConnectionRateExceeded),
	PUBACK: set(Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecific, NotAuthorized, TopicNameInvalid, PacketIDInUse, QuotaExceeded,
		PayloadFormatInvalid),
	PUBREC: set(Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecific, NotAuthorized, TopicNameInvalid, PacketIDInUse, QuotaExceeded,
		PayloadFormatInvalid),
	PUBREL:  set(Success, PacketIDNotFound),
	PUBCOMP: set(Success, PacketIDNotFound),
	SUBACK: set(GrantedQoS0, GrantedQoS1, GrantedQoS2, UnspecifiedError, ImplementationSpecific, NotAuthorized, TopicFilterInvalid, PacketIDInUse,
		QuotaExceeded, SharedNotSupported, SubscriptionIDsNotSupported, WildcardNotSupported),
	UNSUBACK: set(Success, NoSubscriptionExisted, UnspecifiedError, ImplementationSpecific, NotAuthorized, TopicFilterInvalid, PacketIDInUse),
	DISCONNECT: set(Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecific, NotAuthorized, ServerBusy,
		ServerShuttingDown, KeepAliveTimeout, SessionTakenOver, TopicFilterInvalid, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid,
		PacketTooLarge, MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported,
		UseAnotherServer, ServerMoved, SharedNotSupported, ConnectionRateExceeded, MaximumConnectTime, SubscriptionIDsNotSupported, WildcardNotSupported),
	AUTH: set(Success, ContinueAuthentication, ReAuthenticate),
}

// reasonsOf are the codes that a packet may carry (the tables of chapter 3).
func reasonsOf(t Type) *reasonSet { return &reasonSets[t] }
