package enginetest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"cloudsignal/internal/engine"
)

// marker is an owner that every batch but a janitor's rewrites, with the number of the batch in its organization as its
// state: what a reader sees of it tells how far that reader sees.
const marker engine.Owner = 1

const markerID = "marker"

// generator makes batches that a broker could have sent: it follows what exists in a model of its own.
type generator struct {
	rng   *rand.Rand
	model *oracle
	count map[uint64]int // batches by organization
}

// generate makes n batches of the first few organizations.
func generate(seed uint64, n, organizations int) []*engine.Batch {
	g := &generator{rng: random(seed, 1), model: newOracle(), count: make(map[uint64]int)}
	batches := make([]*engine.Batch, n)
	for i := range batches {
		batches[i] = g.batch(1 + uint64(g.rng.IntN(organizations)))
	}
	return batches
}

// random makes the same numbers for the same seeds: a run that fails can be had again.
func random(seed, use uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, use)) //nolint:gosec // not for secrets
}

func (g *generator) chance(percent int) bool { return g.rng.IntN(100) < percent }

func (g *generator) batch(organization uint64) *engine.Batch {
	b := &engine.Batch{Organization: organization}
	o := g.model.organization(organization)
	g.count[organization]++
	o.live = true
	if g.chance(8) {
		op := g.janitor(o)
		b.Add(op)
		g.model.step(o, &op)
		return b
	}
	g.add(b, o, engine.Operation{Op: engine.OpSession, Session: &engine.Session{
		Owner: marker, ClientID: markerID, Kind: engine.KindSession, State: fmt.Append(nil, g.count[organization]),
	}})
	for range 1 + g.rng.IntN(6) {
		g.operation(b, o)
	}
	return b
}

func (g *generator) add(b *engine.Batch, o *modelOrganization, op engine.Operation) {
	b.Add(op)
	g.model.step(o, &op)
}

func (g *generator) janitor(o *modelOrganization) engine.Operation {
	position := engine.Position(g.rng.Uint64N(uint64(o.head) + 2))
	switch n := g.rng.IntN(20); {
	case n == 0:
		return engine.Operation{Op: engine.OpDropOrganization}
	case n < 8:
		return engine.Operation{Op: engine.OpTrimBodies, Position: position}
	default:
		return engine.Operation{Op: engine.OpTrim, Filter: max(1, g.filter(o)), Position: position}
	}
}

// filter is one that exists, or at times one that does not any more; 0 before the first.
func (g *generator) filter(o *modelOrganization) engine.Filter {
	all := sorted(o.texts)
	if len(all) == 0 || g.chance(5) {
		return engine.Filter(o.filters)
	}
	return all[g.rng.IntN(len(all))]
}

// owner is one that has a session, beside the marker; 0: none.
func (g *generator) owner(o *modelOrganization) engine.Owner {
	var all []engine.Owner
	for _, n := range sorted(o.records) {
		if n != marker && o.records[n].session != nil {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return 0
	}
	return all[g.rng.IntN(len(all))]
}

func (g *generator) body() []byte {
	n := g.rng.IntN(60)
	switch g.rng.IntN(12) {
	case 0:
		n = 250 + g.rng.IntN(12)
	case 1:
		n = 300 + g.rng.IntN(900)
	}
	body := make([]byte, n)
	for i := range body {
		body[i] = byte('a' + g.rng.IntN(26))
	}
	if n == 0 {
		return nil
	}
	return body
}

func (g *generator) entry() *engine.Entry {
	e := &engine.Entry{Publisher: fmt.Sprintf("p%d", g.rng.IntN(3)), QoS: uint8(g.rng.IntN(3)), Retain: g.chance(30), Body: g.body()}
	if g.chance(30) {
		e.Expires = g.rng.Int64()
	}
	return e
}

func (g *generator) operation(b *engine.Batch, o *modelOrganization) {
	switch n := g.rng.IntN(100); {
	case n < 35:
		op := engine.Operation{Op: engine.OpAppend, Entry: g.entry()}
		for range g.rng.IntN(5) {
			if f := g.filter(o); f != 0 {
				op.Filters = append(op.Filters, f) // at times twice
			}
		}
		g.add(b, o, op)
	case n < 41:
		if len(o.texts) < 6 {
			f := engine.Filter(o.filters + 1 + g.rng.Uint64N(3))
			g.add(b, o, engine.Operation{Op: engine.OpFilter, Filter: f, Text: fmt.Sprintf("f/%d/#", f)})
		} else {
			g.add(b, o, engine.Operation{Op: engine.OpDropFilter, Filter: g.filter(o)})
		}
	case n < 49:
		g.add(b, o, engine.Operation{Op: engine.OpRetain, Text: g.topic(), Entry: g.entry()})
	case n < 52:
		g.add(b, o, engine.Operation{Op: engine.OpUnretain, Text: g.topic()})
	case n < 58:
		g.session(b, o)
	default:
		if owner := g.owner(o); owner != 0 {
			g.ofOwner(b, o, owner)
		}
	}
}

func (g *generator) topic() string { return fmt.Sprintf("t/%d", g.rng.IntN(5)) }

// session makes one, and ends the one that had its client identifier, before or after.
func (g *generator) session(b *engine.Batch, o *modelOrganization) {
	s := &engine.Session{
		Owner: max(marker, engine.Owner(o.owners)) + 1, ClientID: fmt.Sprintf("c%d", g.rng.IntN(5)), Kind: engine.Kind(1 + g.rng.IntN(2)),
		User: "u", Expiry: g.rng.Uint32(), Connected: g.rng.Uint64N(3), State: g.body(),
	}
	old, ok, _ := g.model.Lookup(b.Organization, s.Kind, s.ClientID)
	first := g.chance(50)
	if ok && first {
		g.add(b, o, engine.Operation{Op: engine.OpEnd, Owner: old})
	}
	g.add(b, o, engine.Operation{Op: engine.OpSession, Session: s})
	if ok && !first {
		g.add(b, o, engine.Operation{Op: engine.OpEnd, Owner: old})
	}
}

func (g *generator) ofOwner(b *engine.Batch, o *modelOrganization, owner engine.Owner) {
	r := o.records[owner]
	event := engine.Event(1 + g.rng.IntN(2))
	text := fmt.Sprintf("f/%d", g.rng.IntN(4))
	op := engine.Operation{Owner: owner}
	switch g.rng.IntN(14) {
	case 0:
		op.Op, op.ID = engine.OpReceive, uint16(g.rng.IntN(1000))
	case 1:
		if all := sorted(r.received); len(all) > 0 {
			op.Op, op.ID = engine.OpRelease, all[g.rng.IntN(len(all))]
		}
	case 2, 3:
		op.Op, op.Subscription = engine.OpSubscribe, &engine.Subscription{Text: text, Filter: g.filter(o), Options: []byte{byte(g.rng.IntN(256))}}
	case 4:
		op.Op, op.Text = engine.OpUnsubscribe, text
	case 5:
		op.Op, op.Position = engine.OpCursor, engine.Position(g.rng.Uint64N(uint64(o.head)+1))
	case 6, 7, 8:
		g.outgoing(o, r, &op)
	case 9:
		if all := sorted(r.outgoing); len(all) > 0 {
			op.Op, op.Position = engine.OpComplete, all[g.rng.IntN(len(all))]
		}
	case 10:
		op.Op, op.Will = engine.OpWill, &engine.Will{Delay: g.rng.Uint32N(100), Entry: *g.entry()}
	case 11:
		op.Op = engine.OpDropWill
	case 12:
		op.Op, op.Event, op.At = engine.OpWake, event, g.rng.Int64N(50)-10
	case 13:
		op.Op, op.Event = engine.OpUnwake, event
		if g.chance(30) {
			op.Op = engine.OpEnd
		}
	}
	if op.Op != 0 {
		g.add(b, o, op)
	}
}

// outgoing makes one of a message that can be read, or moves one on.
func (g *generator) outgoing(o *modelOrganization, r *modelOwner, op *engine.Operation) {
	if all := sorted(r.outgoing); len(all) > 0 && g.chance(30) {
		op.Op, op.Outgoing = engine.OpProgress, &engine.Outgoing{Position: all[g.rng.IntN(len(all))], ID: uint16(g.rng.IntN(9)), State: 2}
		return
	}
	var all []engine.Position
	for _, position := range sorted(o.log) {
		if e := o.log[position]; len(e.filters) > 0 && (!e.shared || position > o.freed) {
			all = append(all, position)
		}
	}
	if len(all) == 0 {
		return
	}
	position := all[g.rng.IntN(len(all))] | engine.Shared*engine.Position(g.rng.IntN(2))
	if g.chance(30) {
		for _, other := range sorted(r.outgoing) { // the same message the other way
			if slices.Contains(all, other&^engine.Shared) {
				position = other ^ engine.Shared
			}
		}
	}
	e := o.log[position&^engine.Shared]
	op.Op, op.Entry = engine.OpOutgoing, &e.Entry
	op.Outgoing = &engine.Outgoing{Position: position, Filter: sorted(e.filters)[0], ID: uint16(g.rng.IntN(1000)), State: 1, Extra: g.body()}
	if _, again := r.outgoing[position]; again { // each is made once
		op.Op = 0
	} else if g.chance(20) {
		op.Copy, op.Entry = true, &engine.Entry{Publisher: "p", QoS: 1, Body: g.body()}
	}
}
