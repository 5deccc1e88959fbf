package engine

import "fmt"

// Op is the kind of one operation of a batch.
type Op uint8

// Operations. What each uses of an Operation is in its comment.
const (
	OpAppend      Op = iota + 1 // Entry, Filters: one message to the log. A filter that is not there (any more) is passed over
	OpReceive                   // Owner, ID: an inbound QoS 2 packet identifier is in use
	OpRelease                   // Owner, ID: it is not any more
	OpRetain                    // Text: topic, Entry: its retained message
	OpUnretain                  // Text: topic
	OpSession                   // Session: made or replaced. The client identifier of an owner never changes
	OpEnd                       // Owner: the session and all that belongs to it, its will and its times too
	OpFilter                    // Filter, Text: a durable filter is made
	OpDropFilter                // Filter: it and its index are gone
	OpSubscribe                 // Owner, Subscription: made or replaced; Since 0 is set to the position of this commit
	OpUnsubscribe               // Owner, Text
	OpCursor                    // Owner, Position: everything up to it is done with
	OpOutgoing                  // Owner, Outgoing, Entry, Copy: made, by its position (Shared counts), with the message that it holds from now on
	OpProgress                  // Owner, Outgoing: replaced, by its position; the message it holds stays
	OpComplete                  // Owner, Position: the Outgoing there is gone, and holds nothing
	OpWill                      // Owner, Will
	OpDropWill                  // Owner
	OpWake                      // Owner, At, Event: into the time index, in place of the owner's earlier time for that event
	OpUnwake                    // Owner, Event: out of it

	// The next three are each alone in their batch: work of a janitor, done now and then.

	OpTrim             // Filter, Position: what that filter's index has up to there is gone; what an Outgoing holds is not
	OpTrimBodies       // Position: bodies up to there are gone, but none from the first that an Outgoing holds
	OpDropOrganization // all that the organization has is gone, but for its numbers: what comes later goes on counting
	opEnd
)

// Bounds of a batch. A batch beyond them is refused, alone.
const (
	MaxFilters = 1024      // of one OpAppend: what the store can bear, far beyond what a broker lets one message match
	MaxName    = 65535     // bytes of a client identifier, topic or filter
	MaxBatch   = 512 << 20 // bytes, as counted by Size
)

// Operation is one step of a batch; which fields count is said at its Op.
type Operation struct {
	Op           Op
	Owner        Owner
	ID           uint16
	Event        Event
	At           int64 // Unix nanoseconds
	Position     Position
	Filter       Filter
	Text         string
	Filters      []Filter
	Entry        *Entry
	Copy         bool // the message is not the one that the log has at the position: all of it is kept
	Session      *Session
	Subscription *Subscription
	Outgoing     *Outgoing
	Will         *Will
}

// Batch is what one organization's broker wants done at once. It belongs to the store from Commit until then was called,
// and so does everything it points to.
type Batch struct {
	Organization uint64
	Operations   []Operation
}

// Add appends an operation.
func (b *Batch) Add(o Operation) { b.Operations = append(b.Operations, o) }

// Grows reports whether the batch makes the store larger: such a batch is refused when the disk is nearly full. An
// Outgoing is not counted as growth: it is on the way to what frees space.
func (b *Batch) Grows() bool {
	for i := range b.Operations {
		switch b.Operations[i].Op {
		case OpAppend, OpReceive, OpRetain, OpSession, OpFilter, OpSubscribe, OpWill:
			return true
		}
	}
	return false
}

// operationBytes is about what an operation takes beside its texts and bodies, in memory and in the log.
const operationBytes = 64

// Size is about the bytes that the batch takes: what bounds on waiting batches count.
func (b *Batch) Size() int {
	n := 0
	for i := range b.Operations {
		o := &b.Operations[i]
		n += operationBytes + len(o.Text) + 16*len(o.Filters)
		n += o.Entry.size()
		if o.Session != nil {
			n += len(o.Session.ClientID) + len(o.Session.User) + len(o.Session.State)
		}
		if o.Subscription != nil {
			n += len(o.Subscription.Text) + len(o.Subscription.Options)
		}
		if o.Outgoing != nil {
			n += len(o.Outgoing.Extra)
		}
		if o.Will != nil {
			n += o.Will.Entry.size()
		}
	}
	return n
}

func (e *Entry) size() int {
	if e == nil {
		return 0
	}
	return len(e.Publisher) + len(e.Body)
}

// Alone returns the operation of a batch that is one of a janitor's, or nil.
func (b *Batch) Alone() *Operation {
	if len(b.Operations) == 1 && b.Operations[0].Op >= OpTrim {
		return &b.Operations[0]
	}
	return nil
}

// Check tells what is missing in a batch or beyond a bound, without looking into any store. Every engine refuses, alone,
// a batch that fails it.
func (b *Batch) Check() error {
	if b.Organization == 0 {
		return fmt.Errorf("engine: batch without an organization: set Organization")
	}
	for i := range b.Operations {
		o := &b.Operations[i]
		if o.Op >= OpTrim && len(b.Operations) > 1 {
			return fmt.Errorf("engine: operation %d (%d) is not alone in its batch", i, o.Op)
		}
		if field := o.missing(); field != "" {
			return fmt.Errorf("engine: operation %d (%d): %s is missing or out of its bounds", i, o.Op, field)
		}
	}
	if n := b.Size(); n > MaxBatch {
		return fmt.Errorf("engine: batch of %d bytes, of at most %d: split it", n, MaxBatch)
	}
	return nil
}

// missing names the first field that the operation needs and has not, or that is beyond a bound.
func (o *Operation) missing() string {
	if o.Op == 0 || o.Op >= opEnd {
		return "Op"
	}
	switch o.Op {
	case OpReceive, OpRelease, OpEnd, OpSubscribe, OpUnsubscribe, OpCursor, OpOutgoing, OpProgress, OpComplete,
		OpWill, OpDropWill, OpWake, OpUnwake:
		if o.Owner == 0 || o.Owner > maxOwner {
			return "Owner"
		}
	}
	switch o.Op {
	case OpAppend, OpRetain, OpOutgoing:
		if o.Entry == nil || len(o.Entry.Publisher) > MaxName {
			return "Entry"
		}
	}
	switch {
	case len(o.Text) > MaxName:
		return "Text"
	case o.Op == OpAppend && len(o.Filters) > MaxFilters:
		return "Filters"
	case (o.Op == OpFilter || o.Op == OpDropFilter || o.Op == OpTrim) && o.Filter == 0:
		return "Filter"
	case o.Op == OpSession && (o.Session == nil || o.Session.Owner == 0 || o.Session.Owner > maxOwner || o.Session.Kind == 0 || len(o.Session.ClientID) > MaxName):
		return "Session"
	case o.Op == OpSubscribe && (o.Subscription == nil || len(o.Subscription.Text) > MaxName):
		return "Subscription"
	case (o.Op == OpOutgoing || o.Op == OpProgress) && (o.Outgoing == nil || o.Outgoing.Position&^Shared == 0):
		return "Outgoing"
	case o.Op == OpWill && (o.Will == nil || len(o.Will.Entry.Publisher) > MaxName):
		return "Will"
	case (o.Op == OpWake || o.Op == OpUnwake) && (o.Event == 0 || o.Event > maxEvent):
		return "Event"
	}
	return ""
}
