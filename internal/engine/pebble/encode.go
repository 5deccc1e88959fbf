package pebble

import (
	"encoding/binary"
	"fmt"

	"cloudsignal/internal/engine"
)

// Records are encoded by hand, by appending, since the one committer encodes everything there is: unsigned varints,
// strings with their length before them, the part that may be long last and without one. They carry no version of their
// own: the store has one, formatVersion. What was decoded shares the memory it was decoded from.

// decoder reads fields; once a read fails, all that follow do.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

// remainder is what is left, nil if that is nothing.
func (d *decoder) remainder() []byte {
	if len(d.rest) == 0 {
		return nil
	}
	return d.rest
}

func (d *decoder) err(what string) error {
	if d.bad {
		return fmt.Errorf("engine: damaged record of a %s", what)
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Bits of an entry's first byte; the lowest two are its QoS.
const (
	entryQoS     = 0x03
	entryRetain  = 0x04
	entryExpires = 0x08 // a time follows
)

func appendEntry(b []byte, e *engine.Entry) []byte {
	flags := e.QoS & entryQoS
	if e.Retain {
		flags |= entryRetain
	}
	if e.Expires != 0 {
		flags |= entryExpires
	}
	b = append(b, flags)
	if e.Expires != 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(e.Expires))
	}
	return append(appendText(b, e.Publisher), e.Body...)
}

func decodeEntry(b []byte, e *engine.Entry) error {
	d := decoder{rest: b}
	flags := d.byte()
	e.QoS, e.Retain, e.Expires = flags&entryQoS, flags&entryRetain != 0, 0
	if flags&entryExpires != 0 {
		if len(d.rest) < 8 {
			return (&decoder{bad: true}).err("message")
		}
		e.Expires = int64(binary.BigEndian.Uint64(d.rest))
		d.rest = d.rest[8:]
	}
	e.Publisher = d.text()
	e.Body = d.remainder()
	return d.err("message")
}

// indexEntry is one entry of a filter's index.
type indexEntry struct {
	count, bytes uint64 // of the filter since it was made, this one included
	size         uint64 // of this one's body
	inline       []byte // the entry, if it is here; else it is under (organization, position)
}

func appendIndexEntry(b []byte, e *indexEntry) []byte {
	b = binary.AppendUvarint(b, e.count)
	b = binary.AppendUvarint(b, e.bytes)
	return binary.AppendUvarint(b, e.size)
}

func decodeIndexEntry(b []byte) (e indexEntry, err error) {
	d := decoder{rest: b}
	e = indexEntry{count: d.uvarint(), bytes: d.uvarint(), size: d.uvarint()}
	e.inline = d.remainder()
	return e, d.err("log entry")
}

// meta is what is kept of an organization whatever happens to the rest of it.
type meta struct {
	position        engine.Position
	owners, filters uint64 // all numbers up to these may have been used
	live            bool   // false: dropped, and nothing was committed since
}

func appendMeta(b []byte, m *meta) []byte {
	b = binary.AppendUvarint(b, uint64(m.position))
	b = binary.AppendUvarint(b, m.owners)
	b = binary.AppendUvarint(b, m.filters)
	if m.live {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeMeta(b []byte) (m meta, err error) {
	d := decoder{rest: b}
	m = meta{position: engine.Position(d.uvarint()), owners: d.uvarint(), filters: d.uvarint(), live: d.byte() == 1}
	return m, d.err("organization")
}

func appendSession(b []byte, s *engine.Session) []byte {
	b = append(b, byte(s.Kind))
	b = appendText(b, s.ClientID)
	b = appendText(b, s.User)
	b = binary.AppendUvarint(b, uint64(s.Expiry))
	b = binary.AppendUvarint(b, s.Connected)
	b = binary.BigEndian.AppendUint64(b, uint64(s.EndsAt))
	return append(b, s.State...)
}

func decodeSession(owner engine.Owner, b []byte) (engine.Session, error) {
	d := decoder{rest: b}
	s := engine.Session{
		Owner: owner, Kind: engine.Kind(d.byte()), ClientID: d.text(), User: d.text(),
		Expiry: uint32(d.uvarint()), Connected: d.uvarint(),
	}
	if len(d.rest) < 8 {
		return s, (&decoder{bad: true}).err("session")
	}
	s.EndsAt = int64(binary.BigEndian.Uint64(d.rest))
	d.rest = d.rest[8:]
	s.State = d.remainder()
	return s, d.err("session")
}

func appendSubscription(b []byte, s *engine.Subscription, since engine.Position) []byte {
	b = binary.AppendUvarint(b, uint64(s.Filter))
	b = binary.AppendUvarint(b, uint64(since))
	return append(b, s.Options...)
}

func decodeSubscription(text string, b []byte) (engine.Subscription, error) {
	d := decoder{rest: b}
	s := engine.Subscription{Text: text, Filter: engine.Filter(d.uvarint()), Since: engine.Position(d.uvarint())}
	s.Options = d.remainder()
	return s, d.err("subscription")
}

func appendOutgoing(b []byte, o *engine.Outgoing) []byte {
	b = binary.AppendUvarint(b, uint64(o.Filter))
	b = binary.AppendUvarint(b, uint64(o.ID))
	return append(append(b, o.State), o.Extra...)
}

func decodeOutgoing(position engine.Position, b []byte) (engine.Outgoing, error) {
	d := decoder{rest: b}
	o := engine.Outgoing{Position: position, Filter: engine.Filter(d.uvarint()), ID: uint16(d.uvarint()), State: d.byte()}
	o.Extra = d.remainder()
	return o, d.err("sent message")
}
