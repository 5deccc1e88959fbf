package enginetest

import (
	"cmp"
	"maps"
	"slices"

	"cloudsignal/internal/engine"
)

// oracle is what an engine keeps, in maps, by the shortest code that says what each operation means. It has
// no bounds and no errors.
type oracle struct{ organizations map[uint64]*modelOrganization }

type modelOrganization struct {
	live            bool
	head            engine.Position
	owners, filters uint64 // greatest numbers used

	texts    map[engine.Filter]string
	log      map[engine.Position]*modelEntry
	freed    engine.Position // shared bodies up to here are gone
	records  map[engine.Owner]*modelOwner
	retained map[string]engine.Entry
}

type modelEntry struct {
	engine.Entry
	filters map[engine.Filter]bool // in whose index it still is
	shared  bool
}

type modelOwner struct {
	session  *engine.Session
	hidden   bool // another took the client identifier
	subs     map[string]engine.Subscription
	received map[uint16]bool
	outgoing map[engine.Position]engine.Outgoing
	held     map[engine.Position]engine.Entry
	copied   map[engine.Position]bool // of those held: they hold nothing of the log
	cursor   engine.Position
	will     *engine.Will
	wakes    map[engine.Event]int64
}

const inline = 256 // bytes: what an engine may keep in an index instead of once

// newOracle returns an empty one.
func newOracle() *oracle { return &oracle{organizations: make(map[uint64]*modelOrganization)} }

func (m *oracle) organization(number uint64) *modelOrganization {
	o := m.organizations[number]
	if o == nil {
		o = &modelOrganization{}
		o.clear()
		m.organizations[number] = o
	}
	return o
}

func (o *modelOrganization) clear() {
	o.texts, o.log, o.freed = make(map[engine.Filter]string), make(map[engine.Position]*modelEntry), 0
	o.records, o.retained = make(map[engine.Owner]*modelOwner), make(map[string]engine.Entry)
}

func (o *modelOrganization) owner(n engine.Owner) *modelOwner {
	if o.records[n] == nil {
		o.records[n] = &modelOwner{
			subs: make(map[string]engine.Subscription), received: make(map[uint16]bool),
			outgoing: make(map[engine.Position]engine.Outgoing), held: make(map[engine.Position]engine.Entry), copied: make(map[engine.Position]bool),
			wakes: make(map[engine.Event]int64),
		}
	}
	return o.records[n]
}

// Apply does a batch, and returns what an engine's then gets.
func (m *oracle) Apply(b *engine.Batch) (first engine.Position) {
	o := m.organization(b.Organization)
	o.live = true
	for i := range b.Operations {
		op := &b.Operations[i]
		m.step(o, op)
		if op.Op == engine.OpAppend && first == 0 {
			first = o.head
		}
	}
	if first == 0 {
		return o.head
	}
	return first
}

func (m *oracle) step(o *modelOrganization, op *engine.Operation) {
	o.owners = max(o.owners, uint64(op.Owner))
	switch op.Op {
	case engine.OpAppend:
		o.append(op)
	case engine.OpRetain:
		e := *op.Entry
		e.Position = o.head
		o.retained[op.Text] = e
	case engine.OpUnretain:
		delete(o.retained, op.Text)
	case engine.OpSession:
		s := *op.Session
		o.owners = max(o.owners, uint64(s.Owner))
		o.owner(s.Owner).session = &s
		for n, r := range o.records { // who comes last is found by the client identifier
			same := r.session != nil && r.session.Kind == s.Kind && r.session.ClientID == s.ClientID
			r.hidden = same && n != s.Owner || r.hidden && !same
		}
	case engine.OpEnd:
		delete(o.records, op.Owner)
	case engine.OpFilter:
		o.filters = max(o.filters, uint64(op.Filter))
		o.texts[op.Filter] = op.Text
	case engine.OpDropFilter:
		delete(o.texts, op.Filter)
		o.cut(op.Filter, o.head)
	case engine.OpTrim:
		if _, ok := o.texts[op.Filter]; ok {
			o.cut(op.Filter, op.Position)
		}
	case engine.OpTrimBodies:
		o.free(min(op.Position, o.head))
	case engine.OpDropOrganization:
		o.clear()
		o.live = false
	default:
		o.ofOwner(op)
	}
}

func (o *modelOrganization) ofOwner(op *engine.Operation) {
	r := o.owner(op.Owner)
	switch op.Op {
	case engine.OpReceive:
		r.received[op.ID] = true
	case engine.OpRelease:
		delete(r.received, op.ID)
	case engine.OpSubscribe:
		s := *op.Subscription
		if s.Since == 0 {
			s.Since = o.head
		}
		r.subs[s.Text] = s
	case engine.OpUnsubscribe:
		delete(r.subs, op.Text)
	case engine.OpCursor:
		r.cursor = op.Position
	case engine.OpOutgoing:
		r.outgoing[op.Outgoing.Position] = *op.Outgoing
		e := *op.Entry
		e.Position = op.Outgoing.Position &^ engine.Shared
		r.held[op.Outgoing.Position], r.copied[op.Outgoing.Position] = e, op.Copy
	case engine.OpProgress:
		r.outgoing[op.Outgoing.Position] = *op.Outgoing
	case engine.OpComplete:
		delete(r.outgoing, op.Position)
		delete(r.held, op.Position)
	case engine.OpWill:
		w := *op.Will
		r.will = &w
	case engine.OpDropWill:
		r.will = nil
	case engine.OpWake:
		r.wakes[op.Event] = op.At
	case engine.OpUnwake:
		delete(r.wakes, op.Event)
	}
}

func (o *modelOrganization) append(op *engine.Operation) {
	o.head++
	e := &modelEntry{Entry: *op.Entry, filters: make(map[engine.Filter]bool)}
	e.Position = o.head
	for _, f := range op.Filters {
		if _, ok := o.texts[f]; ok {
			e.filters[f] = true
		}
	}
	e.shared = len(e.filters) > 1 || len(e.Body) > inline
	if len(e.filters) > 0 {
		o.log[o.head] = e
	}
}

func (o *modelOrganization) cut(f engine.Filter, upTo engine.Position) {
	for position, e := range o.log {
		if position <= upTo {
			delete(e.filters, f)
		}
	}
}

func (o *modelOrganization) free(upTo engine.Position) {
	for _, r := range o.records {
		for position, e := range r.held {
			if _, ok := r.outgoing[position]; ok && !r.copied[position] && len(e.Body) > inline && e.Position > o.freed {
				upTo = min(upTo, e.Position-1)
			}
		}
	}
	o.freed = max(o.freed, upTo)
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func (m *oracle) Organizations() (all []uint64, err error) {
	for _, n := range sorted(m.organizations) {
		if m.organizations[n].live {
			all = append(all, n)
		}
	}
	return all, nil
}

func (m *oracle) Head(organization uint64) (engine.Position, error) {
	return m.organization(organization).head, nil
}

func (m *oracle) Filters(organization uint64, visit func(f engine.Filter, text string) error) error {
	o := m.organization(organization)
	for _, f := range sorted(o.texts) {
		if err := visit(f, o.texts[f]); err != nil {
			return err
		}
	}
	return nil
}

func (m *oracle) Sessions(organization uint64, visit func(engine.Session) error) error {
	for _, n := range sorted(m.organization(organization).records) {
		s, ok, _ := m.Session(organization, n)
		if !ok {
			continue
		}
		if err := visit(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *oracle) Session(organization uint64, owner engine.Owner) (engine.Session, bool, error) {
	r := m.organization(organization).records[owner]
	if r == nil || r.session == nil {
		return engine.Session{}, false, nil
	}
	return *r.session, true, nil
}

func (m *oracle) Lookup(organization uint64, kind engine.Kind, clientID string) (engine.Owner, bool, error) {
	for n, r := range m.organization(organization).records {
		if s := r.session; s != nil && s.Kind == kind && s.ClientID == clientID && !r.hidden {
			return n, true, nil
		}
	}
	return 0, false, nil
}

func (m *oracle) Subscriptions(organization uint64, owner engine.Owner) (all []engine.Subscription, err error) {
	r := m.organization(organization).owner(owner)
	for _, text := range sorted(r.subs) {
		all = append(all, r.subs[text])
	}
	return all, nil
}

func (m *oracle) Received(organization uint64, owner engine.Owner) ([]uint16, error) {
	return sorted(m.organization(organization).owner(owner).received), nil
}

func (m *oracle) Outgoing(organization uint64, owner engine.Owner) (all []engine.Outgoing, err error) {
	r := m.organization(organization).owner(owner)
	for _, position := range sorted(r.outgoing) {
		all = append(all, r.outgoing[position])
	}
	return all, nil
}

func (m *oracle) Read(organization uint64, owner engine.Owner, position engine.Position) (engine.Entry, bool, error) {
	e, ok := m.organization(organization).owner(owner).held[position]
	return e, ok, nil
}

func (m *oracle) Cursor(organization uint64, owner engine.Owner) (engine.Position, error) {
	return m.organization(organization).owner(owner).cursor, nil
}

func (m *oracle) Will(organization uint64, owner engine.Owner) (engine.Will, bool, error) {
	if w := m.organization(organization).owner(owner).will; w != nil {
		return *w, true, nil
	}
	return engine.Will{}, false, nil
}

func (m *oracle) Retained(organization uint64, visit func(engine.Retained) error) error {
	o := m.organization(organization)
	for _, topic := range sorted(o.retained) {
		if err := visit(engine.Retained{Topic: topic, Entry: o.retained[topic]}); err != nil {
			return err
		}
	}
	return nil
}

func (m *oracle) RetainedOf(organization uint64, topic string) (engine.Entry, bool, error) {
	e, ok := m.organization(organization).retained[topic]
	return e, ok, nil
}

func (m *oracle) Due(now int64, limit int) (all []engine.Due, err error) {
	for n, o := range m.organizations {
		for owner, r := range o.records {
			for event, at := range r.wakes {
				if at <= now {
					all = append(all, engine.Due{Organization: n, Owner: owner, At: at, Event: event})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b engine.Due) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Organization, b.Organization), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Event, b.Event))
	})
	return all[:min(limit, len(all))], nil
}

// Page knows no bound on bytes.
func (m *oracle) Page(organization uint64, filters []engine.Filter, after, upTo engine.Position, _ int, dst []engine.Match) ([]engine.Match, engine.Position, error) {
	o := m.organization(organization)
	upTo = max(after, min(upTo, o.head))
	for _, position := range sorted(o.log) {
		e := o.log[position]
		if position <= after || position > upTo || e.shared && position <= o.freed {
			continue
		}
		match := engine.Match{Entry: e.Entry}
		for _, f := range filters {
			if e.filters[f] {
				match.Filters = append(match.Filters, f)
			}
		}
		if len(match.Filters) > 0 {
			dst = append(dst, match)
		}
	}
	return dst, upTo, nil
}

func (m *oracle) Backlog(organization uint64, filter engine.Filter, after engine.Position) (messages, bytes uint64, err error) {
	for position, e := range m.organization(organization).log {
		if position > after && e.filters[filter] {
			messages++
			bytes += uint64(len(e.Body))
		}
	}
	return messages, bytes, nil
}
