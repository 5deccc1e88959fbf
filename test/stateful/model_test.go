package stateful

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"cloudsignal/internal/mqtt"
)

// model is what may happen. It hears of every byte before it is written, in the order of each connection, and of every
// packet that comes; where MQTT or time leave an answer open it knows a set.
type model struct {
	mu        sync.Mutex
	clock     int // counts what the model hears of
	orgs      []*organization
	passwords map[string]string // of all organizations
	home      map[string]int    // by user name: its organization
	peers     []*peer
	fault     string   // the first one
	trace     []string // what was sent and what came before it, at most traceLines of it
}

const traceLines = 5000

// log takes note of a packet.
func (m *model) log(p *peer, arrow string, packet mqtt.Packet) {
	if m.fault == "" && len(m.trace) < traceLines {
		m.trace = append(m.trace, fmt.Sprintf("%d %s %s %s", m.clock, p.name, arrow, describe(packet)))
	}
}

// traceOf is the last of what was sent and came in the organization of the fault.
func (m *model) traceOf(last int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for _, line := range m.trace {
		if _, name, _ := strings.Cut(line, " "); len(m.fault) > 2 && strings.HasPrefix(name, m.fault[:2]) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-last):], "\n")
}

type organization struct {
	number   int
	messages map[string]*message // by topic and payload
	sessions map[string]*session // by client identifier
	retained map[string][]*candidate
	watcher  *peer // the bystander that subscribes to everything; its session's deliveries are counted
}

// message is what was published with one payload to one topic, by any number of packets.
type message struct {
	topic, payload string
	most, least    int // how many times it was published: at most, for certain
	qos            mqtt.QoS
	retained       bool // some had RETAIN
	plain          bool // some had not
	refused        bool // what nobody may publish
	will           bool
	from           *peer
	order          int // of its publication
	at             int // clock of the last
	content        string
	properties     int
	expiry         uint32
	watched        int // times that it came to the watcher
}

func (x *message) String() string { return fmt.Sprintf("%q to %q", x.payload, x.topic) }

// candidate is a retained message that may be the last of its topic.
type candidate struct {
	payload string
	from    *peer
	at      int  // clock
	sure    int  // clock of its acknowledgement, 0: none
	fades   bool // it may expire
}

// session is what is known of a client identifier.
type session struct {
	may      map[string]bool // users for whom there may be a session
	must     string          // the user for whom there must be one
	gen      *generation
	unsure   bool            // gen may not be what the server has
	received map[uint16]bool // inbound QoS 2 identifiers that were ever used
}

// generation is one session, from its beginning to its end.
type generation struct {
	held      []*held
	delivered map[string]int // by message: times that it came
	completed map[string]int // QoS 2: times that it was released
}

func newGeneration() *generation {
	return &generation{delivered: make(map[string]int), completed: make(map[string]int)}
}

// held is a filter that was asked for.
type held struct {
	mqtt.Subscription
	filter     string
	shared     bool
	identifier uint32
	at, until  int // clock of the SUBSCRIBE and of the UNSUBACK; 0: none
}

func (h *held) matches(topic string, at int) bool {
	return (h.until == 0 || at < h.until) && matches(h.filter, topic)
}

// matches is the specification's matching (4.7), written once more.
func matches(filter, topic string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "#" || f[0] == "+") {
		return false
	}
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i == len(n) || level != "+" && level != n[i]:
			return false
		}
	}
	return len(f) == len(n)
}

func newModel(orgs []*tenant) *model {
	m := &model{passwords: make(map[string]string), home: make(map[string]int)}
	for i, o := range orgs {
		m.orgs = append(m.orgs, &organization{
			number: i, messages: make(map[string]*message), sessions: make(map[string]*session), retained: make(map[string][]*candidate),
		})
		for user, password := range o.passwords {
			m.passwords[user], m.home[user] = password, i
		}
	}
	return m
}

// fail keeps the first fault.
func (m *model) fail(p *peer, format string, args ...any) {
	if m.fault == "" {
		m.fault = fmt.Sprintf("%s: %s", p.name, fmt.Sprintf(format, args...))
	}
}

func (m *model) failed() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault
}

func (o *organization) session(clientID string) *session {
	s := o.sessions[clientID]
	if s == nil {
		s = &session{may: make(map[string]bool), gen: newGeneration(), received: make(map[uint16]bool)}
		o.sessions[clientID] = s
	}
	return s
}

// message is the record of what is published to a topic.
func (o *organization) message(topic, payload string) *message {
	x := o.messages[topic+"\x00"+payload]
	if x == nil {
		x = &message{topic: topic, payload: payload}
		o.messages[topic+"\x00"+payload] = x
	}
	return x
}

// retain takes note of what may be retained.
func (o *organization) retain(topic string, c *candidate) {
	o.retained[topic] = append(o.retained[topic], c)
}

// lastOf are the payloads that a topic may have in the end, "" for none.
func (o *organization) lastOf(topic string) (payloads []string) {
	all := o.retained[topic]
	certain := false
	for i, c := range all {
		certain = certain || c.sure != 0
		later := func(d *candidate) bool { return d.sure != 0 && c.sure != 0 && d.at > c.sure }
		own := func(d *candidate) bool { return d.sure != 0 && d.from == c.from && c.from != nil }
		if slices.ContainsFunc(all, later) || slices.ContainsFunc(all[i+1:], own) {
			continue
		}
		payloads = append(payloads, c.payload)
		if c.fades {
			payloads = append(payloads, "")
		}
	}
	if !certain {
		payloads = append(payloads, "")
	}
	return payloads
}

// peer is one connection.
type peer struct {
	name    string
	org     *organization
	auto    bool   // acknowledges by itself
	watcher bool   // its messages are counted
	in      []byte // what was sent and is not a whole packet yet
	decoder mqtt.Decoder

	version   mqtt.Version
	clientID  string
	user      string
	clean     bool
	expiry    uint32
	standard  bool // the expiry is the server's default
	window    int
	aliases   uint16
	refusals  []mqtt.Reason // of CONNECT; nil: it is to be accepted
	silent    bool          // CONNECT may be refused without a word
	connected bool          // CONNECT was sent
	accepted  bool          // CONNACK came
	lax       bool          // its CONNECT was broken in a way that is still one: any end is right
	lenient   bool          // its session's state is not known: two connections raced for it
	expects   bool          // the session must be there
	resumed   bool

	dead     bool          // what it sends from now on has no effect
	must     string        // why the server has to end it
	reasons  []mqtt.Reason // that its end may have
	may      bool          // the server may end it without being asked to
	finished bool          // it said DISCONNECT
	takesOff bool          // and took its will back
	told     bool          // DISCONNECT came
	gone     bool          // it is over
	dropped  bool          // by us

	will    *message
	delayed bool // its will may come later, or not
	acks    []*answer
	answers []*answer
	comps   map[uint16][][]mqtt.Reason // what each PUBCOMP may say
	rels    map[uint16]bool            // PUBREL is expected
	again   map[uint16]bool            // PUBREL may come
	flight  map[uint16]*flying
	early   map[uint16]bool // identifiers that were acknowledged before they came
	got     map[uint16]state
	now     map[string]state // filters
	known   map[uint16]string
	theirs  map[uint16]string
	own     *generation
	gen     *generation
	last    map[orderKey]int
	sent    int
}

// state is yes, no or unknown.
type state int

const (
	unknown state = iota
	yes
	no
)

type orderKey struct {
	from  *peer
	topic string
	qos   mqtt.QoS
	as    mqtt.QoS
}

// flying is an outbound message of QoS 1 or 2 that is not completed.
type flying struct {
	qos      mqtt.QoS
	received bool // PUBREC was sent
	message  *message
}

// answer is one that is owed.
type answer struct {
	kind      mqtt.Type
	id        uint16
	reasons   [][]mqtt.Reason // that each may be
	message   *message
	candidate *candidate
	certain   bool // a good answer means that the message was taken
	filters   []string
	at        int
}

func (m *model) peer(name string, org int, auto bool) *peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &peer{
		name: name, org: m.orgs[org], auto: auto, comps: make(map[uint16][][]mqtt.Reason), rels: make(map[uint16]bool), again: make(map[uint16]bool),
		flight: make(map[uint16]*flying), early: make(map[uint16]bool), got: make(map[uint16]state), now: make(map[string]state),
		known: make(map[uint16]string), theirs: make(map[uint16]string), own: newGeneration(), last: make(map[orderKey]int),
	}
	p.gen = p.own
	m.peers = append(m.peers, p)
	return p
}

// waits says what a connection is owed, "" if nothing.
func (p *peer) waits() string {
	switch {
	case p.gone || p.dropped || !p.connected:
		return ""
	case p.must != "":
		return "its end: " + p.must
	case !p.accepted:
		return "CONNACK"
	case p.lax:
		return ""
	case len(p.acks) > 0:
		return fmt.Sprintf("%s of %d", p.acks[0].kind, p.acks[0].id)
	case len(p.answers) > 0:
		return fmt.Sprintf("%s of %d", p.answers[0].kind, p.answers[0].id)
	case len(p.comps) > 0:
		return "PUBCOMP"
	case len(p.rels) > 0:
		return "PUBREL"
	}
	return ""
}
