package stateful

import (
	"errors"
	"slices"
	"strings"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// Limits of the server that the model has to know.
const (
	maxPacket    = 1 << 20
	maxConnect   = 64 << 10
	topicAliases = 32
	maxExpiry    = 7 * 24 * 3600
	anyLength    = 1 << 16
)

var levels = topic.Limits{Bytes: 4096, Levels: 64}

// malformed are the reasons for bytes that are no packet.
var malformed = []mqtt.Reason{mqtt.MalformedPacket, mqtt.ProtocolError, mqtt.QuotaExceeded, mqtt.PacketTooLarge, mqtt.UnsupportedProtocolVersion}

// end: the server has to end the connection, and what follows has no effect.
func (p *peer) end(why string, reasons ...mqtt.Reason) {
	if !p.dead {
		p.dead, p.must, p.reasons = true, why, append(p.reasons, reasons...)
	}
}

// mayEnd: the server may end it.
func (p *peer) mayEnd(r mqtt.Reason) {
	p.may, p.reasons = true, append(p.reasons, r)
}

// sending hears of bytes before they are written, and takes the packets apart as the server has to.
func (m *model) sending(p *peer, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.dead {
		return
	}
	p.in = append(p.in, b...)
	for !p.dead {
		h, n, err := mqtt.ReadHeader(p.in)
		if err != nil {
			m.broken(p, err)
			return
		}
		limit := maxPacket
		if !p.connected {
			limit = maxConnect
		}
		if n > 0 && n+h.Length > limit {
			m.broken(p, &mqtt.Error{Reason: mqtt.PacketTooLarge, Detail: "a packet above the limit"})
			return
		}
		if n == 0 || len(p.in) < n+h.Length {
			return
		}
		m.clock++
		packet, err := p.decoder.Decode(h, p.in[n:n+h.Length])
		if err != nil {
			m.broken(p, err)
			return
		}
		m.log(p, ">", packet)
		m.packet(p, packet)
		p.in = append([]byte(nil), p.in[n+h.Length:]...) // the packet points into the old ones
	}
}

// broken: what was sent is no packet.
func (m *model) broken(p *peer, err error) {
	reasons := malformed
	if e, ok := errors.AsType[*mqtt.Error](err); ok && p.connected {
		reasons = []mqtt.Reason{e.Reason}
	}
	if !p.connected {
		p.silent = true
		p.refusals = append(slices.Clone(malformed), mqtt.TopicNameInvalid)
		p.version = mqtt.V5
	}
	p.end(err.Error(), reasons...)
}

func (m *model) packet(p *peer, packet mqtt.Packet) {
	if c, first := packet.(*mqtt.Connect); first && !p.connected {
		m.connect(p, c)
		return
	}
	switch k := packet.(type) {
	case *mqtt.Publish:
		m.publish(p, k)
	case *mqtt.Ack:
		m.acknowledge(p, k)
	case *mqtt.Subscribe:
		m.subscribe(p, k)
	case *mqtt.Unsubscribe:
		m.unsubscribe(p, k)
	case *mqtt.Disconnect:
		m.disconnect(p, k)
	case *mqtt.Ping:
		if k.Type != mqtt.PINGREQ {
			p.end("a client sent PINGRESP", mqtt.ProtocolError)
			return
		}
		p.answers = append(p.answers, &answer{kind: mqtt.PINGRESP})
	default:
		p.end("a client may not send "+packet.Kind().String(), mqtt.ProtocolError)
	}
}

func (m *model) connect(p *peer, c *mqtt.Connect) {
	p.connected, p.version, p.clientID, p.clean, p.user = true, c.Version, string(c.ClientID), c.CleanStart, string(c.Username)
	p.window, p.aliases = 65535, 0
	if c.Properties.Has(mqtt.ReceiveMaximum) {
		p.window = int(c.Properties.ReceiveMaximum)
	}
	if c.Properties.Has(mqtt.TopicAliasMaximum) {
		p.aliases = c.Properties.TopicAliasMaximum
	}
	switch {
	case c.Version != mqtt.V5 && !c.CleanStart:
		p.expiry = maxExpiry
	case c.Version == mqtt.V5 && c.Properties.Has(mqtt.SessionExpiry):
		p.expiry = min(c.Properties.SessionExpiry, maxExpiry)
	case c.Version == mqtt.V5 && !c.CleanStart:
		p.expiry, p.standard = 3600, true
	}
	if c.KeepAlive > 0 {
		p.mayEnd(mqtt.KeepAliveTimeout)
	}
	if m.refuse(p, c); p.refusals != nil {
		p.end("CONNECT is to be refused")
		return
	}
	p.org = m.orgs[m.home[p.user]] // a broken user name may be another's
	if c.HasWill {
		p.will = p.org.message(string(c.WillTopic), string(c.WillPayload))
		m.published(p.will, &mqtt.Publish{QoS: c.WillQoS, Retain: c.WillRetain, Properties: c.WillProperties}, nil)
		p.will.will = true
		p.delayed = c.WillProperties.Has(mqtt.WillDelay) && c.WillProperties.WillDelay > 0 && p.expiry > 0
		if c.WillRetain {
			p.org.retain(p.will.topic, &candidate{payload: p.will.payload, at: m.clock, fades: c.WillProperties.Has(mqtt.MessageExpiry)})
		}
	}
	if p.clientID != "" {
		m.claim(p)
	}
}

// refuse finds out why CONNECT has to be refused.
func (m *model) refuse(p *peer, c *mqtt.Connect) {
	add := func(r ...mqtt.Reason) { p.refusals = append(p.refusals, r...) }
	if c.Properties.Has(mqtt.AuthMethod) {
		add(mqtt.BadAuthMethod)
	}
	if p.clientID == "" && (c.Version == mqtt.V31 || c.Version == mqtt.V311 && !c.CleanStart) {
		add(mqtt.ClientIDNotValid)
	}
	if c.HasWill && topic.CheckName(c.WillTopic, levels) != nil {
		add(mqtt.TopicNameInvalid)
		p.silent = true
	}
	if c.HasWill && c.WillProperties.Has(mqtt.ResponseTopic) && topic.CheckName(c.WillProperties.ResponseTopic, levels) != nil {
		add(mqtt.ProtocolError)
	}
	if password, ok := m.passwords[p.user]; !ok || !c.HasPassword || password != string(c.Password) {
		add(mqtt.BadUserNameOrPassword, mqtt.ConnectionRateExceeded, mqtt.ServerBusy)
	}
	if c.HasWill && forbidden(string(c.WillTopic)) {
		add(mqtt.NotAuthorized)
	}
}

// forbidden topics are nobody's to publish to.
func forbidden(name string) bool {
	return name == "$SYS" || strings.HasPrefix(name, "$SYS/") || name == "$share" || strings.HasPrefix(name, "$share/")
}

// claim is a client identifier's change of hands.
func (m *model) claim(p *peer) {
	s := p.org.session(p.clientID)
	race := false
	for _, q := range m.peers {
		if q == p || q.org != p.org || q.clientID != p.clientID || q.refusals != nil || !q.connected {
			continue
		}
		stray := q.dropped && !q.accepted // we have left, and the server may take its CONNECT at any time from now on
		if q.gone && !stray {
			continue
		}
		if !q.accepted {
			race = true
			q.lenient = true
		}
		if !q.dropped {
			q.mayEnd(mqtt.SessionTakenOver)
		}
	}
	if race {
		p.lenient = true
		p.mayEnd(mqtt.SessionTakenOver)
	}
	p.expects = !race && !p.clean && s.must == p.user && s.must != ""
	p.resumed = !p.clean && s.may[p.user]
	s.must = ""
	if p.expiry > 0 {
		s.may[p.user] = true
	}
}

// published adds one packet to what is known of a message.
func (m *model) published(x *message, k *mqtt.Publish, from *peer) {
	x.most++
	x.qos = max(x.qos, k.QoS)
	x.retained = x.retained || k.Retain
	x.plain = x.plain || !k.Retain
	x.at = m.clock
	x.from = from
	x.content, x.properties, x.expiry = string(k.Properties.ContentType), len(k.Properties.User), 0
	if k.Properties.Has(mqtt.MessageExpiry) {
		x.expiry = k.Properties.MessageExpiry
	}
	if from != nil {
		from.sent++
		x.order = from.sent
	}
}

// topicOf is the topic that a PUBLISH of a client means.
func (p *peer) topicOf(k *mqtt.Publish) (name string, ok bool) {
	name = string(k.Topic)
	if !k.Properties.Has(mqtt.TopicAlias) {
		return name, true
	}
	a := k.Properties.TopicAlias
	switch {
	case a == 0 || a > topicAliases:
		p.end("topic alias out of range", mqtt.TopicAliasInvalid)
		return "", false
	case name != "":
		p.known[a] = name
	case p.known[a] == "":
		p.end("unknown topic alias", mqtt.ProtocolError)
		return "", false
	}
	return p.known[a], true
}

func (m *model) publish(p *peer, k *mqtt.Publish) {
	if len(k.Properties.SubscriptionIDs) > 0 {
		p.end("PUBLISH with a subscription identifier", mqtt.ProtocolError)
		return
	}
	name, ok := p.topicOf(k)
	if !ok {
		return
	}
	if topic.CheckName(name, topic.Limits{Bytes: anyLength, Levels: anyLength}) != nil {
		p.end("a topic that cannot be", mqtt.TopicNameInvalid)
		return
	}
	deep := topic.CheckName(name, levels) != nil
	if !deep && k.Properties.Has(mqtt.ResponseTopic) && topic.CheckName(k.Properties.ResponseTopic, topic.Limits{Bytes: anyLength, Levels: anyLength}) != nil {
		p.end("a response topic that cannot be", mqtt.ProtocolError)
		return
	}
	before := no
	if k.QoS == 2 {
		before = m.receives(p, k.ID)
	}
	x := p.org.message(name, string(k.Payload))
	if before == yes {
		x.at = m.clock // it is known, but nothing comes of it
		p.acks = append(p.acks, &answer{kind: mqtt.PUBREC, id: k.ID, reasons: [][]mqtt.Reason{{mqtt.Success, mqtt.PacketIDInUse}}})
		return
	}
	a := &answer{kind: mqtt.PUBACK, id: k.ID, message: x, certain: before == no}
	if k.QoS == 2 {
		a.kind = mqtt.PUBREC
	}
	switch {
	case deep:
		a.reasons = [][]mqtt.Reason{{mqtt.TopicNameInvalid}}
	case forbidden(name):
		a.reasons = [][]mqtt.Reason{{mqtt.NotAuthorized}}
	default:
		a.reasons = [][]mqtt.Reason{{mqtt.Success, mqtt.NoMatchingSubscribers}}
		if p.org.watcher != nil && !strings.HasPrefix(name, "$") {
			a.reasons = [][]mqtt.Reason{{mqtt.Success}} // the bystander has it
		}
	}
	if deep || forbidden(name) {
		x.refused, a.message = true, nil
		if k.QoS == 2 && p.version == mqtt.V5 {
			p.got[k.ID] = unknown // free again once it is answered
		}
		if p.version != mqtt.V5 {
			a.reasons = [][]mqtt.Reason{{mqtt.Success}}
		}
	} else {
		m.published(x, k, p)
		if k.Retain {
			a.candidate = &candidate{payload: x.payload, from: p, at: m.clock, fades: k.Properties.Has(mqtt.MessageExpiry)}
			p.org.retain(name, a.candidate)
		}
	}
	if before == unknown {
		a.reasons[0] = append(a.reasons[0], mqtt.Success, mqtt.PacketIDInUse)
	}
	if k.QoS > 0 {
		p.acks = append(p.acks, a)
	}
}

// receives says whether an inbound QoS 2 identifier is in use, and that it is from now on.
func (m *model) receives(p *peer, id uint16) state {
	before, heard := p.got[id]
	if !heard {
		before = m.inherited(p, id)
	}
	p.got[id] = yes
	if p.clientID != "" && p.expiry > 0 {
		p.org.session(p.clientID).received[id] = true
	}
	return before
}

// inherited is what a connection knows of an identifier that it has not used: an earlier one of its session may have.
func (m *model) inherited(p *peer, id uint16) state {
	if p.lenient || p.resumed && p.org.session(p.clientID).received[id] {
		return unknown
	}
	return no
}

func (m *model) subscribe(p *peer, k *mqtt.Subscribe) {
	a := &answer{kind: mqtt.SUBACK, id: k.ID}
	for i := range k.Subscriptions {
		if topic.CheckFilter(k.Subscriptions[i].Filter, topic.Limits{Bytes: anyLength, Levels: anyLength}) != nil {
			p.end("a filter that cannot be", mqtt.MalformedPacket)
			return
		}
	}
	for _, s := range k.Subscriptions {
		h := &held{Subscription: s, filter: string(s.Filter), at: m.clock}
		h.Filter = nil
		whole := h.filter
		if rest, ok := strings.CutPrefix(h.filter, "$share/"); ok {
			_, h.filter, h.shared = strings.Cut(rest, "/")
		}
		if len(k.Properties.SubscriptionIDs) > 0 {
			h.identifier = k.Properties.SubscriptionIDs[0]
		}
		granted := []mqtt.Reason{mqtt.Reason(s.QoS)}
		if topic.CheckFilter(s.Filter, levels) != nil {
			switch p.version {
			case mqtt.V5:
				granted = []mqtt.Reason{mqtt.TopicFilterInvalid}
			case mqtt.V311:
				granted = []mqtt.Reason{mqtt.UnspecifiedError}
			default:
				granted = []mqtt.Reason{mqtt.Reason(s.QoS), 0}
			}
		} else {
			p.gen.held = append(p.gen.held, h)
			p.now[whole] = yes
		}
		a.reasons = append(a.reasons, granted)
	}
	p.answers = append(p.answers, a)
}

func (m *model) unsubscribe(p *peer, k *mqtt.Unsubscribe) {
	a := &answer{kind: mqtt.UNSUBACK, id: k.ID, at: m.clock}
	for _, f := range k.Filters {
		if topic.CheckFilter(f, topic.Limits{Bytes: anyLength, Levels: anyLength}) != nil {
			p.end("a filter that cannot be", mqtt.MalformedPacket)
			return
		}
	}
	for _, f := range k.Filters {
		filter := string(f)
		a.filters = append(a.filters, filter)
		was, heard := p.now[filter]
		switch {
		case heard && was == yes:
			a.reasons = append(a.reasons, []mqtt.Reason{mqtt.Success})
		case heard && was == no || !p.lenient && !p.resumed:
			a.reasons = append(a.reasons, []mqtt.Reason{mqtt.NoSubscriptionExisted})
		default:
			a.reasons = append(a.reasons, []mqtt.Reason{mqtt.Success, mqtt.NoSubscriptionExisted})
		}
		p.now[filter] = no
	}
	p.answers = append(p.answers, a)
}

func (m *model) disconnect(p *peer, k *mqtt.Disconnect) {
	if k.Properties.Has(mqtt.SessionExpiry) {
		if k.Properties.SessionExpiry != 0 && p.expiry == 0 {
			p.end("a session expiry above 0 at DISCONNECT", mqtt.ProtocolError)
			return
		}
		if p.clientID != "" {
			p.org.session(p.clientID).must = ""
			for _, q := range m.peers { // it may overtake a CONNECT that was written before it
				q.expects = q.expects && (q.org != p.org || q.clientID != p.clientID)
			}
		}
		p.expiry = 0 // what becomes of the session is open
	}
	p.finished, p.takesOff = true, k.Reason == mqtt.Success
	p.end("DISCONNECT")
}

// acknowledge is PUBACK, PUBREC, PUBREL or PUBCOMP of the client.
func (m *model) acknowledge(p *peer, k *mqtt.Ack) {
	if k.Type == mqtt.PUBREL {
		was, heard := p.got[k.ID]
		if !heard {
			was = m.inherited(p, k.ID)
		}
		p.got[k.ID] = no
		reasons := map[state][]mqtt.Reason{yes: {mqtt.Success}, no: {mqtt.PacketIDNotFound}, unknown: {mqtt.Success, mqtt.PacketIDNotFound}}[was]
		if _, waiting := p.comps[k.ID]; waiting { // the first one may not have reached the disk
			reasons = []mqtt.Reason{mqtt.Success, mqtt.PacketIDNotFound}
		}
		p.comps[k.ID] = append(p.comps[k.ID], reasons)
		return
	}
	f := p.flight[k.ID]
	if f == nil || p.early[k.ID] {
		// It may be on its way: then this is its acknowledgement, or a wrong one.
		p.early[k.ID] = true
		p.again[k.ID] = true
		p.mayEnd(mqtt.ProtocolError)
		delete(p.flight, k.ID)
		return
	}
	switch {
	case k.Type == mqtt.PUBACK && f.qos == 1, k.Type == mqtt.PUBCOMP && f.qos == 2 && f.received:
		delete(p.flight, k.ID)
		delete(p.rels, k.ID)
		p.again[k.ID] = true // it crosses a PUBREL
	case k.Type == mqtt.PUBREC && f.qos == 2:
		if k.Reason.Failed() && !f.received {
			delete(p.flight, k.ID)
			return
		}
		if f.received {
			p.again[k.ID] = true
			return
		}
		f.received = true
		p.rels[k.ID] = true
	default:
		p.end(k.Type.String()+" that does not fit the message in flight", mqtt.ProtocolError)
	}
}
