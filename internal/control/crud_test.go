package control_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// login tries a password; the result is empty or the reason of the refusal.
func (f *fixture) login(o *control.Organization, name, password string) string {
	f.t.Helper()
	info := must[control.OrganizationInfo](f.t)(o.Info(f.t.Context()))
	a := access.NewAuthenticator(f.directory, access.AuthConfig{Failures: -1, Now: func() time.Time { return f.now }})
	_, err := a.Login(f.t.Context(), access.Login{Username: []byte(name + "@" + info.ID), Password: []byte(password), HasPassword: true})
	if err == nil {
		return ""
	}
	return err.(*access.Refusal).Why
}

func (f *fixture) wantLogin(o *control.Organization, name, password, want string) {
	f.t.Helper()
	if got := f.login(o, name, password); got != want {
		f.t.Errorf("log-in of %s: %q, want %q", name, got, want)
	}
}

// announced is what was announced since the last call, of one organization.
func (f *fixture) announced() (users [][]string) {
	for _, c := range f.changes {
		users = append(users, c.Users)
	}
	f.changes = nil
	return users
}

func (f *fixture) wantAnnounced(want ...[]string) {
	f.t.Helper()
	if got := f.announced(); !reflect.DeepEqual(got, want) {
		f.t.Errorf("announced %q, want %q", got, want)
	}
}

func TestUsers(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	f.announced()
	user, password, err := o.CreateUser(ctx, control.NewUser{Name: "bob", DisplayName: "Bob ✓"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (control.User{Name: "bob", DisplayName: "Bob ✓", CreatedAt: f.now, PasswordAt: f.now}); user != want {
		t.Errorf("%+v, want %+v", user, want)
	}
	if !strings.HasPrefix(password, "pw_") {
		t.Errorf("password %q", password)
	}
	f.wantAnnounced([]string{"bob"})
	f.wantLogin(o, "bob", password, "")
	f.wantLogin(o, "Bob", password, access.WhyUnknownUser)

	_, _, err = o.CreateUser(ctx, control.NewUser{Name: "bob"})
	wants(t, err, fault.Conflict, "name")
	f.wantLogin(o, "bob", password, "")
	if _, none, err := o.CreateUser(ctx, control.NewUser{Name: "Bob", Password: "correct horse"}); err != nil || none != "" {
		t.Errorf("%q, %v", none, err)
	}
	f.wantLogin(o, "Bob", "correct horse", "")
	f.wantAnnounced([]string{"Bob"})

	f.now = f.now.Add(time.Hour)
	rotated := must[string](t)(o.RotatePassword(ctx, "bob"))
	f.wantLogin(o, "bob", password, access.WhyWrongPassword)
	f.wantLogin(o, "bob", rotated, "")
	f.do(o.SetPassword(ctx, "bob", "battery staple"))
	f.wantLogin(o, "bob", rotated, access.WhyWrongPassword)
	f.wantLogin(o, "bob", "battery staple", "")
	f.wantAnnounced([]string{"bob"}, []string{"bob"})

	yes, no, name := true, false, "Robert"
	user.PasswordAt, user.Disabled = f.now, true
	if got := must[control.User](t)(o.UpdateUser(ctx, "bob", control.UserUpdate{Disabled: &yes})); got != user {
		t.Errorf("%+v, want %+v", got, user)
	}
	f.wantLogin(o, "bob", "battery staple", access.WhyDisabled)
	user.Disabled, user.DisplayName = false, name
	must[control.User](t)(o.UpdateUser(ctx, "bob", control.UserUpdate{Disabled: &no, DisplayName: &name}))
	if got := must[control.User](t)(o.User(ctx, "bob")); got != user {
		t.Errorf("%+v, want %+v", got, user)
	}
	f.wantLogin(o, "bob", "battery staple", "")
	f.checkDirectory()

	f.announced()
	f.do(o.DeleteUser(ctx, "bob"))
	f.wantAnnounced([]string{"bob"})
	f.wantLogin(o, "bob", "battery staple", access.WhyUnknownUser)
	wants(t, o.DeleteUser(ctx, "bob"), fault.NotFound, "")
	f.wantAnnounced()
	f.checkDirectory()
}

func TestUserErrors(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	for _, c := range []struct {
		user  control.NewUser
		field string
	}{
		{control.NewUser{}, "name"},
		{control.NewUser{Name: "a b"}, "name"},
		{control.NewUser{Name: "server"}, "name"},
		{control.NewUser{Name: "token_x"}, "name"},
		{control.NewUser{Name: "a", DisplayName: " "}, "display_name"},
		{control.NewUser{Name: "a", Password: "short"}, "password"},
		{control.NewUser{Name: "a", RuleSet: "rs_none"}, "rule_set"},
	} {
		_, password, err := o.CreateUser(ctx, c.user)
		wants(t, err, fault.Invalid, c.field)
		if password != "" {
			t.Errorf("%+v: a password for nobody", c.user)
		}
	}
	bad, none := "\n", "rs_none"
	_, err := o.UpdateUser(ctx, "a", control.UserUpdate{DisplayName: &bad})
	wants(t, err, fault.Invalid, "display_name")
	if _, _, err := o.CreateUser(ctx, control.NewUser{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	got, err := o.UpdateUser(ctx, "a", control.UserUpdate{RuleSet: &none})
	wants(t, err, fault.Invalid, "rule_set")
	if got != (control.User{}) {
		t.Errorf("%+v beside an error", got)
	}
	wants(t, o.SetPassword(ctx, "a", ""), fault.Invalid, "password")
	for _, limit := range []int{-1, 0, control.MaxPage + 1} {
		_, err = o.ListUsers(ctx, "", limit)
		wants(t, err, fault.Invalid, "limit")
	}
	_, err = o.User(ctx, "nobody")
	wants(t, err, fault.NotFound, "")
}

func TestListUsers(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	names := []string{"B", "a", "a-", "a1", "b", "z"}
	for _, name := range []string{"z", "a1", "b", "a", "B", "a-"} {
		for _, o := range []*control.Organization{o, other} {
			if _, _, err := o.CreateUser(ctx, control.NewUser{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	after := ""
	for {
		page := must[[]control.User](t)(o.ListUsers(ctx, after, 4))
		if len(page) == 0 {
			break
		}
		for _, u := range page {
			got = append(got, u.Name)
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, names) {
		t.Errorf("%q, want %q", got, names)
	}
}

func TestRuleSets(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	f.announced()
	rules := []access.Rule{
		{User: "%", Topic: "a/#", Permission: access.PermitBoth, Effect: access.Allow, Priority: 3},
		{User: "bob", Topic: "$share/g/b/%u/%c", Permission: access.PermitPublish, Effect: access.Deny},
		{User: "bob", Topic: "c", Permission: access.PermitSubscribe, Effect: access.Allow, Priority: access.MaxPriority},
	}
	one := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "one", Default: true, Rules: rules}))
	f.wantAnnounced(nil)
	if one.Name != "one" || !one.Default || len(one.Rules) != 3 {
		t.Fatalf("%+v", one)
	}
	for i, r := range one.Rules {
		if !strings.HasPrefix(r.ID, "rule_") {
			t.Errorf("rule id %q", r.ID)
		}
		if r.ID = ""; r != rules[i] {
			t.Errorf("%+v, want %+v", r, rules[i])
		}
	}
	two := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "0 two"}))
	if sets := must[[]access.RuleSet](t)(o.ListRuleSets(ctx)); !reflect.DeepEqual(sets, []access.RuleSet{two, one}) {
		t.Errorf("%+v", sets)
	}
	_, err := o.CreateRuleSet(ctx, control.NewRuleSet{Name: "one", Default: true})
	wants(t, err, fault.Conflict, "name")

	// One rule is kept and changed, one is new, two are gone.
	kept := one.Rules[2]
	kept.Effect = access.Deny
	replaced := must[access.RuleSet](t)(o.ReplaceRules(ctx, one.ID, []access.Rule{rules[1], kept}))
	if len(replaced.Rules) != 2 || replaced.Rules[1] != kept || replaced.Rules[0].ID == one.Rules[1].ID || !replaced.Default {
		t.Errorf("%+v", replaced)
	}
	if got := must[access.RuleSet](t)(o.RuleSet(ctx, one.ID)); !reflect.DeepEqual(got, replaced) {
		t.Errorf("%+v, want %+v", got, replaced)
	}
	f.checkDirectory()

	f.do(makeDefault(ctx, o, two.ID))
	if got := must[access.RuleSet](t)(o.RuleSet(ctx, one.ID)); got.Default {
		t.Error("two default sets")
	}
	wants(t, makeDefault(ctx, o, "rs_none"), fault.NotFound, "")
	if got := must[access.RuleSet](t)(o.RuleSet(ctx, two.ID)); !got.Default {
		t.Error("a failed change was kept in part")
	}
	three := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "three", Default: true}))
	if got := must[access.RuleSet](t)(o.RuleSet(ctx, two.ID)); got.Default || !three.Default {
		t.Error("the new default set is not the only one")
	}

	if _, _, err := o.CreateUser(ctx, control.NewUser{Name: "bob", RuleSet: one.ID}); err != nil {
		t.Fatal(err)
	}
	wants(t, o.DeleteRuleSet(ctx, one.ID), fault.Conflict, "")
	none := ""
	if u := must[control.User](t)(o.UpdateUser(ctx, "bob", control.UserUpdate{RuleSet: &none})); u.RuleSet != "" {
		t.Errorf("%+v", u)
	}
	f.announced()
	f.do(o.DeleteRuleSet(ctx, one.ID))
	f.wantAnnounced(nil)
	wants(t, o.DeleteRuleSet(ctx, one.ID), fault.NotFound, "")
	f.checkDirectory()
}

func TestRuleSetErrors(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	good := access.Rule{User: "%", Topic: "a", Permission: access.PermitBoth, Effect: access.Allow}
	bad, named := good, good
	bad.Topic, named.ID = "a#", "rule_x"
	_, err := o.CreateRuleSet(ctx, control.NewRuleSet{})
	wants(t, err, fault.Invalid, "name")
	_, err = o.CreateRuleSet(ctx, control.NewRuleSet{Name: "a", Rules: []access.Rule{good, bad}})
	wants(t, err, fault.Invalid, "rules[1].topic")
	_, err = o.CreateRuleSet(ctx, control.NewRuleSet{Name: "a", Rules: []access.Rule{named}})
	wants(t, err, fault.Invalid, "rules[0].id")
	set := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "a", Rules: []access.Rule{good}}))
	_, err = o.ReplaceRules(ctx, set.ID, []access.Rule{bad})
	wants(t, err, fault.Invalid, "rules[0].topic")
	_, err = o.ReplaceRules(ctx, set.ID, []access.Rule{set.Rules[0], good, set.Rules[0]})
	wants(t, err, fault.Invalid, "rules[2].id")
	_, err = o.ReplaceRules(ctx, "rs_none", []access.Rule{good})
	wants(t, err, fault.NotFound, "")
	if got := must[access.RuleSet](t)(o.RuleSet(ctx, set.ID)); !reflect.DeepEqual(got, set) {
		t.Errorf("%+v was %+v", got, set)
	}
}

func TestKeys(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	f.announced()
	key, secret, err := o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	f.wantAnnounced([]string{"server"})
	f.now = f.now.Add(time.Second)
	public, shown, err := o.CreateKey(ctx, control.NewKey{Kind: access.PublishableKey, Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if kind, err := access.ParseKey(secret); err != nil || kind != access.SecretKey || key.Masked != access.Mask(secret) || key.Name != "first" {
		t.Errorf("%+v, %v", key, err)
	}
	keys := must[[]control.Key](t)(o.ListKeys(ctx, "", control.MaxPage))
	if len(keys) != 2 || !slices.ContainsFunc(keys, func(k control.Key) bool { return reflect.DeepEqual(k, public) }) {
		t.Errorf("%+v", keys)
	}
	f.wantLogin(o, "server", secret, "")
	f.wantLogin(o, "server", shown, access.WhyWrongPassword)
	f.wantLogin(other, "server", secret, access.WhyWrongPassword)
	f.checkDirectory()

	for _, kind := range []access.KeyKind{"", "xx", access.LegacyKey, access.OperatorKey} {
		_, _, err = o.CreateKey(ctx, control.NewKey{Kind: kind, Name: "x"})
		wants(t, err, fault.Invalid, "kind")
	}
	_, _, err = o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: ""})
	wants(t, err, fault.Invalid, "name")

	f.do(o.RevokeKey(ctx, key.ID))
	f.wantLogin(o, "server", secret, access.WhyWrongPassword)
	wants(t, o.RevokeKey(ctx, key.ID), fault.NotFound, "")
	f.checkDirectory()
}

func TestRotateKey(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	key, old, err := o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "k"})
	f.do(err)
	a := access.NewAuthenticator(f.directory, access.AuthConfig{KeyUsed: f.KeyUsed, Now: func() time.Time { return f.now }})
	g, err := a.Login(ctx, access.Login{Username: []byte("server@" + info.ID), Password: []byte(old), HasPassword: true})
	f.do(err)
	if k := must[control.Key](t)(o.Key(ctx, key.ID)); !k.LastUsedAt.Equal(f.now) {
		t.Errorf("%+v", k)
	}
	f.announced()
	rotated, secret, err := o.RotateKey(ctx, key.ID)
	if err != nil || rotated.ID != key.ID || rotated.Name != "k" || rotated.Masked != access.Mask(secret) || secret == old {
		t.Errorf("%+v, %v", rotated, err)
	}
	f.wantAnnounced([]string{"server"})
	f.wantLogin(o, "server", old, access.WhyWrongPassword)
	f.wantLogin(o, "server", secret, "")
	if _, err := a.Regrant(g); err == nil || err.(*access.Refusal).Why != access.WhyRevoked {
		t.Errorf("what logged in with the old secret: %v", err)
	}
	if _, err := f.Authenticate(ctx, old, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Error(err)
	}
	f.exec(`UPDATE api_keys SET kind = 'cs'`) // as they once were
	if legacy, secret, err := o.RotateKey(ctx, key.ID); err != nil || legacy.Kind != access.SecretKey || !strings.HasPrefix(secret, "sk_") {
		t.Errorf("%+v, %v", legacy, err)
	}
	_, _, err = other.RotateKey(ctx, key.ID)
	wants(t, err, fault.NotFound, "")
	_, err = o.Key(ctx, "key_none")
	wants(t, err, fault.NotFound, "")
	for field, n := range map[string]control.NewKey{
		"scopes":    {Kind: access.RestrictedKey, Name: "k"},
		"scopes[1]": {Kind: access.RestrictedKey, Name: "k", Scopes: []access.Scope{access.UsersRead, "users"}},
		"scopes[2]": {Kind: access.RestrictedKey, Name: "k", Scopes: []access.Scope{access.UsersRead, access.KeysRead, access.UsersRead}},
	} {
		_, _, err := o.CreateKey(ctx, n)
		wants(t, err, fault.Invalid, field)
	}
	_, _, err = o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "k", Scopes: []access.Scope{access.UsersRead}})
	wants(t, err, fault.Invalid, "scopes")
	f.checkDirectory()
}

func TestListKeys(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	for range 5 {
		f.key(o, access.RestrictedKey, access.KeysRead, access.UsersWrite)
	}
	all := must[[]control.Key](t)(o.ListKeys(ctx, "", 10))
	var paged []control.Key
	for after := ""; len(paged) < 5; after = paged[len(paged)-1].ID {
		page := must[[]control.Key](t)(o.ListKeys(ctx, after, 2))
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	if len(all) != 5 || !reflect.DeepEqual(all, paged) ||
		!slices.Equal(all[0].Scopes, []access.Scope{access.KeysRead, access.UsersWrite}) {
		t.Errorf("%+v\nin pages %+v", all, paged)
	}
	_, err := o.ListKeys(ctx, "", 0)
	wants(t, err, fault.Invalid, "limit")
}
