package access

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"sync"
)

var errQueueFull = errors.New("access: too many log-ins are waiting")

// pool bounds how many slow verifications run and wait at the same time. It has no goroutines: callers wait for a slot.
type pool struct {
	slots chan struct{} // holds one for every verification that runs
	queue int           // that may wait
	share int           // of them, for one organization: a flood of one leaves room for the others

	mu      sync.Mutex
	waiting int
	of      map[string]int // waiting, by organization
}

func newPool(workers, queue int) *pool {
	return &pool{slots: make(chan struct{}, workers), queue: queue, share: max(1, queue/4), of: make(map[string]int)}
}

// do runs f when there is a slot. The error is errQueueFull, or the context's if it ends first; f has then not run.
func (p *pool) do(ctx context.Context, organization string, f func()) error {
	select {
	case p.slots <- struct{}{}:
	default:
		if !p.enter(organization) {
			return errQueueFull
		}
		defer p.leave(organization)
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-p.slots }()
	f()
	return nil
}

func (p *pool) enter(organization string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting >= p.queue || p.of[organization] >= p.share {
		return false
	}
	p.waiting++
	p.of[organization]++
	return true
}

func (p *pool) leave(organization string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	if p.of[organization]--; p.of[organization] == 0 {
		delete(p.of, organization)
	}
}

// maxRemembered bounds each of the two generations of a memory: 32 bytes each, some 4 MB in all.
const maxRemembered = 1 << 15

// memory remembers (hash, password) pairs that were verified, as a MAC with a key of this process. A pair is forgotten
// when it was not asked for while maxRemembered others were added. A new password has a new hash, so nothing is ever
// stale.
type memory struct {
	mu     sync.Mutex
	recent map[mac]struct{}
	older  map[mac]struct{}
}

type mac [sha256.Size]byte

func newMemory() *memory { return &memory{recent: make(map[mac]struct{})} }

// newMAC is the MAC of a stored hash, whose salt is unique, and a password tried with it.
func newMAC(key []byte, hash string, password []byte) (m mac) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(hash))
	h.Write([]byte{0}) // a hash has none
	h.Write(password)
	h.Sum(m[:0])
	return m
}

func (m *memory) has(x mac) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.recent[x]; ok {
		return true
	}
	if _, ok := m.older[x]; ok {
		m.put(x)
		return true
	}
	return false
}

func (m *memory) add(x mac) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(x)
}

func (m *memory) put(x mac) {
	if len(m.recent) >= maxRemembered {
		m.older, m.recent = m.recent, make(map[mac]struct{})
	}
	m.recent[x] = struct{}{}
}
