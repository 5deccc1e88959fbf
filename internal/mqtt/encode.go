package mqtt

// AppendFitted is p.Append for a peer with a Maximum Packet Size of limit bytes (0: none): a packet above it loses its
// user properties, then its reason string ([MQTT-3.2.2-19], [MQTT-3.4.2-2] and their like). ok is false, and dst as it
// was, if that does not help or the packet is a PUBLISH, which must come whole or not at all.
func AppendFitted(dst []byte, p Packet, v Version, limit uint32) (out []byte, ok bool) {
	out = p.Append(dst, v)
	if limit == 0 || len(out)-len(dst) <= int(limit) {
		return out, true
	}
	props := optional(p)
	if props == nil || v != V5 {
		return dst, false
	}
	user, present := props.User, props.present
	defer func() { props.User, props.present = user, present }()
	props.User = nil
	if out = p.Append(dst, v); len(out)-len(dst) <= int(limit) {
		return out, true
	}
	props.Clear(ReasonString)
	if out = p.Append(dst, v); len(out)-len(dst) <= int(limit) {
		return out, true
	}
	return dst, false
}

// optional are the properties of a packet that may be left out of it, nil for those that have none.
func optional(p Packet) *Properties {
	switch p := p.(type) {
	case *Connack:
		return &p.Properties
	case *Ack:
		return &p.Properties
	case *Suback:
		return &p.Properties
	case *Unsuback:
		return &p.Properties
	case *Disconnect:
		return &p.Properties
	case *Auth:
		return &p.Properties
	}
	return nil
}

// begin appends a fixed header whose length setLength fills in.
func begin(dst []byte, t Type, flags byte) (out []byte, at int) {
	return append(dst, byte(t)<<4|flags, 0), len(dst) + 1
}

func appendID(dst []byte, id uint16) []byte { return append(dst, byte(id>>8), byte(id)) }

func bit(b bool, n int) byte {
	if b {
		return 1 << n
	}
	return 0
}

// Append encodes CONNECT; v is not used: the packet has its own version.
func (p *Connect) Append(dst []byte, _ Version) []byte {
	dst, at := begin(dst, CONNECT, 0)
	name := "MQTT"
	if p.Version == V31 {
		name = "MQIsdp"
	}
	dst = append(append(dst, 0, byte(len(name))), name...)
	flags := bit(p.CleanStart, 1) | bit(p.HasPassword, 6) | bit(p.HasUsername, 7)
	if p.HasWill {
		flags |= 4 | byte(p.WillQoS)<<3 | bit(p.WillRetain, 5)
	}
	dst = append(dst, byte(p.Version), flags, byte(p.KeepAlive>>8), byte(p.KeepAlive))
	if p.Version == V5 {
		dst = p.Properties.Append(dst)
	}
	dst = appendBinary(dst, p.ClientID)
	if p.HasWill {
		if p.Version == V5 {
			dst = p.WillProperties.Append(dst)
		}
		dst = appendBinary(appendBinary(dst, p.WillTopic), p.WillPayload)
	}
	if p.HasUsername {
		dst = appendBinary(dst, p.Username)
	}
	if p.HasPassword {
		dst = appendBinary(dst, p.Password)
	}
	return setLength(dst, at)
}

// Append encodes CONNACK. A failure never says that a session is present ([MQTT-3.2.2-6]), and 3.1 never does.
func (p *Connack) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, CONNACK, 0)
	code := byte(p.Reason)
	if v != V5 {
		code = p.Reason.ConnectReturnCode()
	}
	dst = append(dst, bit(p.SessionPresent && p.Reason == Success && v != V31, 0), code)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	return setLength(dst, at)
}

// Append encodes PUBLISH.
func (p *Publish) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, PUBLISH, bit(p.Dup, 3)|byte(p.QoS)<<1|bit(p.Retain, 0))
	dst = appendBinary(dst, p.Topic)
	if p.QoS > 0 {
		dst = appendID(dst, p.ID)
	}
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	return setLength(append(dst, p.Payload...), at)
}

// Append encodes PUBACK, PUBREC, PUBREL or PUBCOMP, in the short form where it will do (3.4.2.1).
func (p *Ack) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, p.Type, reservedFlags(p.Type))
	dst = appendReason(appendID(dst, p.ID), p.Reason, &p.Properties, v)
	return setLength(dst, at)
}

// AppendAck is Ack.Append for an acknowledgement without properties, which it does not make a packet of: it allocates
// nothing.
func AppendAck(dst []byte, t Type, id uint16, r Reason, v Version) []byte {
	first := byte(t)<<4 | reservedFlags(t)
	if v != V5 || r == Success {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	return append(dst, first, 3, byte(id>>8), byte(id), byte(r))
}

// appendReason appends a reason and properties; both are left out when they say nothing.
func appendReason(dst []byte, r Reason, props *Properties, v Version) []byte {
	empty := props.present == 0 && len(props.User) == 0
	if v != V5 || r == Success && empty {
		return dst
	}
	dst = append(dst, byte(r))
	if empty {
		return dst
	}
	return props.Append(dst)
}

// Append encodes SUBSCRIBE.
func (p *Subscribe) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, SUBSCRIBE, 2)
	dst = appendID(dst, p.ID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for i := range p.Subscriptions {
		s := &p.Subscriptions[i]
		o := byte(s.QoS)
		if v == V5 {
			o |= bit(s.NoLocal, 2) | bit(s.RetainAsPublished, 3) | byte(s.RetainHandling)<<4
		}
		dst = append(appendBinary(dst, s.Filter), o)
	}
	return setLength(dst, at)
}

// Append encodes SUBACK.
func (p *Suback) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, SUBACK, 0)
	dst = appendID(dst, p.ID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for _, r := range p.Reasons {
		switch {
		case v == V311 && r.Failed():
			r = UnspecifiedError // the one failure that 3.1.1 knows (3.1.1: [MQTT-3.9.3-2])
		case v == V31 && r.Failed():
			r = GrantedQoS0 // 3.1 knows none
		}
		dst = append(dst, byte(r))
	}
	return setLength(dst, at)
}

// Append encodes UNSUBSCRIBE.
func (p *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, UNSUBSCRIBE, 2)
	dst = appendID(dst, p.ID)
	if v == V5 {
		dst = p.Properties.Append(dst)
	}
	for _, f := range p.Filters {
		dst = appendBinary(dst, f)
	}
	return setLength(dst, at)
}

// Append encodes UNSUBACK.
func (p *Unsuback) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, UNSUBACK, 0)
	dst = appendID(dst, p.ID)
	if v == V5 {
		dst = p.Properties.Append(dst)
		for _, r := range p.Reasons {
			dst = append(dst, byte(r))
		}
	}
	return setLength(dst, at)
}

// Append encodes PINGREQ or PINGRESP.
func (p *Ping) Append(dst []byte, _ Version) []byte { return append(dst, byte(p.Type)<<4, 0) }

// Append encodes DISCONNECT.
func (p *Disconnect) Append(dst []byte, v Version) []byte {
	dst, at := begin(dst, DISCONNECT, 0)
	return setLength(appendReason(dst, p.Reason, &p.Properties, v), at)
}

// Append encodes AUTH, which only 5.0 has; for 3.x nothing is appended.
func (p *Auth) Append(dst []byte, v Version) []byte {
	if v != V5 {
		return dst
	}
	dst, at := begin(dst, AUTH, 0)
	return setLength(appendReason(dst, p.Reason, &p.Properties, v), at)
}
