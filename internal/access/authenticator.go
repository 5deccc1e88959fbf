package access

import (
	"context"
	"crypto/subtle"
	"io"
	"net/netip"
	"strings"
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
	WhyExpired             = "expired"     // a token's end
	WhyRevoked             = "revoked"     // a token or a key
	WhyNotAllowed          = "not_allowed" // a key that may not publish
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
	// organization it tried, unless the password is right and cannot be guessed (made by the server, a key, a token), or
	// the user has logged in from there lately. Defaults 100 and one minute; negative: no limit.
	Failures int
	Window   time.Duration
	// UserFailures is the number of refused log-ins of one user in Window, from wherever, after which addresses that have failed on it
	// lately are refused at once, and others get UserRate verifications a second among them, passwords that are remembered
	// included: else right guesses would show at once. What cannot be guessed always passes, and who logs in from where the user has
	// logged in lately: the owner is not locked out. Defaults 50 and 5; negative: no limit, which it also is without
	// Failures.
	UserFailures int
	UserRate     int
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
	verifier  *Verifier
	keyUsed   func(organization, key string)
}

// NewAuthenticator makes an Authenticator. It panics if there is no randomness.
func NewAuthenticator(directory *Directory, cfg AuthConfig) *Authenticator {
	a := &Authenticator{directory: directory, now: cfg.Now, verifier: cfg.Verifier, keyUsed: cfg.KeyUsed}
	if a.now == nil {
		a.now = time.Now
	}
	if a.verifier == nil {
		a.verifier = NewVerifier(cfg)
	}
	if a.keyUsed == nil {
		a.keyUsed = func(string, string) {}
	}
	return a
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
	try := a.verifier.attempt(l.Address, wanted, name)
	var grant *Grant
	switch {
	case err != nil:
		err = refuse(WhyMalformed)
	case o == nil:
		err = refuse(WhyUnknownOrganization)
	default:
		grant, err = a.judge(ctx, o, name, l, try)
	}
	if err != nil {
		return nil, try.refused(err)
	}
	return grant, nil
}

// judge is Login once the organization is known. Only the password of a user there is, who may log in, is verified.
func (a *Authenticator) judge(ctx context.Context, o *organization, name string, l Login, try *attempt) (*Grant, error) {
	switch {
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	case !l.HasPassword:
		return nil, refuse(WhyNoPassword)
	case name == ServerUser:
		return a.judgeServer(o, l)
	case strings.HasPrefix(name, TokenUserPrefix): // no user's name begins so
		return o.judgeToken(name, l, a.now())
	}
	u, ok := o.users.Get(name)
	switch {
	case !ok:
		return nil, refuse(WhyUnknownUser)
	case u.Disabled:
		return nil, refuse(WhyDisabled)
	}
	if err := a.verifier.verified(ctx, try, u.PasswordHash, l.Password); err != nil {
		return nil, err
	}
	return o.userGrant(name, u, l.ClientID), nil
}

// judgeServer finds the key by its hash among those of this organization alone.
func (a *Authenticator) judgeServer(o *organization, l Login) (*Grant, error) {
	if len(l.Password) > maxKey {
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
	a.keyUsed(o.record.ID, k.ID)
	return o.serverGrant(k, l.ClientID), nil
}

// judgeToken looks at every password of the identity's tokens, of which there are few.
func (o *organization) judgeToken(name string, l Login, now time.Time) (*Grant, error) {
	i, ok := o.identities.Get(name)
	if !ok {
		return nil, refuse(WhyUnknownUser)
	}
	if len(l.Password) > maxKey {
		return nil, refuse(WhyWrongPassword)
	}
	t, p := i.Find(string(l.Password))
	switch {
	case p == nil:
		return nil, refuse(WhyWrongPassword)
	case !now.Before(p.Expires):
		return nil, refuse(WhyExpired)
	}
	return o.tokenGrant(name, t, l.ClientID), nil
}

// Find is the token with a password, and the hash of that password; nil if there is none.
func (i *IdentityRecord) Find(password string) (*TokenRecord, *TokenPassHash) {
	h := HashKey(password)
	for n := range i.Tokens {
		t := &i.Tokens[n]
		for m := range t.Passwords {
			if p := &t.Passwords[m]; subtle.ConstantTimeCompare(p.Hash[:], h[:]) == 1 {
				return t, p
			}
		}
	}
	return nil, nil
}

// Regrant judges a log-in again after a change: the new grant, or old itself if the organization has not changed since.
// A *Refusal means that it has to end: the organization or the user is gone or disabled, the password was rotated, the
// key was revoked or rotated, or the token has ended or was revoked.
func (a *Authenticator) Regrant(old *Grant) (*Grant, error) {
	o := a.directory.find(old.Organization)
	switch {
	case o == nil || o.record.Number != old.OrganizationNumber:
		return nil, refuse(WhyUnknownOrganization)
	case old.Token && !a.now().Before(old.Expires) && o.record.Revision == old.Revision:
		return nil, refuse(WhyExpired)
	case o.record.Revision == old.Revision:
		return old, nil
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	case old.Server:
		if k := o.keys[KeyHash([]byte(old.credential))]; k != nil {
			return o.serverGrant(k, old.ClientID), nil
		}
		return nil, refuse(WhyRevoked)
	case old.Token:
		return o.regrantToken(old, a.now())
	}
	u, ok := o.users.Get(old.User)
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

func (o *organization) regrantToken(old *Grant, now time.Time) (*Grant, error) {
	i, _ := o.identities.Get(old.User)
	for n := range i.Tokens {
		t := &i.Tokens[n]
		switch {
		case t.ID != old.credential:
		case !now.Before(t.Expires):
			return nil, refuse(WhyExpired)
		default:
			return o.tokenGrant(old.User, t, old.ClientID), nil
		}
	}
	if !now.Before(old.Expires) { // it was forgotten
		return nil, refuse(WhyExpired)
	}
	return nil, refuse(WhyRevoked)
}

// Standing is what the rules let a user do now that has no connection, by its name alone: for its will, which it left while it might.
// That it is disabled or gone meanwhile does not silence its will: those who watch for it are to learn that it has left. Of several
// tokens the one that ends last is meant. The organization is given by its number. A *Refusal says that it is gone or disabled.
func (a *Authenticator) Standing(organization uint64, user, clientID string) (*Grant, error) {
	o, err := a.enabled(organization)
	if err != nil {
		return nil, err
	}
	g := o.standing(user, clientID)
	if g == nil {
		g = o.grant(user, clientID, "")
		o.compile(g, "")
	}
	return g, nil
}

// Last is what the rules let a connection do now that has ended, whyever it has: for its will, as Standing. A user that is gone
// has the rule set that it had, a token what it was narrowed to.
func (a *Authenticator) Last(old *Grant) (*Grant, error) {
	o, err := a.enabled(old.OrganizationNumber)
	switch {
	case err != nil:
		return nil, err
	case old.Server:
		return o.standing(ServerUser, old.ClientID), nil
	}
	set := old.set
	if u, ok := o.users.Get(old.User); ok {
		set = u.RuleSet
	}
	g := o.grant(old.User, old.ClientID, "")
	g.narrow = old.narrow
	o.compile(g, set)
	return g, nil
}

func (a *Authenticator) enabled(organization uint64) (*organization, error) {
	o := a.directory.findNumber(organization)
	switch {
	case o == nil:
		return nil, refuse(WhyUnknownOrganization)
	case o.record.Disabled:
		return nil, refuse(WhyDisabled)
	}
	return o, nil
}
