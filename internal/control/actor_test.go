package control_test

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

var home = netip.MustParseAddr("192.0.2.7")

// key makes a key and is who acts with it.
func (f *fixture) key(o *control.Organization, kind access.KeyKind, scopes ...access.Scope) (control.Actor, control.Key) {
	f.t.Helper()
	k, secret, err := o.CreateKey(f.t.Context(), control.NewKey{Kind: kind, Name: "key", Scopes: scopes})
	if err != nil {
		f.t.Fatal(err)
	}
	return must[control.Actor](f.t)(f.Authenticate(f.t.Context(), secret, home)), k
}

// needed is what every method takes; operator and owner are no scopes.
var needed = map[string]access.Scope{
	"Info": access.OrganizationRead, "Update": access.OrganizationWrite, "SetLimits": "operator", "Delete": "owner",
	"CreateUser": access.UsersWrite, "UpdateUser": access.UsersWrite, "RotatePassword": access.UsersWrite, "SetPassword": access.UsersWrite,
	"DeleteUser": access.UsersWrite, "User": access.UsersRead, "ListUsers": access.UsersRead,
	"CreateRuleSet": access.RulesWrite, "ListRuleSets": access.RulesRead, "RuleSet": access.RulesRead, "ReplaceRules": access.RulesWrite,
	"DeleteRuleSet": access.RulesWrite, "UpdateRuleSet": access.RulesWrite, "CreateRule": access.RulesWrite, "UpdateRule": access.RulesWrite,
	"DeleteRule": access.RulesWrite,
	"CreateKey":  access.KeysWrite, "Key": access.KeysRead, "ListKeys": access.KeysRead, "RotateKey": access.KeysWrite, "RevokeKey": access.KeysWrite,
	"CreateToken": access.TokensWrite, "Token": access.TokensRead, "ListTokens": access.TokensRead, "RevokeToken": access.TokensWrite,
	"Audit": access.AuditRead, "Usage": access.UsageRead,
}

// call calls a method with a context and zero values.
func call(ctx context.Context, o *control.Organization, name string) error {
	m := reflect.ValueOf(o).MethodByName(name)
	args := []reflect.Value{reflect.ValueOf(ctx)}
	for i := 1; i < m.Type().NumIn(); i++ {
		args = append(args, reflect.Zero(m.Type().In(i)))
	}
	out := m.Call(args)
	err, _ := out[len(out)-1].Interface().(error)
	for _, v := range out[:len(out)-1] {
		if err != nil && !v.IsZero() {
			return fault.New(fault.Internal, "%s: %v beside an error", name, v)
		}
	}
	return err
}

// everyMethod are the names of all that can be done in an organization.
func everyMethod(t *testing.T) (names []string) {
	t.Helper()
	of := reflect.TypeFor[*control.Organization]()
	for i := range of.NumMethod() {
		name := of.Method(i).Name
		if needed[name] == "" {
			t.Errorf("what does %s take?", name)
		}
		names = append(names, name)
	}
	if len(names) != len(needed) {
		t.Errorf("%d methods, %d are known", len(names), len(needed))
	}
	return names
}

// TestEveryMethodIsForItsOwn: what belongs to another organization is not there, whoever asks, and whatever else is wrong.
func TestEveryMethodIsForItsOwn(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	mine, other := f.organization("mine"), f.organization("other")
	fill(t, mine)
	info := must[control.OrganizationInfo](t)(mine.Info(ctx))
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, control.SignUp{Name: "Eve", Email: "eve@example.com", Password: "correct horse"}))
	member := must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home))
	nowhere := member
	nowhere.Organization = ""
	secret, _ := f.key(other, access.SecretKey)
	restricted, _ := f.key(other, access.RestrictedKey, access.Scopes()...)
	public, _ := f.key(other, access.PublishableKey)
	before := f.dump()
	for _, a := range []control.Actor{member, nowhere, secret, restricted, public, {}} {
		for _, name := range everyMethod(t) {
			for _, id := range []string{info.ID, info.UUID} {
				if err := call(ctx, f.In(a, id), name); fault.CodeOf(err) != fault.NotFound || strings.Contains(err.Error(), "mine") {
					t.Errorf("%s by %s %s: %v", name, a.Kind, a.KeyKind, err)
				}
			}
		}
		if _, err := f.Within(ctx, a, info.ID); fault.CodeOf(err) != fault.NotFound {
			t.Errorf("within, by %s %s: %v", a.Kind, a.KeyKind, err)
		}
		all, _ := f.Organizations(ctx, a, "", 10)
		if slices.ContainsFunc(all, func(o control.OrganizationInfo) bool { return o.ID == info.ID }) {
			t.Errorf("%s %s lists it", a.Kind, a.KeyKind)
		}
		if _, err := f.CreateOrganization(ctx, a, "x"); fault.CodeOf(err) != fault.Forbidden {
			t.Errorf("%s %s makes an organization: %v", a.Kind, a.KeyKind, err)
		}
	}
	if after := f.dump(); after != before {
		t.Error("something was written")
	}
}

// TestEveryMethodTakesItsScope: each with no scope but its own, and with all but its own.
func TestEveryMethodTakesItsScope(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	id := must[control.OrganizationInfo](t)(o.Info(ctx)).ID
	allows := func(a control.Actor, name string) bool {
		err := call(ctx, f.In(a, id), name)
		if code := fault.CodeOf(err); code == fault.Internal || code == fault.Unauthorized {
			t.Errorf("%s: %v", name, err)
		}
		return fault.CodeOf(err) != fault.Forbidden
	}
	secret, _ := f.key(o, access.SecretKey)
	public, _ := f.key(o, access.PublishableKey)
	legacy := secret
	legacy.KeyKind = access.LegacyKey
	member := control.Actor{Kind: control.MemberActor, ID: "mem_x", Organization: id, Role: control.Owner}
	guest := member
	guest.Role = "guest"
	operator := control.Actor{Kind: control.OperatorActor}
	names := everyMethod(t)
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a+b, b+a) })
	for _, name := range names {
		scope := needed[name]
		if name == "Delete" { // the last, as it does
			continue
		}
		var others []access.Scope
		for _, s := range access.Scopes() {
			if s != scope && s != access.OrganizationRead {
				others = append(others, s)
			}
		}
		restricted := control.Actor{Kind: control.KeyActor, ID: secret.ID, KeyKind: access.RestrictedKey, Organization: id}
		with, without := restricted, restricted
		with.Scopes, without.Scopes = []access.Scope{scope}, others
		above := scope == "operator"
		for who, c := range map[string]struct {
			a    control.Actor
			want bool
		}{
			"system": {control.System(), true}, "operator": {operator, true}, "secret": {secret, !above}, "legacy": {legacy, !above},
			"owner": {member, !above}, "guest": {guest, false}, "public": {public, scope == access.OrganizationRead},
			"with": {with, !above}, "without": {without, false}, "nobody": {control.Actor{Organization: id}, false},
		} {
			if got := allows(c.a, name); got != c.want {
				t.Errorf("%s by %s: allowed %v, want %v", name, who, got, c.want)
			}
		}
	}
	every := control.Actor{Kind: control.KeyActor, ID: secret.ID, KeyKind: access.RestrictedKey, Organization: id, Scopes: access.Scopes()}
	for _, a := range []control.Actor{secret, legacy, public, guest, every} {
		if allows(a, "Delete") {
			t.Errorf("%s %s deletes the organization", a.Kind, a.KeyKind)
		}
	}
	yes := true
	for _, a := range []control.Actor{secret, member} {
		if _, err := f.In(a, id).Update(ctx, control.OrganizationUpdate{Disabled: &yes}); fault.CodeOf(err) != fault.Forbidden {
			t.Errorf("%s disables its organization: %v", a.Kind, err)
		}
	}
	if !allows(member, "Delete") || fault.CodeOf(call(ctx, f.In(secret, id), "Info")) != fault.NotFound {
		t.Error("the owner does not delete it")
	}
}

// TestRevokedKey: it is not known, and what was begun with it goes no further.
func TestRevokedKey(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	fill(t, o)
	for _, kind := range []access.KeyKind{access.SecretKey, access.PublishableKey, access.RestrictedKey} {
		n := control.NewKey{Kind: kind, Name: "k"}
		if kind == access.RestrictedKey {
			n.Scopes = access.Scopes()
		}
		k, secret, err := o.CreateKey(ctx, n)
		f.do(err)
		a := must[control.Actor](t)(f.Authenticate(ctx, secret, home))
		f.do(o.RevokeKey(ctx, k.ID))
		if _, err := f.Authenticate(ctx, secret, home); fault.CodeOf(err) != fault.Unauthorized {
			t.Errorf("%s: %v", kind, err)
		}
		before := f.dump()
		for _, name := range everyMethod(t) {
			if err := call(ctx, f.In(a, a.Organization), name); fault.CodeOf(err) != fault.Unauthorized {
				t.Errorf("%s by a revoked %s: %v", name, kind, err)
			}
		}
		if f.dump() != before {
			t.Errorf("%s: something was written", kind)
		}
	}
}

func TestDisabledOrganization(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	id := must[control.OrganizationInfo](t)(o.Info(ctx)).ID
	a, _ := f.key(o, access.SecretKey)
	yes, no := true, false
	must[control.OrganizationInfo](t)(o.Update(ctx, control.OrganizationUpdate{Disabled: &yes}))
	for _, name := range everyMethod(t) {
		want := fault.Forbidden
		if name == "Info" {
			want = ""
		}
		if err := call(ctx, f.In(a, id), name); fault.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	must[control.OrganizationInfo](t)(o.Update(ctx, control.OrganizationUpdate{Disabled: &no}))
	if err := call(ctx, f.In(a, id), "ListRuleSets"); err != nil {
		t.Error(err)
	}
}

func TestAuthenticate(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	id := must[control.OrganizationInfo](t)(o.Info(ctx)).ID
	k, secret, err := o.CreateKey(ctx, control.NewKey{Kind: access.RestrictedKey, Name: "some", Scopes: []access.Scope{access.UsersRead}})
	if err != nil {
		t.Fatal(err)
	}
	want := control.Actor{
		Kind: control.KeyActor, ID: k.ID, Name: "some", Organization: id, KeyKind: access.RestrictedKey, Scopes: []access.Scope{access.UsersRead}, Address: home,
	}
	if a := must[control.Actor](t)(f.Authenticate(ctx, secret, home)); !reflect.DeepEqual(a, want) {
		t.Errorf("%+v, want %+v", a, want)
	}
	token, password, err := o.CreateToken(ctx, control.NewToken{Email: "a@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := access.NewKey(strings.NewReader(strings.Repeat("x", 100)), access.SecretKey)
	f.do(err)
	var operator string
	made, err := f.EnsureOperator(ctx, func(s string) error { operator = s; return nil })
	if !made || err != nil {
		t.Fatalf("%v, %v", made, err)
	}
	if a := must[control.Actor](t)(f.Authenticate(ctx, operator, home)); a.Kind != control.OperatorActor || !strings.HasPrefix(a.ID, "op_") {
		t.Errorf("%+v", a)
	}
	for _, bad := range []string{"", "x", secret + "x", password, token.ID, other, "op" + secret[2:], strings.Replace(operator, "op_", "sk_", 1)} {
		if a, err := f.Authenticate(ctx, bad, home); fault.CodeOf(err) != fault.Unauthorized || a.Kind != "" {
			t.Errorf("%q: %+v, %v", bad, a, err)
		}
	}
	a := must[control.Actor](t)(f.Authenticate(ctx, secret, home))
	f.do(o.RevokeKey(ctx, k.ID))
	if _, err := f.Authenticate(ctx, secret, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Errorf("a revoked key: %v", err)
	}
	if a, err := f.Within(ctx, a, id); err != nil || a.Organization != id {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestOperator(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	full := fault.New(fault.Unavailable, "disk full")
	lost := ""
	if made, err := f.EnsureOperator(ctx, func(s string) error { lost = s; return full }); made || fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("%v, %v", made, err)
	}
	if _, err := f.Authenticate(ctx, lost, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Error(err)
	}
	var b control.Bootstrap
	if _, err := f.Bootstrap(ctx, func(saved control.Bootstrap) error { b = saved; return nil }); err != nil {
		t.Fatal(err)
	}
	made, err := f.EnsureOperator(ctx, func(string) error { t.Error("saves another"); return nil })
	if made || err != nil {
		t.Errorf("%v, %v", made, err)
	}
	a := must[control.Actor](t)(f.Authenticate(ctx, b.OperatorKey, home))
	info := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, a, "by the operator"))
	within := must[control.Actor](t)(f.Within(ctx, a, strings.ToUpper(info.UUID)))
	if within.Organization != info.ID || within.Kind != control.OperatorActor {
		t.Errorf("%+v", within)
	}
	ten, huge, negative := 10, 1<<53, int64(-1)
	limits := must[control.OrganizationInfo](t)(f.In(a, info.ID).SetLimits(ctx, control.LimitsUpdate{MaxSessions: &ten, MaxRetained: &ten})).Limits
	if limits != (access.Limits{MaxSessions: 10, MaxRetained: 10}) {
		t.Errorf("%+v", limits)
	}
	_, err = f.In(a, info.ID).SetLimits(ctx, control.LimitsUpdate{MaxSessions: &huge})
	wants(t, err, fault.Invalid, "max_sessions")
	_, err = f.In(a, info.ID).SetLimits(ctx, control.LimitsUpdate{MaxStorageBytes: &negative})
	wants(t, err, fault.Invalid, "max_storage_bytes")
	_, err = f.In(a, info.ID).SetLimits(ctx, control.LimitsUpdate{MaxMessagesPerMonth: &negative})
	wants(t, err, fault.Invalid, "max_messages_per_month")
	if now, _ := f.directory.Limits(info.Number); now != limits {
		t.Errorf("%+v", now)
	}
	if all := must[[]control.OrganizationInfo](t)(f.Organizations(ctx, a, "", 10)); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	f.checkDirectory()
}

// TestKeysDoNotGiveMoreThanTheyHave: a key for keys alone must not become one for everything.
func TestKeysDoNotGiveMoreThanTheyHave(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	id := must[control.OrganizationInfo](t)(o.Info(ctx)).ID
	a, own := f.key(o, access.RestrictedKey, access.KeysWrite, access.KeysRead, access.UsersRead)
	_, full := f.key(o, access.SecretKey)
	_, public := f.key(o, access.PublishableKey)
	mine := f.In(a, id)
	for kind, scopes := range map[access.KeyKind][]access.Scope{
		access.SecretKey: nil, access.PublishableKey: nil, access.RestrictedKey: {access.UsersRead, access.UsersWrite},
	} {
		_, _, err := mine.CreateKey(ctx, control.NewKey{Kind: kind, Name: "x", Scopes: scopes})
		wants(t, err, fault.Forbidden, "")
	}
	if _, _, err := mine.CreateKey(ctx, control.NewKey{Kind: access.RestrictedKey, Name: "x", Scopes: []access.Scope{access.UsersRead}}); err != nil {
		t.Error(err)
	}
	for _, id := range []string{full.ID, public.ID} {
		_, _, err := mine.RotateKey(ctx, id)
		wants(t, err, fault.Forbidden, "")
	}
	if _, _, err := mine.RotateKey(ctx, own.ID); err != nil {
		t.Error(err)
	}
}

func TestLastUse(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	id := must[control.OrganizationInfo](t)(o.Info(ctx)).ID
	k, secret, err := o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "x"})
	f.do(err)
	used := func(f *fixture, want time.Time) {
		t.Helper()
		o := f.In(control.System(), id)
		list := must[[]control.Key](t)(o.ListKeys(ctx, "", 10))
		if one := must[control.Key](t)(o.Key(ctx, k.ID)); !one.LastUsedAt.Equal(want) || !reflect.DeepEqual(list, []control.Key{one}) {
			t.Errorf("last used %v, want %v", one.LastUsedAt, want)
		}
	}
	used(f, time.Time{})
	f.now = f.now.Add(time.Hour)
	must[control.Actor](t)(f.Authenticate(ctx, secret, home))
	first := f.now
	used(f, first)
	f.changes = nil
	f.do(f.Sweep(ctx))
	used(f, first)
	if len(f.changes) != 0 {
		t.Errorf("announced %+v", f.changes)
	}
	f.now = f.now.Add(time.Hour)
	f.KeyUsed(id, k.ID)
	f.KeyUsed("org_zzzzzzzzzzzz", "key_zzzzzzzzzzzz") // deleted meanwhile
	used(f, f.now)
	f.do(f.Close())
	again := open(t, f.path)
	used(again, f.now)
}
