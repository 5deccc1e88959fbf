package access

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloudsignal/internal/fault"
	"cloudsignal/internal/topic"
)

const tokenUser = TokenUserPrefix + "abcdefghijkl"

// token makes a token that ends after some time, and its password.
func (f *fixture) token(id string, ttl time.Duration) (TokenRecord, string) {
	f.t.Helper()
	password, err := NewKey(rand.Reader, TokenPassword)
	if err != nil {
		f.t.Fatal(err)
	}
	ends := f.now.Add(ttl)
	return TokenRecord{
		ID: id, Expires: ends, Permission: PermitBoth, Passwords: []TokenPassHash{{HashKey(password), ends}},
	}, password
}

// identity puts an identity with tokens into an organization; none: it is gone.
func (f *fixture) identity(id string, tokens ...TokenRecord) {
	f.change(id, func(r *OrganizationRecord) {
		r.Identities = map[string]IdentityRecord{tokenUser: {Until: f.now.Add(time.Hour), Tokens: tokens}}
	})
}

func TestTokenLogin(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: -1})
	one, first := f.token("tok_1", time.Minute)
	two, second := f.token("tok_2", time.Hour)
	f.identity(orgA, one, two)
	for password, ends := range map[string]time.Time{first: one.Expires, second: two.Expires} {
		g := f.accepted(tokenUser+"@"+orgA, password)
		if g.User != tokenUser || !g.Token || g.Server || !g.Expires.Equal(ends) || g.Limits != f.records[orgA].Limits || g.ClientID != "client" {
			t.Errorf("%+v", g)
		}
		expect(t, g, "+publish x", "+subscribe #") // no rules
	}
	for _, c := range []struct{ username, password, want string }{
		{tokenUser + "@" + orgB, first, WhyUnknownUser},
		{TokenUserPrefix + "bbbbbbbbbbbb@" + orgA, first, WhyUnknownUser},
		{tokenUser + "@" + orgA, "", WhyWrongPassword},
		{tokenUser + "@" + orgA, first + "x", WhyWrongPassword},
		{tokenUser + "@" + orgA, strings.Repeat("a", 60_000), WhyWrongPassword},
		{"made@" + orgA, first, WhyWrongPassword},
		{"server@" + orgA, first, WhyWrongPassword},
	} {
		if g, err := f.login(c.username, c.password); g != nil || why(err) != c.want {
			t.Errorf("%q: %v, %v; want %s", c.username, g, err, c.want)
		}
	}
	f.now = one.Expires.Add(-time.Nanosecond)
	f.accepted(tokenUser+"@"+orgA, first)
	f.now = one.Expires
	if _, err := f.login(tokenUser+"@"+orgA, first); why(err) != WhyExpired {
		t.Error(err)
	}
	f.accepted(tokenUser+"@"+orgA, second)
	f.change(orgA, func(r *OrganizationRecord) { r.Disabled = true })
	if _, err := f.login(tokenUser+"@"+orgA, second); why(err) != WhyDisabled {
		t.Error(err)
	}
}

// TestExpiredTokenIsNoGuess: a page that is left open must not lock out the others behind its address.
func TestExpiredTokenIsNoGuess(t *testing.T) {
	f := newFixture(t, AuthConfig{Failures: 2})
	k, password := f.token("tok_1", time.Minute)
	f.identity(orgA, k)
	f.now = f.now.Add(time.Hour)
	for range 5 {
		if _, err := f.login(tokenUser+"@"+orgA, password); why(err) != WhyExpired {
			t.Fatal(err)
		}
	}
	f.accepted("made@"+orgA, f.password["made@"+orgA])
}

func TestTokenRegrant(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	k, first := f.token("tok_1", time.Minute)
	f.identity(orgA, k)
	g := f.accepted(tokenUser+"@"+orgA, first)
	if same, err := f.a.Regrant(g); same != g || err != nil {
		t.Errorf("unchanged: %v, %v", same, err)
	}
	refused := func(old *Grant, want string) {
		t.Helper()
		if next, err := f.a.Regrant(old); next != nil || why(err) != want {
			t.Errorf("%v, %v; want %s", next, err, want)
		}
	}

	// A refresh: a password more, a later end. The live connection has it whichever password it came with, the old password works until
	// its own end.
	f.now = f.now.Add(50 * time.Second)
	more, second := f.token("tok_1", time.Minute)
	refreshed := TokenRecord{ID: "tok_1", Expires: more.Expires, Permission: PermitBoth, Passwords: append(slices.Clone(k.Passwords), more.Passwords...)}
	f.identity(orgA, refreshed)
	next, err := f.a.Regrant(g)
	if err != nil || !next.Expires.Equal(more.Expires) || !next.Token {
		t.Fatalf("%+v, %v", next, err)
	}
	if again := f.accepted(tokenUser+"@"+orgA, first); !again.Expires.Equal(more.Expires) {
		t.Errorf("the old password: %+v", again)
	}
	f.now = k.Expires
	if _, err := f.login(tokenUser+"@"+orgA, first); why(err) != WhyExpired {
		t.Error(err)
	}
	f.accepted(tokenUser+"@"+orgA, second)
	if same, err := f.a.Regrant(next); same != next || err != nil {
		t.Errorf("%v, %v", same, err)
	}

	// Its end, seen with and without a change of something else.
	f.now = more.Expires
	refused(next, WhyExpired)
	f.change(orgA, func(*OrganizationRecord) {})
	refused(next, WhyExpired)
	f.identity(orgA) // forgotten
	refused(next, WhyExpired)
	f.now = more.Expires.Add(-time.Second)
	refused(next, WhyRevoked)
	f.directory.Remove(orgA)
	refused(next, WhyUnknownOrganization)
}

func TestRotatedKeyEnds(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	g := f.accepted("server@"+orgA, f.password["sk@"+orgA])
	f.change(orgA, func(r *OrganizationRecord) { r.Keys[0].Hash[0]++ }) // the id stays
	if next, err := f.a.Regrant(g); next != nil || why(err) != WhyRevoked {
		t.Errorf("%v, %v", next, err)
	}
}

func TestTokenStanding(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	standing := func() *Grant {
		t.Helper()
		g, err := f.a.Standing(1, tokenUser, "client")
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	expect(t, standing(), "+publish one", "+publish two") // of nobody: the rules, which are none here
	if f.a.Has(1, tokenUser) {
		t.Error("has nobody")
	}
	one, _ := f.token("tok_1", time.Minute)
	two, _ := f.token("tok_2", time.Second)
	one.Topics = []string{"one"}
	f.identity(orgA, one, two)
	expect(t, standing(), "+publish one", "-publish two") // the one that ends last
	f.now = f.now.Add(time.Hour)
	standing() // its will may still be sent
	// A connection that has ended keeps what its token was narrowed to, even if all were revoked.
	f.identity(orgA)
	last, err := f.a.Last(&Grant{User: tokenUser, OrganizationNumber: 1, Token: true, narrow: &narrowing{permission: PermitBoth, topics: []string{"one"}}})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, last, "+publish one", "-publish two")
	if !f.a.Has(1, tokenUser) || f.a.Has(2, tokenUser) || !f.a.Has(1, "off") || !f.a.Has(1, ServerUser) || f.a.Has(1, "nobody") || f.a.Has(9, ServerUser) {
		t.Error("Has is wrong")
	}
	f.directory.Forget(1, []string{tokenUser, "nobody"}, f.now)
	if !f.a.Has(1, tokenUser) {
		t.Error("forgotten too early")
	}
	f.directory.Forget(1, []string{tokenUser}, f.now.Add(2*time.Hour))
	f.directory.Forget(7, []string{tokenUser}, f.now.Add(2*time.Hour))
	if f.a.Has(1, tokenUser) {
		t.Error("not forgotten")
	}
}

func TestNarrowedToken(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	rules := standard(deny("%", "a/secret/#", PermitBoth), allow("%", "a/#", PermitBoth), allow(tokenUser, "users/%u/#", PermitBoth))
	given := RuleSet{ID: "given", Rules: []Rule{allow("%", "g/#", PermitBoth)}}
	empty := RuleSet{ID: "empty"}
	for _, c := range []struct {
		name  string
		token TokenRecord
		sets  []RuleSet
		want  []string
	}{
		{"nothing", TokenRecord{Permission: PermitBoth}, []RuleSet{rules}, []string{
			"+publish a/b", "+subscribe a/b/+", "-subscribe a/+/x", "-publish b", "-publish a/secret/x", "+subscribe users/" + tokenUser + "/#", "-subscribe users/x/#",
		}},
		{"permission", TokenRecord{Permission: PermitSubscribe}, []RuleSet{rules}, []string{"-publish a/b", "+subscribe a/b"}},
		{"permission, no rules", TokenRecord{Permission: PermitPublish}, nil, []string{"+publish a/b", "-subscribe a/b"}},
		{
			"topics",
			TokenRecord{Permission: PermitBoth, Topics: []string{"a/+/x", "a/secret/#", "b/#", "$share/g/a/s"}},
			[]RuleSet{rules},
			[]string{
				"+publish a/b/x", "-publish a/b/y", "-publish a/secret/x", "-publish b/c", "+publish a/s", "-publish a",
				"+subscribe a/b/x", "+subscribe $share/g/a/b/x", "-subscribe a/b/#", "-subscribe a/secret/y", "-subscribe #", "-subscribe $share/g/a/#",
			},
		},
		{
			"topics, no rules",
			TokenRecord{Permission: PermitBoth, Topics: []string{"a/#"}},
			[]RuleSet{empty},
			[]string{"+publish a", "+publish a/secret/x", "-publish b", "+subscribe a/#", "-subscribe #", "-subscribe $share/g/#", "-subscribe $share//a"},
		},
		{"no topics at all", TokenRecord{Permission: PermitBoth, Topics: []string{}}, nil, []string{"-publish a", "-subscribe a"}},
		{
			"another set",
			TokenRecord{Permission: PermitBoth, RuleSet: "given"},
			[]RuleSet{rules, given},
			[]string{"+publish g/x", "-publish a/b"},
		},
		{"a set that is not there", TokenRecord{Permission: PermitBoth, RuleSet: "none"}, []RuleSet{rules}, []string{"-publish a/b", "-subscribe a/b"}},
	} {
		made, password := f.token("tok_1", time.Minute)
		c.token.ID, c.token.Expires, c.token.Passwords = made.ID, made.Expires, made.Passwords
		f.change(orgA, func(r *OrganizationRecord) {
			r.RuleSets = c.sets
			r.Identities = map[string]IdentityRecord{tokenUser: {Until: made.Expires, Tokens: []TokenRecord{c.token}}}
		})
		t.Run(c.name, func(t *testing.T) { expect(t, f.accepted(tokenUser+"@"+orgA, password), c.want...) })
	}
	f.change(orgA, func(r *OrganizationRecord) { r.RuleSets = []RuleSet{{ID: "empty", Default: true}, given} })
	g := f.directory.find(orgA).tokenGrant(tokenUser, &TokenRecord{Permission: PermitPublish, Topics: []string{"x"}}, "c")
	if d := g.Explain(Publish, []byte("y")); d != (Decision{RuleSet: "empty", Why: BecauseToken}) {
		t.Errorf("%+v", d)
	}
}

var levels = rapid.SampledFrom([]string{"a", "b", "+", "#", "$x", ""})

// filter is a random filter of few levels, most of them related.
var filter = rapid.Custom(func(t *rapid.T) string {
	var out []string
	for range rapid.IntRange(1, 3).Draw(t, "levels") {
		level := levels.Draw(t, "level")
		out = append(out, level)
		if level == "#" {
			break
		}
	}
	if s := strings.Join(out, "/"); s != "" {
		return s
	}
	return "a"
})

// TestNarrowingOnlyTakesAway: a token may never do what the same user may not do without it, and no more than its topics say.
func TestNarrowingOnlyTakesAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := RuleSet{ID: "standard", Default: true}
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			set.Rules = append(set.Rules, Rule{
				User: "%", Topic: filter.Draw(t, "topic"), Permission: Permission(rapid.IntRange(1, 3).Draw(t, "permission")),
				Effect: Effect(rapid.IntRange(1, 2).Draw(t, "effect")),
			})
		}
		k := TokenRecord{Permission: Permission(rapid.IntRange(1, 3).Draw(t, "narrow")), Topics: rapid.SliceOfN(filter, 0, 3).Draw(t, "topics")}
		if rapid.Bool().Draw(t, "any") {
			k.Topics = nil
		}
		d := NewDirectory()
		d.Put(OrganizationRecord{ID: orgA, Number: 1, RuleSets: []RuleSet{set}})
		o := d.find(orgA)
		wide, narrow := o.userGrant(tokenUser, UserRecord{}, "c"), o.tokenGrant(tokenUser, &k, "c")
		name := strings.NewReplacer("+", "a", "#", "b").Replace(filter.Draw(t, "name"))
		within := k.Topics == nil || slices.ContainsFunc(k.Topics, func(f string) bool { return topic.Covers(f, name) })
		want := wide.Check(Publish, []byte(name)) && within && k.Permission&PermitPublish != 0
		if got := narrow.Check(Publish, []byte(name)); got != want {
			t.Fatalf("publish %q: %v, want %v", name, got, want)
		}
		wanted := filter.Draw(t, "filter")
		within = k.Topics == nil || slices.ContainsFunc(k.Topics, func(f string) bool { return topic.Contains(f, wanted) })
		want = wide.Check(Subscribe, []byte(wanted)) && within && k.Permission&PermitSubscribe != 0
		for _, asked := range []string{wanted, "$share/g/" + wanted} {
			if got := narrow.Check(Subscribe, []byte(asked)); got != want {
				t.Fatalf("subscribe %q: %v, want %v", asked, got, want)
			}
		}
	})
}

func TestKeyLookup(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	for _, id := range []string{orgA, orgB} {
		for _, kind := range []KeyKind{SecretKey, PublishableKey, RestrictedKey, LegacyKey} {
			o, k, ok := f.directory.Key(f.password[string(kind)+"@"+id])
			if !ok || o.ID != id || k.Kind != kind {
				t.Errorf("%s of %s: %v, %v", kind, id, o, k)
			}
		}
	}
	secret := f.password["sk@"+orgA]
	for _, bad := range []string{"", "sk_", secret[:len(secret)-1], secret + "a", strings.Repeat("a", 1<<20)} {
		if _, _, ok := f.directory.Key(bad); ok {
			t.Errorf("%.50q is found", bad)
		}
	}
	f.change(orgA, func(r *OrganizationRecord) { r.Keys = r.Keys[1:] })
	if _, _, ok := f.directory.Key(secret); ok {
		t.Error("a revoked key is found")
	}
	if _, _, ok := f.directory.Key(f.password["pk@"+orgA]); !ok {
		t.Error("another key is gone")
	}
	f.directory.Remove(orgA)
	if _, _, ok := f.directory.Key(f.password["pk@"+orgA]); ok {
		t.Error("a removed organization's key is found")
	}
	if _, _, ok := f.directory.Key(f.password["sk@"+orgB]); !ok {
		t.Error("another organization's key is gone")
	}
	if n := len(f.directory.byKey); n != 4 {
		t.Errorf("%d keys are known, want 4", n)
	}
}

func TestKeyGrant(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	f.change(orgA, func(r *OrganizationRecord) {
		r.RuleSets = []RuleSet{standard(allow("key_pk", "public/%u/%c", PermitPublish))}
		r.Keys = append(r.Keys, KeyRecord{ID: "key_publish", Kind: RestrictedKey, Scopes: []Scope{UsersRead, PublishMessages}, Hash: KeyHash{1}})
	})
	for id, want := range map[string]string{
		"key_sk": "", "key_cs": "", "key_publish": "", "key_pk": "", "key_rk": WhyNotAllowed, "key_none": WhyRevoked,
	} {
		g, err := f.directory.KeyGrant(orgA, id)
		if want != "" {
			if g != nil || why(err) != want {
				t.Errorf("%s: %v, %v; want %s", id, g, err, want)
			}
			continue
		}
		if err != nil || g.Server != (id != "key_pk") || g.OrganizationNumber != 1 {
			t.Fatalf("%s: %+v, %v", id, g, err)
		}
		if id == "key_pk" {
			expect(t, g, "+publish public/key_pk/key_pk", "-publish public/x/key_pk", "-publish x", "-subscribe x")
		} else {
			expect(t, g, "+publish x")
		}
	}
	if _, err := f.directory.KeyGrant("org_zzzzzzzzzzzz", "key_sk"); why(err) != WhyUnknownOrganization {
		t.Error(err)
	}
	if _, err := f.directory.KeyGrant(orgB, "key_publish"); why(err) != WhyRevoked {
		t.Error(err)
	}
	if g, err := f.directory.ServerGrant(uuidA, "mem_1"); err != nil || !g.Server || g.ClientID != "mem_1" || g.Organization != orgA {
		t.Errorf("%+v, %v", g, err)
	}
	f.change(orgA, func(r *OrganizationRecord) { r.Disabled = true })
	for want, err := range map[string]error{
		WhyDisabled:            second(f.directory.KeyGrant(orgA, "key_sk")),
		WhyUnknownOrganization: second(f.directory.ServerGrant("org_zzzzzzzzzzzz", "mem_1")),
	} {
		if why(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := second(f.directory.ServerGrant(orgA, "mem_1")); why(err) != WhyDisabled {
		t.Error(err)
	}
}

func TestExplainAnybody(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	k, _ := f.token("tok_1", time.Minute)
	k.Permission = PermitSubscribe
	f.change(orgA, func(r *OrganizationRecord) {
		r.RuleSets = []RuleSet{standard(allow("%", "a/%c", PermitBoth))}
		r.Identities = map[string]IdentityRecord{tokenUser: {Tokens: []TokenRecord{k}}}
	})
	for _, c := range []struct {
		organization, user string
		action             Action
		topic              string
		want               Decision
	}{
		{orgA, "made", Publish, "a/c", Decision{true, "standard", "allow a/%c", BecauseRule}},
		{uuidA, "off", Publish, "b", Decision{false, "standard", "", BecauseNoMatch}},
		{orgA, ServerUser, Subscribe, "#", Decision{true, "", "", BecauseServer}},
		{orgA, tokenUser, Publish, "a/c", Decision{false, "standard", "", BecauseToken}},
		{orgA, tokenUser, Subscribe, "a/c", Decision{true, "standard", "allow a/%c", BecauseRule}},
		{orgB, "made", Subscribe, "#", Decision{true, "", "", BecauseNoRules}},
	} {
		if got, err := f.directory.Explain(c.organization, c.user, "c", c.action, c.topic); got != c.want || err != nil {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
	for _, c := range []struct {
		organization, user string
		action             Action
		topic              string
		code               fault.Code
		field              string
	}{
		{orgA, "nobody", Publish, "a", fault.NotFound, ""},
		{orgB, tokenUser, Publish, "a", fault.NotFound, ""},
		{"org_zzzzzzzzzzzz", "made", Publish, "a", fault.NotFound, ""},
		{orgA, "made", Publish, "#", fault.Invalid, "topic"},
		{orgA, "made", Subscribe, "a#", fault.Invalid, "topic"},
		{orgA, "made", 0, "a", fault.Invalid, "action"},
	} {
		_, err := f.directory.Explain(c.organization, c.user, "c", c.action, c.topic)
		if e, _ := errors.AsType[*fault.Error](err); e == nil || e.Code != c.code || e.Field != c.field {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if l, ok := f.a.Limits(2); !ok || l.MaxConnections != 20 {
		t.Errorf("%+v", l)
	}
	if _, ok := f.a.Limits(3); ok {
		t.Error("limits of nobody")
	}
}

func second(_ *Grant, err error) error { return err }
