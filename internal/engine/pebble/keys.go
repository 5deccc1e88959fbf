package pebble

import (
	"encoding/binary"

	"cloudsignal/internal/engine"
)

// The layout of keys is part of the data format: what is on the disks of users. Every key is a kind, the organization's
// number, and the rest, big-endian, so that an organization is one range per kind, and a log is read in order of
// positions. A change of it is a new formatVersion.
//
//	kind  rest of the key                          value
//	01    name                                     format: uvarint; run: uvarint; run and its number (8): its start (8)
//	02    organization                             position, owners, filters: uvarint each; live: 0 or 1
//	03    organization filter position             running count and bytes with this entry, bytes of this one; the entry if inline
//	04    organization position                    entry: a body that several filters share, or a large one
//	05    organization filter                      trimmed to: uvarint; filter 0: bodies
//	06    organization filter                      text
//	07    organization owner                       session
//	08    organization kind client-identifier      owner: uvarint
//	09    organization owner sub rest              what belongs to an owner, see the subs
//	0a    organization position holder             nothing: a shared or large body that an Outgoing of an owner holds
//	0b    organization topic                       position: uvarint, entry
//	0c    time organization owner event            nothing
//
//	sub   rest           value
//	01    text           filter, since: uvarint each; options
//	02    packet id (2)  nothing
//	03    position       filter, id: uvarint each; state; extra
//	04    position       entry: the small message that the Outgoing at that position holds
//	05                   cursor: uvarint
//	06                   delay: uvarint, entry; or nothing: no will
//	07    event (1)      time (8); or nothing: no time
//
// Wills and times that are gone are written as nothing, and removed with their owner: a client that comes and goes all the time
// would leave a row of removals, and Pebble walks over everything that is older than one to find that nothing is there.
//
// Numbers are 8 bytes where nothing else is said, kinds, subs and events 1. The position of what an owner has (subs 03 and
// 04) has engine.Shared if a group has handed the message over; that of a body has not, and a holder is the owner with that
// bit: so a trim of bodies finds both holds of a session, and takes them for two. A time is Unix nanoseconds with its sign bit
// turned over, so that it sorts.
const (
	kindMeta byte = iota + 1
	kindOrganization
	kindIndex
	kindBody
	kindTrim
	kindFilter
	kindSession
	kindLookup
	kindOwner
	kindHeld
	kindRetained
	kindTime
)

const (
	subSubscription byte = iota + 1
	subReceived
	subOutgoing
	subCopy
	subCursor
	subWill
	subWake
	subEnd
)

// bodies is the number in place of a filter's under which the trim of shared bodies is remembered.
const bodies engine.Filter = 0

var (
	keyFormat = []byte{kindMeta, 'f', 'o', 'r', 'm', 'a', 't'}
	keyRun    = []byte{kindMeta, 'r', 'u', 'n'}
)

// keyStart is where the time is at which a run was started. None is ever removed: a session may say that it was connected in
// any, and a start takes 25 bytes.
func keyStart(dst []byte, run uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst[:0], keyRun...), run)
}

// key is the start of every key that belongs to an organization. It uses dst's memory.
func key(dst []byte, kind byte, organization uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst[:0], kind), organization)
}

func key2(dst []byte, kind byte, organization, a uint64) []byte {
	return binary.BigEndian.AppendUint64(key(dst, kind, organization), a)
}

func key3(dst []byte, kind byte, organization, a, b uint64) []byte {
	return binary.BigEndian.AppendUint64(key2(dst, kind, organization, a), b)
}

func keyIndex(dst []byte, organization uint64, filter engine.Filter, position engine.Position) []byte {
	return key3(dst, kindIndex, organization, uint64(filter), uint64(position))
}

func keyLookup(dst []byte, organization uint64, kind engine.Kind, clientID string) []byte {
	return append(append(key(dst, kindLookup, organization), byte(kind)), clientID...)
}

func keyRetained(dst []byte, organization uint64, topic string) []byte {
	return append(key(dst, kindRetained, organization), topic...)
}

// keySub is the start of what an owner has of one sub.
func keySub(dst []byte, organization uint64, owner engine.Owner, sub byte) []byte {
	return append(key2(dst, kindOwner, organization, uint64(owner)), sub)
}

func keySubText(dst []byte, organization uint64, owner engine.Owner, text string) []byte {
	return append(keySub(dst, organization, owner, subSubscription), text...)
}

func keyReceived(dst []byte, organization uint64, owner engine.Owner, id uint16) []byte {
	return binary.BigEndian.AppendUint16(keySub(dst, organization, owner, subReceived), id)
}

func keySubPosition(dst []byte, organization uint64, owner engine.Owner, sub byte, position engine.Position) []byte {
	return binary.BigEndian.AppendUint64(keySub(dst, organization, owner, sub), uint64(position))
}

func keyHeld(dst []byte, organization uint64, owner engine.Owner, position engine.Position) []byte {
	return key3(dst, kindHeld, organization, uint64(position&^engine.Shared), uint64(owner)|uint64(position&engine.Shared))
}

// parseHeld tells whose Outgoing holds a body, and where that Outgoing is.
func parseHeld(k []byte) (owner engine.Owner, position engine.Position, ok bool) {
	if len(k) != 25 {
		return 0, 0, false
	}
	holder := engine.Position(last8(k))
	return engine.Owner(holder &^ engine.Shared), engine.Position(last8(k[:17])) | holder&engine.Shared, true
}

func keyWake(dst []byte, organization uint64, owner engine.Owner, event engine.Event) []byte {
	return append(keySub(dst, organization, owner, subWake), byte(event))
}

const signBit = 1 << 63

func keyTime(dst []byte, d engine.Due) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst[:0], kindTime), uint64(d.At)^signBit)
	dst = binary.BigEndian.AppendUint64(dst, d.Organization)
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.Owner))
	return append(dst, byte(d.Event))
}

func parseTime(k []byte) (d engine.Due, ok bool) {
	if len(k) != 26 || k[0] != kindTime {
		return d, false
	}
	d.At = int64(binary.BigEndian.Uint64(k[1:]) ^ signBit)
	d.Organization = binary.BigEndian.Uint64(k[9:])
	d.Owner = engine.Owner(binary.BigEndian.Uint64(k[17:]))
	d.Event = engine.Event(k[25])
	return d, true
}

// last8 is the number at the end of a key.
func last8(k []byte) uint64 {
	if len(k) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(k[len(k)-8:])
}

// after returns the first key behind all that begin with prefix. No prefix is all 0xff: the first byte is a kind.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; ; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
}
