package control_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// TestRuleOrder puts rules in, moves, changes and takes them out at random, and compares with a list.
func TestRuleOrder(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	info := must[control.OrganizationInfo](t)(o.Info(ctx))
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		set := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: fmt.Sprint(n), Default: true}))
		defer func() { f.do(o.DeleteRuleSet(ctx, set.ID)) }()
		var model []access.Rule
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			at := rapid.IntRange(-1, 6).Draw(r, "at")
			where := rapid.IntRange(-1, 6).Draw(r, "position")
			topic := rapid.SampledFrom([]string{"a", "b/%u", "c/#"}).Draw(r, "topic")
			id := "rule_none"
			if at >= 0 && at < len(model) {
				id = model[at].ID
			}
			switch rapid.IntRange(0, 3).Draw(r, "what") {
			case 0: // to the end
				rule := access.Rule{User: "%", Topic: topic, Permission: access.PermitBoth, Effect: access.Allow, Priority: at + 1}
				made, err := o.CreateRule(ctx, set.ID, rule, nil)
				if rule.ID = made.ID; err != nil || made != rule {
					r.Fatalf("%+v, want %+v: %v", made, rule, err)
				}
				model = append(model, made)
			case 1:
				made, err := o.CreateRule(ctx, set.ID, access.Rule{User: "u", Topic: topic, Permission: access.PermitPublish, Effect: access.Deny}, &where)
				if where < 0 || where > len(model) {
					wants(t, err, fault.Invalid, "position")
					break
				}
				f.do(err)
				model = slices.Insert(model, where, made)
			case 2:
				effect := access.Deny
				got, err := o.UpdateRule(ctx, set.ID, id, control.RuleUpdate{Topic: &topic, Effect: &effect, Position: &where})
				switch {
				case id == "rule_none":
					wants(t, err, fault.NotFound, "")
				case where < 0 || where >= len(model):
					wants(t, err, fault.Invalid, "position")
				default:
					f.do(err)
					rule := model[at]
					if rule.Topic, rule.Effect = topic, effect; got != rule {
						r.Fatalf("%+v, want %+v", got, rule)
					}
					model = slices.Insert(slices.Delete(model, at, at+1), where, rule)
				}
			case 3:
				err := o.DeleteRule(ctx, set.ID, id)
				if id == "rule_none" {
					wants(t, err, fault.NotFound, "")
				} else {
					f.do(err)
					model = slices.Delete(model, at, at+1)
				}
			}
			if got := must[access.RuleSet](t)(o.RuleSet(ctx, set.ID)); !slices.Equal(got.Rules, model) {
				r.Fatalf("%+v\nwant %+v", got.Rules, model)
			}
		}
		if known, _ := f.directory.Organization(info.ID); !slices.Equal(known.RuleSets[0].Rules, model) {
			r.Fatalf("the directory has %+v\nwant %+v", known.RuleSets[0].Rules, model)
		}
	})
	f.checkDirectory()
}

func TestOneRuleErrors(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o, other := f.organization("a"), f.organization("b")
	good := access.Rule{User: "%", Topic: "a", Permission: access.PermitBoth, Effect: access.Allow}
	set := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "s", Rules: []access.Rule{good}}))
	two := must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "t"}))
	bad, topic := good, "a#"
	bad.Topic = topic
	_, err := o.CreateRule(ctx, set.ID, bad, nil)
	wants(t, err, fault.Invalid, "topic")
	_, err = o.CreateRule(ctx, set.ID, set.Rules[0], nil)
	wants(t, err, fault.Invalid, "id")
	_, err = o.CreateRule(ctx, "rs_none", good, nil)
	wants(t, err, fault.NotFound, "")
	_, err = o.UpdateRule(ctx, set.ID, set.Rules[0].ID, control.RuleUpdate{Topic: &topic})
	wants(t, err, fault.Invalid, "topic")
	for _, c := range []struct {
		o   *control.Organization
		set string
	}{{o, two.ID}, {other, set.ID}} {
		_, err = c.o.UpdateRule(ctx, c.set, set.Rules[0].ID, control.RuleUpdate{})
		wants(t, err, fault.NotFound, "")
		wants(t, c.o.DeleteRule(ctx, c.set, set.Rules[0].ID), fault.NotFound, "")
	}
	name, empty, no := "t", "", false
	_, err = o.UpdateRuleSet(ctx, set.ID, control.RuleSetUpdate{Name: &name})
	wants(t, err, fault.Conflict, "name")
	_, err = o.UpdateRuleSet(ctx, set.ID, control.RuleSetUpdate{Name: &empty})
	wants(t, err, fault.Invalid, "name")
	f.do(makeDefault(ctx, o, set.ID))
	if got := must[access.RuleSet](t)(o.UpdateRuleSet(ctx, set.ID, control.RuleSetUpdate{Name: &set.Name, Default: &no})); !reflect.DeepEqual(got, set) {
		t.Errorf("%+v, want %+v", got, set)
	}
	f.checkDirectory()
}

// TestOldDatabase: what the first version wrote is brought up to date, with limits of none.
func TestOldDatabase(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	fill(t, o)
	f.exec(`UPDATE organizations SET max_connections = 5`)
	f.do(f.Close())
	path := filepath.Join(t.TempDir(), "old.db")
	f.exec(`VACUUM INTO '` + path + `'`)
	old := &fixture{t: t, path: path}
	for _, table := range []string{
		"operator_keys", "member_sessions", "memberships", "members", "token_passwords", "tokens", "identities", "audit", "monthly_usage",
	} {
		old.exec(`DROP TABLE ` + table)
	}
	for _, column := range []string{
		"max_message_bytes", "max_publish_rate", "max_message_rate", "max_messages_per_month", "max_subscriptions", "max_sessions", "max_retained",
		"max_storage_bytes", "identities", "audited_changes", "audited_tokens", "audited_logins",
	} {
		old.exec(`ALTER TABLE organizations DROP COLUMN ` + column)
	}
	old.exec(`ALTER TABLE api_keys DROP COLUMN scopes`)
	old.exec(`ALTER TABLE api_keys DROP COLUMN last_used_at`)
	old.exec(`DELETE FROM counters WHERE name = 'server_entries'`)
	old.exec(`DELETE FROM goose_db_version WHERE version_id = 2`)

	again := open(t, path)
	all := must[[]control.OrganizationInfo](t)(again.Organizations(t.Context(), control.System(), "", 10))
	if len(all) != 1 || all[0].Limits != (access.Limits{MaxConnections: 5}) {
		t.Fatalf("%+v", all)
	}
	o = again.In(control.System(), all[0].ID)
	if keys := must[[]control.Key](t)(o.ListKeys(t.Context(), "", 10)); len(keys) != 1 || !keys[0].LastUsedAt.IsZero() || keys[0].Scopes != nil {
		t.Errorf("%+v", keys)
	}
	if made, err := again.EnsureOperator(t.Context(), func(string) error { return nil }); !made || err != nil {
		t.Errorf("%v, %v", made, err)
	}
	again.token(o, control.NewToken{Email: "ana@example.com"})
	again.checkDirectory()
}
