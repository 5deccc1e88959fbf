package stateful

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"cloudsignal/internal/mqtt"
)

const (
	planOperations = 400
	slotsPerOrg    = 4 // connections at a time, of one organization
)

// verb is what an operation does.
type verb int

const (
	doConnect verb = iota
	doSend         // one valid packet, perhaps broken then
	doAck          // acknowledges what came
	doDrop         // closes the socket
	doTick         // a message of the bystanders' own organization
)

// operation is one thing that one client does.
type operation struct {
	slot   int
	verb   verb
	packet mqtt.Packet
	user   int
	wrong  int    // the password: 0 right, 1 wrong, 2 none, 3 another organization's
	auto   bool   // a connection that acknowledges by itself
	ack    int    // which acknowledgement: see acks
	broken string // how the packet is broken, "" if it is not
	a, b   uint32 // where
	split  int    // written in so many pieces
	join   bool   // written together with the next operation of the client
	wait   bool   // until all that is owed has come
}

// plan is all that happens in a run, made from a seed.
type plan struct {
	seed       uint64
	orgs       int
	operations []operation
}

func (p *plan) slots() int { return (p.orgs - 1) * slotsPerOrg } // the last organization is the bystanders' own

type generator struct {
	*rand.Rand
	number  int
	version []mqtt.Version // by slot; 0: it has no connection
}

var (
	planTopics  = []string{"t", "t", "a/b", "a/b", "a/b/c", "a", "$d/x", "deep" + strings.Repeat("/x", 70), "$SYS/x"}
	planFilters = []string{
		"#", "t", "+", "a/+", "a/#", "+/b", "$d/#", "a/b", "+/+/#", "$share/g/t", "$share/g/a/#", "$share/h/#", "t", "a/b", "d" + strings.Repeat("/+", 70),
	}
	planIDs = []string{"x", "x", "y", "z", "w", ""}
)

func newPlan(seed uint64) *plan {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
	p := &plan{seed: seed, orgs: 3 + g.IntN(2)}
	g.version = make([]mqtt.Version, p.slots())
	for g.number = 0; g.number < planOperations; g.number++ {
		p.operations = append(p.operations, g.operation())
	}
	return p
}

func (g *generator) once(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, of []T) T { return of[g.IntN(len(of))] }

func (g *generator) operation() operation {
	o := operation{slot: g.IntN(len(g.version)), a: g.Uint32(), b: g.Uint32(), split: 1, wait: g.once(3)}
	if g.once(12) {
		o.verb, o.wait = doTick, false
		return o
	}
	if g.once(6) {
		o.split = 2 + g.IntN(4)
	}
	o.join = g.once(6)
	k := g.IntN(100)
	if g.version[o.slot] == 0 || k < 5 {
		g.connect(&o)
		return o
	}
	switch {
	case k < 40:
		o.verb, o.packet = doSend, g.publish(o.slot)
	case k < 58:
		o.verb, o.packet = doSend, g.subscribe(o.slot)
	case k < 64:
		o.verb, o.packet = doSend, &mqtt.Unsubscribe{ID: g.id(), Filters: [][]byte{[]byte(pick(g, planFilters)), []byte(pick(g, planFilters))}}
	case k < 84:
		o.verb, o.ack = doAck, g.IntN(len(ackNames))
	case k < 89:
		o.verb, o.packet = doSend, &mqtt.Ping{Type: mqtt.PINGREQ}
	case k < 91:
		o.verb, o.packet = doSend, &mqtt.Ack{Type: mqtt.PUBREL, ID: g.id()}
	case k < 92:
		o.verb, o.packet = doSend, &mqtt.Auth{Reason: mqtt.ReAuthenticate}
	case k < 95:
		o.verb, o.packet = doSend, g.disconnect()
	case k < 97:
		o.verb = doDrop
		g.version[o.slot] = 0
	default:
		o.verb, o.packet = doSend, g.publish(o.slot)
		g.damage(&o)
	}
	if o.verb == doSend && o.broken == "" && g.once(60) {
		g.damage(&o)
	}
	_, auth := o.packet.(*mqtt.Auth)
	_, leaves := o.packet.(*mqtt.Disconnect)
	if (auth || leaves || o.broken != "") && !g.once(3) { // else more follows, which is to have no effect
		g.version[o.slot] = 0
	}
	return o
}

func (g *generator) damage(o *operation) { o.broken = pick(g, breakNames) }

func (g *generator) id() uint16 { return uint16(1 + g.IntN(6)) }

func (g *generator) payload() []byte {
	if g.once(10) {
		return nil // clears what is retained
	}
	size := 0
	if g.once(12) {
		size = g.IntN(20_000)
	}
	return []byte(fmt.Sprintf("n%d%s", g.number, strings.Repeat(".", size)))
}

func (g *generator) connect(o *operation) {
	c := &mqtt.Connect{Version: pick(g, []mqtt.Version{5, 5, 5, 4, 4, 3}), ClientID: []byte(pick(g, planIDs)), HasUsername: true, HasPassword: true}
	c.CleanStart = g.once(2) || len(c.ClientID) == 0 && !g.once(4)
	o.verb, o.packet, o.user, o.auto = doConnect, c, g.IntN(10)/9, !g.once(3)
	if g.once(20) {
		o.wrong = 1 + g.IntN(3)
	}
	if c.Version == mqtt.V5 {
		g.connectProperties(&c.Properties)
	}
	if g.once(3) {
		c.HasWill, c.WillQoS, c.WillRetain = true, mqtt.QoS(g.IntN(3)), g.once(3)
		c.WillTopic, c.WillPayload = []byte(pick(g, planTopics[:7])), fmt.Appendf(nil, "will%d", g.number)
		if g.once(12) {
			c.WillTopic = []byte(pick(g, planTopics))
		}
		if c.Version == mqtt.V5 && g.once(3) {
			c.WillProperties.Set(mqtt.WillDelay)
			c.WillProperties.WillDelay = 1
		}
	}
	g.version[o.slot] = c.Version
	if g.once(25) {
		g.damage(o)
	}
	o.wait = !g.once(5)
}

func (g *generator) connectProperties(p *mqtt.Properties) {
	if !g.once(3) {
		p.Set(mqtt.SessionExpiry)
		p.SessionExpiry = pick(g, []uint32{0, 60, 60, 3600})
	}
	if g.once(3) {
		p.Set(mqtt.ReceiveMaximum)
		p.ReceiveMaximum = uint16(1 + g.IntN(3))
	}
	if g.once(2) {
		p.Set(mqtt.TopicAliasMaximum)
		p.TopicAliasMaximum = uint16(g.IntN(3))
	}
	if g.once(60) {
		p.Set(mqtt.AuthMethod)
		p.AuthMethod = []byte("none")
	}
}

func (g *generator) publish(slot int) *mqtt.Publish {
	k := &mqtt.Publish{QoS: mqtt.QoS(g.IntN(3)), Retain: g.once(4), Topic: []byte(pick(g, planTopics)), Payload: g.payload()}
	if k.QoS > 0 {
		k.ID, k.Dup = g.id(), g.once(6)
	}
	if g.version[slot] != mqtt.V5 {
		return k
	}
	p := &k.Properties
	if g.once(6) {
		p.Set(mqtt.TopicAlias)
		p.TopicAlias = pick(g, []uint16{1, 1, 2, 2, 3, 32})
		if g.once(3) {
			k.Topic = nil
		}
	}
	if g.once(6) {
		p.Set(mqtt.ContentType)
		p.ContentType = []byte("text/plain")
	}
	if g.once(6) {
		p.User = []mqtt.UserProperty{{Key: []byte("k"), Value: []byte("v")}, {Key: []byte("k"), Value: []byte("w")}}
	}
	if g.once(6) {
		p.Set(mqtt.MessageExpiry)
		p.MessageExpiry = 100
	}
	return k
}

func (g *generator) subscribe(slot int) *mqtt.Subscribe {
	k := &mqtt.Subscribe{ID: g.id()}
	for range 1 + g.IntN(3) {
		s := mqtt.Subscription{Filter: []byte(pick(g, planFilters)), QoS: mqtt.QoS(g.IntN(3))}
		if g.version[slot] == mqtt.V5 {
			s.RetainAsPublished, s.RetainHandling = g.once(3), mqtt.RetainHandling(pick(g, []int{0, 0, 1, 2}))
			s.NoLocal = g.once(6) && s.Filter[0] != '$'
		}
		k.Subscriptions = append(k.Subscriptions, s)
	}
	if g.version[slot] == mqtt.V5 && g.once(3) {
		k.Properties.SubscriptionIDs = []uint32{uint32(1 + g.IntN(9))}
	}
	return k
}

func (g *generator) disconnect() *mqtt.Disconnect {
	k := &mqtt.Disconnect{}
	if g.once(3) {
		k.Reason = mqtt.DisconnectWithWill
	}
	if g.once(3) {
		k.Properties.Set(mqtt.SessionExpiry)
		k.Properties.SessionExpiry = pick(g, []uint32{0, 0, 60})
	}
	return k
}

// String is the plan, one operation a line.
func (p *plan) String() string {
	var b strings.Builder
	for i := range p.operations {
		fmt.Fprintf(&b, "  %s\n", p.operations[i].String())
	}
	return b.String()
}

func (o *operation) String() string {
	if o.verb == doTick {
		return "bystanders: PUBLISH"
	}
	s := fmt.Sprintf("o%dc%d: ", o.slot/slotsPerOrg, o.slot%slotsPerOrg)
	switch o.verb {
	case doDrop:
		s += "closes the socket"
	case doAck:
		s += ackNames[o.ack] + fmt.Sprintf(" (%d)", o.a)
	default:
		s += describe(o.packet)
	}
	if o.verb == doConnect {
		s += fmt.Sprintf(" user=u%d password=%s acknowledges=%v", o.user, []string{"right", "wrong", "none", "of another organization"}[o.wrong], o.auto)
	}
	if o.broken != "" {
		s += fmt.Sprintf(", broken: %s (%d, %d)", o.broken, o.a, o.b)
	}
	if o.split > 1 {
		s += fmt.Sprintf(", in %d pieces", o.split)
	}
	if o.join {
		s += ", together with the next"
	}
	if o.wait {
		s += ", waits"
	}
	return s
}

func describe(packet mqtt.Packet) string {
	s := packet.Kind().String()
	show := func(format string, args ...any) { s += " " + fmt.Sprintf(format, args...) }
	properties := func(p *mqtt.Properties) {
		for _, v := range []struct {
			id    mqtt.Property
			name  string
			value any
		}{
			{mqtt.SessionExpiry, "session-expiry", p.SessionExpiry},
			{mqtt.ReceiveMaximum, "receive-maximum", p.ReceiveMaximum},
			{mqtt.TopicAliasMaximum, "topic-alias-maximum", p.TopicAliasMaximum},
			{mqtt.TopicAlias, "alias", p.TopicAlias},
			{mqtt.MessageExpiry, "expiry", p.MessageExpiry},
			{mqtt.WillDelay, "will-delay", p.WillDelay},
			{mqtt.AuthMethod, "method", string(p.AuthMethod)},
			{mqtt.ContentType, "content-type", string(p.ContentType)},
			{mqtt.SubscriptionIdentifier, "subscription-id", p.SubscriptionIDs},
			{mqtt.UserPropertyID, "user-properties", len(p.User)},
		} {
			if p.Has(v.id) {
				show("%s=%v", v.name, v.value)
			}
		}
	}
	switch k := packet.(type) {
	case *mqtt.Connect:
		show("v=%s id=%q clean=%v", k.Version, k.ClientID, k.CleanStart)
		if k.HasWill {
			show("will=%s will-qos=%d will-retain=%v", k.WillTopic, k.WillQoS, k.WillRetain)
			properties(&k.WillProperties)
		}
		properties(&k.Properties)
	case *mqtt.Publish:
		show("id=%d qos=%d retain=%v dup=%v topic=%.12s payload=%.12s (%d bytes)", k.ID, k.QoS, k.Retain, k.Dup, k.Topic, k.Payload, len(k.Payload))
		properties(&k.Properties)
	case *mqtt.Subscribe:
		show("id=%d", k.ID)
		for _, f := range k.Subscriptions {
			show("%.16s qos=%d nl=%v rap=%v rh=%d;", f.Filter, f.QoS, f.NoLocal, f.RetainAsPublished, f.RetainHandling)
		}
		properties(&k.Properties)
	case *mqtt.Unsubscribe:
		show("id=%d", k.ID)
		for _, f := range k.Filters {
			show("%.16s", f)
		}
	case *mqtt.Ack:
		show("id=%d reason=0x%02X", k.ID, uint8(k.Reason))
	case *mqtt.Connack:
		show("reason=0x%02X present=%v", uint8(k.Reason), k.SessionPresent)
		properties(&k.Properties)
	case *mqtt.Suback:
		show("id=%d reasons=%v", k.ID, k.Reasons)
	case *mqtt.Unsuback:
		show("id=%d reasons=%v", k.ID, k.Reasons)
	case *mqtt.Disconnect:
		show("reason=0x%02X", uint8(k.Reason))
		properties(&k.Properties)
	}
	return s
}
