package pebble

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"cloudsignal/internal/engine"
)

const (
	inlineBody  = 256 // bytes: up to here a body that one filter has is in its index, and an Outgoing takes a copy
	numberBlock = 256 // owners' and filters' numbers that are marked as used at a time
	smallOwner  = 64  // records of an owner that are removed one by one: a range delete costs every reader until it is compacted
)

// packer turns batches into writes of the database. Only the committer uses it. It reads the database, which shows all
// groups that were applied, and remembers of the group it is packing what its own operations may ask for.
type packer struct {
	s       *Store
	filters map[filterID]*filterState // of all groups

	write    *pebble.Batch
	used     []*organization            // by this group
	sessions map[ownerID]engine.Session // made by this group; Kind 0: ended
	lookups  map[lookupID]engine.Owner  // set by this group; 0: removed
	wakes    map[wakeID]wake            // set by this group
	touched  map[ownerID]struct{}       // owners of whose records this group has written any
	key      []byte
	value    []byte
	states   []*filterState
}

type (
	filterID struct {
		organization uint64
		filter       engine.Filter
	}
	ownerID struct {
		organization uint64
		owner        engine.Owner
	}
	lookupID struct {
		organization uint64
		kind         engine.Kind
		clientID     string
	}
	wakeID struct {
		ownerID
		event engine.Event
	}
	wake struct {
		at  int64
		set bool
	}
)

// filterState is where a filter's running count stands.
type filterState struct {
	filter       engine.Filter
	there        bool // it was made and not dropped
	count, bytes uint64
	last         engine.Position // entry that this run appended last
}

func (p *packer) init(s *Store) {
	p.s = s
	p.filters = make(map[filterID]*filterState)
	p.sessions = make(map[ownerID]engine.Session)
	p.lookups = make(map[lookupID]engine.Owner)
	p.wakes = make(map[wakeID]wake)
	p.touched = make(map[ownerID]struct{})
}

// pack takes requests from the front until the group is full, and says how many. A janitor's batch has a group of its
// own: it reads what the database shows.
func (p *packer) pack(rest []request) (*group, int) {
	g := &group{}
	p.write = p.s.db.NewBatch()
	n, size, full, asked := 0, 0, error(nil), false
	for ; n < len(rest) && (n == 0 || size+rest[n].size <= maxGroup); n++ {
		r := &rest[n]
		if r.err != nil {
			continue
		}
		if r.batch == nil {
			p.purge(r.purge)
			continue
		}
		alone := r.batch.Alone()
		if alone != nil && !p.write.Empty() {
			break
		}
		if r.batch.Grows() {
			if !asked {
				full, asked = p.s.full(), true
			}
			if r.err = full; r.err != nil {
				continue
			}
		}
		size += r.size
		if err := p.batch(r); err != nil {
			p.s.fail(err) // the database could not be read: its state is not known
		}
		if alone != nil {
			n++
			break
		}
	}
	p.end(g)
	return g, n
}

// end writes what the group changed of its organizations and forgets what was remembered of it.
func (p *packer) end(g *group) {
	for _, o := range p.used {
		p.key, p.value = key(p.key, kindOrganization, o.number), appendMeta(p.value[:0], &o.meta)
		p.set()
		o.dirty = false
		g.advanced = append(g.advanced, advance{o, o.meta.position})
	}
	if p.write.Empty() {
		_ = p.write.Close() // only gives memory back
	} else {
		g.write = p.write
	}
	p.write, p.used = nil, p.used[:0]
	clear(p.sessions)
	clear(p.lookups)
	clear(p.wakes)
	clear(p.touched)
	if len(p.filters) > maxCachedFilters {
		clear(p.filters)
	}
}

// set and remove write p.key and p.value. A batch of the database cannot fail before it is applied.
func (p *packer) set()    { _ = p.write.Set(p.key, p.value, nil) }
func (p *packer) remove() { _ = p.write.Delete(p.key, nil) }

func (p *packer) removeRange(from, to []byte) { _ = p.write.DeleteRange(from, to, nil) }

func (p *packer) batch(r *request) error {
	o, err := p.s.organization(r.batch.Organization)
	if err != nil {
		return err
	}
	if !o.dirty {
		o.dirty = true
		p.used = append(p.used, o)
	}
	o.meta.live = true
	for i := range r.batch.Operations {
		op := &r.batch.Operations[i]
		if op.Op == engine.OpAppend && r.first == 0 {
			r.first = o.meta.position + 1
		}
		if err := p.operation(o, op); err != nil {
			return err
		}
	}
	if r.first == 0 {
		r.first = o.meta.position
	}
	return nil
}

func (p *packer) operation(o *organization, op *engine.Operation) error {
	switch op.Op {
	case engine.OpAppend:
		return p.append(o, op)
	case engine.OpRetain:
		p.key = keyRetained(p.key, o.number, op.Text)
		p.value = appendEntry(binary.AppendUvarint(p.value[:0], uint64(o.meta.position)), op.Entry)
		p.set()
	case engine.OpUnretain:
		p.key = keyRetained(p.key, o.number, op.Text)
		p.remove()
	case engine.OpSession:
		p.session(o, op.Session)
	case engine.OpEnd:
		return p.endOwner(o, op.Owner)
	case engine.OpFilter:
		p.useFilter(o, op.Filter)
		p.key, p.value = key2(p.key, kindFilter, o.number, uint64(op.Filter)), append(p.value[:0], op.Text...)
		p.set()
		state, err := p.filter(o.number, op.Filter)
		if err != nil {
			return err
		}
		state.there = true
	case engine.OpDropFilter:
		p.dropFilter(o, op.Filter)
	case engine.OpTrim:
		return p.trim(o, op.Filter, op.Position)
	case engine.OpTrimBodies:
		return p.trimBodies(o, op.Position)
	case engine.OpDropOrganization:
		p.dropOrganization(o)
	default:
		return p.ofOwner(o, op)
	}
	return nil
}

// ofOwner does the operations on what belongs to an owner.
func (p *packer) ofOwner(o *organization, op *engine.Operation) error {
	p.useOwner(o, op.Owner)
	id := ownerID{o.number, op.Owner}
	p.touched[id] = struct{}{}
	p.value = p.value[:0]
	gone := false
	switch op.Op {
	case engine.OpReceive, engine.OpRelease:
		p.key, gone = keyReceived(p.key, o.number, op.Owner, op.ID), op.Op == engine.OpRelease
	case engine.OpSubscribe:
		since := op.Subscription.Since
		if since == 0 {
			since = o.meta.position
		}
		p.key = keySubText(p.key, o.number, op.Owner, op.Subscription.Text)
		p.value = appendSubscription(p.value, op.Subscription, since)
	case engine.OpUnsubscribe:
		p.key, gone = keySubText(p.key, o.number, op.Owner, op.Text), true
	case engine.OpCursor:
		p.key = keySub(p.key, o.number, op.Owner, subCursor)
		p.value = binary.AppendUvarint(p.value, uint64(op.Position))
	case engine.OpOutgoing:
		if err := p.hold(o, op); err != nil {
			return err
		}
		fallthrough
	case engine.OpProgress:
		p.key = keySubPosition(p.key, o.number, op.Owner, subOutgoing, op.Outgoing.Position)
		p.value = appendOutgoing(p.value[:0], op.Outgoing)
	case engine.OpComplete:
		p.complete(o, op)
		return nil
	case engine.OpWill, engine.OpDropWill:
		p.key, gone = keySub(p.key, o.number, op.Owner, subWill), op.Op == engine.OpDropWill
		if !gone {
			p.value = appendEntry(binary.AppendUvarint(p.value, uint64(op.Will.Delay)), &op.Will.Entry)
		}
	case engine.OpWake:
		return p.wake(wakeID{id, op.Event}, wake{op.At, true})
	case engine.OpUnwake:
		return p.wake(wakeID{id, op.Event}, wake{})
	}
	if gone {
		p.remove()
	} else {
		p.set()
	}
	return nil
}

// useOwner marks a number as used, a block at a time.
func (p *packer) useOwner(o *organization, owner engine.Owner) {
	n := uint64(owner)
	if n > o.meta.owners {
		o.meta.owners = n + numberBlock
	}
	raise(&o.owners, n)
}

func (p *packer) useFilter(o *organization, filter engine.Filter) {
	n := uint64(filter)
	if n > o.meta.filters {
		o.meta.filters = n + numberBlock
	}
	raise(&o.filters, n)
}

// append gives the message its position, and writes it once, with an index entry for each of its filters.
func (p *packer) append(o *organization, op *engine.Operation) error {
	o.meta.position++
	position := o.meta.position
	p.states = p.states[:0]
	for _, f := range op.Filters {
		state, err := p.filter(o.number, f)
		if err != nil {
			return err
		}
		if state.there && state.last != position { // named twice, it is appended once
			state.last = position
			p.states = append(p.states, state)
		}
	}
	size := len(op.Entry.Body)
	inline := len(p.states) == 1 && size <= inlineBody
	for _, state := range p.states {
		state.count++
		state.bytes += uint64(size)
		p.key = keyIndex(p.key, o.number, state.filter, position)
		p.value = appendIndexEntry(p.value[:0], &indexEntry{count: state.count, bytes: state.bytes, size: uint64(size)})
		if inline {
			p.value = appendEntry(p.value, op.Entry)
		}
		p.set()
	}
	if len(p.states) > 0 && !inline {
		p.key = key2(p.key, kindBody, o.number, uint64(position))
		p.value = appendEntry(p.value[:0], op.Entry)
		p.set()
	}
	return nil
}

// hold keeps an Outgoing's message readable: a small one is copied, since its index may be trimmed or dropped at any
// time; of a large one the shared body is held, which is freed only by low water. A large one that is not in the log at its
// position is copied too: it came from elsewhere, as retained messages do.
func (p *packer) hold(o *organization, op *engine.Operation) error {
	position := op.Outgoing.Position
	shared := false
	if len(op.Entry.Body) > inlineBody {
		var err error
		body := key2(nil, kindBody, o.number, uint64(position&^engine.Shared))
		if shared, err = get(p.s.db, body, func([]byte) error { return nil }); err != nil {
			return err
		}
	}
	if !shared {
		p.key, p.value = keySubPosition(p.key, o.number, op.Owner, subCopy, position), appendEntry(p.value[:0], op.Entry)
	} else {
		p.key, p.value = keyHeld(p.key, o.number, op.Owner, position), p.value[:0]
	}
	p.set()
	return nil
}

func (p *packer) complete(o *organization, op *engine.Operation) {
	p.key = keySubPosition(p.key, o.number, op.Owner, subOutgoing, op.Position)
	p.remove()
	p.key = keySubPosition(p.key, o.number, op.Owner, subCopy, op.Position)
	p.remove()
	p.key = keyHeld(p.key, o.number, op.Owner, op.Position)
	p.remove()
}

func (p *packer) session(o *organization, session *engine.Session) {
	p.useOwner(o, session.Owner)
	p.sessions[ownerID{o.number, session.Owner}] = *session
	p.lookups[lookupID{o.number, session.Kind, session.ClientID}] = session.Owner
	p.key, p.value = key2(p.key, kindSession, o.number, uint64(session.Owner)), appendSession(p.value[:0], session)
	p.set()
	p.key = keyLookup(p.key, o.number, session.Kind, session.ClientID)
	p.value = binary.AppendUvarint(p.value[:0], uint64(session.Owner))
	p.set()
}
