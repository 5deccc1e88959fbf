package control_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// audited are the entries of an action, newest first.
func (f *fixture) audited(o *control.Organization, action string) []control.AuditEntry {
	f.t.Helper()
	return must[[]control.AuditEntry](f.t)(o.Audit(f.t.Context(), control.AuditQuery{Action: action, Limit: control.MaxPage}))
}

// everyAction are the changes that TestEveryChangeIsAudited makes.
var everyAction = []string{
	"organization.create", "member.create", "key.create", "organization.update", "organization.limits", "user.create", "user.update", "user.rotate",
	"user.rotate", "user.delete", "rule_set.create", "rule_set.update", "rule.create", "rule.update", "rule_set.rules", "rule.delete",
	"rule_set.delete", "key.create", "key.rotate", "key.revoke", "token.create", "token.refresh", "token.revoke", "member.login",
	"member.login_refused", "member.logout",
}

// TestEveryChangeIsAudited: what is announced is in the audit, by whom and from where, with what was and what became.
func TestEveryChangeIsAudited(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	a := must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home))
	o := f.In(a, up.Organization.ID)
	name, yes, zero, topic := "renamed", true, 0, "b/#"
	ok := func(_ any, err error) {
		t.Helper()
		f.do(err)
	}
	ok(o.Update(ctx, control.OrganizationUpdate{Name: &name}))
	ok(f.In(control.System(), up.Organization.ID).SetLimits(ctx, control.LimitsUpdate{MaxConnections: new(7)}))
	_, _, err := o.CreateUser(ctx, control.NewUser{Name: "bob"})
	f.do(err)
	ok(o.UpdateUser(ctx, "bob", control.UserUpdate{Disabled: &yes}))
	ok(o.RotatePassword(ctx, "bob"))
	f.do(o.SetPassword(ctx, "bob", "battery staple"))
	f.do(o.DeleteUser(ctx, "bob"))
	set := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "s"}))
	ok(o.UpdateRuleSet(ctx, set.ID, control.RuleSetUpdate{Name: &name, Default: &yes}))
	rule := must[access.Rule](t)(o.CreateRule(ctx, set.ID, access.Rule{User: "%", Topic: "a/#", Permission: access.PermitBoth, Effect: access.Allow}, nil))
	ok(o.UpdateRule(ctx, set.ID, rule.ID, control.RuleUpdate{Topic: &topic, Position: &zero}))
	ok(o.ReplaceRules(ctx, set.ID, []access.Rule{rule, {User: "%", Topic: "c", Permission: access.PermitPublish, Effect: access.Deny}}))
	f.do(o.DeleteRule(ctx, set.ID, rule.ID))
	f.do(o.DeleteRuleSet(ctx, set.ID))
	k, _, err := o.CreateKey(ctx, control.NewKey{Kind: access.PublishableKey, Name: "k"})
	f.do(err)
	_, _, err = o.RotateKey(ctx, k.ID)
	f.do(err)
	f.do(o.RevokeKey(ctx, k.ID))
	token, password := f.token(o, control.NewToken{Email: "bo@example.com"})
	f.refresh(token, password)
	f.do(o.RevokeToken(ctx, token.ID))
	ok(f.LogIn(ctx, home, ana.Email, ana.Password))
	_, _ = f.LogIn(ctx, home, ana.Email, "wrong password")
	f.do(f.LogOut(ctx, a))

	all := f.audited(f.In(control.System(), up.Organization.ID), "")
	slices.Reverse(all)
	var got []string
	for i, e := range all {
		got = append(got, e.Action)
		system, token := e.Action == "organization.limits", e.Action == "token.refresh"
		if !system && e.Address != home.String() || !e.At.Equal(f.now) || e.Target == "" {
			t.Errorf("%+v", e)
		}
		if !system && !token && e.Actor != (control.AuditActor{Kind: control.MemberActor, ID: up.Member.ID, Name: ana.Email}) {
			t.Errorf("%+v", e)
		}
		if token && (e.Actor.Kind != control.TokenActor || e.Actor.ID != e.Target || !strings.HasPrefix(e.Actor.Name, "token_")) {
			t.Errorf("%+v", e)
		}
		if i > 0 && e.ID <= all[i-1].ID {
			t.Errorf("%s after %s", e.ID, all[i-1].ID)
		}
	}
	if !slices.Equal(got, everyAction) {
		t.Errorf("%q\nwant %q", got, everyAction)
	}
	checkDetails(t, all, rule.ID)
	f.changes = nil
	_, _, err = o.CreateUser(ctx, control.NewUser{Name: "bob", RuleSet: "rs_none"})
	wants(t, err, fault.Invalid, "rule_set")
	if again := f.audited(o, ""); len(again) != len(all) {
		t.Error("what failed is in the audit")
	}
}

// checkDetails looks at what was and what became.
func checkDetails(t *testing.T, all []control.AuditEntry, rule string) {
	t.Helper()
	for _, e := range all {
		for _, detail := range []json.RawMessage{e.Before, e.After} {
			if detail != nil && !json.Valid(detail) {
				t.Errorf("%s", detail)
			}
		}
	}
	for i, want := range map[int][2]string{
		3: {`{"name":"Ana's Workspace","disabled":false}`, `{"name":"renamed","disabled":false}`}, 4: {`{}`, `{"max_connections":7}`},
		6: {`{"disabled":false}`, `{"disabled":true}`}, 7: {``, `{"chosen":false}`}, 8: {``, `{"chosen":true}`}, 9: {`{"disabled":true}`, ``},
		11: {`{"name":"s","default":false}`, `{"name":"renamed","default":true}`},
		13: {
			`{"id":"` + rule + `","user":"%","topic":"a/#","permission":"pubsub","effect":"allow","priority":0,"position":0}`,
			`{"id":"` + rule + `","user":"%","topic":"b/#","permission":"pubsub","effect":"allow","priority":0,"position":0}`,
		},
	} {
		if e := all[i]; string(e.Before) != want[0] || string(e.After) != want[1] {
			t.Errorf("%s: %s, %s", e.Action, e.Before, e.After)
		}
	}
}

func TestAuditQueries(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	start := f.now
	for i := range 5 {
		f.now = start.Add(time.Duration(i) * time.Minute)
		_, _, err := o.CreateUser(ctx, control.NewUser{Name: fmt.Sprint("u", i)})
		f.do(err)
		f.do(o.DeleteUser(ctx, fmt.Sprint("u", i)))
	}
	a, k := f.key(o, access.SecretKey)
	_, _, err := f.In(a, a.Organization).CreateUser(ctx, control.NewUser{Name: "by-key"})
	f.do(err)
	if _, _, err := other.CreateUser(ctx, control.NewUser{Name: "u0"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q    control.AuditQuery
		want int
	}{
		{control.AuditQuery{}, 13},
		{control.AuditQuery{Action: "user.create"}, 6},
		{control.AuditQuery{Action: "user."}, 11},
		{control.AuditQuery{Action: "user"}, 0},
		{control.AuditQuery{Action: "use."}, 0},
		{control.AuditQuery{Target: "u1"}, 2},
		{control.AuditQuery{Target: "u1", Action: "user.delete"}, 1},
		{control.AuditQuery{Actor: "system"}, 12},
		{control.AuditQuery{Actor: k.ID}, 1},
		{control.AuditQuery{Actor: "key"}, 1},
		{control.AuditQuery{Actor: "' OR 1=1 --"}, 0},
		{control.AuditQuery{From: start.Add(time.Minute)}, 10},
		{control.AuditQuery{From: start.Add(time.Minute), Until: start.Add(2 * time.Minute)}, 2},
	} {
		c.q.Limit = 100
		all := must[[]control.AuditEntry](t)(o.Audit(ctx, c.q))
		if len(all) != c.want {
			t.Errorf("%+v: %d entries, want %d", c.q, len(all), c.want)
		}
		// The same, page by page.
		var paged []control.AuditEntry
		for q := c.q; ; {
			q.Limit = 3
			page := must[[]control.AuditEntry](t)(o.Audit(ctx, q))
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
			q.After = page[len(page)-1].ID
		}
		if fmt.Sprint(paged) != fmt.Sprint(all) {
			t.Errorf("%+v: %v\nin pages %v", c.q, all, paged)
		}
	}
	for field, q := range map[string]control.AuditQuery{
		"limit": {}, "after": {After: "aud_1", Limit: 1},
	} {
		_, err := o.Audit(ctx, q)
		wants(t, err, fault.Invalid, field)
	}
}

// TestAuditIsBounded: the oldest of its class go, and nothing else.
func TestAuditIsBounded(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	o := f.In(control.System(), up.Organization.ID)
	f.token(o, control.NewToken{Email: "bo@example.com"})
	must[control.MemberSession](t)(f.LogIn(ctx, home, ana.Email, ana.Password))
	f.exec(fmt.Sprintf(`UPDATE organizations SET audited_changes = audited_changes + %d, audited_tokens = audited_tokens + %d, audited_logins = audited_logins + %d`,
		control.MaxAuditedChanges-3, control.MaxAuditedTokens-1, control.MaxAuditedLogins-1))
	actions := func() string {
		var out []string
		for _, e := range f.audited(o, "") {
			out = append(out, e.Action)
		}
		return strings.Join(out, " ")
	}
	_, _, err := o.CreateUser(ctx, control.NewUser{Name: "bob"})
	f.do(err)
	if got := actions(); got != "user.create member.login token.create key.create member.create" {
		t.Error(got)
	}
	must[control.MemberSession](t)(f.LogIn(ctx, home, ana.Email, ana.Password))
	f.token(o, control.NewToken{Email: "bo@example.com", Keep: true})
	f.do(o.DeleteUser(ctx, "bob"))
	if got := actions(); got != "user.delete token.create member.login user.create key.create" {
		t.Error(got)
	}
	// What is too long is not kept.
	rules := slices.Repeat([]access.Rule{{User: "%", Topic: "a", Permission: access.PermitBoth, Effect: access.Allow}}, 200)
	must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "s", Rules: rules}))
	if e := f.audited(o, "rule_set.create")[0]; !strings.HasPrefix(string(e.After), `{"too_long":`) {
		t.Errorf("%.100s", e.After)
	}
}

// TestServerAudit: what became of organizations is known when they are gone, to operators alone.
func TestServerAudit(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	if _, err := f.EnsureOperator(ctx, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	op := control.Actor{Kind: control.OperatorActor, ID: "op_1", Name: "First operator key", Address: home}
	made := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, op, "Made"))
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	f.do(f.In(op, made.ID).Delete(ctx))
	member := must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home))
	f.do(f.In(member, up.Organization.ID).Delete(ctx))

	all := must[[]control.AuditEntry](t)(f.ServerAudit(ctx, op, control.AuditQuery{Limit: 10}))
	byOp := control.AuditActor{Kind: control.OperatorActor, ID: "op_1", Name: "First operator key"}
	byMember := control.AuditActor{Kind: control.MemberActor, ID: up.Member.ID, Name: ana.Email}
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	for i, want := range []control.AuditEntry{
		{Actor: byMember, Action: "organization.delete", Target: up.Organization.ID, Before: json.RawMessage(`{"name":"Ana's Workspace","disabled":false}`)},
		{Actor: byOp, Action: "organization.delete", Target: made.ID, Before: json.RawMessage(`{"name":"Made","disabled":false}`)},
		{Actor: byMember, Action: "organization.create", Target: up.Organization.ID, After: json.RawMessage(`{"name":"Ana's Workspace","disabled":false}`)},
		{Actor: byOp, Action: "organization.create", Target: made.ID, After: json.RawMessage(`{"name":"Made","disabled":false}`)},
	} {
		want.ID, want.At, want.Address = all[i].ID, f.now, home.String()
		if fmt.Sprint(all[i]) != fmt.Sprint(want) {
			t.Errorf("%s\nwant %s", fmt.Sprint(all[i]), fmt.Sprint(want))
		}
	}
	if n := f.count("audit WHERE organization <> 0"); n != 0 {
		t.Errorf("%d entries of organizations that are gone", n)
	}
	page := must[[]control.AuditEntry](t)(f.ServerAudit(ctx, op, control.AuditQuery{Limit: 1, After: all[0].ID, Action: "organization.delete"}))
	if len(page) != 1 || page[0].ID != all[1].ID {
		t.Errorf("%+v", page)
	}
	for _, a := range []control.Actor{member, {Kind: control.KeyActor, KeyKind: access.SecretKey}, {}} {
		_, err := f.ServerAudit(ctx, a, control.AuditQuery{Limit: 1})
		wants(t, err, fault.Forbidden, "")
	}
	_, err := f.ServerAudit(ctx, op, control.AuditQuery{})
	wants(t, err, fault.Invalid, "limit")
	f.exec(fmt.Sprintf(`UPDATE counters SET value = value + %d WHERE name = 'server_entries'`, control.MaxAuditedChanges-1))
	must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, op, "Another"))
	if all = must[[]control.AuditEntry](t)(f.ServerAudit(ctx, op, control.AuditQuery{Limit: 10})); len(all) != 1 {
		t.Errorf("%d entries, want the newest alone: %+v", len(all), all)
	}
}

// TestReplacedTokensAreAudited: a token that another one replaced has an entry of its own, which says so.
func TestReplacedTokensAreAudited(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	first, _ := f.token(o, control.NewToken{Email: "bo@example.com"})
	beside, _ := f.token(o, control.NewToken{Email: "bo@example.com", Keep: true})
	if all := f.audited(o, "token.revoke"); len(all) != 0 {
		t.Fatalf("%+v", all)
	}
	f.token(o, control.NewToken{Email: "another@example.com"})
	last, _ := f.token(o, control.NewToken{Email: "bo@example.com"})
	all := f.audited(o, "token.revoke")
	targets := []string{first.ID, beside.ID}
	for _, e := range all {
		i := slices.Index(targets, e.Target)
		if i < 0 || string(e.After) != `{"why":"replaced by `+last.ID+`"}` || !strings.Contains(string(e.Before), first.User) {
			t.Errorf("%+v: %s, %s", e, e.Before, e.After)
		}
		targets[max(i, 0)] = ""
	}
	if len(all) != 2 {
		t.Errorf("%d entries, want 2", len(all))
	}
}

func TestUsage(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	one := control.UsageTotals{Month: "2026-11", Messages: 1, Deliveries: 2, BytesIn: 3, BytesOut: 4, Refused: 5}
	two := control.UsageTotals{Month: "2026-12", Messages: 10}
	f.changes = nil
	f.do(f.AddUsage(ctx, []control.UsageAdd{{1, one}, {1, two}, {2, two}, {99, one}}))
	f.do(f.AddUsage(ctx, []control.UsageAdd{{1, one}}))
	f.do(f.AddUsage(ctx, nil))
	twice := control.UsageTotals{Month: "2026-11", Messages: 2, Deliveries: 4, BytesIn: 6, BytesOut: 8, Refused: 10}
	for _, c := range []struct {
		o    *control.Organization
		n    uint64
		want control.UsageTotals
	}{{o, 1, twice}, {o, 1, two}, {other, 2, two}, {other, 2, control.UsageTotals{Month: "2026-11"}}} {
		if got := must[control.UsageTotals](t)(c.o.Usage(ctx, c.want.Month)); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
		if got := must[control.UsageTotals](t)(f.UsageOf(ctx, c.n, c.want.Month)); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
	if len(f.changes) != 0 {
		t.Errorf("announced %+v", f.changes)
	}
	for _, month := range []string{"", "2026", "2026-13", "2026-1", "26-11", "2026-11-01"} {
		_, err := o.Usage(ctx, month)
		wants(t, err, fault.Invalid, "month")
	}
	wants(t, f.AddUsage(ctx, []control.UsageAdd{{1, control.UsageTotals{Month: "x"}}}), fault.Invalid, "month")
	_, err := f.UsageOf(ctx, 99, "2026-11")
	wants(t, err, fault.NotFound, "")
}
