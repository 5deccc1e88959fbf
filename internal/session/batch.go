package session

import (
	"net"
	"sync"
)

// sharePayload is the payload size, in bytes, from which a delivery points to the message's own bytes instead of copying
// them: below it a copy is cheaper than one more segment of a gathered write.
const sharePayload = 4096

// maxPooledBatch is the largest buffer, in bytes, that goes back to the pool.
const maxPooledBatch = 64 << 10

// Batch is what a session wants written to its client: encoded packets in one buffer, with large payloads in between that
// stay with their message. The session fills it; whoever writes takes it (Session.TakeBatch) and releases it.
type Batch struct {
	buf  []byte
	cuts []cut
	size int
	bufs net.Buffers
}

// cut is a shared payload that belongs behind the first at bytes of buf.
type cut struct {
	at  int
	msg *Message
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch makes a batch of encoded packets for a client that has no session.
func NewBatch(p []byte) *Batch { return &Batch{buf: p, size: len(p)} }

// Len is the number of bytes to write.
func (b *Batch) Len() int { return b.size }

// Flat returns the bytes if they are in one piece, else nil.
func (b *Batch) Flat() []byte {
	if len(b.cuts) > 0 {
		return nil
	}
	return b.buf
}

// Buffers returns what is to be written behind the first skip bytes (only a Flat batch may have been written in part).
// It is valid until Release and may be consumed.
func (b *Batch) Buffers(skip int) net.Buffers {
	out := b.bufs[:0]
	from := skip
	for _, c := range b.cuts {
		if c.at > from {
			out = append(out, b.buf[from:c.at])
			from = c.at
		}
		out = append(out, c.msg.Payload())
	}
	if from < len(b.buf) {
		out = append(out, b.buf[from:])
	}
	b.bufs = out
	return out
}

// Release gives back the buffer and the messages that it holds.
func (b *Batch) Release() {
	for i := range b.cuts {
		b.cuts[i].msg.Release()
		b.cuts[i].msg = nil
	}
	clear(b.bufs[:cap(b.bufs)])
	b.buf, b.cuts, b.bufs, b.size = b.buf[:0], b.cuts[:0], b.bufs[:0], 0
	if cap(b.buf) <= maxPooledBatch {
		batches.Put(b)
	}
}
