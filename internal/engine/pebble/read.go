package pebble

import (
	"errors"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"cloudsignal/internal/engine"
)

// Readers read snapshots. The one that Store.view points to shows exactly the batches that are durable; the committer
// takes one behind each group it applied, and it becomes the view when the group's sync is done. A snapshot is closed
// when it is not the view any more and its last reader has gone.

// view is a snapshot and the number of those who have it.
type view struct {
	snapshot *pebble.Snapshot
	refs     atomic.Int64
}

// publish makes v what readers see from now on; nil: nothing.
func (s *Store) publish(v *view) {
	if v != nil {
		v.refs.Store(1)
		s.readers.Add(1)
	}
	s.viewMu.Lock()
	old := s.view
	s.view = v
	s.viewMu.Unlock()
	if old != nil {
		old.release(s)
	}
}

// acquire returns the view, to be released, or nil after Close.
func (s *Store) acquire() *view {
	s.viewMu.RLock()
	defer s.viewMu.RUnlock()
	if s.view != nil {
		s.view.refs.Add(1)
	}
	return s.view
}

func (v *view) release(s *Store) {
	if v.refs.Add(-1) == 0 {
		_ = v.snapshot.Close() // returns no error
		s.readers.Done()
	}
}

// read calls f with the view.
func (s *Store) read(f func(pebble.Reader) error) error {
	v := s.acquire()
	if v == nil {
		return engine.ErrClosed
	}
	defer v.release(s)
	err := f(v.snapshot)
	if pebble.IsCorruptionError(err) {
		s.fail(err)
		return s.failure()
	}
	return err
}

// get calls f with the value of a key, which is valid only in there, and tells whether there is one.
func get(r pebble.Reader, k []byte, f func([]byte) error) (bool, error) {
	value, closer, err := r.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = f(value)
	if closed := closer.Close(); err == nil {
		err = closed
	}
	return true, err
}

// scan calls f with all keys that begin with prefix, without it, and their values. Both are valid only in there.
func scan(r pebble.Reader, prefix []byte, f func(rest, value []byte) error) error {
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for iter.First(); iter.Valid() && err == nil; iter.Next() {
		err = f(iter.Key()[len(prefix):], iter.Value())
	}
	if closed := iter.Close(); err == nil {
		err = closed
	}
	return err
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// Organizations returns those for which something was committed, and that were not dropped since, in ascending order.
func (s *Store) Organizations() (all []uint64, err error) {
	err = s.read(func(r pebble.Reader) error {
		return scan(r, []byte{kindOrganization}, func(rest, value []byte) error {
			m, err := decodeMeta(value)
			if m.live {
				all = append(all, last8(rest))
			}
			return err
		})
	})
	return all, err
}

// Head is the organization's position: that of its last durable message, 0 before the first.
func (s *Store) Head(organization uint64) (engine.Position, error) {
	o, err := s.organization(organization)
	if err != nil {
		return 0, err
	}
	return engine.Position(o.durable.Load()), nil
}

// Filters visits the organization's durable filters by number, until visit returns an error, which it returns.
func (s *Store) Filters(organization uint64, visit func(f engine.Filter, text string) error) error {
	return s.read(func(r pebble.Reader) error {
		return scan(r, key(nil, kindFilter, organization), func(rest, value []byte) error {
			return visit(engine.Filter(last8(rest)), string(value))
		})
	})
}

// Sessions visits the organization's sessions and groups by owner, until visit returns an error, which it returns.
func (s *Store) Sessions(organization uint64, visit func(engine.Session) error) error {
	return s.read(func(r pebble.Reader) error {
		return scan(r, key(nil, kindSession, organization), func(rest, value []byte) error {
			session, err := decodeSession(engine.Owner(last8(rest)), clone(value))
			if err != nil {
				return err
			}
			return visit(session)
		})
	})
}

// Session returns the record of an owner, and whether there is one.
func (s *Store) Session(organization uint64, owner engine.Owner) (session engine.Session, ok bool, err error) {
	err = s.read(func(r pebble.Reader) error {
		ok, err = get(r, key2(nil, kindSession, organization, uint64(owner)), func(value []byte) (err error) {
			session, err = decodeSession(owner, clone(value))
			return err
		})
		return err
	})
	return session, ok, err
}

// Lookup finds the owner of a client identifier.
func (s *Store) Lookup(organization uint64, kind engine.Kind, clientID string) (owner engine.Owner, ok bool, err error) {
	err = s.read(func(r pebble.Reader) error {
		ok, err = get(r, keyLookup(nil, organization, kind, clientID), func(value []byte) error {
			d := decoder{rest: value}
			owner = engine.Owner(d.uvarint())
			return d.err("client identifier")
		})
		return err
	})
	return owner, ok, err
}

// Subscriptions returns an owner's subscriptions, by text.
func (s *Store) Subscriptions(organization uint64, owner engine.Owner) (all []engine.Subscription, err error) {
	err = s.read(func(r pebble.Reader) error {
		return scan(r, keySub(nil, organization, owner, subSubscription), func(rest, value []byte) error {
			sub, err := decodeSubscription(string(rest), clone(value))
			all = append(all, sub)
			return err
		})
	})
	return all, err
}

// Received returns the inbound QoS 2 packet identifiers in use, ascending.
func (s *Store) Received(organization uint64, owner engine.Owner) (all []uint16, err error) {
	err = s.read(func(r pebble.Reader) error {
		return scan(r, keySub(nil, organization, owner, subReceived), func(rest, _ []byte) error {
			if len(rest) != 2 {
				return (&decoder{bad: true}).err("packet identifier")
			}
			all = append(all, uint16(rest[0])<<8|uint16(rest[1]))
			return nil
		})
	})
	return all, err
}

// Outgoing returns what an owner was sent and has not completed, by position.
func (s *Store) Outgoing(organization uint64, owner engine.Owner) (all []engine.Outgoing, err error) {
	err = s.read(func(r pebble.Reader) error {
		return scan(r, keySub(nil, organization, owner, subOutgoing), func(rest, value []byte) error {
			out, err := decodeOutgoing(engine.Position(last8(rest)), clone(value))
			all = append(all, out)
			return err
		})
	})
	return all, err
}

// Read returns the message that an owner's Outgoing at a position, with Shared if it has that, holds. It is there until
// that one is completed, whatever is trimmed or dropped meanwhile. The message's own position is without Shared.
func (s *Store) Read(organization uint64, owner engine.Owner, position engine.Position) (e engine.Entry, ok bool, err error) {
	entry := func(value []byte) error { return decodeEntry(clone(value), &e) }
	err = s.read(func(r pebble.Reader) error {
		ok, err = get(r, keySubPosition(nil, organization, owner, subCopy, position), entry)
		if err != nil || ok {
			return err
		}
		ok, err = get(r, keySubPosition(nil, organization, owner, subOutgoing, position), func([]byte) error { return nil })
		if err != nil || !ok {
			return err
		}
		ok, err = get(r, key2(nil, kindBody, organization, uint64(position&^engine.Shared)), entry)
		return err
	})
	e.Position = position &^ engine.Shared
	if !ok || err != nil {
		e = engine.Entry{}
	}
	return e, ok, err
}

// Cursor returns an owner's cursor, 0 if it has none.
func (s *Store) Cursor(organization uint64, owner engine.Owner) (position engine.Position, err error) {
	err = s.read(func(r pebble.Reader) error {
		_, err := get(r, keySub(nil, organization, owner, subCursor), func(value []byte) error {
			d := decoder{rest: value}
			position = engine.Position(d.uvarint())
			return d.err("cursor")
		})
		return err
	})
	return position, err
}

// Will returns an owner's will, and whether it has one.
func (s *Store) Will(organization uint64, owner engine.Owner) (will engine.Will, ok bool, err error) {
	err = s.read(func(r pebble.Reader) error {
		_, err = get(r, keySub(nil, organization, owner, subWill), func(value []byte) error {
			if len(value) == 0 {
				return nil
			}
			ok = true
			d := decoder{rest: clone(value)}
			will.Delay = uint32(d.uvarint())
			if d.bad {
				return d.err("will")
			}
			return decodeEntry(d.rest, &will.Entry)
		})
		return err
	})
	return will, ok, err
}

// Retained visits the organization's retained messages by topic, until visit returns an error, which it returns. What
// is committed meanwhile is not seen.
func (s *Store) Retained(organization uint64, visit func(engine.Retained) error) error {
	return s.read(func(r pebble.Reader) error {
		return scan(r, key(nil, kindRetained, organization), func(rest, value []byte) error {
			retained := engine.Retained{Topic: string(rest)}
			if err := decodeRetained(value, &retained.Entry); err != nil {
				return err
			}
			return visit(retained)
		})
	})
}

// RetainedOf returns the retained message of a topic, and whether there is one.
func (s *Store) RetainedOf(organization uint64, topic string) (e engine.Entry, ok bool, err error) {
	err = s.read(func(r pebble.Reader) error {
		ok, err = get(r, keyRetained(nil, organization, topic), func(value []byte) error { return decodeRetained(value, &e) })
		return err
	})
	return e, ok, err
}

func decodeRetained(value []byte, e *engine.Entry) error {
	d := decoder{rest: clone(value)}
	e.Position = engine.Position(d.uvarint())
	if d.bad {
		return d.err("retained message")
	}
	return decodeEntry(d.rest, e)
}

// staleTimes is how many times that no owner has Due passes over before it returns what it found so far.
const staleTimes = 4096

// Due returns up to limit things whose time has come by now (Unix nanoseconds), of all organizations, in order of time.
// They stay due until their owner ends or gets another time, by OpWake or OpUnwake. Fewer than limit does not mean that
// there are no more: call it again, later.
func (s *Store) Due(now int64, limit int) (all []engine.Due, err error) {
	var stale []engine.Due
	err = s.read(func(r pebble.Reader) error {
		iter, err := r.NewIter(&pebble.IterOptions{LowerBound: []byte{kindTime}, UpperBound: []byte{kindTime + 1}})
		if err != nil {
			return err
		}
		for iter.First(); iter.Valid() && err == nil && len(all) < limit && len(stale) < staleTimes; iter.Next() {
			d, ok := parseTime(iter.Key())
			if !ok {
				err = (&decoder{bad: true}).err("time")
				break
			}
			if d.At > now {
				break
			}
			var w wake
			if w, err = wakeOf(r, wakeID{ownerID{d.Organization, d.Owner}, d.Event}); err != nil {
				break
			}
			if w.set && w.at == d.At {
				all = append(all, d)
			} else {
				stale = append(stale, d)
			}
		}
		if closed := iter.Close(); err == nil {
			err = closed
		}
		return err
	})
	if len(stale) > 0 && err == nil {
		s.enqueue(request{purge: stale})
	}
	return all, err
}
