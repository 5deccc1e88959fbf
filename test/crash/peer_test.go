package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"cloudsignal/internal/mqtt"
)

// What a peer bounds.
const (
	window       = 20   // messages in flight
	perTick      = 4    // messages a publisher starts in each pace
	perRun       = 1000 // and on one connection
	maxUnhandled = 256  // packets read ahead
	pace         = 5 * time.Millisecond
	writeTimeout = 10 * time.Second
)

// habit is how a client leaves while the server is there.
type habit uint8

const (
	stays   habit = iota
	polite        // DISCONNECT
	drops         // closes or resets the connection
	anyways       // one or the other
)

// flight is a message of ours whose exchange is not over.
type flight struct {
	id       uint16
	topic    string
	n        int
	retain   bool
	released bool // PUBREC has come
}

// peer is a client that keeps its part of the session however its connections and the server end. One goroutine uses it.
type peer struct {
	w       *world
	name    string
	version mqtt.Version
	login   *login
	rand    *rand.Rand

	clean          bool // no session, on either side
	receiveMaximum uint16
	leave          habit
	willTopic      string               // has a will
	filter         string               // subscribes
	receiver       *receiver            // to it
	topic          func(run int) string // publishes to these
	kind           kind                 // load or kept
	progress       atomic.Int64         // the run in which the last acknowledgement came
	inFlight       atomic.Int64         // len(flights), for others to see
	flights        []*flight            // in the order in which they were first sent
	inbound        map[uint16]string    // QoS 2 messages that came, by id, until PUBREL
	nextID         uint16
	established    bool // a CONNACK has come: from now on the session is there
	subscribed     bool
	willNumber     int

	conn       net.Conn
	run        int // of the server
	connection int // number of it
	in         chan mqtt.Packet
	out        []byte
	quota      int // messages in flight that the server allows
	started    int // messages on this connection
}

// live connects again and again, until ctx ends.
func (p *peer) live(ctx context.Context) {
	for ctx.Err() == nil {
		if p.connect(ctx) {
			p.serve(ctx)
		}
	}
}

// connect waits for the server, connects and takes the session up. It fails if the server is killed meanwhile.
func (p *peer) connect(ctx context.Context) bool {
	address, run := p.w.place.wait(ctx)
	if address == "" {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		p.w.place.pause(ctx)
		return false
	}
	if conn.LocalAddr().String() == conn.RemoteAddr().String() { // nobody listens, and TCP has connected the socket to itself
		conn.Close()
		return false
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })() // CONNACK may never come
	p.conn, p.run, p.out, p.started = conn, run, p.out[:0], 0
	p.connection++
	p.in = make(chan mqtt.Packet, maxUnhandled)
	go p.read(conn, p.in)
	if p.willTopic != "" {
		p.willNumber = p.w.ledger.send(will, p.willTopic)
	}
	p.send(p.connectPacket())
	p.flush()
	packet, ok := <-p.in
	ack, is := packet.(*mqtt.Connack)
	switch {
	case !ok:
		p.ended(ctx, "before CONNACK")
		return false
	case !is || ack.Reason.Failed():
		p.fault(protocol, fmt.Sprintf("CONNECT is answered with %+v", packet))
		p.end()
		p.w.place.pause(ctx)
		return false
	}
	p.resume(ack)
	return true
}

func (p *peer) connectPacket() *mqtt.Connect {
	c := &mqtt.Connect{
		Version: p.version, CleanStart: p.clean, ClientID: []byte(p.name), HasUsername: true, HasPassword: true,
		Username: []byte(p.login.Username), Password: []byte(p.login.Password),
	}
	if !p.clean {
		c.Properties.Set(mqtt.SessionExpiry)
		c.Properties.SessionExpiry = 3600
	}
	if p.receiveMaximum > 0 {
		c.Properties.Set(mqtt.ReceiveMaximum)
		c.Properties.ReceiveMaximum = p.receiveMaximum
	}
	if p.willTopic != "" {
		c.HasWill, c.WillQoS, c.WillTopic, c.WillPayload = true, p.w.qos, []byte(p.willTopic), []byte(body(p.willNumber))
		if !p.clean {
			c.WillProperties.Set(mqtt.WillDelay) // of 0
		}
	}
	return c
}

// resume does what CONNACK asks for: it sends again what is unfinished, in order ([MQTT-4.4.0-1], [MQTT-4.6.0-1]).
func (p *peer) resume(ack *mqtt.Connack) {
	l := p.w.ledger
	l.note(p.name, "connection %d, run %d: session present %v, %d in flight, %d not released", p.connection, p.run,
		ack.SessionPresent, len(p.flights), len(p.inbound))
	if p.willTopic != "" {
		l.acknowledge(p.willTopic, p.willNumber)
	}
	if p.quota = window; ack.Properties.Has(mqtt.ReceiveMaximum) {
		p.quota = min(p.quota, int(ack.Properties.ReceiveMaximum))
	}
	if ack.SessionPresent && p.clean {
		p.fault(protocol, "a clean session is present")
	}
	again := ack.SessionPresent
	if p.established && !again && !p.clean {
		p.fault(sessionLost, fmt.Sprintf("connection %d: session present is 0", p.connection))
		if p.receiver != nil {
			l.lose(p.receiver)
		}
	}
	if !again { // what we know belongs to a session that is no more
		p.inbound, p.subscribed = make(map[uint16]string), false
		p.flights = slices.DeleteFunc(p.flights, func(f *flight) bool { return p.clean || f.released })
		p.inFlight.Store(int64(len(p.flights)))
	}
	p.established = true
	for _, f := range p.flights {
		if f.released {
			p.send(&mqtt.Ack{Type: mqtt.PUBREL, ID: f.id})
			continue
		}
		l.resend(f.topic, f.n)
		p.send(p.publish(f, again))
	}
	if p.filter != "" && !p.subscribed {
		p.send(&mqtt.Subscribe{ID: p.id(), Subscriptions: []mqtt.Subscription{{Filter: []byte(p.filter), QoS: p.w.qos}}})
	}
}

// serve goes on until the connection ends, by whomever.
func (p *peer) serve(ctx context.Context) {
	var tick, leave <-chan time.Time
	if p.topic != nil {
		t := time.NewTicker(pace)
		defer t.Stop()
		tick = t.C
	}
	if p.leave != stays && p.w.churning.Load() {
		leave = time.After(between(p.rand, 20, 200))
	}
	for {
		if len(p.in) == 0 {
			p.flush()
		}
		select {
		case <-ctx.Done():
			p.end()
			return
		case <-leave:
			p.depart(ctx)
			return
		case <-tick:
			p.load()
		case packet, ok := <-p.in:
			if !ok {
				p.ended(ctx, "")
				return
			}
			p.handle(packet)
		}
	}
}

// depart leaves for a while.
func (p *peer) depart(ctx context.Context) {
	how := p.leave
	if how == anyways {
		how = polite + habit(p.rand.IntN(2))
	}
	switch {
	case how == polite:
		p.send(&mqtt.Disconnect{})
		p.flush()
		p.w.ledger.note(p.name, "connection %d: DISCONNECT sent", p.connection)
	default:
		if p.rand.IntN(2) == 0 {
			p.conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // then it is closed the other way
		}
		p.w.ledger.note(p.name, "connection %d: dropped", p.connection)
	}
	p.end()
	select {
	case <-time.After(between(p.rand, 10, 300)):
	case <-ctx.Done():
	}
}

// end closes the connection; what has come and was not handled never was.
func (p *peer) end() {
	p.conn.Close()
	for range p.in {
	}
}

// ended is called when the server's side has ended the connection, which only a kill may do.
func (p *peer) ended(ctx context.Context, when string) {
	p.conn.Close()
	p.w.ledger.note(p.name, "connection %d: ended %s", p.connection, when)
	if p.w.place.up(p.run) && ctx.Err() == nil {
		p.fault(protocol, fmt.Sprintf("connection %d: the server closed it %s", p.connection, when))
		p.w.place.pause(ctx)
	}
}

func (p *peer) fault(kind, text string) { p.w.ledger.fault(fault{kind: kind, who: p.name, text: text}) }

// load starts messages, as many as may be in flight.
func (p *peer) load() {
	for range perTick {
		if !p.w.loading.Load() || len(p.flights) >= p.quota || p.started >= perRun {
			return
		}
		p.started++
		f := &flight{id: p.id(), topic: p.topic(p.run), retain: p.kind == kept}
		f.n = p.w.ledger.send(p.kind, f.topic)
		p.flights = append(p.flights, f)
		p.inFlight.Store(int64(len(p.flights)))
		p.send(p.publish(f, false))
	}
}

func (p *peer) publish(f *flight, dup bool) *mqtt.Publish {
	return &mqtt.Publish{ID: f.id, Dup: dup, QoS: p.w.qos, Retain: f.retain, Topic: []byte(f.topic), Payload: []byte(body(f.n))}
}

// id is a packet id that is not in use.
func (p *peer) id() uint16 {
	for {
		p.nextID++
		if p.nextID != 0 && p.find(p.nextID) < 0 {
			return p.nextID
		}
	}
}

func (p *peer) find(id uint16) int {
	return slices.IndexFunc(p.flights, func(f *flight) bool { return f.id == id })
}

func (p *peer) handle(packet mqtt.Packet) {
	switch q := packet.(type) {
	case *mqtt.Publish:
		p.receive(q)
	case *mqtt.Suback:
		if len(q.Reasons) != 1 || q.Reasons[0] != mqtt.Reason(p.w.qos) {
			p.fault(protocol, fmt.Sprintf("SUBACK %v", q.Reasons))
		}
		p.subscribed = true
		p.w.ledger.subscribed(p.receiver)
	case *mqtt.Ack:
		if q.Type == mqtt.PUBREL {
			r := mqtt.Success
			if _, known := p.inbound[q.ID]; !known {
				r = mqtt.PacketIDNotFound
			}
			delete(p.inbound, q.ID)
			p.send(&mqtt.Ack{Type: mqtt.PUBCOMP, ID: q.ID, Reason: r})
			return
		}
		p.acknowledged(q)
	default:
		p.fault(protocol, fmt.Sprintf("connection %d: the server sent %s %+v", p.connection, packet.Kind(), packet))
	}
}

// receive is method A of 4.3.3: a QoS 2 message is passed on when it comes, and its id kept.
func (p *peer) receive(q *mqtt.Publish) {
	what := string(q.Topic) + " " + string(q.Payload)
	held, again := p.inbound[q.ID]
	switch {
	case q.QoS == 2 && again && held != what:
		p.fault(protocol, fmt.Sprintf("connection %d: id %d has another message before PUBREL: %.60s, was %.60s", p.connection, q.ID, what, held))
	case p.receiver == nil:
		p.fault(foreign, what)
	case q.QoS != 2 || !again:
		p.w.ledger.deliver(p.receiver, q, p.connection)
	}
	switch q.QoS {
	case 1:
		p.send(&mqtt.Ack{Type: mqtt.PUBACK, ID: q.ID})
	case 2:
		p.inbound[q.ID] = what
		p.send(&mqtt.Ack{Type: mqtt.PUBREC, ID: q.ID})
	}
}

// acknowledged moves a flight on.
func (p *peer) acknowledged(q *mqtt.Ack) {
	i := p.find(q.ID)
	if i < 0 {
		p.fault(protocol, fmt.Sprintf("%s for id %d, which is not in flight", q.Type, q.ID))
		return
	}
	f, over := p.flights[i], q.Type != mqtt.PUBREC
	switch {
	case q.Reason.Failed() && !(q.Type == mqtt.PUBCOMP && q.Reason == mqtt.PacketIDNotFound): // its first PUBCOMP was lost
		p.fault(protocol, fmt.Sprintf("%s message %d is answered with %s %s", f.topic, f.n, q.Type, q.Reason))
		over = true
	case q.Type == mqtt.PUBACK && p.w.qos != 1, q.Type == mqtt.PUBREC && p.w.qos != 2, q.Type == mqtt.PUBCOMP && !f.released:
		p.fault(protocol, fmt.Sprintf("%s message %d is answered with %s", f.topic, f.n, q.Type))
	case q.Type != mqtt.PUBCOMP && !f.released:
		p.w.ledger.acknowledge(f.topic, f.n)
		p.progress.Store(int64(p.run))
	}
	if !over {
		f.released = true
		p.send(&mqtt.Ack{Type: mqtt.PUBREL, ID: f.id})
		return
	}
	p.flights = slices.Delete(p.flights, i, i+1)
	p.inFlight.Store(int64(len(p.flights)))
}

func (p *peer) send(packet mqtt.Packet) { p.out = packet.Append(p.out, p.version) }

// flush writes what is to be sent. If that fails, what has come is still to be read before the connection is over.
func (p *peer) flush() {
	if len(p.out) == 0 {
		return
	}
	p.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) //nolint:errcheck // the write fails too
	if _, err := p.conn.Write(p.out); err != nil {
		p.conn.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // it is closed
	}
	p.out = p.out[:0]
}

// read hands on packets until the connection ends.
func (p *peer) read(conn net.Conn, in chan<- mqtt.Packet) {
	defer close(in)
	r := bufio.NewReader(conn)
	for {
		packet, err := readPacket(r, p.version)
		if err != nil {
			if e, ok := errors.AsType[*mqtt.Error](err); ok {
				p.fault(protocol, "malformed: "+e.Error())
			}
			return
		}
		in <- packet
	}
}

// readPacket reads one packet, in memory of its own.
func readPacket(r *bufio.Reader, v mqtt.Version) (mqtt.Packet, error) {
	var header []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		header = append(header, b)
		h, n, err := mqtt.ReadHeader(header)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		b2 := make([]byte, h.Length)
		if _, err := io.ReadFull(r, b2); err != nil {
			return nil, err
		}
		return (&mqtt.Decoder{Version: v}).Decode(h, b2)
	}
}

// between is a time of so many milliseconds, at random.
func between(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from)*time.Millisecond + time.Duration(r.Int64N(int64(to-from)*int64(time.Millisecond)))
}
