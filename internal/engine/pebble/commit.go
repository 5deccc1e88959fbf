package pebble

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"cloudsignal/internal/engine"
)

// Group commit. A sync costs the same for one batch as for a thousand, so the committer never waits for one: while a
// group is being synced it packs what has come meanwhile. With one writer a group is one batch and its latency one sync;
// with many, groups grow by themselves to what comes during a sync.

// request is a batch on its way.
type request struct {
	batch *engine.Batch
	purge []engine.Due // in place of a batch: times that no owner has any more
	then  func(engine.Position, error)
	size  int

	first engine.Position
	err   error
}

// group is what shares a write.
type group struct {
	requests []request
	write    *pebble.Batch // nil: nothing to write
	view     *view         // the state with it; readers see it once published
	shown    bool          // view was published
	advanced []advance
}

type advance struct {
	organization *organization
	position     engine.Position
}

// Commit takes a batch and returns at once. It calls then from a goroutine of its own once the batch is durable and
// readers see it, or has failed; in the order of Commit. first is the position of the batch's first OpAppend, the others
// follow it; or the organization's position at this commit, if it appends nothing. then may be nil; it must not block,
// and may call Commit.
//
// Errors: of Batch.Check, engine.ErrFull, engine.ErrBusy: nothing of the batch was done, and others are not concerned.
// engine.ErrFailed: what was done is not known until the next Open. engine.ErrClosed: after Close; then is called at any time.
func (s *Store) Commit(b *engine.Batch, then func(first engine.Position, err error)) {
	s.enqueue(request{batch: b, then: then, size: b.Size(), err: b.Check()})
}

func (s *Store) enqueue(r request) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		if r.then != nil {
			go r.then(0, engine.ErrClosed)
		}
		return
	}
	if r.err == nil && r.batch != nil && s.held+r.size > s.options.MaxWaiting && s.held > 0 && r.batch.Grows() {
		r.err = engine.ErrBusy
	}
	if r.err != nil {
		r.size, r.batch = 0, nil
	}
	s.held += r.size
	s.waiting = append(s.waiting, r)
	s.mu.Unlock()
	s.signal()
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// wait commits a batch and waits for it.
func (s *Store) wait(b *engine.Batch) error {
	done := make(chan error, 1)
	s.Commit(b, func(_ engine.Position, err error) { done <- err })
	return <-done
}

// Trim removes what a filter's index has up to a position, and waits until that is durable. What an Outgoing holds stays.
func (s *Store) Trim(organization uint64, filter engine.Filter, upTo engine.Position) error {
	return s.wait(&engine.Batch{Organization: organization, Operations: []engine.Operation{{Op: engine.OpTrim, Filter: filter, Position: upTo}}})
}

// TrimBodies removes the bodies up to the organization's low-water mark, which the caller knows, or to before the first
// that an Outgoing holds.
func (s *Store) TrimBodies(organization uint64, upTo engine.Position) error {
	return s.wait(&engine.Batch{Organization: organization, Operations: []engine.Operation{{Op: engine.OpTrimBodies, Position: upTo}}})
}

// DropOrganization removes all that an organization has, and waits until that is durable. Its position and numbers stay
// used up.
func (s *Store) DropOrganization(organization uint64) error {
	return s.wait(&engine.Batch{Organization: organization, Operations: []engine.Operation{{Op: engine.OpDropOrganization}}})
}

// commit is the committer: it ends when the store is closing and nothing waits.
func (s *Store) commit() {
	defer s.goroutines.Done()
	defer close(s.groups)
	var todo []request
	for {
		s.mu.Lock()
		todo, s.waiting = s.waiting, make([]request, 0, len(todo)) // groups keep parts of todo
		closing := s.closing
		s.mu.Unlock()
		switch {
		case len(todo) > 0:
		case closing:
			return
		default:
			<-s.wake
			continue
		}
		for rest := todo; len(rest) > 0; {
			var g *group
			g, rest = s.group(rest)
			s.groups <- g
		}
	}
}

// group packs the next group and applies it.
func (s *Store) group(rest []request) (*group, []request) {
	if s.failure() != nil {
		return &group{requests: rest}, nil
	}
	g, n := s.packer.pack(rest)
	g.requests = rest[:n:n]
	if g.write != nil && s.failure() == nil {
		s.apply(g)
	}
	return g, rest[n:]
}

func (s *Store) apply(g *group) {
	var err error
	if s.options.unsynced {
		err = s.db.Apply(g.write, pebble.NoSync)
	} else {
		err = s.db.ApplyNoSyncWait(g.write, pebble.Sync)
	}
	if err != nil {
		s.fail(err)
		g.write = nil // its sync may never end
		return
	}
	g.view = &view{snapshot: s.db.NewSnapshot()}
	if s.options.readUnsynced {
		s.show(g)
	}
}

// sync waits for the groups in their order.
func (s *Store) sync() {
	defer s.goroutines.Done()
	for g := range s.groups {
		s.finish(g)
	}
}

func (s *Store) finish(g *group) {
	if g.view != nil {
		if !s.options.unsynced {
			if err := g.write.SyncWait(); err != nil {
				s.fail(err)
			}
		}
		_ = g.write.Close() // only gives memory back
	}
	failure := s.failure()
	if g.view != nil && !g.shown {
		if failure == nil {
			s.show(g)
		} else {
			_ = g.view.snapshot.Close()
		}
	}
	size := 0
	for i := range g.requests {
		size += g.requests[i].size
	}
	s.mu.Lock()
	s.held -= size // before anybody is told: who knows that it is done has its room again
	s.mu.Unlock()
	for i := range g.requests {
		r := &g.requests[i]
		switch {
		case r.then == nil:
		case failure != nil:
			r.then(0, failure)
		case r.err != nil:
			r.then(0, r.err)
		default:
			r.then(r.first, nil)
		}
	}
}

// show makes the group's state the one that readers see, and then its positions known: a reader that knows a position
// finds it in the state.
func (s *Store) show(g *group) {
	s.publish(g.view)
	g.shown = true
	for _, a := range g.advanced {
		a.organization.durable.Store(uint64(a.position))
	}
}

// full is nil while batches may grow the store.
func (s *Store) full() error {
	if s.options.FreeBytes == nil {
		return nil
	}
	free, err := s.options.FreeBytes()
	switch {
	case err != nil:
		return fmt.Errorf("%w: free space is not known: %w", engine.ErrFull, err)
	case free < s.options.Reserve:
		return fmt.Errorf("%w: %d bytes are free, of %d that are kept", engine.ErrFull, free, s.options.Reserve)
	}
	return nil
}
