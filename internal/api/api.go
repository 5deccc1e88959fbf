// Package api is the HTTP side of the service: one file per resource. A request passes request.go (its id, its bounds, panics),
// actor.go (who asks, how often), the typed operation of its resource, and control, which judges and does it. openapi.yaml is
// generated from the operations.
package api

import (
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

// Config is what New needs. Now, Rand and Log have defaults: time.Now, crypto/rand, slog.Default.
type Config struct {
	Store     *control.Store
	Directory *access.Directory
	Live      Live
	Now       func() time.Time
	Rand      io.Reader
	Log       *slog.Logger
	SignUp    bool // whoever reaches the server may make an organization
}

// API is the handler of every path that it knows; any other is a 404 problem. It has no goroutines.
type API struct {
	config   Config
	mux      *http.ServeMux
	huma     huma.API
	handler  http.Handler
	json     []byte // the OpenAPI document
	counters counters

	operations map[string]*operation // by pattern of the mux

	errorLines errorLines
	answers    *answers

	addresses  *buckets // of an address: requests without credentials, and refused ones
	signUps    *buckets // of an address: sign-ups that are well-formed
	callers    *buckets // of who asks: everything but publishing
	publishing *buckets // of who asks: publishing
	minting    *buckets // of who asks, or of an address: making tokens
	refreshing *buckets // of an address: refreshing tokens
	guessing   *buckets // of an address and a token: wrong passwords
}

type counters struct {
	limited, unauthorized, panics, failed atomic.Uint64
}

// Counters are totals since New.
type Counters struct {
	Limited      uint64 // requests answered with 429
	Unauthorized uint64 // requests answered with 401
	Panics       uint64 // bugs that were caught
	Failed       uint64 // other answers of status 500 and above
	Replayed     uint64 // answers that were given again for an Idempotency-Key
	Unkept       uint64 // such answers that were forgotten before their time because there were too many
	Forgotten    uint64 // buckets of rate limits dropped because there were too many
}

// New makes the handler.
func New(c Config) *API {
	a := newAPI(c)
	a.register()
	a.finish()
	return a
}

// newAPI is an API without operations.
func newAPI(c Config) *API {
	c = c.withDefaults()
	a := &API{config: c, mux: http.NewServeMux(), operations: make(map[string]*operation), answers: newAnswers()}
	a.addresses = newBuckets("address", 10, 60)
	a.signUps = newBuckets("sign-ups", 1.0/3, 20)
	a.callers = newBuckets("requests", 100, 200)
	a.publishing = newBuckets("publish", 100, 200)
	a.minting = newBuckets("tokens", 100, 200)
	a.refreshing = newBuckets("refresh", 20, 200)
	a.guessing = newBuckets("guesses", guesses/60.0, guesses)
	a.huma = humago.New(a.mux, a.description())
	a.handler = a.outermost()
	return a
}

// register makes the operations of every resource.
func (a *API) register() {
	a.registerAccount()
	a.registerTokens()
	a.registerPublish()
	a.registerRetained()
	a.registerSessions()
	a.registerOrganizations()
	a.registerUsage()
	a.registerUsers()
	a.registerKeys()
	a.registerRuleSets()
	a.registerRules()
	a.registerAccess()
	a.registerAudit()
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Counters are the totals so far.
func (a *API) Counters() Counters {
	c := Counters{
		Limited: a.counters.limited.Load(), Unauthorized: a.counters.unauthorized.Load(),
		Panics: a.counters.panics.Load(), Failed: a.counters.failed.Load(),
		Replayed: a.answers.replayed.Load(), Unkept: a.answers.forgotten.Load(),
	}
	for _, b := range []*buckets{a.addresses, a.signUps, a.callers, a.publishing, a.minting, a.refreshing, a.guessing} {
		c.Forgotten += b.forgotten.Load()
	}
	return c
}
