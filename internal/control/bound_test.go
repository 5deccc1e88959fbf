//go:build !race

package control_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

func TestRulesInAllAreBounded(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	o := f.organization("a")
	rules := slices.Repeat([]access.Rule{{User: "%", Topic: "a", Permission: access.PermitBoth, Effect: access.Allow}}, access.MaxRules)
	for i := range control.MaxRulesInAll / access.MaxRules {
		must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: strings.Repeat("x", i+1), Rules: rules}))
	}
	_, err := o.CreateRuleSet(ctx, control.NewRuleSet{Name: "more", Rules: rules[:1]})
	wants(t, err, fault.Exhausted, "")
	sets := must[[]access.RuleSet](t)(o.ListRuleSets(ctx))
	if len(sets) != control.MaxRulesInAll/access.MaxRules {
		t.Errorf("%d sets", len(sets))
	}
	must[access.RuleSet](t)(o.ReplaceRules(ctx, sets[0].ID, rules))
	_, err = o.ReplaceRules(ctx, sets[0].ID, nil)
	f.do(err)
	must[access.RuleSet](t)(o.CreateRuleSet(ctx, control.NewRuleSet{Name: "more", Rules: rules[:1]}))
}

func TestUsersAreBounded(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	info := must[control.OrganizationInfo](t)(o.Info(t.Context()))
	full, _ := f.directory.Whole(info.ID)
	for i := range control.MaxUsers {
		full.Users[strconv.Itoa(i)] = access.UserRecord{}
	}
	f.directory.Put(full)
	_, _, err := o.CreateUser(t.Context(), control.NewUser{Name: "more"})
	wants(t, err, fault.Exhausted, "")
}
