// Package engine is what must survive: the records that a broker keeps, and the contract of the store that keeps them. It
// knows nothing of connections. A store is a log of messages by durable filter; a session is a cursor over it.
//
// # The contract
//
// A Batch belongs to one organization and is atomic: after a crash all of it is there or nothing. Batches of one
// organization become durable in the order of Commit, and then is called in that order, after the sync. What is read
// never shows a message beyond the durable head: nothing above this package sees what a power cut could take back.
//
// That holds for every reader: each call reads one state, that of the last batches which are durable, and after then was
// called it shows that batch.
//
// Positions number the messages of an organization. They grow by one for each, and none that anybody was told or shown is
// ever used again, whatever is trimmed, dropped or lost in a crash. The same holds for owners and filters that a batch named.
package engine

import "errors"

// Position is the place of a message in its organization's log, from 1.
type Position uint64

// Shared is a bit in the position of an Outgoing: the message was handed over by a shared group, apart from what the
// owner's own filters lead to. A session can so be owed one message twice, at its position and at that with Shared; each
// Outgoing holds the message for itself, until it is completed itself.
const Shared Position = 1 << 63

// Owner is a session or a shared group with state that survives; unique in its organization, from 1 to 1<<63-1.
type Owner uint64

// maxOwner leaves a bit free for whoever has to put Shared beside an owner.
const maxOwner Owner = 1<<63 - 1

// Filter is the number of a durable filter: one that a session which outlives its connection, or a shared group, holds
// with a granted QoS of 1 or 2. Unique in its organization, from 1.
type Filter uint64

// ErrFailed is the error of every Commit after a write or a sync has failed, or a file was found damaged: what is on disk
// is not known any more, so the process is to end and start again from what is.
var ErrFailed = errors.New("engine: the store has failed; what is on disk is not known")

// ErrClosed is the error of what comes after Close.
var ErrClosed = errors.New("engine: the store is closed")

// ErrBusy is the error of a growing batch while more waits for the disk than the store may hold in memory.
var ErrBusy = errors.New("engine: too much waits for the disk")

// ErrFull is the error of a batch that appends, retains or makes anything while the disk is nearly full. Batches that only
// move cursors, acknowledge and remove still pass, from a reserve.
var ErrFull = errors.New("engine: the disk is nearly full")

// Entry is one message.
type Entry struct {
	Position  Position // set by the store; of a retained message: the organization's position when it was set
	Publisher string   // client identifier of the publisher, for no local
	QoS       uint8    // as published
	Retain    bool     // as published
	Expires   int64    // Unix nanoseconds; 0: never
	Body      []byte   // topic, properties and payload; the store does not look into it
}

// Match is an entry with the filters, of those that were asked for, that it was appended to.
type Match struct {
	Entry
	Filters []Filter
}

// Session is the record of a session, or of a shared group (Kind).
type Session struct {
	Owner     Owner
	ClientID  string // of a group: the whole $share filter
	Kind      Kind
	User      string // who it belongs to
	Expiry    uint32 // seconds after the connection's end; 0xFFFFFFFF: never
	Connected uint64 // number of the run (Store.Run) in which a connection has it; 0: none. An earlier run's counts as ended at the start of the run after it (Store.Started)
	EndsAt    int64  // Unix nanoseconds, while not connected; 0: never
	State     []byte // the session's own encoding of what it needs beside the records below
}

// Kind is what an owner is.
type Kind uint8

// Kinds of owners.
const (
	KindSession Kind = 1
	KindGroup   Kind = 2
)

// Subscription is one filter of an owner.
type Subscription struct {
	Text    string   // the whole filter, $share included
	Filter  Filter   // its durable filter; 0: granted QoS 0, nothing is kept for it
	Since   Position // the organization's position when it was made: messages after it, Since < Position, are its own
	Options []byte   // the session's own encoding: QoS, no local, retain as published, identifier
}

// Outgoing is a message that was sent at QoS 2, or at QoS 1 by an owner that asked for it to be kept.
type Outgoing struct {
	Position Position // that of the message; with Shared if a shared group has handed it over
	Filter   Filter   // one of those it was appended to; the store holds the message by owner and position, whatever happens to the filter
	ID       uint16   // packet identifier
	State    uint8    // the session's own
	Extra    []byte   // the session's own: identifiers and what else a second sending needs
}

// Will is a message that is published when its session's connection ends badly.
type Will struct {
	Delay uint32 // seconds
	Entry Entry
}

// Retained is the retained message of a topic.
type Retained struct {
	Topic string
	Entry Entry
}

// Due is one thing of the time index whose time has come.
type Due struct {
	Organization uint64
	Owner        Owner
	At           int64 // Unix nanoseconds
	Event        Event
}

// Event is what is due.
type Event uint8

// Events.
const (
	SessionEnds Event = 1
	WillFires   Event = 2

	maxEvent = WillFires
)
