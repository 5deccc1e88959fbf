package session

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cloudsignal/internal/mqtt"
)

// publisher is a dumb model of the client and of what its session has to answer. The client may repeat a QoS 2 PUBLISH
// before its PUBREC, but goes on with PUBREL or a new message of that id only behind all of them.
type publisher struct {
	s       *Session
	limits  Limits
	waiting []*inbound // QoS 1 and 2 packets without their acknowledgement, in the order in which they came
	owned   map[uint16]*inbound
	want    []mqtt.Ack // to come, in this order
}

// inbound is one PUBLISH. of is the one that it repeats.
type inbound struct {
	id      uint16
	qos     mqtt.QoS
	size    int
	slot    Slot
	of      *inbound
	settled bool
	reason  mqtt.Reason
	ended   bool // refused: its id was free again
}

func newPublisher(t *rapid.T) *publisher {
	l := wide()
	l.ReceiveMaximum = rapid.Uint16Range(1, 5).Draw(t, "receive maximum")
	l.RingBytes = rapid.IntRange(1, 120).Draw(t, "ring bytes")
	v := rapid.SampledFrom([]mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}).Draw(t, "version")
	return &publisher{s: open(&mqtt.Connect{Version: v}, l), limits: l, owned: make(map[uint16]*inbound)}
}

// full is when the reader has to wait.
func (p *publisher) full() bool {
	bytes := 0
	for _, in := range p.waiting {
		bytes += in.size
	}
	return len(p.waiting) >= int(p.limits.ReceiveMaximum) || bytes >= p.limits.RingBytes
}

// unanswered reports whether a PUBREC of id is still to come.
func (p *publisher) unanswered(id uint16) bool {
	return slices.ContainsFunc(p.waiting, func(in *inbound) bool { return in.id == id && in.qos == 2 })
}

// inFlight is what Receive Maximum counts: QoS 1 until PUBACK, QoS 2 until PUBCOMP.
func (p *publisher) inFlight() int {
	n := len(p.owned)
	for _, in := range p.waiting {
		if in.qos == 1 {
			n++
		}
	}
	return n
}

func (p *publisher) publish(t *rapid.T) {
	if p.full() != p.s.Blocked() {
		t.Fatalf("blocked: %v, want %v", p.s.Blocked(), p.full())
	}
	if p.full() {
		return
	}
	in := &inbound{id: rapid.Uint16Range(1, 4).Draw(t, "id"), qos: mqtt.QoS(rapid.IntRange(0, 2).Draw(t, "qos"))}
	tooDeep := rapid.IntRange(0, 5).Draw(t, "too deep") == 0
	packet := &mqtt.Publish{QoS: in.qos, ID: in.id, Topic: []byte("a"), Payload: make([]byte, rapid.IntRange(0, 40).Draw(t, "size"))}
	if tooDeep {
		packet.Topic = []byte("1/2/3/4/5/6/7/8/9")
	}
	in.size = len(packet.Append(nil, p.s.version))
	if in.qos == 2 {
		if in.of = p.owned[in.id]; in.of == nil && p.unanswered(in.id) {
			return // a refused id is used again when all its PUBRECs have come
		}
	}
	over := in.qos > 0 && in.of == nil && p.s.version == mqtt.V5 && p.inFlight() >= int(p.limits.ReceiveMaximum)
	a, _, err := handle(t, p.s, packet, noon)
	if over { // [MQTT-3.3.4-7]
		if e, ok := err.(*mqtt.Error); !ok || e.Reason != mqtt.ReceiveMaximumExceeded {
			t.Fatalf("above Receive Maximum: %v", err)
		}
		return // the connection would end; the session is as it was
	}
	if err != nil {
		t.Fatal(err)
	}
	want := Action{Kind: Publish}
	switch {
	case in.of != nil:
		want.Kind = None // never passed on a second time
		in.settled = true
	case tooDeep:
		want = Action{Kind: Refused, Reason: mqtt.TopicNameInvalid}
		in.settled, in.reason = true, mqtt.TopicNameInvalid
	}
	if a.Kind != want.Kind || a.Reason != want.Reason || (a.Slot != 0) != (in.qos > 0 && want.Kind == Publish) {
		t.Fatalf("action %+v, want %+v", a, want)
	}
	if in.qos == 0 {
		return
	}
	if in.slot = a.Slot; in.qos == 2 && in.of == nil {
		p.owned[in.id] = in
	}
	p.waiting = append(p.waiting, in)
	p.due()
}

// due moves the acknowledgements that have become due: all that are settled, up to the first that is not.
func (p *publisher) due() {
	for len(p.waiting) > 0 && p.waiting[0].settled {
		in := p.waiting[0]
		p.waiting = p.waiting[1:]
		a := mqtt.Ack{Type: mqtt.PUBACK, ID: in.id, Reason: in.reason}
		if in.qos == 2 {
			a.Type = mqtt.PUBREC
			if in.of != nil && in.of.ended {
				a.Reason = mqtt.PacketIDInUse
			}
			if in.of == nil && in.reason.Failed() && p.s.version == mqtt.V5 {
				in.ended = true
				delete(p.owned, in.id)
			}
		}
		p.want = append(p.want, a)
	}
}

// answer settles any of the packets that wait for it.
func (p *publisher) answer(t *rapid.T) {
	open := slices.DeleteFunc(slices.Clone(p.waiting), func(in *inbound) bool { return in.settled })
	if len(open) == 0 {
		return
	}
	in := rapid.SampledFrom(open).Draw(t, "answered")
	in.settled = true
	in.reason = rapid.SampledFrom([]mqtt.Reason{mqtt.Success, mqtt.NoMatchingSubscribers, mqtt.NotAuthorized, mqtt.QuotaExceeded}).Draw(t, "reason")
	p.s.Answer(in.slot, in.reason)
	p.due()
}

func (p *publisher) pubrel(t *rapid.T) {
	id := rapid.Uint16Range(1, 5).Draw(t, "id")
	in := p.owned[id]
	if p.unanswered(id) {
		return
	}
	reason := mqtt.PacketIDNotFound
	if in != nil {
		reason = mqtt.Success
		delete(p.owned, id)
	}
	if _, _, err := handle(t, p.s, &mqtt.Ack{Type: mqtt.PUBREL, ID: id}, noon); err != nil {
		t.Fatal(err)
	}
	p.want = append(p.want, mqtt.Ack{Type: mqtt.PUBCOMP, ID: id, Reason: reason})
}

// check compares what the session sent.
func (p *publisher) check(t *rapid.T) {
	want := p.want
	p.want = nil
	if p.s.version != mqtt.V5 {
		for i := range want {
			want[i].Reason = mqtt.Success
		}
	}
	if got := acks(t, sent(t, p.s)); !slices.EqualFunc(got, want, func(a, b mqtt.Ack) bool { return a.Type == b.Type && a.ID == b.ID && a.Reason == b.Reason }) {
		t.Fatalf("sent %+v, want %+v", got, want)
	}
	if p.s.unacked+len(p.s.received) != p.inFlight() {
		t.Fatalf("%d in flight, want %d", p.s.unacked+len(p.s.received), p.inFlight())
	}
}

// TestInbound: acknowledgements leave in the order of their packets whatever the order of the answers; a QoS 2 message is
// passed on once until its PUBREL or its refusal; Receive Maximum and the bounds of the ring hold.
func TestInbound(t *testing.T) {
	often(t, func(t *rapid.T) {
		p := newPublisher(t)
		t.Repeat(map[string]func(*rapid.T){"publish": p.publish, "answer": p.answer, "pubrel": p.pubrel, "": p.check})
	})
}

// TestManyInbound: slots and ring go on beyond their size, and give room back.
func TestManyInbound(t *testing.T) {
	l := wide()
	l.ReceiveMaximum = 20
	s := open(&mqtt.Connect{Version: mqtt.V5}, l)
	var slots []Slot
	for i := range 1000 {
		if len(slots) == int(l.ReceiveMaximum) != s.Blocked() {
			t.Fatalf("blocked: %v with %d unanswered", s.Blocked(), len(slots))
		}
		if s.Blocked() {
			for _, slot := range slices.Backward(slots) {
				s.Answer(slot, mqtt.Success)
			}
			got := acks(t, sent(t, s))
			if len(got) != len(slots) || got[0].ID != uint16(i-len(slots)+1) || got[len(got)-1].ID != uint16(i) {
				t.Fatalf("acknowledged %+v", got)
			}
			slots = nil
		}
		a, _, err := handle(t, s, &mqtt.Publish{QoS: 1, ID: uint16(i + 1), Topic: []byte("t")}, noon)
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, a.Slot)
	}
	if s.ring.bytes == 0 || len(s.ring.entries) > 32 {
		t.Errorf("%d bytes, room for %d", s.ring.bytes, len(s.ring.entries))
	}
	for _, slot := range slots {
		s.Answer(slot, mqtt.Success)
	}
	if s.ring.bytes != 0 || s.ring.len() != 0 {
		t.Errorf("%d bytes and %d entries are left", s.ring.bytes, s.ring.len())
	}
}

// An id that was released and used again belongs to the newer PUBLISH, whatever becomes of the older one's answer.
func TestReusedID(t *testing.T) {
	publish := func(s *Session, dup bool) Slot {
		a, _, err := handle(t, s, &mqtt.Publish{QoS: 2, ID: 7, Dup: dup, Topic: []byte("t")}, noon)
		if err != nil {
			t.Fatal(err)
		}
		return a.Slot
	}
	s := open(v5(nil), wide())
	first := publish(s, false)
	if _, _, err := handle(t, s, &mqtt.Ack{Type: mqtt.PUBREL, ID: 7}, noon); err != nil { // too early, but here it is
		t.Fatal(err)
	}
	second := publish(s, false)
	if second == 0 {
		t.Fatal("the second PUBLISH was taken for the first one's repetition")
	}
	s.Answer(first, mqtt.NotAuthorized)
	s.Answer(second, mqtt.Success)
	if a := publish(s, true); a != 0 {
		t.Error("a repetition of the second PUBLISH is passed on: the first one's refusal has taken its id")
	}
}
