package broker

import (
	"errors"
	"sync"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/mqtt"
)

// Store keeps what must survive: an engine, as package engine describes it. What is read is durable.
type Store interface {
	Run() uint64
	Started(run uint64) (at int64, ok bool, err error)
	Failed() <-chan struct{}
	Commit(b *engine.Batch, then func(first engine.Position, err error))
	NextOwner(organization uint64) (engine.Owner, error)
	NextFilter(organization uint64) (engine.Filter, error)
	Trim(organization uint64, filter engine.Filter, upTo engine.Position) error
	TrimBodies(organization uint64, upTo engine.Position) error
	DropOrganization(organization uint64) error

	Organizations() ([]uint64, error)
	Head(organization uint64) (engine.Position, error)
	Filters(organization uint64, visit func(f engine.Filter, text string) error) error
	Sessions(organization uint64, visit func(engine.Session) error) error
	Session(organization uint64, owner engine.Owner) (engine.Session, bool, error)
	Lookup(organization uint64, kind engine.Kind, clientID string) (engine.Owner, bool, error)
	Subscriptions(organization uint64, owner engine.Owner) ([]engine.Subscription, error)
	Received(organization uint64, owner engine.Owner) ([]uint16, error)
	Outgoing(organization uint64, owner engine.Owner) ([]engine.Outgoing, error)
	Read(organization uint64, owner engine.Owner, position engine.Position) (engine.Entry, bool, error)
	Cursor(organization uint64, owner engine.Owner) (engine.Position, error)
	Will(organization uint64, owner engine.Owner) (engine.Will, bool, error)
	Retained(organization uint64, visit func(engine.Retained) error) error
	RetainedOf(organization uint64, topic string) (engine.Entry, bool, error)
	Due(now int64, limit int) ([]engine.Due, error)
	Page(organization uint64, filters []engine.Filter, after, upTo engine.Position, maxBytes int, dst []engine.Match) ([]engine.Match, engine.Position, error)
	Backlog(organization uint64, filter engine.Filter, after engine.Position) (messages, bytes uint64, err error)
}

// event is what follows a commit: run once, in the order of commits, with the position of the batch's first message.
type event func(r *reader, first engine.Position, err error)

// flushEvery is after how many events what they caused is written at the latest.
const flushEvery = 256

// events runs what follows the commits of one organization, in their order, in a goroutine of its own that exists only while
// there is some. The store's own goroutine only queues: one organization's fan-out holds up no other. Its length is bounded
// by what publishers may have unanswered, and by Limits.CommitBytes.
type events struct {
	mu      sync.Mutex
	changed sync.Cond // under or bytes has become less
	queue   []queued
	spare   []queued
	running bool
	under   int // batches from commit until their event has run, and goroutines that read the log
	bytes   int // of them
}

type queued struct {
	event event
	first engine.Position
	err   error
	bytes int
}

// commit hands a batch to the store; then runs once it is durable, or has failed. It waits for nothing.
func (o *Organization) commit(b *engine.Batch, then event) {
	size := b.Size()
	e := &o.events
	e.mu.Lock()
	e.under++
	e.bytes += size
	e.mu.Unlock()
	o.store.Commit(b, func(first engine.Position, err error) {
		e.mu.Lock()
		e.queue = append(e.queue, queued{then, first, err, size})
		start := !e.running
		e.running = true
		e.mu.Unlock()
		if start {
			go o.serveEvents()
		}
	})
}

// commitOps is commit of operations, if there are any; else then runs at once.
func (o *Organization) commitOps(r *reader, operations []engine.Operation, then event) {
	if len(operations) == 0 {
		then(r, 0, nil)
		return
	}
	o.commit(&engine.Batch{Organization: o.number, Operations: operations}, then)
}

// run runs f in a goroutine that settle waits for.
func (o *Organization) run(f func()) {
	e := &o.events
	e.mu.Lock()
	e.under++
	e.mu.Unlock()
	go func() {
		f()
		e.mu.Lock()
		e.under--
		e.changed.Broadcast()
		e.mu.Unlock()
	}()
}

func (o *Organization) serveEvents() {
	e := &o.events
	e.mu.Lock()
	for len(e.queue) > 0 {
		all := e.queue
		e.queue = e.spare[:0]
		e.mu.Unlock()
		bytes := 0
		r := readers.Get().(*reader)
		for i := range all {
			all[i].event(r, all[i].first, all[i].err)
			bytes += all[i].bytes
			if i%flushEvery == flushEvery-1 {
				r.flush()
			}
		}
		r.release(o.counters)
		clear(all)
		e.mu.Lock()
		e.spare = all
		if cap(all) > 1<<14 {
			e.spare = nil
		}
		e.under -= len(all)
		e.bytes -= bytes
		e.changed.Broadcast()
	}
	e.running = false
	e.mu.Unlock()
}

// admit waits until the organization may have one more message on its way to the disk. The caller holds no lock, and has
// flushed what it caused.
func (o *Organization) admit() {
	e := &o.events
	e.mu.Lock()
	for e.bytes > o.limits.CommitBytes {
		e.changed.Wait()
	}
	e.mu.Unlock()
}

// crowded reports whether admit would wait.
func (o *Organization) crowded() bool {
	e := &o.events
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bytes > o.limits.CommitBytes
}

// settle waits until every commit's event has run.
func (o *Organization) settle() {
	e := &o.events
	e.mu.Lock()
	for e.under > 0 {
		e.changed.Wait()
	}
	e.mu.Unlock()
}

// refusalReason is what a client is told when a commit has failed: refused says that nothing of it was done, and that the
// store goes on. Else nobody is told anything: the process is about to end.
func refusalReason(err error) (r mqtt.Reason, refused bool) {
	if errors.Is(err, engine.ErrFull) || errors.Is(err, engine.ErrBusy) {
		return mqtt.QuotaExceeded, true
	}
	return mqtt.UnspecifiedError, false
}
