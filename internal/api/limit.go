package api

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the callers that one limit remembers, some 200 bytes each. When there are more, the fullest of a few is
// forgotten: a full one is as good as none.
const (
	maxBuckets     = 1 << 16
	evictionSample = 8
)

// buckets are one limit's: each caller has a bucket of burst requests, which rate a second fill again.
type buckets struct {
	name      string
	rate      rate.Limit
	burst     int
	forgotten atomic.Uint64

	mu sync.Mutex
	of map[string]*rate.Limiter
}

func newBuckets(name string, perSecond float64, burst int) *buckets {
	return &buckets{name: name, rate: rate.Limit(perSecond), burst: burst, of: make(map[string]*rate.Limiter)}
}

// verdict is what a bucket says of one request.
type verdict struct {
	ok        bool
	remaining int           // requests that would be allowed at once
	reset     time.Duration // until the bucket is full
	retry     time.Duration // until another request would be allowed, if it is not ok
}

// take takes one request out of the caller's bucket, if there is one in it.
func (b *buckets) take(caller string, now time.Time) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of[caller]
	if l == nil {
		if len(b.of) >= maxBuckets {
			b.forget(now)
		}
		l = rate.NewLimiter(b.rate, b.burst)
		b.of[caller] = l
	}
	v := verdict{ok: l.AllowN(now, 1)}
	tokens := l.TokensAt(now)
	v.remaining = max(0, int(tokens))
	v.reset = b.fill(float64(b.burst) - tokens)
	if !v.ok {
		v.retry = b.fill(1 - tokens)
	}
	return v
}

// fill is the time in which so many requests flow into a bucket.
func (b *buckets) fill(n float64) time.Duration {
	return time.Duration(n / float64(b.rate) * float64(time.Second))
}

func (b *buckets) forget(now time.Time) {
	var fullest string
	most, seen := math.Inf(-1), 0
	for caller, l := range b.of { // in random order
		if n := l.TokensAt(now); n > most {
			fullest, most = caller, n
		}
		if seen++; seen == evictionSample {
			break
		}
	}
	delete(b.of, fullest)
	b.forgotten.Add(1)
}

// announce puts the state of a bucket into an answer: the fields of draft-ietf-httpapi-ratelimit-headers, and the older ones.
func (b *buckets) announce(h http.Header, v verdict) {
	window := seconds(b.fill(float64(b.burst)))
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", b.name, b.burst, window))
	h.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%d", b.name, v.remaining, seconds(v.reset)))
	h.Set("X-RateLimit-Limit", fmt.Sprint(b.burst))
	h.Set("X-RateLimit-Remaining", fmt.Sprint(v.remaining))
	h.Set("X-RateLimit-Reset", fmt.Sprint(seconds(v.reset)))
	if !v.ok {
		h.Set("Retry-After", fmt.Sprint(max(1, seconds(v.retry))))
	}
}

// seconds rounds up: whoever waits so long has waited long enough.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// origin is who is counted by address: of IPv6 the /64, which is what one customer has.
func origin(a netip.Addr) string {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // of no address: the zero prefix, one bucket for all of those
	return p.String()
}
