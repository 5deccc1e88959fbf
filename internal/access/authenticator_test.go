package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// cheap is argon2id at its least: what is tested is not how slow it is.
var cheap = cost{memory: 8, passes: 1, lanes: 1}

// fixture is two organizations with users of the same names.
type fixture struct {
	t         *testing.T
	directory *Directory
	a         *Authenticator
	now       time.Time
	slow      atomic.Int64 // verifications of chosen passwords

	records  map[string]*OrganizationRecord
	password map[string]string // by user@organization
}

const chosen = "correct horse"

func newFixture(t *testing.T, cfg AuthConfig) *fixture {
	t.Helper()
	f := &fixture{
		t: t, directory: NewDirectory(), now: time.Unix(1000, 0),
		records: make(map[string]*OrganizationRecord), password: make(map[string]string),
	}
	cfg.Now = func() time.Time { return f.now }
	f.a = NewAuthenticator(f.directory, cfg)
	f.a.verifier.verify = func(hash string, password []byte) (bool, error) {
		if isChosen(hash) {
			f.slow.Add(1)
		}
		return Verify(hash, password)
	}
	for i, id := range []string{orgA, orgB} {
		r := &OrganizationRecord{
			ID: id, UUID: []string{uuidA, uuidB}[i], Number: uint64(i + 1), Revision: 1, Limits: Limits{MaxConnections: 10 * (i + 1)},
			Users: make(map[string]UserRecord),
		}
		for _, name := range []string{"made", "off"} {
			password, hash, err := NewPassword(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			r.Users[name] = UserRecord{PasswordHash: hash, Disabled: name == "off"}
			f.password[name+"@"+id] = password
		}
		hash, err := hashChosen(rand.Reader, chosen+id, cheap)
		if err != nil {
			t.Fatal(err)
		}
		r.Users["chosen"] = UserRecord{PasswordHash: hash}
		f.password["chosen@"+id] = chosen + id
		for _, kind := range []KeyKind{SecretKey, PublishableKey, RestrictedKey, LegacyKey} {
			key, err := NewKey(rand.Reader, kind)
			if err != nil {
				t.Fatal(err)
			}
			r.Keys = append(r.Keys, KeyRecord{ID: "key_" + string(kind), Kind: kind, Hash: HashKey(key)})
			f.password[string(kind)+"@"+id] = key
		}
		f.records[id] = r
		f.directory.Put(*r)
	}
	return f
}

// change replaces an organization's record by a copy that differs.
func (f *fixture) change(id string, change func(*OrganizationRecord)) {
	r := *f.records[id]
	users := make(map[string]UserRecord)
	for name, u := range r.Users {
		users[name] = u
	}
	r.Users, r.Keys = users, append([]KeyRecord(nil), r.Keys...)
	r.Revision++
	change(&r)
	f.records[id] = &r
	f.directory.Put(r)
}

var home = netip.MustParseAddr("192.0.2.1")

func (f *fixture) login(username, password string) (*Grant, error) {
	return f.from(home, username, password)
}

func (f *fixture) from(address netip.Addr, username, password string) (*Grant, error) {
	l := Login{Username: []byte(username), Password: []byte(password), HasPassword: true, ClientID: "client", Address: address}
	return f.a.Login(f.t.Context(), l)
}

func (f *fixture) accepted(username, password string) *Grant {
	f.t.Helper()
	g, err := f.login(username, password)
	if err != nil {
		f.t.Fatalf("%s: %v", username, err)
	}
	return g
}

func why(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Why
	}
	return fmt.Sprint(err)
}

func TestLogins(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	for _, id := range []string{orgA, orgB} {
		for _, name := range []string{"made", "chosen"} {
			g := f.accepted(name+"@"+id, f.password[name+"@"+id])
			r := f.records[id]
			if g.User != name || g.Organization != id || g.OrganizationNumber != r.Number ||
				g.ClientID != "client" || g.Server || g.Limits != r.Limits || g.Revision != 1 {
				t.Errorf("%s@%s: %+v", name, id, g)
			}
		}
		for _, kind := range []string{"sk", "cs"} {
			g := f.accepted("server@"+id, f.password[kind+"@"+id])
			if g.User != "server" || g.Organization != id || !g.Server || !g.Check(Publish, []byte("x")) || !g.Check(Subscribe, []byte("#")) {
				t.Errorf("server@%s: %+v", id, g)
			}
		}
	}
	for _, uuid := range []string{uuidA, strings.ToUpper(uuidA)} {
		if g := f.accepted("made@"+uuid, f.password["made@"+orgA]); g.Organization != orgA {
			t.Errorf("by UUID: %+v", g)
		}
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: -1})
	f.change(orgB, func(r *OrganizationRecord) { r.Disabled = true })
	sk := f.password["sk@"+orgA]
	for _, c := range []struct{ username, password, want string }{
		{"", "x", WhyMalformed},
		{"made", f.password["made@"+orgA], WhyMalformed},
		{"made@", f.password["made@"+orgA], WhyMalformed},
		{" made@" + orgA, f.password["made@"+orgA], WhyMalformed},
		{"made@org_zzzzzzzzzzzz", f.password["made@"+orgA], WhyUnknownOrganization},
		{"made@" + strings.Replace(uuidA, "3", "4", 1), f.password["made@"+orgA], WhyUnknownOrganization},
		{"nobody@" + orgA, "x", WhyUnknownUser},
		{"Made@" + orgA, f.password["made@"+orgA], WhyUnknownUser},
		{"Server@" + orgA, sk, WhyUnknownUser},
		{"made@" + orgA, "", WhyWrongPassword},
		{"made@" + orgA, f.password["made@"+orgB], WhyWrongPassword},
		{"made@" + orgA, f.password["chosen@"+orgA], WhyWrongPassword},
		{"made@" + orgA, sk, WhyWrongPassword},
		{"chosen@" + orgA, f.password["chosen@"+orgB], WhyWrongPassword},
		{"chosen@" + orgA, strings.Repeat("a", 60_000), WhyWrongPassword},
		{"off@" + orgA, f.password["off@"+orgA], WhyDisabled},
		{"made@" + orgB, f.password["made@"+orgB], WhyDisabled},
		{"server@" + orgB, f.password["sk@"+orgB], WhyDisabled},
		{"server@" + orgA, "", WhyWrongPassword},
		{"server@" + orgA, f.password["sk@"+orgB], WhyWrongPassword}, // another organization's key
		{"server@" + orgA, f.password["cs@"+orgB], WhyWrongPassword},
		{"server@" + orgA, f.password["pk@"+orgA], WhyWrongPassword},
		{"server@" + orgA, f.password["rk@"+orgA], WhyWrongPassword},
		{"server@" + orgA, strings.Replace(f.password["pk@"+orgA], "pk", "sk", 1), WhyWrongPassword},
		{"server@" + orgA, f.password["made@"+orgA], WhyWrongPassword},
		{"server@" + orgA, strings.Repeat("a", 60_000), WhyWrongPassword},
	} {
		g, err := f.login(c.username, c.password)
		if g != nil || why(err) != c.want {
			t.Errorf("%q: %v, %v; want %s", c.username, g, err, c.want)
		}
		if err != nil && c.password != "" && strings.Contains(err.Error(), c.password) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	for _, name := range []string{"made@" + orgA, "server@" + orgA} {
		if _, err := f.a.Login(t.Context(), Login{Username: []byte(name), Address: home}); why(err) != WhyNoPassword {
			t.Errorf("%s without a password: %v", name, err)
		}
	}
}

func TestOnlyKnownUsersAreHashed(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: -1})
	f.change(orgA, func(r *OrganizationRecord) {
		u := r.Users["chosen"]
		u.Disabled = true
		r.Users["disabled"] = u
	})
	for _, name := range []string{"nobody@" + orgA, "chosen@org_zzzzzzzzzzzz", "chosen", "disabled@" + orgA, "made@" + orgA, "server@" + orgA} {
		if _, err := f.login(name, chosen+orgA); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if n := f.slow.Load(); n != 0 {
		t.Errorf("%d slow hashes for log-ins that need none", n)
	}
}

func TestChosenPasswordIsHashedOnce(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: -1})
	for range 3 {
		f.accepted("chosen@"+orgA, chosen+orgA)
		if _, err := f.login("chosen@"+orgA, "wrong password"); why(err) != WhyWrongPassword {
			t.Error(err)
		}
	}
	if n := f.slow.Load(); n != 2 {
		t.Errorf("%d slow hashes, want one of the right and one of the wrong password", n)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { _, _ = f.login("chosen@"+orgB, chosen+orgB) })
	}
	all.Wait()
	if n := f.slow.Load(); n > 2+int64(cap(f.a.verifier.pool.slots)) {
		t.Errorf("%d slow hashes for one user at once", n)
	}
	// A new password is another hash: what is remembered of the old one is worth nothing.
	before := f.slow.Load()
	hash, err := hashChosen(rand.Reader, "another one", cheap)
	if err != nil {
		t.Fatal(err)
	}
	f.change(orgA, func(r *OrganizationRecord) { r.Users["chosen"] = UserRecord{PasswordHash: hash} })
	if _, err := f.login("chosen@"+orgA, chosen+orgA); why(err) != WhyWrongPassword {
		t.Error(err)
	}
	f.accepted("chosen@"+orgA, "another one")
	if n := f.slow.Load() - before; n != 2 {
		t.Errorf("%d slow hashes after the change, want 2", n)
	}
}

func TestDamagedRecord(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: 1})
	f.change(orgA, func(r *OrganizationRecord) {
		r.Users["made"] = UserRecord{PasswordHash: "?"}
		r.Users["chosen"] = UserRecord{PasswordHash: kindChosen + "?"}
	})
	for range 3 { // nobody's failure
		for _, name := range []string{"made@", "chosen@"} {
			g, err := f.login(name+orgA, f.password[name+orgA])
			if _, refused := errors.AsType[*Refusal](err); g != nil || err == nil || refused {
				t.Errorf("%s: %v, %v", name, g, err)
			}
		}
	}
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, AuthConfig{Failures: -1, Workers: 1, Queue: 8}) // 2 waiting of one organization
		release := make(chan struct{})
		f.a.verifier.verify = func(string, []byte) (bool, error) { <-release; return true, nil }
		ctx, cancel := context.WithCancel(t.Context())
		start := func(ctx context.Context, id, password string) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := f.a.Login(ctx, Login{Username: []byte("chosen@" + id), Password: []byte(password), HasPassword: true, Address: home})
				done <- err
			}()
			synctest.Wait()
			return done
		}
		runs := start(t.Context(), orgA, "1")
		waits := start(t.Context(), orgA, "2")
		leaves := start(ctx, orgA, "3")
		if err := <-start(t.Context(), orgA, "4"); why(err) != WhyBusy {
			t.Errorf("beyond the organization's share: %v", err)
		}
		other := start(t.Context(), orgB, "1") // has room all the same
		if len(other) != 0 {
			t.Errorf("the other organization: %v", <-other)
		}
		made := start(t.Context(), orgB, "x")
		cancel()
		if err := <-leaves; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		close(release)
		for _, done := range []chan error{runs, waits, other, made} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if f.a.verifier.pool.waiting != 0 || len(f.a.verifier.pool.of) != 0 || len(f.a.verifier.pool.slots) != 0 {
			t.Errorf("left in the pool: %d, %v, %d", f.a.verifier.pool.waiting, f.a.verifier.pool.of, len(f.a.verifier.pool.slots))
		}
	})
}

func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(1, 4)
		release := make(chan struct{})
		for i := range 5 {
			go func() {
				if err := p.do(t.Context(), fmt.Sprint(i), func() { <-release }); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		if err := p.do(t.Context(), "new", func() { t.Error("runs") }); !errors.Is(err, errQueueFull) {
			t.Error(err)
		}
		close(release)
		synctest.Wait()
	})
}

func TestBusyIsNoFailure(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: 1, Workers: 1, Queue: 1})
	f.a.verifier.pool.slots <- struct{}{}
	f.a.verifier.pool.waiting = 1
	for range 3 {
		if _, err := f.login("chosen@"+orgA, chosen+orgA); why(err) != WhyBusy {
			t.Fatal(err)
		}
	}
	f.accepted("made@"+orgA, f.password["made@"+orgA])
}

func (f *fixture) fromAccepted(address, username, password string) {
	f.t.Helper()
	if _, err := f.from(netip.MustParseAddr(address), username, password); err != nil {
		f.t.Errorf("%s from %s: %v", username, address, err)
	}
}

func TestFailureLimit(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: 3, Window: time.Minute})
	fail := func(address, username, want string) {
		t.Helper()
		if _, err := f.from(netip.MustParseAddr(address), username, "wrong"); why(err) != want {
			t.Fatalf("%s from %s: %v, want %s", username, address, err, want)
		}
	}
	good := func(address, id, want string) {
		t.Helper()
		if _, err := f.from(netip.MustParseAddr(address), "chosen@"+id, f.password["chosen@"+id]); why(err) != want {
			t.Fatalf("%s from %s: %v, want %s", id, address, err, want)
		}
	}
	const none = "<nil>"
	fail("192.0.2.1", "made@"+orgA, WhyWrongPassword)
	fail("192.0.2.1", "nobody@"+uuidA, WhyUnknownUser)         // the UUID counts as the id
	fail("::ffff:192.0.2.1", "server@"+orgA, WhyWrongPassword) // the same address
	fail("192.0.2.1", "made@"+orgA, WhyTooManyFailures)
	good("192.0.2.1", orgA, WhyTooManyFailures)
	good("192.0.2.2", orgA, none)               // another address
	good("192.0.2.1", orgA, WhyTooManyFailures) // though it is remembered
	// What cannot be guessed is right from there too.
	f.fromAccepted("192.0.2.1", "made@"+orgA, f.password["made@"+orgA])
	f.fromAccepted("192.0.2.1", "server@"+orgA, f.password["sk@"+orgA])
	good("192.0.2.1", orgB, none) // another organization
	// Organizations that are not there are limited like others.
	for range 3 {
		fail("192.0.2.1", "a@org_zzzzzzzzzzzz", WhyUnknownOrganization)
	}
	fail("192.0.2.1", "a@org_zzzzzzzzzzzz", WhyTooManyFailures)
	for range 3 {
		fail("192.0.2.1", "?", WhyMalformed)
	}
	fail("192.0.2.1", "?", WhyTooManyFailures)
	// A /64 is one.
	fail("2001:db8::1", "made@"+orgA, WhyWrongPassword)
	fail("2001:db8::2", "made@"+orgA, WhyWrongPassword)
	fail("2001:db8:0:0:ffff::%eth0", "made@"+orgA, WhyWrongPassword)
	good("2001:db8::3", orgA, WhyTooManyFailures)
	good("2001:db8:0:1::1", orgA, none)
	// Where the user has logged in before, others' failures do not lock it out, and its own only when they are as many.
	good("192.0.2.9", orgA, none)
	for range 3 {
		fail("192.0.2.9", "nobody@"+orgA, WhyUnknownUser)
	}
	good("192.0.2.9", orgA, none)
	for range 3 {
		fail("192.0.2.9", "chosen@"+orgA, WhyTooManyFailures)
	}
	good("192.0.2.9", orgA, WhyTooManyFailures)
	// In the next window what is left of the last one counts still, for its part.
	f.now = f.now.Add(time.Minute)
	good("192.0.2.1", orgA, WhyTooManyFailures)
	f.now = f.now.Add(30 * time.Second)
	fail("192.0.2.1", "made@"+orgA, WhyWrongPassword)
	fail("192.0.2.1", "made@"+orgA, WhyWrongPassword)
	good("192.0.2.1", orgA, WhyTooManyFailures)
	f.now = f.now.Add(2 * time.Minute)
	good("192.0.2.1", orgA, none)
	f.now = f.now.Add(-time.Hour)
	good("192.0.2.1", orgA, none)
}

func TestNoFailureLimit(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: -1})
	for range 1000 {
		if _, err := f.login("made@"+orgA, "wrong"); why(err) != WhyWrongPassword {
			t.Fatal(err)
		}
	}
	g := newFixture(t, AuthConfig{Failures: 1})
	for range 10 { // no address
		if _, err := g.from(netip.Addr{}, "made@"+orgA, "wrong"); why(err) != WhyWrongPassword {
			t.Fatal(err)
		}
	}
}

func TestFailureTableIsBounded(t *testing.T) {
	f := newEvents[origin](time.Minute)
	now := time.Unix(0, 0)
	bad := newOrigin(home, orgA)
	for range 3 {
		f.count(bad, now)
	}
	for i := range 2 * maxFailureEntries {
		f.count(newOrigin(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), orgA), now)
	}
	if len(f.current) > maxFailureEntries {
		t.Errorf("%d entries", len(f.current))
	}
	if f.of(bad, now) != 3 {
		t.Error("addresses that failed once pushed out one that failed often")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	at := func(i int) mac { return mac{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range 3 * maxRemembered {
		m.add(at(i))
		if !m.has(at(0)) { // asked for all the time
			t.Fatalf("forgotten after %d", i)
		}
	}
	if n := len(m.recent) + len(m.older); n > 2*maxRemembered {
		t.Errorf("%d entries", n)
	}
	if m.has(at(1)) {
		t.Error("remembers what nobody asked for")
	}
}

func TestRegrant(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	g := f.accepted("made@"+orgA, f.password["made@"+orgA])
	sk := f.accepted("server@"+orgA, f.password["sk@"+orgA])
	other := f.accepted("made@"+orgB, f.password["made@"+orgB])
	for _, old := range []*Grant{g, sk, other} {
		if same, err := f.a.Regrant(old); same != old || err != nil {
			t.Errorf("unchanged: %v, %v", same, err)
		}
	}
	f.change(orgA, func(r *OrganizationRecord) {
		r.RuleSets = []RuleSet{standard(allow("made", "a/%u/%c", PermitBoth))}
		r.Limits.MaxConnections = 7
	})
	expect(t, g, "+publish anything") // a grant does not change
	next, err := f.a.Regrant(g)
	if err != nil || next.Revision != 2 || next.Limits.MaxConnections != 7 || next.ClientID != "client" {
		t.Fatalf("%+v, %v", next, err)
	}
	expect(t, next, "-publish anything", "+publish a/made/client")
	if next, err := f.a.Regrant(sk); err != nil || !next.Server || next.Revision != 2 {
		t.Errorf("%+v, %v", next, err)
	}
	if same, err := f.a.Regrant(other); same != other || err != nil {
		t.Errorf("the other organization: %v, %v", same, err)
	}
	refused := func(old *Grant, want string) {
		t.Helper()
		if next, err := f.a.Regrant(old); next != nil || why(err) != want {
			t.Errorf("%v, %v; want %s", next, err, want)
		}
	}
	was := f.records[orgA].Users["made"]
	f.change(orgA, func(r *OrganizationRecord) {
		r.Users["made"] = UserRecord{PasswordHash: was.PasswordHash, Disabled: true}
	})
	refused(next, WhyDisabled)
	f.change(orgA, func(r *OrganizationRecord) {
		r.Users["made"] = UserRecord{PasswordHash: f.records[orgB].Users["made"].PasswordHash}
	})
	refused(next, WhyWrongPassword)
	f.change(orgA, func(r *OrganizationRecord) { delete(r.Users, "made") })
	refused(next, WhyUnknownUser)
	f.change(orgA, func(r *OrganizationRecord) { r.Keys = r.Keys[1:] })
	refused(sk, WhyRevoked)
	f.change(orgA, func(r *OrganizationRecord) { r.Disabled = true })
	refused(next, WhyDisabled)
	f.directory.Remove(orgA)
	refused(next, WhyUnknownOrganization)
	if _, ok := f.directory.Organization(uuidA); ok {
		t.Error("is still found by its UUID")
	}
	if _, err := f.login("made@"+uuidA, "x"); why(err) != WhyUnknownOrganization {
		t.Error(err)
	}
	if r, ok := f.directory.Organization(orgB); !ok || r.Number != 2 {
		t.Error("the other organization is gone")
	}
}

// TestDirectoryIsAtomic: a reader sees one revision as a whole.
func TestDirectoryIsAtomic(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	var stop atomic.Bool
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for !stop.Load() {
				g := f.accepted("made@"+orgA, f.password["made@"+orgA])
				if g.Limits.MaxConnections != 0 && g.Check(Publish, fmt.Appendf(nil, "r/%d", g.Revision)) != true {
					t.Errorf("revision %d has other rules", g.Revision)
					return
				}
				f.directory.Organization(uuidA)
			}
		})
	}
	for i := range 500 {
		f.change(orgA, func(r *OrganizationRecord) {
			r.Limits.MaxConnections = i
			r.RuleSets = []RuleSet{standard(allow("%", fmt.Sprintf("r/%d", r.Revision), PermitBoth))}
		})
	}
	stop.Store(true)
	all.Wait()
}
