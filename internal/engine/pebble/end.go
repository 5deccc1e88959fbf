package pebble

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"cloudsignal/internal/engine"
)

// What removes many records at once, and what the packer has to look up for that. Ranges are deleted whole, without
// looking into them, since a filter's index may have millions of entries; only the few records of a small owner are
// removed one by one. Trims remember up to where they went: readers start there and not among what was deleted.

// endOwner removes a session and all that belongs to it. What its Outgoings held is let go by trimBodies, which finds
// that they are gone.
func (p *packer) endOwner(o *organization, owner engine.Owner) error {
	p.useOwner(o, owner)
	id := ownerID{o.number, owner}
	_, written := p.touched[id]
	if err := p.endSession(id); err != nil {
		return err
	}
	for event := engine.SessionEnds; event <= engine.WillFires; event++ {
		if err := p.wake(wakeID{id, event}, wake{}); err != nil {
			return err
		}
	}
	few := false
	if !written {
		var err error
		if few, err = p.removeFew(id); err != nil {
			return err
		}
	}
	if !few {
		p.removeRange(keySub(nil, o.number, owner, 0), keySub(nil, o.number, owner, subEnd))
	}
	p.touched[id] = struct{}{}
	return nil
}

// endSession removes the record of a session, and what finds it by its client identifier unless that finds another.
func (p *packer) endSession(id ownerID) error {
	session, ok := p.sessions[id]
	p.key = key2(p.key, kindSession, id.organization, uint64(id.owner))
	if !ok {
		found, err := get(p.s.db, p.key, func(v []byte) (err error) {
			session, err = decodeSession(id.owner, v)
			return err
		})
		if err != nil || !found {
			return err
		}
	}
	if session.Kind == 0 {
		return nil // it has ended in this group
	}
	p.remove()
	p.sessions[id] = engine.Session{}
	lookup := lookupID{id.organization, session.Kind, session.ClientID}
	owner, ok := p.lookups[lookup]
	p.key = keyLookup(p.key, id.organization, session.Kind, session.ClientID)
	if !ok {
		_, err := get(p.s.db, p.key, func(v []byte) error {
			d := decoder{rest: v}
			owner = engine.Owner(d.uvarint())
			return d.err("client identifier")
		})
		if err != nil {
			return err
		}
	}
	if owner == id.owner {
		p.remove()
		p.lookups[lookup] = 0
	}
	return nil
}

// removeFew removes an owner's records one by one if there are at most smallOwner, and says so. The group has not
// written any yet.
func (p *packer) removeFew(id ownerID) (bool, error) {
	iter, err := p.s.db.NewIter(&pebble.IterOptions{
		LowerBound: keySub(nil, id.organization, id.owner, 0), UpperBound: keySub(nil, id.organization, id.owner, subEnd),
	})
	if err != nil {
		return false, err
	}
	var keys [][]byte
	few := true
	for iter.First(); iter.Valid() && few; iter.Next() {
		keys = append(keys, append([]byte(nil), iter.Key()...))
		few = len(keys) <= smallOwner
	}
	if err := iter.Close(); err != nil || !few {
		return false, err
	}
	for _, k := range keys {
		p.key = append(p.key[:0], k...)
		p.remove()
	}
	return true, nil
}

// wake puts an owner's time for an event in place of the one it has, or removes it. An owner's own record of it is what
// counts; the time index is only what finds it in order.
func (p *packer) wake(id wakeID, next wake) error {
	old, err := p.woken(id)
	if err != nil || old == next {
		return err
	}
	due := engine.Due{Organization: id.organization, Owner: id.owner, Event: id.event}
	if old.set {
		due.At = old.at
		p.key = keyTime(p.key, due)
		p.remove()
	}
	p.wakes[id] = next
	p.touched[id.ownerID] = struct{}{}
	p.key = keyWake(p.key, id.organization, id.owner, id.event)
	if !next.set {
		p.value = p.value[:0] // and not removed, see keys.go
		p.set()
		return nil
	}
	p.value = binary.BigEndian.AppendUint64(p.value[:0], uint64(next.at))
	p.set()
	due.At = next.at
	p.key, p.value = keyTime(p.key, due), p.value[:0]
	p.set()
	return nil
}

// woken is the owner's time for an event.
func (p *packer) woken(id wakeID) (wake, error) {
	if w, ok := p.wakes[id]; ok {
		return w, nil
	}
	return wakeOf(p.s.db, id)
}

func wakeOf(r pebble.Reader, id wakeID) (w wake, err error) {
	_, err = get(r, keyWake(nil, id.organization, id.owner, id.event), func(v []byte) error {
		if len(v) == 0 {
			return nil
		}
		if len(v) != 8 {
			return (&decoder{bad: true}).err("time")
		}
		w = wake{int64(binary.BigEndian.Uint64(v)), true}
		return nil
	})
	return w, err
}

// purge removes times that no owner has: those of organizations that were dropped.
func (p *packer) purge(stale []engine.Due) {
	for _, d := range stale {
		w, err := p.woken(wakeID{ownerID{d.Organization, d.Owner}, d.Event})
		if err != nil {
			p.s.fail(err)
			return
		}
		if !w.set || w.at != d.At {
			p.key = keyTime(p.key, d)
			p.remove()
		}
	}
}

// filter is the state of a filter, read at its first use.
func (p *packer) filter(organization uint64, filter engine.Filter) (*filterState, error) {
	id := filterID{organization, filter}
	if state := p.filters[id]; state != nil {
		return state, nil
	}
	state := &filterState{filter: filter}
	there, err := get(p.s.db, key2(nil, kindFilter, organization, uint64(filter)), func([]byte) error { return nil })
	if err != nil {
		return nil, err
	}
	state.there = there
	cut, err := trimOf(p.s.db, organization, filter)
	if err != nil {
		return nil, err
	}
	if err := state.resume(p.s.db, organization, cut); err != nil {
		return nil, err
	}
	p.filters[id] = state
	return state, nil
}

// resume takes the running count on from the last entry of the index. If there is none it starts anew: only differences
// count.
func (state *filterState) resume(r pebble.Reader, organization uint64, cut engine.Position) error {
	iter, err := r.NewIter(&pebble.IterOptions{
		LowerBound: keyIndex(nil, organization, state.filter, cut+1), UpperBound: keyIndex(nil, organization, state.filter+1, 0),
	})
	if err != nil {
		return err
	}
	if iter.Last() {
		var last indexEntry
		last, err = decodeIndexEntry(iter.Value())
		state.count, state.bytes = last.count, last.bytes
	}
	return errors.Join(err, iter.Close())
}

// trimOf is up to where an index was cut.
func trimOf(r pebble.Reader, organization uint64, filter engine.Filter) (cut engine.Position, err error) {
	_, err = get(r, key2(nil, kindTrim, organization, uint64(filter)), func(v []byte) error {
		d := decoder{rest: v}
		cut = engine.Position(d.uvarint())
		return d.err("trim")
	})
	return cut, err
}

func (p *packer) setTrim(o *organization, filter engine.Filter, cut engine.Position) {
	p.key = key2(p.key, kindTrim, o.number, uint64(filter))
	p.value = binary.AppendUvarint(p.value[:0], uint64(cut))
	p.set()
}

// trim cuts an index, alone in its group.
func (p *packer) trim(o *organization, filter engine.Filter, upTo engine.Position) error {
	upTo = min(upTo, o.meta.position)
	cut, err := trimOf(p.s.db, o.number, filter)
	if err != nil || upTo <= cut {
		return err
	}
	state, err := p.filter(o.number, filter)
	if err != nil || !state.there {
		return err
	}
	p.removeRange(keyIndex(nil, o.number, filter, cut+1), keyIndex(nil, o.number, filter, upTo+1))
	p.setTrim(o, filter, upTo)
	return nil
}

// trimBodies frees shared bodies, alone in its group, and stops before the first that an Outgoing holds. A hold whose
// Outgoing has gone with its owner is passed over.
func (p *packer) trimBodies(o *organization, upTo engine.Position) error {
	upTo = min(upTo, o.meta.position)
	cut, err := trimOf(p.s.db, o.number, bodies)
	if err != nil || upTo <= cut {
		return err
	}
	iter, err := p.s.db.NewIter(&pebble.IterOptions{
		LowerBound: key2(nil, kindHeld, o.number, uint64(cut+1)), UpperBound: key2(nil, kindHeld, o.number, uint64(upTo+1)),
	})
	if err != nil {
		return err
	}
	for iter.First(); iter.Valid() && err == nil; iter.Next() {
		owner, position, ok := parseHeld(iter.Key())
		if !ok {
			err = (&decoder{bad: true}).err("held message")
			break
		}
		var holds bool
		if holds, err = get(p.s.db, keySubPosition(nil, o.number, owner, subOutgoing, position), func([]byte) error { return nil }); holds {
			upTo = position&^engine.Shared - 1
			break
		}
	}
	if closed := iter.Close(); err == nil {
		err = closed
	}
	if err != nil || upTo <= cut {
		return err
	}
	for _, kind := range []byte{kindBody, kindHeld} {
		p.removeRange(key2(nil, kind, o.number, uint64(cut+1)), key2(nil, kind, o.number, uint64(upTo+1)))
	}
	p.setTrim(o, bodies, upTo)
	return nil
}

func (p *packer) dropFilter(o *organization, filter engine.Filter) {
	p.key = key2(p.key, kindFilter, o.number, uint64(filter))
	p.remove()
	p.key = key2(p.key, kindTrim, o.number, uint64(filter))
	p.remove()
	index := key2(nil, kindIndex, o.number, uint64(filter))
	p.removeRange(index, after(index))
	p.filters[filterID{o.number, filter}] = &filterState{filter: filter}
}

// dropOrganization removes everything but the record of numbers. Times are left: they are no owner's any more, and go
// when they are due.
func (p *packer) dropOrganization(o *organization) {
	for kind := kindIndex; kind < kindTime; kind++ {
		all := key(nil, kind, o.number)
		p.removeRange(all, after(all))
	}
	for id := range p.filters {
		if id.organization == o.number {
			delete(p.filters, id)
		}
	}
	o.meta.live = false
}

// raise sets n to at least v.
func raise(n *atomic.Uint64, v uint64) {
	for {
		old := n.Load()
		if old >= v || n.CompareAndSwap(old, v) {
			return
		}
	}
}
