//go:build !race

package control_test

import (
	"slices"
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
