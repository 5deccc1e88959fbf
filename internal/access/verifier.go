package access

import (
	"context"
	"crypto/rand"
	"errors"
	"hash/maphash"
	"io"
	"net/netip"
	"runtime"
	"time"
)

// failedLately is how much of one failure, faded by the sliding window, still counts: 30 to 90 seconds of a minute.
const failedLately = 0.5

// provenWindow is how long an address from which a user has logged in is the user's: one to two days.
const provenWindow = 24 * time.Hour

// Verifier verifies passwords in a bounded pool, remembers those that were verified, and limits guesses. MQTT log-ins and members'
// log-ins may share one. It is for many goroutines and has none of its own.
type Verifier struct {
	now   func() time.Time
	key   []byte // of the memories' MACs
	pool  *pool
	right *memory
	wrong *memory // apart from right, so that guesses do not push it out

	verify func(hash string, password []byte) (bool, error)

	failures, userFailures int
	seed                   maphash.Seed
	origins                *events[origin]
	users                  *events[uint64] // by organization and name
	pairs                  *events[uint64] // by address, organization and name
	turns                  *turns          // of users with many failures
	proven                 *events[uint64] // pairs from which a chosen password was right
}

// NewVerifier makes a Verifier from what of cfg is about it. It panics if there is no randomness.
func NewVerifier(cfg AuthConfig) *Verifier {
	or := func(value *int, standard int) {
		if *value == 0 {
			*value = standard
		}
	}
	or(&cfg.Failures, 100)
	or(&cfg.UserFailures, 50)
	or(&cfg.UserRate, 5)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Workers <= 0 {
		cfg.Workers = min(max(1, runtime.GOMAXPROCS(0)/2), 8)
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 512
	}
	if cfg.Window <= 0 {
		cfg.Window = time.Minute
	}
	key, err := randomBytes(cfg.Rand, 32)
	if err != nil {
		panic(err.Error())
	}
	return &Verifier{
		now: cfg.Now, key: key, pool: newPool(cfg.Workers, cfg.Queue), right: newMemory(), wrong: newMemory(), verify: Verify,
		failures: cfg.Failures, userFailures: cfg.UserFailures, seed: maphash.MakeSeed(),
		origins: newEvents[origin](cfg.Window), users: newEvents[uint64](cfg.Window), pairs: newEvents[uint64](cfg.Window),
		turns: newTurns(cfg.UserRate), proven: newEvents[uint64](provenWindow),
	}
}

// Check verifies a chosen password of somebody who is no MQTT user. realm is what users belong to, name is how the user is called; hash is
// empty if there is nobody of that name, which counts as any other failure. The error is a *Refusal, the context's if it ended while
// waiting, or about a damaged hash.
func (v *Verifier) Check(ctx context.Context, address netip.Addr, realm, name, hash string, password []byte) error {
	try := v.attempt(address, realm, name)
	err := refuse(WhyUnknownUser)
	if hash != "" {
		err = v.verified(ctx, try, hash, password)
	}
	return try.refused(err)
}

// Hash is HashChosen in the pool, on behalf of an organization or of a realm.
func (v *Verifier) Hash(ctx context.Context, rand io.Reader, realm, password string) (hash string, err error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	waited := v.pool.do(ctx, realm, func() { hash, err = HashChosen(rand, password) })
	if errors.Is(waited, errQueueFull) {
		waited = refuse(WhyBusy)
	}
	return hash, errors.Join(waited, err)
}

// verified verifies a password: made ones at once, chosen ones from memory or in the pool. The error is a *Refusal, the context's, or
// about the hash.
func (v *Verifier) verified(ctx context.Context, try *attempt, hash string, password []byte) error {
	right, err := v.isRight(ctx, try, hash, password)
	switch {
	case errors.Is(err, errQueueFull):
		return refuse(WhyBusy)
	case err == nil && !right:
		return refuse(WhyWrongPassword)
	}
	return err
}

func (v *Verifier) isRight(ctx context.Context, try *attempt, hash string, password []byte) (bool, error) {
	if !isChosen(hash) {
		return v.verify(hash, password)
	}
	if len(password) > MaxPassword {
		return false, nil
	}
	owner := try.owner()
	if try.blocked && !owner {
		return false, refuse(WhyTooManyFailures)
	}
	m := newMAC(v.key, hash, password)
	if right, known := v.remembered(m); known && (!right || owner || try.admitted()) {
		if right {
			try.prove()
		}
		return right, nil
	}
	if !owner && !try.admitted() {
		return false, refuse(WhyTooManyFailures)
	}
	var right bool
	var err error
	waited := v.pool.do(ctx, try.from.organization, func() {
		var known bool
		if right, known = v.remembered(m); known { // meanwhile, by another connection of the same user
			return
		}
		if right, err = v.verify(hash, password); err != nil {
			return
		}
		if right {
			v.right.add(m)
		} else {
			v.wrong.add(m)
		}
	})
	if waited != nil {
		return false, waited
	}
	if right {
		try.prove()
	}
	return right, err
}

func (v *Verifier) remembered(m mac) (right, known bool) {
	if v.right.has(m) {
		return true, true
	}
	return false, v.wrong.has(m)
}

// attempt is one log-in, as far as it is counted.
type attempt struct {
	v          *Verifier
	from       origin
	user, pair uint64
	blocked    bool // the address has had its failures in this organization for now
	verifies   bool // it was admitted
}

func (v *Verifier) attempt(address netip.Addr, organization, name string) *attempt {
	t := &attempt{v: v, from: newOrigin(address, organization)}
	t.user = maphash.Comparable(v.seed, [2]string{organization, name})
	t.pair = maphash.Comparable(v.seed, struct {
		origin
		name string
	}{t.from, name})
	t.blocked = t.counts() && v.origins.of(t.from, v.now()) >= float64(v.failures)
	return t
}

// counts says whether there is a limit for t at all.
func (t *attempt) counts() bool { return t.v.failures >= 0 && t.from.address.IsValid() }

// owner says whether the address is one from which the user has logged in lately with a chosen password, and has not guessed since
// as often as an address may. It is not locked out by the guesses of others, at the user or from the same address.
func (t *attempt) owner() bool {
	v, now := t.v, t.v.now()
	return t.counts() && v.proven.of(t.pair, now) >= failedLately && v.pairs.of(t.pair, now) < float64(v.failures)
}

// prove makes the address the user's.
func (t *attempt) prove() {
	if now := t.v.now(); t.counts() && t.v.proven.of(t.pair, now) < 1 {
		t.v.proven.count(t.pair, now)
	}
}

// admitted says whether t may have a password verified that is slow to verify. Names that are not there are asked too, or the answer
// would tell which are.
func (t *attempt) admitted() bool {
	v, now := t.v, t.v.now()
	if t.verifies || !t.counts() || v.userFailures < 0 || v.users.of(t.user, now) < float64(v.userFailures) {
		t.verifies = true
		return true
	}
	if v.pairs.of(t.pair, now) >= failedLately || !v.turns.take(t.user, now) {
		return false
	}
	t.verifies = true
	return true
}

// refused counts a refusal and gives the one to be told. A token that has ended was no guess, and the others were not judged.
func (t *attempt) refused(err error) error {
	r, ok := errors.AsType[*Refusal](err)
	if !ok || !t.counts() || r.Why == WhyBusy || r.Why == WhyExpired || r.Why == WhyTooManyFailures {
		return err
	}
	now := t.v.now()
	if t.blocked {
		if t.owner() {
			t.v.pairs.count(t.pair, now)
		}
		return refuse(WhyTooManyFailures)
	}
	t.v.origins.count(t.from, now)
	if r.Why == WhyMalformed || r.Why == WhyUnknownOrganization {
		return err
	}
	if !t.owner() && !t.admitted() {
		return refuse(WhyTooManyFailures)
	}
	t.v.users.count(t.user, now)
	t.v.pairs.count(t.pair, now)
	return err
}
