package mqtt

import "math/bits"

// Where a property may appear: bit n for packet type n, bit 0 for the will (2.2.2.2).
const inWill = 0

func in(types ...Type) (mask uint16) {
	for _, t := range types {
		mask |= 1 << t
	}
	return mask
}

var allowed = [64]uint16{
	PayloadFormat:           in(PUBLISH, inWill),
	MessageExpiry:           in(PUBLISH, inWill),
	ContentType:             in(PUBLISH, inWill),
	ResponseTopic:           in(PUBLISH, inWill),
	CorrelationData:         in(PUBLISH, inWill),
	SubscriptionIdentifier:  in(PUBLISH, SUBSCRIBE),
	SessionExpiry:           in(CONNECT, CONNACK, DISCONNECT),
	AssignedClientID:        in(CONNACK),
	ServerKeepAlive:         in(CONNACK),
	AuthMethod:              in(CONNECT, CONNACK, AUTH),
	AuthData:                in(CONNECT, CONNACK, AUTH),
	RequestProblemInfo:      in(CONNECT),
	WillDelay:               in(inWill),
	RequestResponseInfo:     in(CONNECT),
	ResponseInfo:            in(CONNACK),
	ServerReference:         in(CONNACK, DISCONNECT),
	ReasonString:            in(CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH),
	ReceiveMaximum:          in(CONNECT, CONNACK),
	TopicAliasMaximum:       in(CONNECT, CONNACK),
	TopicAlias:              in(PUBLISH),
	MaximumQoS:              in(CONNACK),
	RetainAvailable:         in(CONNACK),
	UserPropertyID:          0xffff,
	MaximumPacketSize:       in(CONNECT, CONNACK),
	WildcardAvailable:       in(CONNACK),
	SubscriptionIDAvailable: in(CONNACK),
	SharedAvailable:         in(CONNACK),
}

// read decodes a property list with its length prefix, for a packet of type t (inWill: the will). p is reset first. At
// most limit user properties are taken.
func (p *Properties) read(c *cursor, t Type, limit int) {
	p.Reset()
	n := c.varint("property length")
	if n > len(c.b) {
		c.short("properties")
	}
	if c.err != nil {
		return
	}
	list := cursor{b: c.b[:n]}
	c.b = c.b[n:]
	for len(list.b) > 0 && list.err == nil {
		id := list.varint("property identifier")
		if id >= len(allowed) || allowed[id]&(1<<t) == 0 {
			list.fail(malformed("a property that does not exist or not in this packet"))
			break
		}
		p.readOne(&list, Property(id), t, limit)
	}
	if list.err == nil && p.Has(AuthData) && !p.Has(AuthMethod) {
		list.fail(violation("authentication data without authentication method"))
	}
	if list.err != nil {
		c.fail(list.err)
	}
}

func (p *Properties) readOne(c *cursor, id Property, t Type, limit int) {
	switch id {
	case UserPropertyID:
		if len(p.User) >= limit {
			c.fail(&Error{Reason: QuotaExceeded, Detail: "too many user properties"})
			return
		}
		key := c.text("user property")
		p.User = append(p.User, UserProperty{key, c.text("user property")})
		return
	case SubscriptionIdentifier:
		v := c.varint("subscription identifier")
		switch {
		case v == 0 && c.err == nil:
			c.fail(violation("subscription identifier 0"))
		case t == SUBSCRIBE && len(p.SubscriptionIDs) > 0:
			c.fail(violation("subscription identifier given twice"))
		case len(p.SubscriptionIDs) >= limit:
			c.fail(&Error{Reason: QuotaExceeded, Detail: "too many subscription identifiers"})
		default:
			p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(v))
		}
		return
	}
	if p.Has(id) {
		c.fail(violation("a property given twice"))
		return
	}
	p.Set(id)
	if v := p.text(id); v != nil {
		*v = c.text("a property")
		return
	}
	switch id {
	case CorrelationData:
		p.CorrelationData = c.binary("correlation data")
	case AuthData:
		p.AuthData = c.binary("authentication data")
	default:
		p.readNumber(c, id)
	}
}

// text is the field of a string property, nil for others.
func (p *Properties) text(id Property) *[]byte {
	switch id {
	case ContentType:
		return &p.ContentType
	case ResponseTopic:
		return &p.ResponseTopic
	case AssignedClientID:
		return &p.AssignedClientID
	case AuthMethod:
		return &p.AuthMethod
	case ResponseInfo:
		return &p.ResponseInfo
	case ServerReference:
		return &p.ServerReference
	case ReasonString:
		return &p.ReasonString
	}
	return nil
}

// flag is the field of a property of one byte, 0 or 1, nil for others.
func (p *Properties) flag(id Property) *uint8 {
	switch id {
	case PayloadFormat:
		return &p.PayloadFormat
	case RequestProblemInfo:
		return &p.RequestProblemInfo
	case RequestResponseInfo:
		return &p.RequestResponseInfo
	case MaximumQoS:
		return &p.MaximumQoS
	case RetainAvailable:
		return &p.RetainAvailable
	case WildcardAvailable:
		return &p.WildcardAvailable
	case SubscriptionIDAvailable:
		return &p.SubscriptionIDAvailable
	case SharedAvailable:
		return &p.SharedAvailable
	}
	return nil
}

// short is the field of a two byte property, nil for others.
func (p *Properties) short(id Property) *uint16 {
	switch id {
	case ServerKeepAlive:
		return &p.ServerKeepAlive
	case ReceiveMaximum:
		return &p.ReceiveMaximum
	case TopicAliasMaximum:
		return &p.TopicAliasMaximum
	case TopicAlias:
		return &p.TopicAlias
	}
	return nil
}

// long is the field of a four byte property, nil for others.
func (p *Properties) long(id Property) *uint32 {
	switch id {
	case MessageExpiry:
		return &p.MessageExpiry
	case SessionExpiry:
		return &p.SessionExpiry
	case WillDelay:
		return &p.WillDelay
	case MaximumPacketSize:
		return &p.MaximumPacketSize
	}
	return nil
}

func (p *Properties) readNumber(c *cursor, id Property) {
	if v := p.flag(id); v != nil {
		if *v = c.byte("a property"); *v > 1 {
			c.fail(violation("a property that is 0 or 1 has another value"))
		}
		return
	}
	if v := p.short(id); v != nil {
		*v = c.uint16("a property")
		switch {
		case *v != 0 || c.err != nil:
		case id == ReceiveMaximum:
			c.fail(violation("receive maximum 0"))
		case id == TopicAlias:
			c.fail(&Error{Reason: TopicAliasInvalid, Detail: "topic alias 0"}) // [MQTT-3.3.2-8]
		}
		return
	}
	v := p.long(id)
	if *v = c.uint32("a property"); *v == 0 && id == MaximumPacketSize {
		c.fail(violation("maximum packet size 0"))
	}
}

// Append encodes the properties behind dst, their length first, in the order of their identifiers; user properties keep
// their order ([MQTT-3.3.2-18]).
func (p *Properties) Append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0)
	for left := p.present; left != 0; left &= left - 1 {
		id := Property(bits.TrailingZeros64(left))
		if id == SubscriptionIdentifier || id == UserPropertyID {
			continue
		}
		dst = append(dst, byte(id))
		if v := p.text(id); v != nil {
			dst = appendBinary(dst, *v)
		} else if v := p.flag(id); v != nil {
			dst = append(dst, *v)
		} else if v := p.short(id); v != nil {
			dst = append(dst, byte(*v>>8), byte(*v))
		} else if v := p.long(id); v != nil {
			dst = append(dst, byte(*v>>24), byte(*v>>16), byte(*v>>8), byte(*v))
		} else if id == CorrelationData {
			dst = appendBinary(dst, p.CorrelationData)
		} else {
			dst = appendBinary(dst, p.AuthData)
		}
	}
	for _, id := range p.SubscriptionIDs {
		dst = AppendVarint(append(dst, byte(SubscriptionIdentifier)), int(id))
	}
	for i := range p.User {
		dst = appendBinary(append(dst, byte(UserPropertyID)), p.User[i].Key)
		dst = appendBinary(dst, p.User[i].Value)
	}
	return setLength(dst, at)
}

// setLength replaces the one byte at dst[at] by the length of all behind it.
func setLength(dst []byte, at int) []byte {
	n := len(dst) - at - 1
	if n < 0x80 {
		dst[at] = byte(n)
		return dst
	}
	more := VarintLen(n) - 1
	dst = append(dst, "\x00\x00\x00"[:more]...)
	copy(dst[at+1+more:], dst[at+1:at+1+n])
	AppendVarint(dst[:at], n)
	return dst
}

func appendBinary(dst, v []byte) []byte {
	return append(append(dst, byte(len(v)>>8), byte(len(v))), v...)
}
