package access

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"time"
)

// Login is what a CONNECT says about who it is. Username and Password are read during Authenticator.Login only.
type Login struct {
	Username    []byte
	Password    []byte
	HasPassword bool
	ClientID    string
	Address     netip.Addr // no address: failures are not counted
}

// Why a log-in is refused; labels for logs and counters. A client is told only of WhyBusy and WhyTooManyFailures: all
// others are one to it.
const (
	WhyMalformed           = "username_malformed"
	WhyUnknownOrganization = "organization_unknown"
	WhyUnknownUser         = "user_unknown"
	WhyWrongPassword       = "password_wrong"
	WhyDisabled            = "disabled"
	WhyNoPassword          = "password_missing"
	WhyBusy                = "busy"
	WhyTooManyFailures     = "too_many_failures"
	WhyExpired             = "expired" // of a token
	WhyRevoked             = "revoked" // of a token
)

// Refusal is the error of a log-in that was judged and refused.
type Refusal struct{ Why string }

// Error names the reason, for logs.
func (r *Refusal) Error() string { return "access: log-in refused: " + r.Why }

func refuse(why string) error { return &Refusal{Why: why} }

// AuthConfig is what an Authenticator needs. Zero values mean the defaults.
type AuthConfig struct {
	Now  func() time.Time // default time.Now
	Rand io.Reader        // default crypto/rand; read once
	// Workers is the number of chosen passwords verified at the same time, 19 MiB each. Default: half the processors,
	// from 1 to 8.
	Workers int
	// Queue is the number of log-ins that may wait for a worker, a quarter of them of one organization; more are refused
	// with WhyBusy. Default 512.
	Queue int
	// Failures is the number of refused log-ins in Window after which an address gets WhyTooManyFailures from the
	// organization it tried, whatever it sends. Defaults 100 and one minute; negative: no limit.
	Failures int
	Window   time.Duration
	// Verifier is one that others use too; then Rand, Workers, Queue, Failures and Window are not looked at. Default: one
	// of its own.
	Verifier *Verifier
	// KeyUsed is told that a key logged in; it returns at once.
	KeyUsed func(organization, key string)
}

// Authenticator judges log-ins against a Directory. It is for many goroutines, has none of its own and needs no closing.
type Authenticator struct {
	directory *Directory
	now       func() time.Time
	key       []byte // of the memories' MACs
	pool      *pool
	failures  *failures
	right     *memory
	wrong     *memory // apart from right, so that guesses do not push it out
	verify    func(hash string, password []byte) (bool, error)
}

// NewAuthenticator makes an Authenticator. It panics if there is no randomness.
func NewAuthenticator(directory *Directory, cfg AuthConfig) *Authenticator {
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
	if cfg.Failures == 0 {
		cfg.Failures = 100
	}
	if cfg.Window <= 0 {
		cfg.Window = time.Minute
	}
	key, err := randomBytes(cfg.Rand, 32)
	if err != nil {
		panic(err.Error())
	}
	return &Authenticator{
		directory: directory, now: cfg.Now, key: key, pool: newPool(cfg.Workers, cfg.Queue),
		failures: newFailures(cfg.Failures, cfg.Window), right: newMemory(), wrong: newMemory(), verify: Verify,
	}
}

// Login judges a log-in. The error is a *Refusal, the context's if it ended while waiting, or about a damaged record.
//
// The rules may change between the answer and the moment the connection can be found by whoever announces the change: call
// Regrant then. It costs nothing if nothing changed.
func (a *Authenticator) Login(ctx context.Context, l Login) (*Grant, error) {
	name, wanted, err := ParseUsername(string(l.Username))
	var o *organization
	if err == nil {
		if o = a.directory.find(wanted); o != nil {
			wanted = o.record.ID // the same for the id and the UUID
		}
	}
	from := newOrigin(l.Address, wanted)
	if a.failures.blocked(from, a.now()) {
		return nil, refuse(WhyTooManyFailures)
	}
	var grant *Grant
	switch {
	case err != nil:
		err = refuse(WhyMalformed)
	case o == nil:
		err = refuse(WhyUnknownOrganization)
	default:
		grant, err = a.judge(ctx, o, name, l)
	}
	if r, ok := errors.AsType[*Refusal](err); ok && r.Why != WhyBusy {
		a.failures.count(from, a.now())
	}
	return grant, err
}

// judge is Login once the organization is known. Only the password of a user there is, who may log in, is verified.
func (a *Authenticator) judge(ctx context.Context, o *organization, name string, l Login) (*Grant, error) {
	switch {
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	case !l.HasPassword:
		return nil, refuse(WhyNoPassword)
	case name == ServerUser:
		return o.judgeServer(l)
	}
	u, ok := o.record.Users[name]
	switch {
	case !ok:
		return nil, refuse(WhyUnknownUser)
	case u.Disabled:
		return nil, refuse(WhyDisabled)
	}
	ok, err := a.verified(ctx, o.record.ID, u.PasswordHash, l.Password)
	switch {
	case errors.Is(err, errQueueFull):
		return nil, refuse(WhyBusy)
	case err != nil:
		return nil, err
	case !ok:
		return nil, refuse(WhyWrongPassword)
	}
	return o.userGrant(name, u, l.ClientID), nil
}

// judgeServer finds the key by its hash among those of this organization alone.
func (o *organization) judgeServer(l Login) (*Grant, error) {
	if len(l.Password) > 64 {
		return nil, refuse(WhyWrongPassword)
	}
	key := string(l.Password)
	if kind, err := ParseKey(key); err != nil || !kind.Full() {
		return nil, refuse(WhyWrongPassword)
	}
	k := o.keys[HashKey(key)] // the hash is of the kind too
	if k == nil {
		return nil, refuse(WhyWrongPassword)
	}
	return o.serverGrant(k, l.ClientID), nil
}

// verified verifies a password: made ones at once, chosen ones from memory or in the pool.
func (a *Authenticator) verified(ctx context.Context, organization, hash string, password []byte) (bool, error) {
	if !isChosen(hash) {
		return a.verify(hash, password)
	}
	if len(password) > MaxPassword {
		return false, nil
	}
	m := newMAC(a.key, hash, password)
	if right, known := a.remembered(m); known {
		return right, nil
	}
	var right bool
	var err error
	waited := a.pool.do(ctx, organization, func() {
		var known bool
		if right, known = a.remembered(m); known { // meanwhile, by another connection of the same user
			return
		}
		if right, err = a.verify(hash, password); err != nil {
			return
		}
		if right {
			a.right.add(m)
		} else {
			a.wrong.add(m)
		}
	})
	if waited != nil {
		return false, waited
	}
	return right, err
}

func (a *Authenticator) remembered(m mac) (right, known bool) {
	if a.right.has(m) {
		return true, true
	}
	return false, a.wrong.has(m)
}

// Regrant judges a log-in again after a change: the new grant, or old itself if the organization has not changed since.
// A *Refusal means that it has to end: the organization or the user is gone or disabled, the password was rotated, or the
// key was revoked.
func (a *Authenticator) Regrant(old *Grant) (*Grant, error) {
	o := a.directory.find(old.Organization)
	switch {
	case o == nil || o.record.Number != old.OrganizationNumber:
		return nil, refuse(WhyUnknownOrganization)
	case o.record.Revision == old.Revision:
		return old, nil
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	case old.Server:
		for _, k := range o.keys {
			if k.ID == old.credential {
				return o.serverGrant(k, old.ClientID), nil
			}
		}
		return nil, refuse(WhyWrongPassword)
	}
	u, ok := o.record.Users[old.User]
	switch {
	case !ok:
		return nil, refuse(WhyUnknownUser)
	case u.Disabled:
		return nil, refuse(WhyDisabled)
	case u.PasswordHash != old.credential:
		return nil, refuse(WhyWrongPassword)
	}
	return o.userGrant(old.User, u, old.ClientID), nil
}

// Standing is what a user may do now that has no connection: for its will. The organization is given by its number. A *Refusal
// means that it may do nothing any more.
func (a *Authenticator) Standing(organization uint64, user, clientID string) (*Grant, error) {
	o := a.directory.findNumber(organization)
	switch {
	case o == nil:
		return nil, refuse(WhyUnknownOrganization)
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	case user == ServerUser:
		g := o.grant(ServerUser, clientID, "")
		g.Server = true
		return g, nil
	}
	u, ok := o.record.Users[user]
	switch {
	case !ok:
		return nil, refuse(WhyUnknownUser)
	case u.Disabled:
		return nil, refuse(WhyDisabled)
	}
	return o.userGrant(user, u, clientID), nil
}
