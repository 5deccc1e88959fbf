package stateful

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloudsignal/internal/mqtt"
)

// run is one plan on the live server.
type run struct {
	w       *world
	plan    *plan
	m       *model
	tamper  tamper
	links   []*link // by slot
	all     []*link
	watch   []*link // the bystanders, by organization
	speaker *link   // publishes in the bystanders' own organization
	prefix  string  // of payloads: no run knows another's
	ticks   int
	started int // connections
}

// execute runs a plan and returns the first fault, "" if there is none. Whatever happened, the server is as before behind it.
func (p *plan) execute(w *world, t tamper) (fault, trace string) {
	w.runs++
	tenants := append(slices.Clone(w.tenants[:p.orgs-1]), w.tenants[maxOrgs-1])
	r := &run{w: w, plan: p, m: newModel(tenants), tamper: t, links: make([]*link, p.slots()), prefix: fmt.Sprintf("r%d.", w.runs)}
	fault = r.begin(tenants)
	for i := 0; i < len(p.operations) && fault == ""; i++ {
		r.operate(&p.operations[i])
		fault = r.m.failed()
	}
	if fault == "" {
		fault = r.finish(tenants)
	}
	for _, l := range r.all {
		l.close()
	}
	if left := r.clean(tenants); fault == "" {
		fault = left
	}
	if fault != "" {
		r.m.fault = fault // of those behind the operations too
		trace = r.m.traceOf(80)
	}
	return fault, trace
}

// begin connects the bystanders.
func (r *run) begin(tenants []*tenant) string {
	for i, o := range tenants {
		c := &mqtt.Connect{Version: mqtt.V5, ClientID: []byte("bystander"), CleanStart: true}
		c.Properties.Set(mqtt.SessionExpiry)
		c.Properties.SessionExpiry = 600
		l, fault := r.behaved("bystander", i, o, c)
		if fault != "" {
			return fault
		}
		l.peer.watcher = true
		s := &mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte("#"), QoS: mqtt.QoS(1 + i%2)}}}
		l.write(s.Append(nil, mqtt.V5), 1, false)
		if fault := r.settle(l); fault != "" {
			return fault
		}
		r.m.mu.Lock()
		r.m.orgs[i].watcher = l.peer
		r.m.mu.Unlock()
		r.watch = append(r.watch, l)
	}
	last := len(tenants) - 1
	var fault string
	r.speaker, fault = r.behaved("speaker", last, tenants[last], &mqtt.Connect{Version: mqtt.V311, ClientID: []byte("speaker"), CleanStart: true})
	return fault
}

// behaved connects a client that behaves.
func (r *run) behaved(name string, org int, o *tenant, c *mqtt.Connect) (*link, string) {
	c.HasUsername, c.HasPassword = true, true
	c.Username, c.Password = []byte(o.names[0]), []byte(o.passwords[o.names[0]])
	l, err := r.dial(fmt.Sprintf("o%d %s", org, name), org, true)
	if err != nil {
		return nil, err.Error()
	}
	l.write(c.Append(nil, c.Version), 1, false)
	return l, r.settle(l)
}

func (r *run) dial(name string, org int, auto bool) (*link, error) {
	l, err := dial(r.m, r.m.peer(name, org, auto), r.w.mqtt, r.tamper)
	if err == nil {
		r.all = append(r.all, l)
	}
	return l, err
}

// settle waits until a connection is owed nothing.
func (r *run) settle(l *link) string {
	l.push()
	var waits string
	await(r.w.patience, func() bool {
		r.m.mu.Lock()
		defer r.m.mu.Unlock()
		waits = l.peer.waits()
		return waits == "" || r.m.fault != ""
	})
	if fault := r.m.failed(); fault != "" {
		return fault
	}
	if waits != "" {
		return fmt.Sprintf("%s: waited %v in vain for %s", l.peer.name, r.w.patience, waits)
	}
	return ""
}

func (r *run) note(fault string) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if fault != "" && r.m.fault == "" {
		r.m.fault = fault
	}
}

func (r *run) operate(o *operation) {
	if o.verb == doTick {
		r.tick()
		return
	}
	l := r.links[o.slot]
	if o.verb == doConnect {
		l = r.connect(o)
	}
	if l == nil {
		return
	}
	switch o.verb {
	case doDrop:
		r.close(l, o)
		r.links[o.slot] = nil
		return
	case doAck:
		for _, b := range r.acks(l, o) {
			l.write(b, o.split, o.join)
		}
	case doSend:
		r.send(l, o, r.mark(o.packet))
	}
	if o.wait {
		r.note(r.settle(l))
	}
}

// close closes a socket. Mostly CONNACK has come: who leaves before leaves open when the server takes the CONNECT, and with it
// what becomes of others with the client identifier.
func (r *run) close(l *link, o *operation) {
	r.m.mu.Lock()
	early := l.peer.connected && !l.peer.accepted
	r.m.mu.Unlock()
	if early && o.b%8 > 0 {
		r.note(r.settle(l))
	}
	l.close()
}

// tick is a message among the bystanders.
func (r *run) tick() {
	r.ticks++
	k := &mqtt.Publish{QoS: 1, ID: uint16(r.ticks), Topic: []byte("t"), Payload: fmt.Appendf(nil, "%stick%d", r.prefix, r.ticks)}
	r.speaker.write(k.Append(nil, mqtt.V311), 1, false)
}

// mark makes a payload one of this run.
func (r *run) mark(packet mqtt.Packet) mqtt.Packet {
	switch k := packet.(type) {
	case *mqtt.Publish:
		c := *k
		if len(c.Payload) > 0 {
			c.Payload = append([]byte(r.prefix), c.Payload...)
		}
		return &c
	case *mqtt.Connect:
		c := *k
		if c.HasWill {
			c.WillPayload = append([]byte(r.prefix), c.WillPayload...)
		}
		return &c
	}
	return packet
}

// connect opens a connection for the slot; the one it had is closed.
func (r *run) connect(o *operation) *link {
	if old := r.links[o.slot]; old != nil {
		r.close(old, o)
	}
	org := o.slot / slotsPerOrg
	r.started++
	l, err := r.dial(fmt.Sprintf("o%dc%d, connection %d", org, o.slot%slotsPerOrg, r.started), org, o.auto)
	if err != nil {
		r.note(err.Error())
		return nil
	}
	r.links[o.slot] = l
	c := r.mark(o.packet).(*mqtt.Connect)
	user := r.m.userOf(org, o.user)
	c.Username, c.Password = []byte(user), []byte(r.m.passwords[user])
	switch o.wrong {
	case 1:
		c.Password = []byte("pw_wrong")
	case 2:
		c.HasPassword = false
	case 3:
		c.Password = []byte(r.m.passwords[r.m.userOf((org+1)%(r.plan.orgs-1), o.user)])
	}
	r.send(l, o, c)
	return l
}

// userOf is a user of an organization by number.
func (m *model) userOf(org, user int) string {
	var names []string
	for name, home := range m.home {
		if home == org {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[user]
}

// send writes one packet, perhaps broken.
func (r *run) send(l *link, o *operation, packet mqtt.Packet) {
	r.m.mu.Lock()
	v, before := l.peer.version, l.peer.dead || len(l.peer.in) > 0
	r.m.mu.Unlock()
	if c, ok := packet.(*mqtt.Connect); ok {
		v = c.Version
	}
	if k, ok := packet.(*mqtt.Publish); ok && v != mqtt.V5 && len(k.Topic) == 0 {
		k.Topic = []byte("t")
	}
	if _, ok := packet.(*mqtt.Auth); ok && v != mqtt.V5 {
		packet = &mqtt.Ping{Type: mqtt.PINGREQ}
	}
	if k, ok := packet.(*mqtt.Publish); ok && k.QoS == 0 {
		k.Dup = false
	}
	b := packet.Append(nil, v)
	damage := breakageOf(o.broken)
	if damage != nil {
		b = damage.damage(b, v, o.a, o.b)
		if o.verb == doConnect {
			r.m.mu.Lock()
			l.peer.lax = true
			r.m.mu.Unlock()
		}
	}
	l.write(b, o.split, o.join)
	if damage == nil || !damage.certain || before {
		return
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if !l.peer.dead {
		r.m.fail(l.peer, "our codec takes %s", damage.name)
	}
}

// ackNames are what doAck does.
var ackNames = []string{
	"acknowledges the oldest", "acknowledges the newest", "acknowledges any", "acknowledges all", "acknowledges one twice",
	"PUBACK of an unknown identifier", "PUBREC of an unknown identifier", "PUBCOMP of an unknown identifier", "acknowledges wrongly",
	"refuses one",
}

// acks are the packets of an acknowledgement.
func (r *run) acks(l *link, o *operation) (out [][]byte) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	p := l.peer
	ids := slices.Sorted(maps.Keys(p.flight))
	one := func(id uint16, types ...mqtt.Type) {
		for _, t := range types {
			a := mqtt.Ack{Type: t, ID: id}
			if o.ack == 9 && t != mqtt.PUBCOMP {
				a.Reason = mqtt.QuotaExceeded
			}
			out = append(out, a.Append(nil, p.version))
		}
	}
	fit := func(id uint16) mqtt.Type {
		switch f := p.flight[id]; {
		case f.qos == 1:
			return mqtt.PUBACK
		case f.received:
			return mqtt.PUBCOMP
		}
		return mqtt.PUBREC
	}
	unknown := uint16(20_000 + o.a%3)
	if o.a%16 == 0 {
		unknown = uint16(1 + o.b%4)
	}
	switch {
	case o.ack == 5:
		one(unknown, mqtt.PUBACK)
	case o.ack == 6:
		one(unknown, mqtt.PUBREC)
	case o.ack == 7:
		one(unknown, mqtt.PUBCOMP)
	case len(ids) == 0:
	case o.ack == 1:
		id := ids[len(ids)-1]
		one(id, fit(id))
	case o.ack == 3:
		for _, id := range ids {
			one(id, fit(id))
		}
	case o.ack == 4:
		id := ids[int(o.a)%len(ids)]
		one(id, fit(id), fit(id))
	case o.ack == 8 && o.b%4 == 0:
		id := ids[int(o.a)%len(ids)]
		one(id, mqtt.PUBACK+mqtt.Type(o.a%2)*3)
	case o.ack == 0:
		one(ids[0], fit(ids[0]))
	default:
		id := ids[int(o.a)%len(ids)]
		one(id, fit(id))
	}
	return out
}

// finish waits until everything that is owed has come, ends the clients, and holds what is left against the model.
func (r *run) finish(tenants []*tenant) string {
	for _, l := range r.all {
		if fault := r.settle(l); fault != "" {
			return fault
		}
	}
	for _, l := range r.links {
		if l != nil {
			l.close()
		}
	}
	r.m.settleWills()
	if fault := r.complete(); fault != "" {
		return fault
	}
	for i, o := range tenants {
		if fault := r.retained(i, o); fault != "" {
			return fault
		}
		known := r.m.orgs[i].sessions
		for _, s := range r.w.list(o, "sessions") {
			if known[s.ClientID] == nil && !strings.HasPrefix(s.ClientID, "auto-") {
				return fmt.Sprintf("o%d has a session %q that nobody has begun", i, s.ClientID)
			}
		}
	}
	return r.m.failed()
}

// complete waits until the bystanders have all that was acknowledged, and nothing too often.
func (r *run) complete() string {
	var missing string
	await(r.w.patience, func() bool {
		missing = r.m.missing()
		return missing == "" || r.m.failed() != ""
	})
	if fault := r.m.failed(); fault != "" {
		return fault
	}
	if missing != "" {
		return missing
	}
	// Whatever is too much has come when what is published behind it has.
	for i := range r.watch {
		l, fault := r.behaved("speaker at the end", i, r.tenantOf(i), &mqtt.Connect{Version: mqtt.V311, ClientID: []byte("last"), CleanStart: true})
		if fault != "" {
			return fault
		}
		k := &mqtt.Publish{QoS: 1, ID: 1, Topic: []byte("last"), Payload: []byte(r.prefix + "last")}
		l.write(k.Append(nil, mqtt.V311), 1, false)
		if fault := r.settle(l); fault != "" {
			return fault
		}
	}
	if !await(r.w.patience, func() bool { missing = r.m.missing(); return missing == "" }) {
		return missing
	}
	return r.m.failed()
}

func (r *run) tenantOf(i int) *tenant {
	if i == r.plan.orgs-1 {
		return r.w.tenants[maxOrgs-1]
	}
	return r.w.tenants[i]
}

// missing tells of a message that a bystander has not as often as it should.
func (m *model) missing() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.orgs {
		for _, x := range o.messages {
			if x.watched > x.most {
				return fmt.Sprintf("o%d: %v came to the bystander %d times, of at most %d", o.number, x, x.watched, x.most)
			}
			if x.watched < x.least && !strings.HasPrefix(x.topic, "$") {
				return fmt.Sprintf("o%d: %v came to the bystander %d times, of at least %d", o.number, x, x.watched, x.least)
			}
		}
	}
	return ""
}

// retained holds what is retained against the model.
func (r *run) retained(i int, o *tenant) string {
	found := make(map[string]string)
	for _, k := range r.w.list(o, "retained") {
		if k.Encoding == "base64" {
			b, _ := base64.StdEncoding.DecodeString(k.Payload)
			k.Payload = string(b)
		}
		found[k.Topic] = k.Payload
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	for topic, payload := range found {
		if !slices.Contains(r.m.orgs[i].lastOf(topic), payload) {
			return fmt.Sprintf("o%d: %q is retained at %q, allowed: %.200q", i, payload, topic, r.m.orgs[i].lastOf(topic))
		}
	}
	for topic := range r.m.orgs[i].retained {
		if last := r.m.orgs[i].lastOf(topic); found[topic] == "" && !slices.Contains(last, "") {
			return fmt.Sprintf("o%d: nothing is retained at %q, allowed: %.200q", i, topic, last)
		}
	}
	return ""
}

// clean ends what the clients have left, and says what does not go away.
func (r *run) clean(tenants []*tenant) string {
	if !awaitEvery(slowly/10, r.w.patience, func() bool { return r.w.gauges()["cloudsignal_connections"] == 0 }) {
		return fmt.Sprintf("%v connections are left, and no client", r.w.gauges()["cloudsignal_connections"])
	}
	for i, o := range tenants {
		var left []kept
		if !awaitEvery(slowly, r.w.patience, func() bool { left = r.endSessions(o); return len(left) == 0 }) {
			return fmt.Sprintf("o%d: sessions are left, which were ended: %v", i, left)
		}
		for _, k := range r.w.list(o, "retained") { // behind the sessions: their wills may be retained
			r.w.unretain(o, k.Topic)
		}
	}
	if !awaitEvery(slowly/10, r.w.patience, func() bool { return r.w.gauges()["cloudsignal_subscriptions"] == 0 }) {
		return fmt.Sprintf("%v subscriptions are left, and no session", r.w.gauges()["cloudsignal_subscriptions"])
	}
	if lines := r.w.journal.lines(); lines != "" {
		return "the server logged: " + lines
	}
	return ""
}

// endSessions ends what is listed, and returns it. Wills wait in sessions that have ended, and then go.
func (r *run) endSessions(o *tenant) []kept {
	all := r.w.list(o, "sessions")
	for _, s := range all {
		r.w.endSession(o, s.ClientID)
	}
	return all
}
