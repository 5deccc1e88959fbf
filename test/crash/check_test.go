package crash

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"cloudsignal/internal/topic"
)

// report is the verdict on a ledger.
type report struct {
	acknowledged, delivered int
	repeated                int // arrivals after the first; at QoS 1 most are no fault
	wills, arrived          int // wills that were due, and those that came
	faults                  []fault
}

func (r *report) add(f fault) { r.faults = append(r.faults, f) }

func (r *report) count(kind string) (n int) {
	for _, f := range r.faults {
		if f.kind == kind {
			n++
		}
	}
	return n
}

// missing is what may still come.
func (r *report) missing() bool { return r.count(lost) > 0 || r.arrived < r.wills }

func (r *report) String() string {
	return fmt.Sprintf("acknowledged=%d delivered=%d lost=%d duplicated=%d out_of_order=%d sessions_lost=%d wills=%d/%d wills_wrong=%d "+
		"retained_wrong=%d not_published=%d other=%d", r.acknowledged, r.delivered, r.count(lost), r.repeated, r.count(disordered),
		r.count(sessionLost), r.arrived, r.wills, r.count(wrongWill), r.count(wrongKept), r.count(foreign), r.count(protocol)+r.count(broken))
}

// audience is who a message is owed to once: a subscriber, or the members of a group.
type audience struct {
	name    string
	members []*receiver
	since   time.Duration
}

func (a *audience) shared() bool { return a.members[0].group != "" }

func (l *ledger) audiences() []*audience {
	var all []*audience
	groups := make(map[string]*audience)
	for _, r := range l.receivers {
		a := groups[r.group]
		if r.fresh || r.since == 0 {
			continue
		}
		if r.group == "" || a == nil {
			a = &audience{name: r.name, since: r.since}
			all = append(all, a)
		}
		if r.group != "" {
			groups[r.group] = a
		}
		a.members, a.since = append(a.members, r), min(a.since, r.since)
	}
	return all
}

// check judges everything that was seen.
func (l *ledger) check() report {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := report{faults: slices.Clone(l.faults)}
	for _, r := range l.receivers {
		v.delivered += r.delivered
	}
	audiences := l.audiences()
	for _, name := range slices.Sorted(maps.Keys(l.topics)) {
		p := l.topics[name]
		for _, m := range p.messages {
			if m.acked > 0 && p.kind != will {
				v.acknowledged++
			}
		}
		for _, a := range audiences {
			if topic.Match(a.members[0].filter, name) {
				l.judge(&v, a, name, p)
			}
		}
		if p.kind == kept {
			l.judgeKept(&v, name, p)
		}
	}
	return v
}

// judge holds what came on a topic against what was published there.
func (l *ledger) judge(v *report, a *audience, name string, p *publication) {
	missed, again := lost, doubled
	if p.kind == will {
		missed, again = wrongWill, wrongWill
	}
	arrived := make([]bool, len(p.messages))
	for _, r := range a.members {
		highest := 0
		for _, d := range r.got[name] {
			before := arrived[d.n-1]
			arrived[d.n-1] = true
			switch {
			case before:
				v.repeated++
				if why := l.wrongAgain(a, &p.messages[d.n-1], d); why != "" {
					v.add(fault{again, r.name, name, d.n, why})
				}
			case d.n < highest && p.kind != will && !a.shared(): // members of a group are promised no order
				v.add(fault{disordered, r.name, name, d.n, fmt.Sprintf("after %d", highest)})
			}
			highest = max(highest, d.n)
		}
	}
	for i, m := range p.messages {
		due := m.acked > 0 && a.since < m.sent
		if p.kind == will && due {
			v.wills++
			if arrived[i] {
				v.arrived++
			}
		}
		switch {
		case due && !arrived[i]:
			v.add(fault{missed, a.name, name, i + 1, "never came"})
		case m.withdrawn && arrived[i]:
			v.add(fault{wrongWill, a.name, name, i + 1, "came though DISCONNECT had taken it back and the server had closed"})
		}
	}
}

// wrongAgain says why a message that has come may not come again, or nothing. At QoS 1 what a client has not acknowledged
// comes again with DUP, and what the publisher sent again is another message to the server.
func (l *ledger) wrongAgain(a *audience, m *message, d delivery) string {
	switch {
	case l.qos == 2:
		return "came again"
	case !d.dup && m.resent == 0 && !a.shared(): // in a group it may pass to another member, for whom it is new
		return "came again without DUP, and its publisher had sent it once"
	}
	return ""
}

// judgeKept holds what a fresh subscriber was given: the last acknowledged value, or one sent after it.
func (l *ledger) judgeKept(v *report, name string, p *publication) {
	least := 0
	for i, m := range p.messages {
		if m.acked > 0 {
			least = i + 1
		}
	}
	for _, r := range l.receivers {
		if !r.fresh || least == 0 {
			continue
		}
		switch got := r.got[name]; {
		case len(got) == 0:
			v.add(fault{wrongKept, r.name, name, least, "is not there"})
		case len(got) > 1:
			v.add(fault{wrongKept, r.name, name, least, fmt.Sprintf("%d values", len(got))})
		case got[0].n < least:
			v.add(fault{wrongKept, r.name, name, least, fmt.Sprintf("the value is %d, which is older", got[0].n)})
		}
	}
}
