package control_test

import (
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// token makes a token.
func (f *fixture) token(o *control.Organization, n control.NewToken) (control.Token, string) {
	f.t.Helper()
	k, password, err := o.CreateToken(f.t.Context(), n)
	if err != nil {
		f.t.Fatal(err)
	}
	return k, password
}

// refresh refreshes a token.
func (f *fixture) refresh(k control.Token, password string) (control.Token, string) {
	f.t.Helper()
	again, password, _, err := f.RefreshToken(f.t.Context(), home, k.ID, password)
	if err != nil {
		f.t.Fatal(err)
	}
	return again, password
}

func (f *fixture) wantRefresh(k control.Token, password string, want fault.Code) {
	f.t.Helper()
	got, second, organization, err := f.RefreshToken(f.t.Context(), home, k.ID, password)
	wants(f.t, err, want, "")
	if second != "" || organization != "" || got.ID != "" {
		f.t.Errorf("%+v beside an error", got)
	}
}

func TestCreateToken(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	f.announced()
	k, password := f.token(o, control.NewToken{Email: "Ana@Example.com"})
	want := control.Token{
		ID: k.ID, User: k.User, Provider: "cloudsignal", Subject: "ana@example.com", Email: "Ana@Example.com",
		CreatedAt: f.now, ExpiresAt: f.now.Add(time.Hour), RefreshAt: f.now.Add(54 * time.Minute),
	}
	if !sameToken(k, want) || !regexp.MustCompile(`^token_[a-z0-9]{12}$`).MatchString(k.User) || !regexp.MustCompile(`^tok_[a-z0-9]{12}$`).MatchString(k.ID) {
		t.Errorf("%+v, want %+v", k, want)
	}
	if !regexp.MustCompile(`^tkn_[a-z2-7]{39}$`).MatchString(password) {
		t.Errorf("password %q", password)
	}
	f.wantAnnounced([]string{k.User})
	f.wantLogin(o, k.User, password, "")
	f.checkDirectory()
	if got := must[control.Token](t)(o.Token(t.Context(), k.ID)); !sameToken(got, k) {
		t.Errorf("%+v, want %+v", got, k)
	}
	// The same person again: the same user name, the old token is replaced.
	f.now = f.now.Add(time.Minute)
	second, next := f.token(o, control.NewToken{Email: "ana@EXAMPLE.com", TTL: 2 * time.Minute})
	if second.User != k.User || second.ID == k.ID || !second.ExpiresAt.Equal(f.now.Add(2*time.Minute)) || !second.RefreshAt.Equal(f.now.Add(108*time.Second)) {
		t.Errorf("%+v", second)
	}
	f.wantLogin(o, k.User, password, access.WhyWrongPassword)
	f.wantLogin(o, k.User, next, "")
	if got := must[control.Token](t)(o.Token(t.Context(), k.ID)); !got.RevokedAt.Equal(f.now) {
		t.Errorf("%+v", got)
	}
	// Beside it.
	third, another := f.token(o, control.NewToken{Email: "ana@example.com", Keep: true})
	f.wantLogin(o, k.User, next, "")
	f.wantLogin(o, k.User, another, "")
	f.checkDirectory()
	// Other providers and organizations know others of this name.
	other := f.organization("b")
	names := map[string]bool{k.User: true}
	for _, n := range []control.NewToken{{Email: "bo@example.com"}, {Provider: "auth0", Email: "ana@example.com"}, {Provider: "auth0", Subject: "Ana@example.com"}} {
		u, _ := f.token(o, n)
		if names[u.User] {
			t.Errorf("%+v has another one's name", u)
		}
		names[u.User] = true
	}
	if u, _ := f.token(other, control.NewToken{Email: "ana@example.com"}); names[u.User] {
		t.Errorf("%+v has another one's name", u)
	}
	list := must[[]control.Token](t)(o.ListTokens(t.Context(), control.TokenQuery{User: k.User, Limit: 10}))
	ids := []string{k.ID, second.ID, third.ID}
	slices.Sort(ids)
	if got := []string{list[0].ID, list[1].ID, list[2].ID}; len(list) != 3 || !slices.Equal(got, ids) {
		t.Errorf("%+v", list)
	}
	if all := must[[]control.Token](t)(o.ListTokens(t.Context(), control.TokenQuery{After: ids[1], Limit: 1})); len(all) != 1 || all[0].ID <= ids[1] {
		t.Errorf("%+v", all)
	}
	f.checkDirectory()
}

// sameToken compares what can be seen.
func sameToken(a, b control.Token) bool {
	return fmt.Sprintf("%+v", seen(a)) == fmt.Sprintf("%+v", seen(b))
}

func seen(k control.Token) any {
	v := reflect.ValueOf(k)
	var out []any
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			out = append(out, v.Field(i).Interface())
		}
	}
	return out
}

func TestTokenErrors(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	for _, c := range []struct {
		n     control.NewToken
		field string
	}{
		{control.NewToken{}, "user_email"},
		{control.NewToken{Email: "ana"}, "user_email"},
		{control.NewToken{Subject: "7", Email: "ana"}, "user_email"},
		{control.NewToken{Subject: strings.Repeat("x", 256)}, "subject"},
		{control.NewToken{Subject: "a\nb"}, "subject"},
		{control.NewToken{Subject: "a\xff"}, "subject"},
		{control.NewToken{Provider: strings.Repeat("x", 65), Subject: "7"}, "provider"},
		{control.NewToken{Subject: "7", TTL: 59 * time.Second}, "ttl"},
		{control.NewToken{Subject: "7", TTL: -1}, "ttl"},
		{control.NewToken{Subject: "7", TTL: 24*time.Hour + time.Second}, "ttl"},
		{control.NewToken{Subject: "7", Permissions: []string{}}, "permissions"},
		{control.NewToken{Subject: "7", Permissions: []string{"publish", "both"}}, "permissions[1]"},
		{control.NewToken{Subject: "7", Permissions: []string{"publish", "publish"}}, "permissions[1]"},
		{control.NewToken{Subject: "7", Topics: []string{}}, "topics"},
		{control.NewToken{Subject: "7", Topics: []string{"a", "a#"}}, "topics[1]"},
		{control.NewToken{Subject: "7", Topics: slices.Repeat([]string{"a"}, 101)}, "topics"},
		{control.NewToken{Subject: "7", Topics: slices.Repeat([]string{strings.Repeat("a", 4000)}, 5)}, "topics"},
		{control.NewToken{Subject: "7", RuleSet: "rs_none"}, "rule_set"},
	} {
		_, password, err := o.CreateToken(t.Context(), c.n)
		wants(t, err, fault.Invalid, c.field)
		if password != "" {
			t.Errorf("%+v: a password for nobody", c.n)
		}
	}
	_, err := o.ListTokens(t.Context(), control.TokenQuery{})
	wants(t, err, fault.Invalid, "limit")
	if n := f.count("identities") + f.count("tokens"); n != 0 {
		t.Errorf("%d rows of what was refused", n)
	}
}

func TestTokenFloor(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_123)
	s, err := control.Open(t.Context(), control.Options{
		Path: t.TempDir() + "/c.db", Directory: access.NewDirectory(), Now: func() time.Time { return now }, MinTokenTTL: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	info := must[control.OrganizationInfo](t)(s.CreateOrganization(t.Context(), control.System(), "a"))
	o := s.In(control.System(), info.ID)
	k, _, err := o.CreateToken(t.Context(), control.NewToken{Subject: "7", TTL: time.Second})
	if err != nil || !k.ExpiresAt.Equal(now.Add(time.Second)) || !k.RefreshAt.Equal(now.Add(900*time.Millisecond)) {
		t.Errorf("%+v, %v", k, err)
	}
	_, _, err = o.CreateToken(t.Context(), control.NewToken{Subject: "7", TTL: 999 * time.Millisecond})
	wants(t, err, fault.Invalid, "ttl")
	// When it is read later, its refresh is never in the past.
	now = now.Add(950 * time.Millisecond)
	if k := must[control.Token](t)(o.Token(t.Context(), k.ID)); !k.RefreshAt.Equal(now) {
		t.Errorf("%+v", k)
	}
}

func TestRefreshToken(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	k, first := f.token(o, control.NewToken{Email: "ana@example.com", TTL: 10 * time.Minute, Topics: []string{"a/#"}, Permissions: []string{"publish"}})
	_, other := f.token(o, control.NewToken{Email: "bo@example.com"})
	a := access.NewAuthenticator(f.directory, access.AuthConfig{Now: func() time.Time { return f.now }})
	g, err := a.Login(ctx, access.Login{Username: []byte(k.User + "@" + info.ID), Password: []byte(first), HasPassword: true})
	f.do(err)
	if !g.Expires.Equal(k.ExpiresAt) || !g.Check(access.Publish, []byte("a/b")) || g.Check(access.Publish, []byte("b")) || g.Check(access.Subscribe, []byte("a/b")) {
		t.Errorf("%+v", g)
	}
	f.announced()
	for _, bad := range []string{"", other, first[:42], "tkn_" + strings.Repeat("a", 39)} {
		f.wantRefresh(k, bad, fault.Unauthorized)
	}
	f.wantRefresh(control.Token{ID: "tok_zzzzzzzzzzzz"}, first, fault.NotFound)
	f.wantAnnounced()

	f.now = f.now.Add(9 * time.Minute)
	again, second, organization, err := f.RefreshToken(ctx, home, k.ID, first)
	if err != nil || organization != info.ID || again.ID != k.ID || again.User != k.User || second == first ||
		!again.ExpiresAt.Equal(f.now.Add(10*time.Minute)) || !again.RefreshAt.Equal(f.now.Add(9*time.Minute)) {
		t.Fatalf("%+v, %q, %v", again, organization, err)
	}
	f.wantAnnounced([]string{k.User})
	next, err := a.Regrant(g)
	if err != nil || !next.Expires.Equal(again.ExpiresAt) || next.Check(access.Publish, []byte("b")) {
		t.Errorf("the live connection: %+v, %v", next, err)
	}
	f.wantLogin(o, k.User, first, "") // until its own end
	f.wantLogin(o, k.User, second, "")
	f.checkDirectory()
	f.now = k.ExpiresAt
	f.wantLogin(o, k.User, first, access.WhyExpired)
	f.wantRefresh(k, first, fault.Expired)
	f.wantLogin(o, k.User, second, "")
	_, third := f.refresh(k, second)
	f.now = again.ExpiresAt
	f.wantRefresh(k, second, fault.Expired)
	f.wantLogin(o, k.User, third, "")
	f.do(o.RevokeToken(ctx, k.ID))
	f.wantRefresh(k, third, fault.Unauthorized)
	f.wantLogin(o, k.User, third, access.WhyWrongPassword)
	if _, err := a.Regrant(next); err == nil || err.(*access.Refusal).Why != access.WhyRevoked && err.(*access.Refusal).Why != access.WhyExpired {
		t.Error(err)
	}
	f.checkDirectory()
	yes := true
	fourth, password := f.token(o, control.NewToken{Email: "ana@example.com"})
	must[control.OrganizationInfo](t)(o.Update(ctx, control.OrganizationUpdate{Disabled: &yes}))
	f.wantRefresh(fourth, password, fault.Forbidden)
}

func TestRevokeToken(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	k, password := f.token(o, control.NewToken{Email: "ana@example.com"})
	second, beside := f.token(o, control.NewToken{Email: "ana@example.com", Keep: true})
	wants(t, other.RevokeToken(ctx, k.ID), fault.NotFound, "")
	_, err := other.Token(ctx, k.ID)
	wants(t, err, fault.NotFound, "")
	f.announced()
	f.do(o.RevokeToken(ctx, k.ID))
	f.wantAnnounced([]string{k.User})
	f.wantLogin(o, k.User, password, access.WhyWrongPassword)
	f.wantLogin(o, k.User, beside, "")
	f.do(o.RevokeToken(ctx, k.ID)) // again: nothing
	f.do(o.RevokeToken(ctx, second.ID))
	f.checkDirectory()
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	if !f.directory.Has(info.Number, k.User) {
		t.Error("its session has no user")
	}
	if entries := f.audited(o, "token.revoke"); len(entries) != 2 {
		t.Errorf("%+v", entries)
	}
}

func TestTokensAreBounded(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	for range control.MaxTokensOfIdentity {
		f.token(o, control.NewToken{Email: "ana@example.com", Keep: true})
	}
	_, _, err := o.CreateToken(ctx, control.NewToken{Email: "ana@example.com", Keep: true})
	wants(t, err, fault.Exhausted, "")
	k, password := f.token(o, control.NewToken{Email: "ana@example.com"}) // replaces them all
	first := password
	for i := range control.MaxTokenPasswords + 3 {
		if i == control.MaxTokenPasswords-1 {
			f.wantLogin(o, k.User, first, "")
		}
		_, password = f.refresh(k, password)
	}
	f.wantLogin(o, k.User, first, access.WhyWrongPassword)
	f.wantLogin(o, k.User, password, "")
	if n := f.count("token_passwords WHERE token = '" + k.ID + "'"); n != control.MaxTokenPasswords {
		t.Errorf("%d passwords", n)
	}
	f.checkDirectory()
	// At the bound an identity that was not used for long makes room for another one.
	f.exec(fmt.Sprintf(`UPDATE organizations SET identities = %d`, control.MaxIdentities))
	_, _, err = o.CreateToken(ctx, control.NewToken{Email: "bo@example.com"})
	wants(t, err, fault.Exhausted, "")
	f.now = f.now.Add(31 * 24 * time.Hour)
	f.token(o, control.NewToken{Email: "bo@example.com"})
	if n := f.count(`identities`); n != 1 {
		t.Errorf("%d identities", n)
	}
	f.do(f.Sweep(ctx))
	if again, _ := f.token(o, control.NewToken{Email: "bo@example.com"}); again.User == k.User {
		t.Error("another one's name")
	}
	f.checkDirectory()
}

// TestLiveTokensAreBounded: what is in memory has a bound, which a token in the place of another does not touch.
func TestLiveTokensAreBounded(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	f.token(o, control.NewToken{Subject: "ana"})
	kept, _ := f.directory.Whole(info.ID)
	for what, tokens := range map[string]int{"identities": 0, "tokens": control.MaxLiveTokens/(control.MaxLiveIdentities-10) + 1} {
		full, _ := f.directory.Whole(info.ID)
		for i := range control.MaxLiveIdentities - 1 {
			if tokens > 0 && i > control.MaxLiveIdentities-10 {
				break
			}
			full.Identities[fmt.Sprint("token_", i)] = access.IdentityRecord{Until: f.now, Tokens: make([]access.TokenRecord, tokens)}
		}
		f.directory.Put(full)
		_, _, err := o.CreateToken(ctx, control.NewToken{Subject: "bo"})
		wants(t, err, fault.Exhausted, "")
		_, _, err = o.CreateToken(ctx, control.NewToken{Subject: "ana", Keep: true})
		if tokens == 0 && err != nil || tokens > 0 && fault.CodeOf(err) != fault.Exhausted {
			t.Errorf("%s: one more of the same: %v", what, err)
		}
		if _, _, err = o.CreateToken(ctx, control.NewToken{Subject: "ana"}); err != nil {
			t.Errorf("%s: one for another: %v", what, err)
		}
		f.directory.Put(kept)
	}
}

func TestRuleSetOfToken(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	set := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "s", Rules: []access.Rule{
		{User: "token_%", Topic: "a", Permission: access.PermitBoth, Effect: access.Allow},
	}}))
	k, _ := f.token(o, control.NewToken{Subject: "7", RuleSet: set.ID})
	wants(t, o.DeleteRuleSet(ctx, set.ID), fault.Conflict, "") // else, without any rules, the token could do everything
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	for topic, want := range map[string]bool{"a": true, "b": false} {
		if d, err := f.directory.Explain(info.ID, k.User, "c", access.Publish, topic); d.Allowed != want || d.RuleSet != set.ID || err != nil {
			t.Errorf("%s: %+v, %v", topic, d, err)
		}
	}
	f.do(o.RevokeToken(ctx, k.ID))
	f.do(o.DeleteRuleSet(ctx, set.ID))
}

func TestSweep(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	known := func() int { n, _ := f.directory.Tokens(info.ID); return n }
	k, password := f.token(o, control.NewToken{Email: "ana@example.com"})
	long, _ := f.token(o, control.NewToken{Email: "bo@example.com", TTL: 3 * time.Hour})
	f.now = k.ExpiresAt.Add(69 * time.Minute)
	f.do(f.Sweep(ctx))
	f.wantLogin(o, k.User, password, access.WhyExpired)
	f.changes = nil
	f.now = k.ExpiresAt.Add(70 * time.Minute)
	f.checkDirectory()
	f.do(f.Sweep(ctx))
	f.wantLogin(o, k.User, password, access.WhyUnknownUser)
	f.checkDirectory()
	if known() != 1 || len(f.changes) != 0 {
		t.Errorf("%d are known, announced %+v", known(), f.changes)
	}
	f.wantRefresh(k, password, fault.Expired) // it is not forgotten yet
	again, _ := f.token(o, control.NewToken{Email: "ana@example.com"})
	if again.User != k.User || known() != 2 {
		t.Errorf("%+v; %d are known", again, known())
	}
	f.now = f.now.Add(48 * time.Hour)
	f.do(f.Sweep(ctx))
	if known() != 0 || f.count("tokens") != 3 {
		t.Errorf("%d are known, %d rows", known(), f.count("tokens"))
	}
	f.now = f.now.Add(7 * 24 * time.Hour)
	f.do(f.Sweep(ctx))
	if f.count("tokens")+f.count("token_passwords") != 0 || f.count("identities") != 2 {
		t.Errorf("%d tokens, %d passwords, %d identities", f.count("tokens"), f.count("token_passwords"), f.count("identities"))
	}
	_, err := o.Token(ctx, long.ID)
	wants(t, err, fault.NotFound, "")
	if last, _ := f.token(o, control.NewToken{Email: "ana@example.com"}); last.User != k.User {
		t.Error("another name for the same identity")
	}
	f.checkDirectory()
}

func TestSweepOfMany(t *testing.T) {
	f := fresh(t)
	o, other := f.organization("a"), f.organization("b")
	for i := range 30 {
		for _, o := range []*control.Organization{o, other} {
			f.token(o, control.NewToken{Subject: fmt.Sprint(i), TTL: time.Duration(60+i/3) * time.Second})
		}
	}
	// Rows that come beyond one page of the sweep.
	f.exec(`INSERT INTO identities SELECT organization, user_name || '-' || n.value, provider, subject || '-' || n.value, email, created_at, ends_at
		FROM identities, (WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM c WHERE value < 40) SELECT value FROM c) n`)
	f.now = f.now.Add(3 * time.Hour)
	f.do(f.Sweep(t.Context()))
	f.checkDirectory()
	for _, o := range []*control.Organization{o, other} {
		info := must[control.OrganizationInfo](t)(o.Info(t.Context()))
		if n, k := f.directory.Tokens(info.ID); n != 0 || k != 0 {
			t.Errorf("%d identities, %d tokens are left", n, k)
		}
	}
}

// BenchmarkCreateToken issues one more token to an organization that has many identities and users.
func BenchmarkCreateToken(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ctx := context.Background()
			now := time.Now()
			path := b.TempDir() + "/c.db"
			prepare(b, path, now, n)
			s, err := control.Open(ctx, control.Options{Path: path, Directory: access.NewDirectory()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			all, err := s.Organizations(ctx, control.System(), "", 1)
			if err != nil {
				b.Fatal(err)
			}
			o := s.In(control.System(), all[0].ID)
			for i := 0; b.Loop(); i++ {
				if _, _, err := o.CreateToken(ctx, control.NewToken{Provider: "x", Subject: fmt.Sprint(i % n)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
