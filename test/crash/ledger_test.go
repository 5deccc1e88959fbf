package crash

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// kind is what a topic is for.
type kind uint8

const (
	load kind = iota // messages in order
	kept             // the same, retained
	will             // each message is the will of one connection; acknowledged when it is due
)

// Faults.
const (
	lost        = "lost"
	doubled     = "duplicated"
	disordered  = "out of order"
	sessionLost = "session lost"
	wrongWill   = "will"
	wrongKept   = "retained"
	foreign     = "not published"
	protocol    = "protocol"
	broken      = "server"
)

// Bounds of what is kept to explain a fault.
const (
	maxTrace    = 400 // what happened to one client's connections
	maxFaults   = 1000
	maxEvidence = 8
)

// fault is something that must not be. n is 0 where it is not about one message.
type fault struct {
	kind, who, topic string
	n                int
	text             string
}

// message is message n of its topic. Times are since the ledger began, 0 for what has not happened.
type message struct {
	sent, resent, acked time.Duration
	withdrawn           bool // a will that must not come
}

type publication struct {
	kind     kind
	messages []message // message n at n-1
}

// delivery is a message as a client was given it.
type delivery struct {
	at         time.Duration
	n          int
	dup        bool
	id         uint16
	connection int
}

// receiver is a subscription and what came for it.
type receiver struct {
	name, filter string
	group        string // of $share
	fresh        bool   // subscribed at the end, to see what is retained
	since        time.Duration
	lost         bool // its session was lost: retained messages may come when it subscribes anew
	got          map[string][]delivery
	delivered    int
}

// ledger is what all clients saw, in one order.
type ledger struct {
	qos mqtt.QoS
	now func() time.Duration

	mu        sync.Mutex
	topics    map[string]*publication
	receivers []*receiver
	traces    map[string][]string
	kills     []time.Duration
	faults    []fault // those that show at once
	last      time.Duration
}

func newLedger(qos mqtt.QoS, now func() time.Duration) *ledger {
	return &ledger{qos: qos, now: now, topics: make(map[string]*publication), traces: make(map[string][]string)}
}

// body is the payload of a message. Some are longer than what an index of a log holds by itself.
func body(n int) string { return fmt.Sprintf("%d %s", n, strings.Repeat(".", n%5*90)) }

func (l *ledger) subscriber(name, filter string) *receiver {
	r := &receiver{name: name, filter: filter, got: make(map[string][]delivery)}
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		r.group, r.filter, _ = strings.Cut(rest, "/")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receivers = append(l.receivers, r)
	return r
}

// subscribed is called when SUBACK has come: what is sent from here on is owed.
func (l *ledger) subscribed(r *receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.since == 0 {
		r.since = l.now()
	}
}

func (l *ledger) lose(r *receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.lost = true
}

func (l *ledger) isSubscribed(r *receiver) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return r.since > 0
}

// send gives the next number of a topic, before anything is written.
func (l *ledger) send(k kind, name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.topics[name]
	if p == nil {
		p = &publication{kind: k}
		l.topics[name] = p
	}
	p.messages = append(p.messages, message{sent: l.now()})
	return len(p.messages)
}

func (l *ledger) resend(name string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics[name].messages[n-1].resent = l.now()
}

func (l *ledger) acknowledge(name string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics[name].messages[n-1].acked = l.now()
}

// withdraw says that a will is not due any more: for certain, or perhaps.
func (l *ledger) withdraw(name string, n int, certain bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &l.topics[name].messages[n-1]
	m.acked, m.withdrawn = 0, certain
}

func (l *ledger) deliver(r *receiver, p *mqtt.Publish, connection int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = l.now()
	name, n := string(p.Topic), 0
	fmt.Sscan(string(p.Payload), &n) //nolint:errcheck // 0 is no message's number
	known := l.topics[name]
	why := ""
	switch {
	case known == nil || n < 1 || n > len(known.messages) || body(n) != string(p.Payload):
		why = fmt.Sprintf("payload %.40q", p.Payload)
	case !topic.Match(r.filter, name):
		why = "does not match " + r.filter
	case p.QoS != l.qos:
		why = fmt.Sprintf("QoS %d", p.QoS)
	case p.Retain && r.lost && !r.fresh:
		return
	case p.Retain != r.fresh:
		why = fmt.Sprintf("retain %v", p.Retain)
	default:
		r.delivered++
		r.got[name] = append(r.got[name], delivery{l.last, n, p.Dup, p.ID, connection})
		return
	}
	l.add(fault{foreign, r.name, name, 0, why})
}

func (l *ledger) fault(f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(f)
}

func (l *ledger) add(f fault) {
	if f.n == 0 {
		f.text = fmt.Sprintf("at %v: %s", l.now().Round(time.Microsecond), f.text)
	}
	if len(l.faults) < maxFaults {
		l.faults = append(l.faults, f)
	}
}

// note keeps what happened to a client, or to the server.
func (l *ledger) note(who, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.now()
	if who == broken {
		l.kills = append(l.kills, at)
	}
	t := append(l.traces[who], fmt.Sprintf("%11.6f %s", at.Seconds(), fmt.Sprintf(format, args...)))
	l.traces[who] = t[max(0, len(t)-maxTrace):]
}

// quiet is how long nothing has come.
func (l *ledger) quiet() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now() - l.last
}

// evidence says what is known about a fault.
func (l *ledger) evidence(f fault) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s", f.kind, f.who, f.topic)
	if f.n > 0 {
		fmt.Fprintf(&b, " message %d", f.n)
	}
	fmt.Fprintf(&b, ": %s\n", f.text)
	if p := l.topics[f.topic]; p != nil && f.n > 0 {
		m := p.messages[f.n-1]
		fmt.Fprintf(&b, "  sent %v, sent again %v, acknowledged %v\n", m.sent, m.resent, m.acked)
		for _, k := range l.kills {
			if k > m.sent-5*time.Second && k < m.sent+5*time.Second {
				fmt.Fprintf(&b, "  killed %v\n", k)
			}
		}
	}
	for _, r := range l.receivers {
		ds := r.got[f.topic]
		i := slices.IndexFunc(ds, func(d delivery) bool { return d.n >= f.n })
		if f.n == 0 || i < 0 {
			continue
		}
		fmt.Fprintf(&b, "  %s was given:", r.name)
		for j, d := range ds {
			if (j < i-3 || j > i+3) && (d.n != f.n || r.name != f.who) { // its neighbours, and each time it came
				continue
			}
			fmt.Fprintf(&b, " %d (%v, id %d, dup %v, connection %d)", d.n, d.at.Round(time.Microsecond), d.id, d.dup, d.connection)
		}
		b.WriteString("\n")
	}
	if t := l.traces[f.who]; len(t) > 0 {
		fmt.Fprintf(&b, "  connections of %s:\n    %s\n", f.who, strings.Join(t[max(0, len(t)-40):], "\n    "))
	}
	return b.String()
}
