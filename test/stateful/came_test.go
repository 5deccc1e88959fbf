package stateful

import (
	"slices"

	"cloudsignal/internal/mqtt"
)

// came judges one packet of the server, and returns what an obedient client answers.
func (m *model) came(p *peer, packet mqtt.Packet) (answers []mqtt.Packet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock++
	kind := packet.Kind()
	m.log(p, "<", packet)
	switch {
	case p.told:
		m.fail(p, "%s came behind the last packet", kind)
		return nil
	case !p.connected && p.refusals == nil && !p.dead:
		m.fail(p, "%s came before CONNECT was sent", kind)
		return nil
	}
	if k, ok := packet.(*mqtt.Connack); ok {
		m.connack(p, k)
		return nil
	}
	if !p.accepted {
		m.fail(p, "%s came instead of CONNACK", kind)
		return nil
	}
	switch k := packet.(type) {
	case *mqtt.Publish:
		return m.delivered(p, k)
	case *mqtt.Ack:
		return m.acknowledged(p, k)
	case *mqtt.Suback:
		m.answered(p, kind, k.ID, k.Reasons)
	case *mqtt.Unsuback:
		m.answered(p, kind, k.ID, k.Reasons)
	case *mqtt.Ping:
		m.answered(p, kind, 0, nil)
	case *mqtt.Disconnect:
		m.disconnected(p, k)
	default:
		m.fail(p, "%s is not for a server to send", kind)
	}
	return nil
}

func (m *model) connack(p *peer, k *mqtt.Connack) {
	if p.accepted {
		m.fail(p, "a second CONNACK")
		return
	}
	if k.Reason.Failed() {
		p.told = true
		fits := slices.ContainsFunc(p.refusals, func(r mqtt.Reason) bool {
			return r == k.Reason || p.version != mqtt.V5 && r.ConnectReturnCode() == k.Reason.ConnectReturnCode()
		})
		if !fits && !p.lax && !p.silent {
			m.fail(p, "CONNACK %s, allowed: %v", k.Reason, p.refusals)
		}
		return
	}
	p.accepted = true
	if p.refusals != nil && !p.lax {
		m.fail(p, "CONNECT was accepted, and is to be refused: %v", p.refusals)
		return
	}
	assigned := k.Properties.Has(mqtt.AssignedClientID)
	if assigned != (p.version == mqtt.V5 && p.clientID == "") {
		m.fail(p, "an assigned client identifier: %v", assigned)
	}
	if assigned {
		p.clientID = string(k.Properties.AssignedClientID)
		if p.org.sessions[p.clientID] != nil {
			m.fail(p, "the assigned client identifier %q is another's", p.clientID)
		}
		p.org.session(p.clientID).may[p.user] = p.expiry > 0
	}
	if p.clientID == "" {
		if k.SessionPresent {
			m.fail(p, "a session was present without a client identifier")
		}
		return
	}
	s := p.org.session(p.clientID)
	switch { // of connections that raced for the identifier nobody knows which came last, and so whose session it is
	case p.lenient:
		s.unsure = true
	case !k.SessionPresent:
		s.unsure = false
	case s.unsure:
		p.lenient = true
	}
	switch {
	case p.lenient:
	case k.SessionPresent && !p.resumed:
		m.fail(p, "a session was present: clean %v, users that may have one %v", p.clean, s.may)
	case !k.SessionPresent && p.expects && p.version != mqtt.V31:
		m.fail(p, "no session was present, and the one of %q was not to end", p.clientID)
	}
	if !k.SessionPresent && (p.version != mqtt.V31 || p.clean) {
		p.resumed = false
		s.gen = p.own
	} else {
		s.gen.held = append(s.gen.held, p.own.held...) // of SUBSCRIBE packets that were sent before CONNACK came
	}
	p.gen = s.gen
	if p.expiry > 0 && !p.lenient && !p.standard && !p.finished {
		s.must = p.user
	}
	for _, q := range m.peers { // what had the identifier before is over
		if q != p && q.org == p.org && q.clientID == p.clientID && q.accepted && !q.gone && !q.lenient && !p.lenient && !q.dropped && !q.dead {
			q.end("it was taken over", mqtt.SessionTakenOver)
		}
	}
}

// acknowledged is PUBACK, PUBREC, PUBREL or PUBCOMP of the server.
func (m *model) acknowledged(p *peer, k *mqtt.Ack) []mqtt.Packet {
	switch k.Type {
	case mqtt.PUBREL:
		f := p.flight[k.ID]
		if !p.rels[k.ID] && !p.again[k.ID] && !p.resumed && !p.lenient {
			m.fail(p, "PUBREL of %d, which was not asked for", k.ID)
		}
		if k.Reason != mqtt.Success && !p.again[k.ID] && !p.resumed {
			m.fail(p, "PUBREL of %d: %s", k.ID, k.Reason)
		}
		if f != nil && p.rels[k.ID] && f.message.most == 1 {
			p.gen.completed[f.message.topic+"\x00"+f.message.payload]++
		}
		delete(p.rels, k.ID)
		if p.auto {
			return []mqtt.Packet{&mqtt.Ack{Type: mqtt.PUBCOMP, ID: k.ID}}
		}
	case mqtt.PUBCOMP:
		owed := p.comps[k.ID]
		if len(owed) == 0 {
			m.fail(p, "PUBCOMP of %d, and none is owed", k.ID)
			return nil
		}
		if p.version == mqtt.V5 && !slices.Contains(owed[0], k.Reason) {
			m.fail(p, "PUBCOMP of %d: %s, allowed: %v", k.ID, k.Reason, owed[0])
		}
		if p.comps[k.ID] = owed[1:]; len(owed) == 1 {
			delete(p.comps, k.ID)
		}
	default:
		return m.taken(p, k)
	}
	return nil
}

// taken is PUBACK or PUBREC.
func (m *model) taken(p *peer, k *mqtt.Ack) []mqtt.Packet {
	if len(p.acks) == 0 {
		m.fail(p, "%s of %d, and none is owed", k.Type, k.ID)
		return nil
	}
	a := p.acks[0]
	p.acks = p.acks[1:]
	if a.kind != k.Type || a.id != k.ID {
		m.fail(p, "%s of %d, and the next one owed is %s of %d", k.Type, k.ID, a.kind, a.id)
		return nil
	}
	if p.version == mqtt.V5 && !slices.Contains(a.reasons[0], k.Reason) {
		m.fail(p, "%s of %d: %s, allowed: %v", k.Type, k.ID, k.Reason, a.reasons[0])
	}
	if !k.Reason.Failed() && a.message != nil && a.certain {
		a.message.least++
		if a.candidate != nil {
			a.candidate.sure = m.clock
		}
	}
	if p.auto && k.Type == mqtt.PUBREC && !k.Reason.Failed() {
		return []mqtt.Packet{&mqtt.Ack{Type: mqtt.PUBREL, ID: k.ID}}
	}
	return nil
}

// answered is SUBACK, UNSUBACK or PINGRESP: they come in the order of the questions.
func (m *model) answered(p *peer, kind mqtt.Type, id uint16, reasons []mqtt.Reason) {
	if len(p.answers) == 0 {
		m.fail(p, "%s of %d, and none is owed", kind, id)
		return
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	if a.kind != kind || a.id != id {
		m.fail(p, "%s of %d, and the next one owed is %s of %d", kind, id, a.kind, a.id)
		return
	}
	if kind == mqtt.UNSUBACK {
		for _, filter := range a.filters {
			for _, h := range p.gen.held {
				whole := h.filter == filter && !h.shared
				if whole && h.until == 0 && h.at < a.at && p.now[filter] == no && !p.lenient {
					h.until = m.clock
				}
			}
		}
	}
	if kind == mqtt.PINGRESP || kind == mqtt.UNSUBACK && p.version != mqtt.V5 {
		return
	}
	if len(reasons) != len(a.reasons) {
		m.fail(p, "%s of %d has %d reasons for %d filters", kind, id, len(reasons), len(a.reasons))
		return
	}
	for i, r := range reasons {
		if !slices.Contains(a.reasons[i], r) {
			m.fail(p, "%s of %d: reason %d is %s, allowed: %v", kind, id, i, r, a.reasons[i])
		}
	}
}

func (m *model) disconnected(p *peer, k *mqtt.Disconnect) {
	p.told = true
	switch {
	case p.lax:
	case p.version != mqtt.V5:
		m.fail(p, "DISCONNECT came on %s", p.version)
	case p.finished && !p.may:
		m.fail(p, "DISCONNECT %s answers DISCONNECT", k.Reason)
	case k.Reason == mqtt.UnspecifiedError && len(p.in) > 0:
	case p.must == "" && !p.may:
		m.fail(p, "DISCONNECT %s without a reason to", k.Reason)
	case !slices.Contains(p.reasons, k.Reason):
		m.fail(p, "DISCONNECT %s, allowed: %v (%s)", k.Reason, p.reasons, p.must)
	}
}

// over: nothing more can come. clean says that the server has closed, and in order.
func (m *model) over(p *peer, rest int, clean bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.gone = true
	if p.dropped {
		return
	}
	switch {
	case clean && rest > 0:
		m.fail(p, "the server closed behind %d bytes of a packet", rest)
	case p.must == "" && !p.may && !p.lax && len(p.in) == 0 && p.connected:
		m.fail(p, "the server closed the connection without a reason to")
	case clean && p.version == mqtt.V5 && p.accepted && p.must != "" && !p.finished && !p.told && !p.may && !p.lax:
		m.fail(p, "closed without DISCONNECT: %s", p.must)
	case clean && !p.accepted && p.must != "" && p.refusals != nil && !p.silent && !p.told && !p.may:
		m.fail(p, "closed without CONNACK: %v", p.refusals)
	}
	if x := p.will; x != nil && p.accepted && p.finished && p.takesOff && !p.may && !p.lax {
		x.most-- // it was taken back
	}
}

// leaving: we are about to close.
func (m *model) leaving(p *peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.gone {
		p.dropped = true
	}
}

// settleWills: every connection is over. Those that had no reason to keep theirs have published it.
func (m *model) settleWills() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.will != nil && p.accepted && !p.takesOff && !p.delayed && !p.lax && !p.lenient {
			p.will.least++
		}
	}
}
