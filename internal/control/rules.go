package control

import (
	"context"
	"slices"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Bounds of rule sets; access.MaxRules bounds one set.
const (
	MaxRuleSets   = 1000   // of an organization
	MaxRulesInAll = 10_000 // of an organization
)

// NewRuleSet is a rule set to be made. A Default one takes the place of the default one there is. Rules get new ids.
type NewRuleSet struct {
	Name    string
	Default bool
	Rules   []access.Rule
}

// CreateRuleSet makes a rule set. Fields: name, rules, rules[2].topic and the like. A name that is taken is a Conflict.
func (o *Organization) CreateRuleSet(ctx context.Context, n NewRuleSet) (set access.RuleSet, err error) {
	if err := o.may(access.RulesWrite); err != nil {
		return access.RuleSet{}, err
	}
	if err := (&access.RuleSet{Name: n.Name, Rules: n.Rules}).Validate(); err != nil {
		return access.RuleSet{}, err
	}
	for i := range n.Rules {
		if n.Rules[i].ID != "" {
			return access.RuleSet{}, fault.Field("rules["+itoa(i)+"].id", "must be empty: the rule set is new")
		}
	}
	err = o.change(ctx, access.RulesWrite, func(t *scope) (err error) {
		set, err = t.createRuleSet(n)
		return err
	})
	return set, err
}

func (t *scope) createRuleSet(n NewRuleSet) (access.RuleSet, error) {
	if err := t.atMost(MaxRuleSets, "rule sets", `SELECT count(*) FROM rule_sets WHERE organization = $1`); err != nil {
		return access.RuleSet{}, err
	}
	id, err := access.NewID(t.rand, "rs_")
	if err != nil {
		return access.RuleSet{}, err
	}
	made, err := t.exec(`INSERT INTO rule_sets (organization, id, name, is_default, created_at) VALUES ($1, $2, $3, FALSE, $4)
		ON CONFLICT DO NOTHING`, id, n.Name, t.now.UnixMilli())
	if err != nil {
		return access.RuleSet{}, err
	}
	if made == 0 {
		return access.RuleSet{}, &fault.Error{Code: fault.Conflict, Field: "name", Message: "there is already a rule set with this name"}
	}
	if n.Default {
		if err := t.setDefault(id, true); err != nil {
			return access.RuleSet{}, err
		}
	}
	if err := t.insertRules(id, n.Rules); err != nil {
		return access.RuleSet{}, err
	}
	s, err := t.ruleSet(id)
	if err != nil {
		return access.RuleSet{}, err
	}
	return s, t.audit("rule_set.create", id, nil, setDetail(&s))
}

// ruleSetDetail is what the audit shows of a rule set, ruleDetail of one rule.
type ruleSetDetail struct {
	Name    string       `json:"name"`
	Default bool         `json:"default"`
	Rules   []ruleDetail `json:"rules,omitempty"`
}

type ruleDetail struct {
	ID         string            `json:"id"`
	User       string            `json:"user"`
	Topic      string            `json:"topic"`
	Permission access.Permission `json:"permission"`
	Effect     access.Effect     `json:"effect"`
	Priority   int               `json:"priority"`
	Position   *int              `json:"position,omitempty"`
}

func setDetail(s *access.RuleSet) ruleSetDetail {
	d := ruleSetDetail{Name: s.Name, Default: s.Default}
	for _, r := range s.Rules {
		d.Rules = append(d.Rules, detailOf(r))
	}
	return d
}

func detailOf(r access.Rule) ruleDetail {
	return ruleDetail{r.ID, r.User, r.Topic, r.Permission, r.Effect, r.Priority, nil}
}

func detailAt(r access.Rule, position int) ruleDetail {
	d := detailOf(r)
	d.Position = &position
	return d
}

// insertRules writes the rules of a set that has none. Rules without an id get one.
func (t *scope) insertRules(set string, rules []access.Rule) error {
	t.ruleSets = true
	var there int
	if _, err := t.row([]any{&there}, `SELECT count(*) FROM rules WHERE organization = $1`); err != nil {
		return err
	}
	if there+len(rules) > MaxRulesInAll {
		return fault.New(fault.Exhausted, "an organization has at most %d rules; delete some first", MaxRulesInAll)
	}
	for i, r := range rules {
		if r.ID == "" {
			var err error
			if r.ID, err = access.NewID(t.rand, "rule_"); err != nil {
				return err
			}
		}
		_, err := t.exec(`INSERT INTO rules (organization, rule_set, position, id, user_pattern, topic, permission, effect, priority)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			set, i, r.ID, r.User, r.Topic, r.Permission.String(), r.Effect.String(), r.Priority)
		if err != nil {
			return err
		}
	}
	return nil
}

// ListRuleSets lists all rule sets with their rules, in order of their names.
func (o *Organization) ListRuleSets(ctx context.Context) (sets []access.RuleSet, err error) {
	err = o.read(ctx, access.RulesRead, func(t *scope) (err error) {
		sets, err = t.listRuleSets()
		return err
	})
	return sets, err
}

// RuleSet is one rule set with its rules.
func (o *Organization) RuleSet(ctx context.Context, id string) (set access.RuleSet, err error) {
	err = o.read(ctx, access.RulesRead, func(t *scope) (err error) {
		set, err = t.ruleSet(id)
		return err
	})
	return set, err
}

func (t *scope) ruleSet(id string) (access.RuleSet, error) {
	s := access.RuleSet{ID: id}
	found, err := t.row([]any{&s.Name, &s.Default}, `SELECT name, is_default FROM rule_sets WHERE organization = $1 AND id = $2`, id)
	if err != nil {
		return access.RuleSet{}, err
	}
	if !found {
		return access.RuleSet{}, noRuleSet(id)
	}
	err = t.rows(func(scan func(...any) error) error {
		_, r, err := scanRule(scan)
		s.Rules = append(s.Rules, r)
		return err
	}, `SELECT `+ruleColumns+` FROM rules WHERE organization = $1 AND rule_set = $2 ORDER BY position`, id)
	return s, err
}

func noRuleSet(id string) error { return fault.New(fault.NotFound, "there is no rule set %q", id) }

func (t *scope) listRuleSets() ([]access.RuleSet, error) {
	var sets []access.RuleSet
	at := make(map[string]int)
	err := t.rows(func(scan func(...any) error) error {
		var s access.RuleSet
		err := scan(&s.ID, &s.Name, &s.Default)
		at[s.ID] = len(sets)
		sets = append(sets, s)
		return err
	}, `SELECT id, name, is_default FROM rule_sets WHERE organization = $1 ORDER BY name`)
	if err != nil {
		return nil, err
	}
	err = t.rows(func(scan func(...any) error) error {
		set, r, err := scanRule(scan)
		if i, ok := at[set]; ok {
			sets[i].Rules = append(sets[i].Rules, r)
		}
		return err
	}, `SELECT `+ruleColumns+` FROM rules WHERE organization = $1 ORDER BY rule_set, position`)
	return sets, err
}

const ruleColumns = `rule_set, id, user_pattern, topic, permission, effect, priority`

func scanRule(scan func(...any) error) (set string, r access.Rule, err error) {
	var permission, effect string
	if err = scan(&set, &r.ID, &r.User, &r.Topic, &permission, &effect, &r.Priority); err != nil {
		return set, r, err
	}
	if err = r.Permission.UnmarshalText([]byte(permission)); err == nil {
		err = r.Effect.UnmarshalText([]byte(effect))
	}
	return set, r, err
}

// ReplaceRules puts rules in the place of all that a set has. A rule with an id is one the set has, changed; one without
// gets a new id. Fields: rules, rules[2].topic and the like.
func (o *Organization) ReplaceRules(ctx context.Context, id string, rules []access.Rule) (set access.RuleSet, err error) {
	if err := o.may(access.RulesWrite); err != nil {
		return access.RuleSet{}, err
	}
	if err := access.CheckRules(rules); err != nil {
		return access.RuleSet{}, err
	}
	err = o.change(ctx, access.RulesWrite, func(t *scope) error {
		old, err := t.ruleSet(id)
		if err != nil {
			return err
		}
		there := make(map[string]bool)
		for _, r := range old.Rules {
			there[r.ID] = true
		}
		for i, r := range rules {
			if r.ID != "" && !there[r.ID] {
				return fault.Field("rules["+itoa(i)+"].id", "must be empty or, once, the id of a rule of this set")
			}
			delete(there, r.ID)
		}
		if set, err = t.putRules(id, rules); err != nil {
			return err
		}
		return t.audit("rule_set.rules", id, setDetail(&old), setDetail(&set))
	})
	return set, err
}

// putRules writes the rules of a set anew, in this order.
func (t *scope) putRules(id string, rules []access.Rule) (access.RuleSet, error) {
	if _, err := t.exec(`DELETE FROM rules WHERE organization = $1 AND rule_set = $2`, id); err != nil {
		return access.RuleSet{}, err
	}
	if err := t.insertRules(id, rules); err != nil {
		return access.RuleSet{}, err
	}
	return t.ruleSet(id)
}

// DeleteRuleSet deletes a rule set that no user and no live token was given; else it is a Conflict. Without a default set, users who were
// given none may do nothing, unless the organization has no rules at all any more: then everybody may do everything.
func (o *Organization) DeleteRuleSet(ctx context.Context, id string) error {
	return o.change(ctx, access.RulesWrite, func(t *scope) error {
		s, err := t.ruleSet(id)
		if err != nil {
			return err
		}
		var users, tokens int
		if _, err := t.row([]any{&users}, `SELECT count(*) FROM users WHERE organization = $1 AND rule_set = $2`, id); err != nil {
			return err
		}
		if users > 0 {
			return fault.New(fault.Conflict, "%d users were given this rule set; give them another one first", users)
		}
		_, err = t.row([]any{&tokens}, `SELECT count(*) FROM tokens WHERE organization = $1 AND rule_set = $2 AND rule_set <> ''
			AND revoked_at = 0 AND expires_at > $3`, id, t.now.UnixMilli())
		if err != nil {
			return err
		}
		if tokens > 0 {
			return fault.New(fault.Conflict, "%d tokens were given this rule set; revoke them, or wait for their end", tokens)
		}
		if _, err := t.exec(`DELETE FROM rule_sets WHERE organization = $1 AND id = $2`, id); err != nil { // its rules with it
			return err
		}
		t.ruleSets = true
		return t.audit("rule_set.delete", id, setDetail(&s), nil)
	})
}

// RuleSetUpdate is what UpdateRuleSet changes: what is not nil.
type RuleSetUpdate struct {
	Name    *string
	Default *bool // true: it judges every user who was given none, in the place of the set that did
}

// UpdateRuleSet changes what a rule set is called, and whether it is the default one. Fields: name. A name that is taken is a Conflict.
func (o *Organization) UpdateRuleSet(ctx context.Context, id string, u RuleSetUpdate) (set access.RuleSet, err error) {
	if err := o.may(access.RulesWrite); err != nil {
		return access.RuleSet{}, err
	}
	if u.Name != nil {
		if err := access.CheckTitle("name", *u.Name); err != nil {
			return access.RuleSet{}, err
		}
	}
	err = o.change(ctx, access.RulesWrite, func(t *scope) error {
		old, err := t.ruleSet(id)
		if err != nil {
			return err
		}
		if (u.Name == nil || *u.Name == old.Name) && (u.Default == nil || *u.Default == old.Default) {
			set = old
			return errUnchanged
		}
		if u.Name != nil && *u.Name != old.Name {
			if err := t.renameRuleSet(id, *u.Name); err != nil {
				return err
			}
		}
		if u.Default != nil && *u.Default != old.Default {
			if err := t.setDefault(id, *u.Default); err != nil {
				return err
			}
		}
		if set, err = t.ruleSet(id); err != nil {
			return err
		}
		t.ruleSets = true
		return t.audit("rule_set.update", id, ruleSetDetail{Name: old.Name, Default: old.Default}, ruleSetDetail{Name: set.Name, Default: set.Default})
	})
	if err != nil {
		return access.RuleSet{}, err
	}
	return set, nil
}

func (t *scope) renameRuleSet(id, name string) error {
	var n int
	taken, err := t.row([]any{&n}, `SELECT 1 FROM rule_sets WHERE organization = $1 AND name = $2`, name)
	if err != nil {
		return err
	}
	if taken {
		return &fault.Error{Code: fault.Conflict, Field: "name", Message: "there is already a rule set with this name"}
	}
	_, err = t.exec(`UPDATE rule_sets SET name = $3 WHERE organization = $1 AND id = $2`, id, name)
	return err
}

// RuleUpdate is what UpdateRule changes: what is not nil. Position is the rule's new place in its set, from 0.
type RuleUpdate struct {
	User, Topic *string
	Permission  *access.Permission
	Effect      *access.Effect
	Priority    *int
	Position    *int
}

// CreateRule puts a rule into a set at a position, from 0; nil is the end. Fields: id, user, topic, permission, effect, priority, position.
func (o *Organization) CreateRule(ctx context.Context, set string, r access.Rule, position *int) (access.Rule, error) {
	if err := o.may(access.RulesWrite); err != nil {
		return access.Rule{}, err
	}
	if r.ID != "" {
		return access.Rule{}, fault.Field("id", "must be empty: the rule is new")
	}
	if err := r.Validate(); err != nil {
		return access.Rule{}, err
	}
	err := o.change(ctx, access.RulesWrite, func(t *scope) error {
		s, err := t.ruleSet(set)
		if err != nil {
			return err
		}
		at := len(s.Rules)
		if at >= access.MaxRules {
			return fault.New(fault.Exhausted, "a rule set has at most %d rules; delete one first", access.MaxRules)
		}
		if position != nil {
			if at, err = placeIn(len(s.Rules)+1, *position); err != nil {
				return err
			}
		}
		if s, err = t.putRules(set, slices.Insert(s.Rules, at, r)); err != nil {
			return err
		}
		r = s.Rules[at]
		return t.audit("rule.create", r.ID, nil, detailAt(r, at))
	})
	if err != nil {
		return access.Rule{}, err
	}
	return r, nil
}

func placeIn(n, position int) (int, error) {
	if position < 0 || position >= n {
		return 0, fault.Field("position", "must be from 0 to %d", n-1)
	}
	return position, nil
}

// UpdateRule changes one rule of a set. Fields as of CreateRule.
func (o *Organization) UpdateRule(ctx context.Context, set, id string, u RuleUpdate) (r access.Rule, err error) {
	err = o.change(ctx, access.RulesWrite, func(t *scope) error {
		s, at, err := t.rule(set, id)
		if err != nil {
			return err
		}
		old, from := s.Rules[at], at
		r = old
		u.apply(&r)
		if err := r.Validate(); err != nil {
			return err
		}
		if u.Position != nil {
			if at, err = placeIn(len(s.Rules), *u.Position); err != nil {
				return err
			}
		}
		if r == old && at == from {
			return errUnchanged
		}
		if _, err := t.putRules(set, slices.Insert(slices.Delete(s.Rules, from, from+1), at, r)); err != nil {
			return err
		}
		return t.audit("rule.update", id, detailAt(old, from), detailAt(r, at))
	})
	if err != nil {
		return access.Rule{}, err
	}
	return r, nil
}

func (u *RuleUpdate) apply(r *access.Rule) {
	set(&r.User, u.User)
	set(&r.Topic, u.Topic)
	set(&r.Permission, u.Permission)
	set(&r.Effect, u.Effect)
	set(&r.Priority, u.Priority)
}

// rule is a set and where in it a rule is.
func (t *scope) rule(set, id string) (access.RuleSet, int, error) {
	s, err := t.ruleSet(set)
	if err != nil {
		return s, 0, err
	}
	at := slices.IndexFunc(s.Rules, func(r access.Rule) bool { return r.ID == id })
	if at < 0 {
		return s, 0, fault.New(fault.NotFound, "there is no rule %q in this set", id)
	}
	return s, at, nil
}

// DeleteRule takes a rule out of a set.
func (o *Organization) DeleteRule(ctx context.Context, set, id string) error {
	return o.change(ctx, access.RulesWrite, func(t *scope) error {
		s, at, err := t.rule(set, id)
		if err != nil {
			return err
		}
		old := s.Rules[at]
		if _, err := t.putRules(set, slices.Delete(s.Rules, at, at+1)); err != nil {
			return err
		}
		return t.audit("rule.delete", id, detailAt(old, at), nil)
	})
}

func (t *scope) setDefault(id string, on bool) error {
	if _, err := t.exec(`UPDATE rule_sets SET is_default = FALSE WHERE organization = $1 AND is_default`); err != nil {
		return err
	}
	if !on {
		return nil
	}
	n, err := t.exec(`UPDATE rule_sets SET is_default = TRUE WHERE organization = $1 AND id = $2`, id)
	if err == nil && n == 0 {
		err = noRuleSet(id)
	}
	t.ruleSets = true
	return err
}
