package session

import "cloudsignal/internal/mqtt"

// Slot names an inbound QoS 1 or 2 PUBLISH that waits for its answer. The zero Slot waits for nothing.
type Slot uint64

// ring keeps the inbound QoS 1 and 2 packets that are not answered yet. Answers may come in any order and leave in the
// order in which the packets came ([MQTT-4.6.0-2], [MQTT-4.6.0-3]). Its count is bounded by Receive Maximum, its bytes by
// Limits.RingBytes; the broker stops reading while it is full.
type ring struct {
	entries []entry // length is a power of two; grows up to the bound
	head    uint64  // oldest unanswered
	next    uint64  // the next to come; slots are numbered from 1
	bytes   int
}

type entry struct {
	id     uint16
	kind   mqtt.Type // PUBACK or PUBREC
	done   bool
	first  Slot // of a QoS 2 PUBLISH whose id was known already: that of the one it repeats; else 0
	reason mqtt.Reason
	size   int
}

func (r *ring) len() int { return int(r.next - r.head) }

func (r *ring) at(n uint64) *entry { return &r.entries[n&uint64(len(r.entries)-1)] }

// coming is the slot that the next push gives.
func (r *ring) coming() Slot { return Slot(max(r.next, 1)) }

func (r *ring) push(e entry) Slot {
	if r.next == 0 {
		r.head, r.next = 1, 1
	}
	if r.len() == len(r.entries) {
		grown := make([]entry, max(8, 2*len(r.entries)))
		for n := r.head; n < r.next; n++ {
			grown[n&uint64(len(grown)-1)] = *r.at(n)
		}
		r.entries = grown
	}
	*r.at(r.next) = e
	r.bytes += e.size
	r.next++
	return Slot(r.next - 1)
}

// pop removes the oldest entry if it is answered.
func (r *ring) pop() (entry, bool) {
	if r.len() == 0 || !r.at(r.head).done {
		return entry{}, false
	}
	e := *r.at(r.head)
	r.head++
	r.bytes -= e.size
	return e, true
}
