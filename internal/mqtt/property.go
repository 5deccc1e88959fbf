package mqtt

// Property is a property identifier of MQTT 5.0 (2.2.2.2). All are below 64.
type Property uint8

// Property identifiers.
const (
	PayloadFormat           Property = 1
	MessageExpiry           Property = 2
	ContentType             Property = 3
	ResponseTopic           Property = 8
	CorrelationData         Property = 9
	SubscriptionIdentifier  Property = 11
	SessionExpiry           Property = 17
	AssignedClientID        Property = 18
	ServerKeepAlive         Property = 19
	AuthMethod              Property = 21
	AuthData                Property = 22
	RequestProblemInfo      Property = 23
	WillDelay               Property = 24
	RequestResponseInfo     Property = 25
	ResponseInfo            Property = 26
	ServerReference         Property = 28
	ReasonString            Property = 31
	ReceiveMaximum          Property = 33
	TopicAliasMaximum       Property = 34
	TopicAlias              Property = 35
	MaximumQoS              Property = 36
	RetainAvailable         Property = 37
	UserPropertyID          Property = 38
	MaximumPacketSize       Property = 39
	WildcardAvailable       Property = 40
	SubscriptionIDAvailable Property = 41
	SharedAvailable         Property = 42
)

// UserProperty is one name and value pair; order and repetition count.
type UserProperty struct{ Key, Value []byte }

// Properties are the properties of one packet. A scalar or byte field counts only while its bit is set (Has, Set);
// SubscriptionIDs and User count while they are not empty.
type Properties struct {
	present uint64 // bit n: property n

	PayloadFormat           uint8
	RequestProblemInfo      uint8
	RequestResponseInfo     uint8
	MaximumQoS              uint8
	RetainAvailable         uint8
	WildcardAvailable       uint8
	SubscriptionIDAvailable uint8
	SharedAvailable         uint8
	ServerKeepAlive         uint16
	ReceiveMaximum          uint16
	TopicAliasMaximum       uint16
	TopicAlias              uint16
	MessageExpiry           uint32 // seconds
	SessionExpiry           uint32 // seconds
	WillDelay               uint32 // seconds
	MaximumPacketSize       uint32 // bytes
	ContentType             []byte
	ResponseTopic           []byte
	CorrelationData         []byte
	AssignedClientID        []byte
	AuthMethod              []byte
	AuthData                []byte
	ResponseInfo            []byte
	ServerReference         []byte
	ReasonString            []byte
	SubscriptionIDs         []uint32 // one in SUBSCRIBE, any number in a PUBLISH to a client
	User                    []UserProperty
}

// Has reports whether property id is there.
func (p *Properties) Has(id Property) bool {
	switch id {
	case SubscriptionIdentifier:
		return len(p.SubscriptionIDs) > 0
	case UserPropertyID:
		return len(p.User) > 0
	}
	return p.present&(1<<id) != 0
}

// Set marks property id as there; the caller fills its field.
func (p *Properties) Set(id Property) { p.present |= 1 << id }

// Clear removes property id.
func (p *Properties) Clear(id Property) {
	p.present &^= 1 << id
	switch id {
	case SubscriptionIdentifier:
		p.SubscriptionIDs = p.SubscriptionIDs[:0]
	case UserPropertyID:
		p.User = p.User[:0]
	}
}

// Reset removes all properties and keeps the two lists' memory for the next packet.
func (p *Properties) Reset() {
	*p = Properties{SubscriptionIDs: p.SubscriptionIDs[:0], User: p.User[:0]}
}
