package mqtt

import (
	"bytes"
)

// Limits bound what one packet may hold beside its bytes.
type Limits struct {
	Filters        int // per SUBSCRIBE or UNSUBSCRIBE; 0: 1,000
	UserProperties int // per list, and subscription identifiers; 0: 1,000
}

const defaultLimit = 1000

// Decoder decodes the packets of one connection. It is used by one goroutine; each packet it returns is its own and valid
// until the next call. It decodes both directions: what a peer may not send is for the session to refuse.
type Decoder struct {
	// Version is the protocol of the connection. While it is 0 only CONNECT is accepted, which sets it.
	Version Version
	Limits  Limits

	connect     Connect
	connack     Connack
	publish     Publish
	ack         Ack
	subscribe   Subscribe
	suback      Suback
	unsubscribe Unsubscribe
	unsuback    Unsuback
	ping        Ping
	disconnect  Disconnect
	auth        Auth
}

// Decode decodes the packet with header h and the h.Length bytes behind it. The packet's fields point into body. Errors
// are *Error with the reason for the peer.
func (d *Decoder) Decode(h Header, body []byte) (Packet, error) {
	if d.Version == 0 && h.Type != CONNECT {
		return nil, violation("the first packet is not CONNECT") // [MQTT-3.1.0-1]
	}
	if h.Type != PUBLISH && h.Flags != reservedFlags(h.Type) && (d.Version != V31 || !resent(h)) { // [MQTT-2.1.3-1]
		return nil, malformed("reserved flags of " + h.Type.String())
	}
	c := cursor{b: body}
	p := d.decode(h, &c)
	c.end()
	if c.err != nil {
		return nil, c.err
	}
	return p, nil
}

// reservedFlags are the flags of every packet but PUBLISH (2.1.3).
func reservedFlags(t Type) byte {
	switch t {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 2
	}
	return 0
}

// resent reports a packet sent again by a 3.1 client, which marks it with the DUP flag (3.1, section 2.1).
func resent(h Header) bool {
	want := reservedFlags(h.Type)
	return want != 0 && h.Flags == want|8
}

func (d *Decoder) decode(h Header, c *cursor) Packet {
	switch h.Type {
	case CONNECT:
		d.readConnect(c)
		return &d.connect
	case CONNACK:
		d.readConnack(c)
		return &d.connack
	case PUBLISH:
		d.readPublish(h, c)
		return &d.publish
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		p := &d.ack
		p.Type, p.ID = h.Type, c.id()
		p.Reason = d.readReason(c, h.Type, &p.Properties)
		return p
	case SUBSCRIBE:
		d.readSubscribe(c)
		return &d.subscribe
	case SUBACK:
		d.suback.ID = c.id()
		d.suback.Reasons = d.readReasons(c, SUBACK, d.suback.Reasons[:0], &d.suback.Properties)
		return &d.suback
	case UNSUBSCRIBE:
		d.readUnsubscribe(c)
		return &d.unsubscribe
	case UNSUBACK:
		d.unsuback.ID = c.id()
		d.unsuback.Reasons = d.readReasons(c, UNSUBACK, d.unsuback.Reasons[:0], &d.unsuback.Properties)
		return &d.unsuback
	case PINGREQ, PINGRESP:
		d.ping.Type = h.Type
		return &d.ping
	case DISCONNECT:
		d.disconnect.Reason = d.readReason(c, DISCONNECT, &d.disconnect.Properties)
		return &d.disconnect
	}
	if d.Version != V5 {
		c.fail(malformed("AUTH in " + d.Version.String()))
	}
	d.auth.Reason = d.readReason(c, AUTH, &d.auth.Properties)
	return &d.auth
}

func (d *Decoder) properties(c *cursor, p *Properties, t Type) {
	if d.Version != V5 {
		p.Reset()
		return
	}
	limit := d.Limits.UserProperties
	if limit == 0 {
		limit = defaultLimit
	}
	p.read(c, t, limit)
}

func (d *Decoder) filters() int {
	if d.Limits.Filters == 0 {
		return defaultLimit
	}
	return d.Limits.Filters
}

func (d *Decoder) readConnect(c *cursor) {
	p := &d.connect
	*p = Connect{Properties: p.Properties, WillProperties: p.WillProperties}
	p.Properties.Reset()
	p.WillProperties.Reset()
	name := c.binary("protocol name")
	p.Version = Version(c.byte("protocol level"))
	if c.err != nil {
		return
	}
	known := bytes.Equal(name, []byte("MQTT")) && (p.Version == V311 || p.Version == V5) ||
		bytes.Equal(name, []byte("MQIsdp")) && p.Version == V31
	if !known { // [MQTT-3.1.2-1], [MQTT-3.1.2-2]
		c.fail(&Error{Reason: UnsupportedProtocolVersion, Detail: "protocol name and level are not of MQTT 3.1, 3.1.1 or 5.0"})
		return
	}
	d.Version = p.Version
	flags := c.byte("connect flags")
	p.CleanStart = flags&2 != 0
	p.HasWill, p.WillQoS, p.WillRetain = flags&4 != 0, QoS(flags>>3&3), flags&32 != 0
	p.HasPassword, p.HasUsername = flags&64 != 0, flags&128 != 0
	switch {
	case flags&1 != 0 && p.Version != V31:
		c.fail(malformed("reserved connect flag")) // [MQTT-3.1.2-3]
	case p.WillQoS == 3:
		c.fail(malformed("will QoS 3")) // [MQTT-3.1.2-12]
	case !p.HasWill && (p.WillQoS != 0 || p.WillRetain):
		c.fail(malformed("will QoS or will retain without a will")) // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
	case p.HasPassword && !p.HasUsername && p.Version != V5:
		c.fail(malformed("a password without a user name")) // 3.1.1: [MQTT-3.1.2-22]
	}
	p.KeepAlive = c.uint16("keep alive")
	d.properties(c, &p.Properties, CONNECT)
	p.ClientID = c.text("client identifier")
	if p.HasWill {
		d.properties(c, &p.WillProperties, inWill)
		p.WillTopic = c.text("will topic")
		p.WillPayload = c.binary("will payload")
	}
	if p.Version == V31 && len(c.b) == 0 && c.err == nil {
		p.HasUsername, p.HasPassword = false, false // the length takes precedence over the flags (3.1, section 3.1)
	}
	if p.HasUsername {
		p.Username = c.text("user name")
	}
	if p.HasPassword {
		p.Password = c.binary("password")
	}
}

func (d *Decoder) readConnack(c *cursor) {
	p := &d.connack
	flags, code := c.byte("acknowledge flags"), c.byte("reason code")
	if flags > 1 && d.Version != V31 {
		c.fail(malformed("reserved acknowledge flags")) // [MQTT-3.2.2-1]
	}
	p.SessionPresent = flags == 1 && d.Version != V31
	p.Reason = Reason(code)
	switch {
	case d.Version != V5 && int(code) >= len(returnCodes):
		c.fail(malformed("a return code that does not exist"))
	case d.Version != V5:
		p.Reason = returnCodes[code]
	case !reasonsOf(CONNACK).has(p.Reason):
		c.fail(malformed("a reason code that CONNACK does not have"))
	}
	if p.SessionPresent && p.Reason != Success {
		c.fail(violation("a refusal with a session present")) // [MQTT-3.2.2-6]
	}
	d.properties(c, &p.Properties, CONNACK)
}

func (d *Decoder) readPublish(h Header, c *cursor) {
	p := &d.publish
	p.Dup, p.QoS, p.Retain, p.ID = h.Flags&8 != 0, QoS(h.Flags>>1&3), h.Flags&1 != 0, 0
	if p.Dup && p.QoS == 0 && d.Version != V31 {
		c.fail(malformed("DUP at QoS 0")) // [MQTT-3.3.1-2]
	}
	p.Topic = c.text("topic")
	if p.QoS > 0 {
		p.ID = c.id()
	}
	d.properties(c, &p.Properties, PUBLISH)
	if c.err == nil && len(p.Topic) == 0 {
		switch {
		case d.Version != V5:
			c.fail(malformed("an empty topic")) // 3.1.1: [MQTT-4.7.3-1]
		case !p.Properties.Has(TopicAlias):
			c.fail(violation("an empty topic without a topic alias"))
		}
	}
	p.Payload, c.b = c.b, nil
}

// readReason reads the reason and properties that end an acknowledgement, DISCONNECT or AUTH; both may be missing.
func (d *Decoder) readReason(c *cursor, t Type, props *Properties) Reason {
	props.Reset()
	if d.Version != V5 || len(c.b) == 0 {
		return Success
	}
	r := Reason(c.byte("reason code"))
	if !reasonsOf(t).has(r) {
		c.fail(malformed("a reason code that " + t.String() + " does not have"))
		return r
	}
	if len(c.b) > 0 {
		d.properties(c, props, t)
	}
	return r
}

// readReasons reads the rest of SUBACK or UNSUBACK.
func (d *Decoder) readReasons(c *cursor, t Type, dst []Reason, props *Properties) []Reason {
	d.properties(c, props, t)
	if t == UNSUBACK && d.Version != V5 {
		return dst
	}
	if len(c.b) == 0 && c.err == nil {
		c.fail(violation(t.String() + " without a reason code"))
	}
	for len(c.b) > 0 {
		r := Reason(c.byte("reason code"))
		if d.Version == V5 && !reasonsOf(t).has(r) || d.Version != V5 && r > 2 && (r != UnspecifiedError || d.Version == V31) {
			c.fail(malformed("a reason code that " + t.String() + " does not have"))
		}
		dst = append(dst, r)
	}
	return dst
}

func (d *Decoder) readSubscribe(c *cursor) {
	p := &d.subscribe
	p.Subscriptions = p.Subscriptions[:0]
	p.ID = c.id()
	d.properties(c, &p.Properties, SUBSCRIBE)
	if c.err == nil && len(c.b) == 0 {
		c.fail(violation("SUBSCRIBE without a filter")) // [MQTT-3.8.3-2]
	}
	for len(c.b) > 0 {
		if len(p.Subscriptions) == d.filters() {
			c.fail(&Error{Reason: QuotaExceeded, Detail: "too many filters in one SUBSCRIBE"})
			return
		}
		s := Subscription{Filter: c.text("filter")}
		o := c.byte("subscription options")
		if d.Version == V31 {
			o &= 3 // the upper bits have no meaning (3.1, section 3.8)
		}
		s.QoS, s.NoLocal, s.RetainAsPublished, s.RetainHandling = QoS(o&3), o&4 != 0, o&8 != 0, RetainHandling(o>>4&3)
		switch {
		case s.QoS == 3, o&0xc0 != 0, d.Version != V5 && o > 2:
			c.fail(malformed("reserved subscription options")) // [MQTT-3.8.3-5]; 3.1.1: [MQTT-3.8.3-4]
		case s.RetainHandling == 3:
			c.fail(violation("retain handling 3"))
		case s.NoLocal && bytes.HasPrefix(s.Filter, []byte("$share/")):
			c.fail(violation("no local on a shared subscription")) // [MQTT-3.8.3-4]
		}
		p.Subscriptions = append(p.Subscriptions, s)
	}
}

func (d *Decoder) readUnsubscribe(c *cursor) {
	p := &d.unsubscribe
	p.Filters = p.Filters[:0]
	p.ID = c.id()
	d.properties(c, &p.Properties, UNSUBSCRIBE)
	if c.err == nil && len(c.b) == 0 {
		c.fail(violation("UNSUBSCRIBE without a filter")) // [MQTT-3.10.3-2]
	}
	for len(c.b) > 0 {
		if len(p.Filters) == d.filters() {
			c.fail(&Error{Reason: QuotaExceeded, Detail: "too many filters in one UNSUBSCRIBE"})
			return
		}
		p.Filters = append(p.Filters, c.text("filter"))
	}
}
