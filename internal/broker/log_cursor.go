package broker

import (
	"cloudsignal/internal/engine"
	"cloudsignal/internal/session"
)

// Bounds of what a cursor holds in memory: beyond, the log is the queue.
const (
	aheadMessages = 1024
	aheadBytes    = 1 << 20
	pageBytes     = 256 << 10
)

// arrival is one message of the log on its way to who follows its filters.
type arrival struct {
	position  engine.Position
	message   *session.Message // held
	publisher string
	filters   []engine.Filter // those that it was appended to, or those of them that were asked for; not to be changed
	served    []*group        // groups that were given it before they had a log
	reference *reference      // it is a retained message for a new subscription
}

// follower follows durable filters.
type follower interface {
	// arrive takes the next message of one of its filters; the same one may come once for each. a is the caller's. It is false
	// if it does not follow any more.
	arrive(r *reader, a *arrival) (follows bool)
}

// cursor is where one owner is in the log. It is guarded by its owner's lock.
//
// What lies between taken and loaded is ahead, in memory; what lies between loaded and arrived is read from the store, page by
// page, when there is room. So it is exact at every moment which message is next, however slow the client.
type cursor struct {
	taken   engine.Position // everything up to here was taken, or is not for this owner
	loaded  engine.Position
	arrived engine.Position
	saved   engine.Position // cursor on disk

	ahead []arrival
	first int // in ahead
	bytes int

	again   []engine.Outgoing // in flight before this connection, and not read again yet
	reading bool              // a goroutine reads for it

	entering bool // it does not follow all its filters yet: what it is told of is read from the store, with what it was not
}

// arrive takes note of a message, and keeps it if nothing before it is missing and there is room. It is false if the message
// is known.
func (k *cursor) arrive(a *arrival) bool {
	if a.position <= k.arrived {
		return false
	}
	if !k.entering && k.loaded == k.arrived && k.waiting() < aheadMessages && k.bytes < aheadBytes {
		a.message.Hold()
		k.push(*a)
		k.loaded = a.position
	}
	k.arrived = a.position
	return true
}

func (k *cursor) waiting() int { return len(k.ahead) - k.first }

func (k *cursor) push(a arrival) {
	if k.first > 0 && len(k.ahead) == cap(k.ahead) && k.first >= len(k.ahead)/2 { // else moving them would be quadratic
		n := copy(k.ahead, k.ahead[k.first:])
		clear(k.ahead[n:])
		k.ahead, k.first = k.ahead[:n], 0
	}
	k.ahead = append(k.ahead, a)
	k.bytes += a.message.Size()
}

// pop takes the next message; its reference is the caller's.
func (k *cursor) pop() arrival {
	a := k.ahead[k.first]
	k.ahead[k.first] = arrival{}
	k.first++
	k.bytes -= a.message.Size()
	k.taken = a.position
	if k.first == len(k.ahead) {
		k.ahead, k.first = k.ahead[:0], 0
		if cap(k.ahead) > 64 {
			k.ahead = nil
		}
		k.taken = k.loaded
	}
	return a
}

// unpop puts a message that was just popped back.
func (k *cursor) unpop(a arrival) {
	if k.first > 0 {
		k.first--
		k.ahead[k.first] = a
	} else {
		k.ahead = append([]arrival{a}, k.ahead...)
	}
	k.bytes += a.message.Size()
	k.taken = a.position - 1
}

// behind reports whether the next message has to be read.
func (k *cursor) behind() bool { return k.waiting() == 0 && k.loaded < k.arrived }

// idle reports whether nothing waits for this owner.
func (k *cursor) idle() bool { return k.waiting() == 0 && k.loaded == k.arrived && len(k.again) == 0 }

// catchUp moves a cursor that nothing waits for to a position up to which everything has arrived.
func (k *cursor) catchUp(served engine.Position) {
	if k.waiting() == 0 && k.loaded == k.arrived {
		k.arrived = max(k.arrived, served)
		k.loaded, k.taken = k.arrived, k.arrived
	}
}

// drop forgets what is ahead: it has not been taken, and is read again.
func (k *cursor) drop() {
	taken := k.taken
	for k.waiting() > 0 {
		a := k.pop()
		a.message.Release()
	}
	k.taken, k.loaded = taken, taken
}

// page is what was read for a cursor.
type page struct {
	matches []engine.Match
	next    engine.Position
}

// read reads the messages of filters behind a position, up to another, in the order of positions. It waits for a place among
// the readers of the organization and then of the server, so that those who come back to a long backlog leave the disk to others.
func (o *Organization) read(filters []engine.Filter, after, upTo engine.Position) (p page, err error) {
	o.enterDisk()
	defer o.leaveDisk()
	p.matches, p.next, err = o.store.Page(o.number, filters, after, upTo, pageBytes, nil)
	return p, err
}

// readAgain reads the messages of the next of those in flight, at least one and at most a page. needs tells which need theirs.
func (o *Organization) readAgain(owner engine.Owner, all []engine.Outgoing, needs func(*engine.Outgoing) bool) (again []resent, err error) {
	o.enterDisk()
	defer o.leaveDisk()
	bytes := 0
	for i := range all {
		next := resent{id: all[i].ID, position: all[i].Position}
		if needs(&all[i]) {
			e, ok, err := o.store.Read(o.number, owner, next.position)
			if err != nil {
				releaseAll(again)
				return nil, err
			}
			if ok {
				next.publisher, next.message = e.Publisher, messageOf(&e)
				bytes += len(e.Body)
			}
		}
		again = append(again, next)
		if bytes >= pageBytes || len(again) >= aheadMessages {
			break
		}
	}
	return again, nil
}

// resent is a message in flight before this connection, with its message if it needs one and there is one.
type resent struct {
	id        uint16
	position  engine.Position
	publisher string
	message   *session.Message
}

func releaseAll(all []resent) {
	for i := range all {
		if all[i].message != nil {
			all[i].message.Release()
		}
	}
}

func (o *Organization) enterDisk() {
	o.readers <- struct{}{}
	o.diskReaders <- struct{}{}
}

func (o *Organization) leaveDisk() {
	<-o.diskReaders
	<-o.readers
}

// messageOf is the message of an entry; nil if it is none.
func messageOf(e *engine.Entry) *session.Message {
	return session.Recorded(e.Body, qosOf(e), e.Retain, e.Expires)
}
