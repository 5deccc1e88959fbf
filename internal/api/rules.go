package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// rule is an access.Rule with the names that it has here, in answers and in bodies.
type rule struct {
	ID         string `json:"id,omitempty" maxLength:"64" doc:"In a body: of a rule that the set has already." example:"rule_k7xm4pqr2n5t"`
	User       string `json:"user" minLength:"1" maxLength:"128" doc:"A user name without its organization; % is any run of characters." example:"agent-01"`
	Topic      string `json:"topic" minLength:"1" maxLength:"4096" doc:"A topic filter; %u is the user name, %c the client identifier." example:"agents/%u/#"`
	Permission string `json:"permission" enum:"publish,subscribe,pubsub" example:"pubsub"`
	Effect     string `json:"effect,omitempty" enum:"allow,deny" doc:"allow if it is left out." example:"allow"`
	Priority   int    `json:"priority,omitempty" minimum:"0" maximum:"1000000" doc:"The lowest comes first; rules of one priority are judged in the order of the set." example:"0"`
}

// shownRule is a rule in answers.
type shownRule struct {
	ID         string `json:"id" example:"rule_k7xm4pqr2n5t"`
	User       string `json:"user" doc:"A user name without its organization; % is any run of characters." example:"agent-01"`
	Topic      string `json:"topic" doc:"A topic filter; %u is the user name, %c the client identifier." example:"agents/%u/#"`
	Permission string `json:"permission" enum:"publish,subscribe,pubsub" example:"pubsub"`
	Effect     string `json:"effect" enum:"allow,deny" example:"allow"`
	Priority   int    `json:"priority" doc:"The lowest comes first; rules of one priority are judged in the order of the set." example:"0"`
}

type ruleSet struct {
	ID      string      `json:"id" example:"rs_k7xm4pqr2n5t"`
	Name    string      `json:"name" example:"Agents"`
	Default bool        `json:"default" doc:"It judges every user who was given no set." example:"true"`
	Rules   []shownRule `json:"rules" doc:"In their order."`
}

func (r *rule) read() (access.Rule, error) {
	out := access.Rule{ID: r.ID, User: r.User, Topic: r.Topic, Priority: r.Priority, Effect: access.Allow}
	err := out.Permission.UnmarshalText([]byte(r.Permission))
	if err == nil && r.Effect != "" {
		err = out.Effect.UnmarshalText([]byte(r.Effect))
	}
	return out, err
}

func readRules(rules []rule) ([]access.Rule, error) {
	out := make([]access.Rule, len(rules))
	for i := range rules {
		var err error
		if out[i], err = rules[i].read(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func showRule(r access.Rule) shownRule {
	return shownRule{ID: r.ID, User: r.User, Topic: r.Topic, Permission: r.Permission.String(), Effect: r.Effect.String(), Priority: r.Priority}
}

func showRuleSet(s access.RuleSet) ruleSet {
	out := ruleSet{ID: s.ID, Name: s.Name, Default: s.Default, Rules: make([]shownRule, len(s.Rules))}
	for i, r := range s.Rules {
		out.Rules[i] = showRule(r)
	}
	return out
}

type ruleSetPath struct {
	ID string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
}

type rulePath struct {
	ID   string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
	Rule string `path:"rule" maxLength:"64" example:"rule_k7xm4pqr2n5t"`
}

type oneRuleSet struct{ Body ruleSet }

type oneRule struct{ Body shownRule }

type newRuleSetInput struct {
	Body struct {
		Name    string `json:"name" minLength:"1" maxLength:"100" example:"Agents"`
		Default bool   `json:"default,omitempty" doc:"It takes the place of the default set there is." example:"true"`
		Rules   []rule `json:"rules,omitempty" maxItems:"1000"`
	} `nameHint:"NewRuleSet"`
}

type ruleSetChange struct {
	ID   string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
	Body struct {
		Name    *string `json:"name,omitempty" minLength:"1" maxLength:"100" example:"Agents"`
		Default *bool   `json:"default,omitempty" example:"true"`
	} `nameHint:"RuleSetChange"`
}

type rulesInput struct {
	ID   string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
	Body struct {
		Rules []rule `json:"rules" maxItems:"1000"`
	} `nameHint:"Rules"`
}

type newRuleInput struct {
	ID   string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
	Body struct {
		User       string `json:"user" minLength:"1" maxLength:"128" example:"agent-01"`
		Topic      string `json:"topic" minLength:"1" maxLength:"4096" example:"agents/%u/#"`
		Permission string `json:"permission" enum:"publish,subscribe,pubsub" example:"pubsub"`
		Effect     string `json:"effect,omitempty" enum:"allow,deny" doc:"allow if it is left out." example:"allow"`
		Priority   int    `json:"priority,omitempty" minimum:"0" maximum:"1000000" example:"0"`
		Position   *int   `json:"position,omitempty" minimum:"0" maximum:"1000" doc:"Its place in the set, from 0; the end if it is left out." example:"0"`
	} `nameHint:"NewRule"`
}

type ruleChange struct {
	ID   string `path:"id" maxLength:"64" example:"rs_k7xm4pqr2n5t"`
	Rule string `path:"rule" maxLength:"64" example:"rule_k7xm4pqr2n5t"`
	Body struct {
		User       *string `json:"user,omitempty" minLength:"1" maxLength:"128" example:"agent-01"`
		Topic      *string `json:"topic,omitempty" minLength:"1" maxLength:"4096" example:"agents/%u/#"`
		Permission *string `json:"permission,omitempty" enum:"publish,subscribe,pubsub" example:"publish"`
		Effect     *string `json:"effect,omitempty" enum:"allow,deny" example:"deny"`
		Priority   *int    `json:"priority,omitempty" minimum:"0" maximum:"1000000" example:"10"`
		Position   *int    `json:"position,omitempty" minimum:"0" maximum:"1000" doc:"Its new place in the set, from 0." example:"2"`
	} `nameHint:"RuleChange"`
}

const rulesInForce = "It is in force on live connections at once."

func (a *API) registerRuleSets() {
	const tag, all, one = "rules", "/v2/rule-sets", "/v2/rule-sets/{id}"
	route(a, operation{
		id: "list-rule-sets", method: http.MethodGet, path: all, tag: tag, summary: "List rule sets", text: "With their rules, in order of their names.",
		scope: access.RulesRead,
	}, a.listRuleSets)
	route(a, operation{
		id: "create-rule-set", method: http.MethodPost, path: all, tag: tag, summary: "Make a rule set", text: rulesInForce, scope: access.RulesWrite,
		status: http.StatusCreated, also: []int{http.StatusConflict},
	}, func(ctx context.Context, in *newRuleSetInput) (*oneRuleSet, error) {
		rules, err := readRules(in.Body.Rules)
		if err != nil {
			return nil, err
		}
		return setOf(a.own(ctx).CreateRuleSet(ctx, control.NewRuleSet{Name: in.Body.Name, Default: in.Body.Default, Rules: rules}))
	})
	route(a, operation{
		id: "get-rule-set", method: http.MethodGet, path: one, tag: tag, summary: "Get a rule set", scope: access.RulesRead,
	}, func(ctx context.Context, in *ruleSetPath) (*oneRuleSet, error) {
		return setOf(a.own(ctx).RuleSet(ctx, in.ID))
	})
	route(a, operation{
		id: "update-rule-set", method: http.MethodPatch, path: one, tag: tag, summary: "Rename a rule set, or make it the default one",
		text: "Fields that are left out stay. " + rulesInForce, scope: access.RulesWrite, also: []int{http.StatusConflict},
	}, func(ctx context.Context, in *ruleSetChange) (*oneRuleSet, error) {
		return setOf(a.own(ctx).UpdateRuleSet(ctx, in.ID, control.RuleSetUpdate(in.Body)))
	})
	route(a, operation{
		id: "delete-rule-set", method: http.MethodDelete, path: one, tag: tag, summary: "Delete a rule set",
		text: "No user may be given to it. " + rulesInForce, scope: access.RulesWrite, also: []int{http.StatusConflict},
	}, func(ctx context.Context, in *ruleSetPath) (*nothing, error) {
		return nil, a.own(ctx).DeleteRuleSet(ctx, in.ID)
	})
}

func (a *API) registerRules() {
	const tag, all, one = "rules", "/v2/rule-sets/{id}/rules", "/v2/rule-sets/{id}/rules/{rule}"
	route(a, operation{
		id: "replace-rules", method: http.MethodPut, path: all, tag: tag, summary: "Replace all rules of a set",
		text: "A rule with an id is one the set has, changed. " + rulesInForce, scope: access.RulesWrite,
	}, func(ctx context.Context, in *rulesInput) (*oneRuleSet, error) {
		rules, err := readRules(in.Body.Rules)
		if err != nil {
			return nil, err
		}
		return setOf(a.own(ctx).ReplaceRules(ctx, in.ID, rules))
	})
	route(a, operation{
		id: "create-rule", method: http.MethodPost, path: all, tag: tag, summary: "Put a rule into a set", text: rulesInForce, scope: access.RulesWrite,
		status: http.StatusCreated,
	}, func(ctx context.Context, in *newRuleInput) (*oneRule, error) {
		b := &in.Body
		r, err := (&rule{User: b.User, Topic: b.Topic, Permission: b.Permission, Effect: b.Effect, Priority: b.Priority}).read()
		if err != nil {
			return nil, err
		}
		return ruleOf(a.own(ctx).CreateRule(ctx, in.ID, r, b.Position))
	})
	route(a, operation{
		id: "update-rule", method: http.MethodPatch, path: one, tag: tag, summary: "Change or move a rule",
		text: "Fields that are left out stay. " + rulesInForce, scope: access.RulesWrite,
	}, a.updateRule)
	route(a, operation{
		id: "delete-rule", method: http.MethodDelete, path: one, tag: tag, summary: "Take a rule out of a set", text: rulesInForce, scope: access.RulesWrite,
	}, func(ctx context.Context, in *rulePath) (*nothing, error) {
		return nil, a.own(ctx).DeleteRule(ctx, in.ID, in.Rule)
	})
}

func setOf(s access.RuleSet, err error) (*oneRuleSet, error) {
	return &oneRuleSet{Body: showRuleSet(s)}, err
}

func ruleOf(r access.Rule, err error) (*oneRule, error) { return &oneRule{Body: showRule(r)}, err }

// listRuleSets cuts pages out of all sets, of which there are 1000 at most.
func (a *API) listRuleSets(ctx context.Context, in *Page) (*listed[ruleSet], error) {
	after, err := in.after("rule-sets")
	if err != nil {
		return nil, err
	}
	sets, err := a.own(ctx).ListRuleSets(ctx)
	if err != nil {
		return nil, err
	}
	name := func(s access.RuleSet) string { return s.Name }
	slices.SortFunc(sets, func(x, y access.RuleSet) int { return strings.Compare(x.Name, y.Name) })
	from, found := slices.BinarySearchFunc(sets, after, func(s access.RuleSet, after string) int { return strings.Compare(s.Name, after) })
	if found {
		from++
	}
	sets = sets[from:]
	return pageOf(in, "rule-sets", sets[:min(len(sets), in.fetch())], name, showRuleSet), nil
}

func (a *API) updateRule(ctx context.Context, in *ruleChange) (*oneRule, error) {
	b := &in.Body
	u := control.RuleUpdate{User: b.User, Topic: b.Topic, Priority: b.Priority, Position: b.Position}
	if b.Permission != nil {
		u.Permission = new(access.Permission)
		if err := u.Permission.UnmarshalText([]byte(*b.Permission)); err != nil {
			return nil, err
		}
	}
	if b.Effect != nil {
		u.Effect = new(access.Effect)
		if err := u.Effect.UnmarshalText([]byte(*b.Effect)); err != nil {
			return nil, err
		}
	}
	return ruleOf(a.own(ctx).UpdateRule(ctx, in.ID, in.Rule, u))
}

type accessTestInput struct {
	Body struct {
		User     string `json:"user" minLength:"1" maxLength:"64" doc:"A user name without its organization; it need not be connected." example:"agent-01"`
		Action   string `json:"action" enum:"publish,subscribe" example:"publish"`
		Topic    string `json:"topic" minLength:"1" maxLength:"4096" doc:"A topic, or to subscribe a filter." example:"agents/agent-01/status"`
		ClientID string `json:"client_id,omitempty" maxLength:"65535" doc:"For rules with %c." example:"agent-01-a"`
	} `nameHint:"AccessTest"`
}

type accessDecision struct {
	Body struct {
		Allowed bool       `json:"allowed" example:"true"`
		Why     string     `json:"why" doc:"The reason, in words." example:"allowed by a rule"`
		RuleSet string     `json:"rule_set,omitempty" doc:"The id of the set that judges the user." example:"rs_k7xm4pqr2n5t"`
		Rule    *shownRule `json:"rule,omitempty" doc:"The rule that decided."`
	} `nameHint:"AccessDecision"`
}

func (a *API) registerAccess() {
	route(a, operation{
		id: "test-access", method: http.MethodPost, path: "/v2/access/test", tag: "rules", summary: "What a user may do, and which rule decides",
		text: "Judged by the code that judges live connections. Nothing is changed.", scope: access.RulesRead,
	}, a.testAccess)
}

func (a *API) testAccess(ctx context.Context, in *accessTestInput) (*accessDecision, error) {
	b := &in.Body
	action := access.Publish
	if b.Action == "subscribe" {
		action = access.Subscribe
	}
	record, err := a.record(ctx)
	if err != nil {
		return nil, err
	}
	d, err := a.config.Directory.Explain(record.ID, b.User, b.ClientID, action, b.Topic)
	if err != nil {
		return nil, err
	}
	out := new(accessDecision)
	out.Body.Allowed, out.Body.Why, out.Body.RuleSet = d.Allowed, d.Why, d.RuleSet
	for i := range record.RuleSets {
		for _, r := range record.RuleSets[i].Rules {
			if d.Rule != "" && record.RuleSets[i].ID == d.RuleSet && r.ID == d.Rule {
				shown := showRule(r)
				out.Body.Rule = &shown
			}
		}
	}
	return out, nil
}

// record is what log-ins know of the organization that the caller acts in.
func (a *API) record(ctx context.Context) (*access.OrganizationRecord, error) {
	id := callerOf(ctx).actor.Organization
	r, ok := a.config.Directory.Organization(id)
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no organization %q", id)
	}
	return r, nil
}
