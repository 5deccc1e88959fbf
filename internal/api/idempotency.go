package api

import (
	chain "container/list"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// Bounds of the answers that are kept for Idempotency-Key. They are in memory alone, since answers hold secrets. When there are too many,
// of an organization or in all, the oldest go.
const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotent-Replayed"
	maxIdempotencyKey = 255            // visible characters
	keepAnswers       = 24 * time.Hour // from the end of the request
	maxAnswer         = 64 << 10       // bytes of one; what is longer is not kept
	maxAnswers        = 1 << 16        // of all organizations
	maxAnswerBytes    = 64 << 20       // of all organizations
	ownAnswers        = maxAnswers / 8 // of one organization
	ownAnswerBytes    = maxAnswerBytes / 8
	answerOverhead    = 512 // bytes of an answer beside its body, about
)

// answers are what was answered to requests that had a key. A request that is under way has an entry without an answer, which is not
// forgotten.
type answers struct {
	forgotten, replayed atomic.Uint64

	mu     sync.Mutex
	of     map[answerKey]*kept
	all    answerList
	owners map[string]*answerList
}

// answerKey is a key of one caller.
type answerKey struct{ caller, key string }

// kept is one answer, or the place of one that is to come.
type kept struct {
	key     answerKey
	owner   string
	request [sha256.Size]byte
	done    bool
	at      time.Time
	status  int
	media   string // Content-Type
	body    []byte

	inAll, inOwn *chain.Element
}

// answerList are answers in the order of their age.
type answerList struct {
	chain.List
	bytes int
}

func (l *answerList) put(k *kept) *chain.Element {
	l.bytes += k.size()
	return l.PushBack(k)
}

func (l *answerList) take(e *chain.Element) {
	l.bytes -= e.Value.(*kept).size()
	l.Remove(e)
}

// oldest is the answer that goes if there are more than that; nil: there are not.
func (l *answerList) oldest(most, bytes int) *kept {
	if l.Len() <= most && l.bytes <= bytes {
		return nil
	}
	return l.Front().Value.(*kept)
}

func (k *kept) size() int { return len(k.body) + answerOverhead }

func newAnswers() *answers {
	return &answers{of: make(map[answerKey]*kept), owners: make(map[string]*answerList)}
}

// begin finds the answer of a request, or makes a place for it. It is nil, with the reason, if there can be none.
func (s *answers) begin(key answerKey, owner string, request [sha256.Size]byte, now time.Time) (*kept, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	k := s.of[key]
	switch {
	case k == nil:
		k = &kept{key: key, owner: owner, request: request}
		s.of[key] = k
		return k, nil
	case k.request != request:
		return nil, fault.Field(idempotencyHeader, "was sent with another request; every request needs a key of its own")
	case !k.done:
		return nil, &fault.Error{Code: fault.Conflict, Field: idempotencyHeader, Message: "the first request with this key is under way; ask again in a moment"}
	}
	s.replayed.Add(1)
	return k, nil
}

// end keeps an answer, or forgets the place of one that is not to be kept.
func (s *answers) end(k *kept, status int, media string, body []byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status < http.StatusOK || status >= http.StatusInternalServerError || status == http.StatusUnauthorized ||
		status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || body == nil {
		delete(s.of, k.key)
		return
	}
	k.done, k.at, k.status, k.media, k.body = true, now, status, media, body
	own := s.owners[k.owner]
	if own == nil {
		own = new(answerList)
		s.owners[k.owner] = own
	}
	k.inAll, k.inOwn = s.all.put(k), own.put(k)
	for old := own.oldest(ownAnswers, ownAnswerBytes); old != nil; old = own.oldest(ownAnswers, ownAnswerBytes) {
		s.forget(old)
		s.forgotten.Add(1)
	}
	for old := s.all.oldest(maxAnswers, maxAnswerBytes); old != nil; old = s.all.oldest(maxAnswers, maxAnswerBytes) {
		s.forget(old)
		s.forgotten.Add(1)
	}
}

// expire forgets what was kept long enough.
func (s *answers) expire(now time.Time) {
	for e := s.all.Front(); e != nil && now.Sub(e.Value.(*kept).at) >= keepAnswers; e = s.all.Front() {
		s.forget(e.Value.(*kept))
	}
}

func (s *answers) forget(k *kept) {
	delete(s.of, k.key)
	s.all.take(k.inAll)
	own := s.owners[k.owner]
	if own.take(k.inOwn); own.Len() == 0 {
		delete(s.owners, k.owner)
	}
}

// once handles a request that has an Idempotency-Key, unless it was handled before: then its answer is given again.
// Its caller is known.
func (a *API) once(o *operation, w http.ResponseWriter, r *http.Request, body []byte, handle func()) {
	keys := r.Header.Values(idempotencyHeader)
	out, ok := w.(*writer)
	if len(keys) == 0 || !ok {
		handle()
		return
	}
	c := callerOf(r.Context())
	if !isIdempotencyKey(keys) {
		a.refuse(w, o, a.problem(r.Context(), o, fault.Field(idempotencyHeader, "must be sent once, with 1 to %d visible characters", maxIdempotencyKey)))
		return
	}
	if c.actor.Organization != "" {
		if of, ok := a.config.Directory.Organization(c.actor.Organization); ok && of.Disabled { // nothing that was answered before holds
			handle()
			return
		}
	}
	who := string(c.actor.Kind) + " " + c.actor.ID
	owner := who
	if c.actor.Kind == control.KeyActor || c.actor.Kind == control.MemberActor && c.actor.Organization != "" {
		owner = c.actor.Organization
	}
	k, err := a.answers.begin(answerKey{who, keys[0]}, owner, fingerprint(r, c.actor.Organization, body), a.config.Now())
	if err != nil {
		p := a.problem(r.Context(), o, err)
		if p.Status == http.StatusConflict {
			p.header = http.Header{"Retry-After": {"1"}}
		}
		a.refuse(w, o, p)
		return
	}
	if k.done {
		if h := w.Header(); k.media != "" {
			h.Set("Content-Type", k.media)
		}
		w.Header().Set(replayedHeader, "true")
		w.WriteHeader(k.status)
		w.Write(k.body) //nolint:errcheck // the client is gone
		return
	}
	out.copy = []byte{}
	defer func() { a.answers.end(k, out.status, w.Header().Get("Content-Type"), out.copy, a.config.Now()) }() // also if it panics
	handle()
}

func isIdempotencyKey(keys []string) bool {
	return len(keys) == 1 && keys[0] != "" && len(keys[0]) <= maxIdempotencyKey &&
		!strings.ContainsFunc(keys[0], func(r rune) bool { return r <= ' ' || r > '~' })
}

// fingerprint tells requests apart: by their method, path, query, organization and body.
func fingerprint(r *http.Request, organization string, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range []string{r.Method, r.URL.RequestURI(), organization} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}
