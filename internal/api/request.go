package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

const (
	requestTimeout  = 20 * time.Second // of one request, its body read and its answer made
	bodyTimeout     = 15 * time.Second // until a body is there
	maxLeftover     = 64 << 10         // bytes of a body that are read behind the answer
	minRequestID    = 8
	maxRequestID    = 64
	requestIDPrefix = "req_"
)

// caller is what is known of a request. It is in the request's context.
type caller struct {
	id      string
	address netip.Addr
	began   time.Time
	header  http.Header   // of the answer
	actor   control.Actor // of no kind as long as nobody has shown credentials
	trouble trouble
}

type callerKey struct{}

// callerOf is the caller of a request that passed outermost.
func callerOf(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}

// outermost is what every request passes first, whatever it asks for.
func (a *API) outermost() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &caller{id: a.requestID(r), address: remote(r), began: time.Now(), header: w.Header()}
		h := w.Header()
		h.Set("X-Request-Id", c.id)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), callerKey{}, c), requestTimeout)
		defer cancel()
		out := &writer{ResponseWriter: w, counters: &a.counters}
		r = r.WithContext(ctx)
		defer a.ended(ctx, c, out, r)
		defer a.caught(ctx, out)
		a.route(out, r)
		if r.ProtoMajor == 2 {
			// What is left of a body that nobody read would meet a closed stream: clients take that for an error, and do not
			// look at the answer.
			_, _ = io.CopyN(io.Discard, r.Body, maxLeftover)
		}
	})
}

// route finds the operation, or says what is wrong with the path or the method.
func (a *API) route(w http.ResponseWriter, r *http.Request) {
	// ServeMux would send an unclean path elsewhere, and a POST with it as a GET.
	escaped := r.URL.EscapedPath()
	if _, pattern := a.mux.Handler(r); pattern != "" && path.Clean(escaped) == escaped {
		a.mux.ServeHTTP(w, r)
		return
	}
	c := callerOf(r.Context())
	allowed, o := a.allowed(r)
	if o != nil && o.cors {
		allowOrigins(w.Header())
	}
	if v := a.addresses.take(origin(c.address), a.config.Now()); !v.ok {
		a.refuse(w, o, limitedBy(c.id, a.addresses, v))
		return
	}
	if len(allowed) > 0 {
		p := newProblem(c.id, codeMethod, "this path takes "+strings.Join(allowed, ", "))
		p.header = http.Header{"Allow": {strings.Join(allowed, ", ")}}
		a.refuse(w, o, p)
		return
	}
	a.refuse(w, nil, newProblem(c.id, fault.NotFound, "there is nothing at this path; see /openapi.yaml"))
}

// allowed are the methods that a path has, and the operation whose form of errors the path has: of the last that lets pages call it, if
// there is one.
func (a *API) allowed(r *http.Request) (methods []string, shape *operation) {
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := *r
		other.Method = m
		_, pattern := a.mux.Handler(&other)
		if pattern == "" || m == r.Method {
			continue
		}
		methods = append(methods, m)
		if o := a.operations[pattern]; o != nil && o.cors {
			shape = o
		}
	}
	return methods, shape
}

// caught answers for a request whose handling panicked.
func (a *API) caught(ctx context.Context, w *writer) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the value itself, as net/http does
		panic(v)
	}
	c := callerOf(ctx)
	c.trouble = trouble{panic: fmt.Sprint(v), stack: string(debug.Stack())}
	if w.wrote() {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	a.refuse(w, nil, hidden(c.id))
}

// requestID is the request's own X-Request-Id, if it is 8 to 64 letters, digits and hyphens, which no secret is; else a new one.
func (a *API) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); len(id) >= minRequestID && len(id) <= maxRequestID && strings.IndexFunc(id, noIDRune) < 0 {
		return id
	}
	id, err := access.NewID(a.config.Rand, requestIDPrefix)
	if err != nil {
		return requestIDPrefix + "none"
	}
	return id
}

func noIDRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
}

// remote is the address that the connection comes from.
func remote(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

// writer knows what was answered, and counts refusals.
type writer struct {
	http.ResponseWriter
	counters *counters
	status   int    // 0: nothing yet
	copy     []byte // of the answer, if it is not nil and not longer than maxAnswer
}

func (w *writer) wrote() bool { return w.status != 0 }

func (w *writer) WriteHeader(status int) {
	if !w.wrote() {
		w.status = status
	}
	switch status {
	case http.StatusUnauthorized:
		w.counters.unauthorized.Add(1)
	case http.StatusTooManyRequests:
		w.counters.limited.Add(1)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) {
	if !w.wrote() {
		w.status = http.StatusOK
	}
	if w.copy != nil {
		if w.copy = append(w.copy, b...); len(w.copy) > maxAnswer {
			w.copy = nil
		}
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
