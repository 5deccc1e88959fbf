package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cloudsignal/internal/fault"
	"cloudsignal/internal/topic"
)

// grantOf compiles the grant of a user in an organization with these rule sets.
func grantOf(user, clientID, given string, sets ...RuleSet) *Grant {
	d := NewDirectory()
	d.Put(OrganizationRecord{ID: orgA, UUID: uuidA, Number: 1, RuleSets: sets})
	return d.find(orgA).userGrant(user, UserRecord{RuleSet: given}, clientID)
}

func allow(user, topic string, p Permission) Rule {
	return Rule{ID: "allow " + topic, User: user, Topic: topic, Permission: p, Effect: Allow}
}

func deny(user, topic string, p Permission) Rule {
	return Rule{ID: "deny " + topic, User: user, Topic: topic, Permission: p, Effect: Deny}
}

func standard(rules ...Rule) RuleSet { return RuleSet{ID: "standard", Default: true, Rules: rules} }

// expect is "+publish NAME" or "-subscribe FILTER".
func expect(t *testing.T, g *Grant, lines ...string) {
	t.Helper()
	for _, line := range lines {
		verb, name, _ := strings.Cut(line[1:], " ")
		a := Publish
		if verb == "subscribe" {
			a = Subscribe
		}
		want := line[0] == '+'
		if got := g.Check(a, []byte(name)); got != want {
			t.Errorf("%s: %s %s: allowed %v, want %v (%+v)", g.User, verb, name, got, want, g.Explain(a, []byte(name)))
		}
		if d := g.Explain(a, []byte(name)); d.Allowed != want || d.Why == "" {
			t.Errorf("%s: %s %s: explained as %+v", g.User, verb, name, d)
		}
	}
}

func TestDocumentationExample(t *testing.T) {
	set := standard(
		allow("agent-01", "agents/agent-01/#", PermitPublish),
		allow("agent-01", "agents/agent-01/inbox", PermitSubscribe),
		allow("dashboard", "commands/#", PermitPublish),
		allow("dashboard", "agents/#", PermitSubscribe),
	)
	expect(t, grantOf("agent-01", "c", "", set),
		"+publish agents/agent-01", "+publish agents/agent-01/status", "+publish agents/agent-01/a/b", "+publish agents/agent-01/inbox",
		"-publish agents/agent-02/status", "-publish agents/agent-010", "-publish agents", "-publish commands/x", "-publish $SYS/x",
		"+subscribe agents/agent-01/inbox", "-subscribe agents/agent-01/#", "-subscribe agents/agent-01/status", "-subscribe #",
		"-subscribe agents/+/inbox", "-subscribe agents/agent-01/inbox/#", "+subscribe $share/g/agents/agent-01/inbox")
	expect(t, grantOf("dashboard", "c", "", set),
		"+publish commands", "+publish commands/a/b", "-publish agents/agent-01/inbox",
		"+subscribe agents/#", "+subscribe agents", "+subscribe agents/+/status", "+subscribe agents/agent-01/inbox", "+subscribe $share/g/agents/#",
		"-subscribe #", "-subscribe +/agent-01", "-subscribe commands/#", "-subscribe +/#")
	expect(t, grantOf("agent-02", "c", "", set), "-publish agents/agent-02/x", "-subscribe agents/agent-02/inbox", "-publish x")
	expect(t, grantOf("Agent-01", "c", "", set), "-publish agents/agent-01/x")
}

func TestRuleOrder(t *testing.T) {
	late, early := deny("%", "a/b", PermitBoth), allow("%", "a/#", PermitBoth)
	late.Priority = 1
	expect(t, grantOf("u", "c", "", standard(late, early)), "+publish a/b", "+subscribe a/#") // the priority, not the place
	late.Priority = 0
	expect(t, grantOf("u", "c", "", standard(late, early)), "-publish a/b", "+publish a/c", "-subscribe a/#", "-subscribe a/+", "+subscribe a/c")
	expect(t, grantOf("u", "c", "", standard(early, late)), "+publish a/b", "+subscribe a/#")

	g := grantOf("u", "c", "", standard(late, early))
	if d := g.Explain(Publish, []byte("a/b")); d != (Decision{RuleSet: "standard", Rule: "deny a/b", Why: BecauseRule}) {
		t.Errorf("explained as %+v", d)
	}
	if d := g.Explain(Subscribe, []byte("a/c")); d != (Decision{Allowed: true, RuleSet: "standard", Rule: "allow a/#", Why: BecauseRule}) {
		t.Errorf("explained as %+v", d)
	}
	if d := g.Explain(Publish, []byte("b")); d != (Decision{RuleSet: "standard", Why: BecauseNoMatch}) {
		t.Errorf("explained as %+v", d)
	}
	if g.Check(0, []byte("a/c")) || g.Check(9, []byte("a/c")) {
		t.Error("an unknown action is allowed")
	}
}

func TestWhichRuleSetJudges(t *testing.T) {
	a, b := standard(allow("%", "a", PermitBoth)), RuleSet{ID: "b", Rules: []Rule{allow("%", "b", PermitBoth)}}
	empty := RuleSet{ID: "empty"}
	expect(t, grantOf("u", "c", "", a, b, empty), "+publish a", "-publish b")
	expect(t, grantOf("u", "c", "b", a, b, empty), "-publish a", "+publish b")
	expect(t, grantOf("u", "c", "empty", a, b, empty), "-publish a", "-publish b", "-subscribe a")
	expect(t, grantOf("u", "c", "gone", a, b), "-publish a", "-publish b")
	expect(t, grantOf("u", "c", "", b), "-publish a", "-publish b") // no default set
	expect(t, grantOf("u", "c", ""), "+publish a", "+subscribe #", "+publish $x", "+subscribe $share/g/#")
	expect(t, grantOf("u", "c", "empty", empty), "+publish a", "+subscribe #")
	if d := grantOf("u", "c", "").Explain(Publish, []byte("a")); d != (Decision{Allowed: true, Why: BecauseNoRules}) {
		t.Errorf("explained as %+v", d)
	}
}

func TestPlaceholders(t *testing.T) {
	set := standard(allow("%", "u/%u/x%c/#", PermitBoth), allow("%", "only/%u", PermitBoth), allow("%", "%%u/%x%", PermitBoth))
	expect(t, grantOf("bob", "c1", "", set),
		"+publish u/bob/xc1", "+publish u/bob/xc1/y", "-publish u/bob/xc2", "-publish u/bob/x%c", "-publish u/%u/xc1", "+subscribe u/bob/xc1/#",
		"-subscribe u/+/xc1/#", "+publish only/bob", "-publish only/alice", "+publish %bob/%x%")
	for _, id := range []string{"", "a/b", "+", "#", "a+", "x#", "a\x00b"} {
		g := grantOf("bob", id, "", set)
		expect(t, g, "-subscribe u/bob/#", "-publish u/bob/x"+id, "-publish u/bob/xa/b", "-publish u/bob/x", "+publish only/bob")
	}
	// A value is not read again.
	expect(t, grantOf("bob", "%u", "", set), "+publish u/bob/x%u", "-publish u/bob/xbob")
	// A value cannot make a shared filter of the rule.
	expect(t, grantOf("bob", "$share", "", standard(allow("%", "%c/g/t", PermitBoth))), "-publish t", "-subscribe t", "-subscribe $share/g/t")
}

func TestSharedAndDollar(t *testing.T) {
	g := grantOf("u", "c", "", standard(deny("%", "$share/g/d/#", PermitBoth), allow("%", "$share/g/a/#", PermitBoth)))
	expect(t, g, "+subscribe a/b", "+subscribe $share/other/a/b", "+publish a/x", "-subscribe $share/g/d/x", "-publish d",
		"-subscribe $share/g", "-subscribe $share/+/a")
	all := grantOf("u", "c", "", standard(allow("%", "#", PermitBoth)))
	expect(t, all, "+publish $spaces/1", "+subscribe $spaces/#", "+subscribe $notifications/u/inbox/#", "+subscribe #", "+publish a")
	if d := g.Explain(Subscribe, []byte("$share/g")); d.Why != BecauseInvalid {
		t.Errorf("explained as %+v", d)
	}
}

func TestUserPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "ab", false},
		{"%", "", true},
		{"%", "abc", true},
		{"agent-%", "agent-01", true},
		{"agent-%", "agent-", true},
		{"agent-%", "agent", false},
		{"%-x", "a-b-x", true},
		{"%-x", "a-x-y", false},
		{"a%b%c", "aXbYbZc", true},
		{"a%b%c", "acb", false},
		{"%%", "a", true},
		{"%a%a%a%", "aa", false},
		{"A", "a", false},
		{"", "", true},
		{"", "a", false},
	} {
		if got := matchUser(c.pattern, c.name); got != c.want {
			t.Errorf("matchUser(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

func TestValidate(t *testing.T) {
	good := allow("agent-%", "a/%u/#", PermitBoth)
	with := func(change func(*Rule)) Rule { r := good; change(&r); return r }
	for _, c := range []struct {
		rule  Rule
		field string
	}{
		{good, ""},
		{with(func(r *Rule) { r.Topic = "$share/g/a/+/b" }), ""},
		{with(func(r *Rule) { r.Topic = "$spaces/#" }), ""},
		{with(func(r *Rule) { r.Priority = MaxPriority }), ""},
		{with(func(r *Rule) { r.User = "" }), "user"},
		{with(func(r *Rule) { r.User = "a@org" }), "user"},
		{with(func(r *Rule) { r.User = "a b" }), "user"},
		{with(func(r *Rule) { r.User = strings.Repeat("a", maxUserPattern+1) }), "user"},
		{with(func(r *Rule) { r.Topic = "" }), "topic"},
		{with(func(r *Rule) { r.Topic = "a#" }), "topic"},
		{with(func(r *Rule) { r.Topic = "#/a" }), "topic"},
		{with(func(r *Rule) { r.Topic = "a+/b" }), "topic"},
		{with(func(r *Rule) { r.Topic = "%u#" }), "topic"},
		{with(func(r *Rule) { r.Topic = "$share/g" }), "topic"},
		{with(func(r *Rule) { r.Topic = "$share/g/" }), "topic"},
		{with(func(r *Rule) { r.Topic = "a\x00" }), "topic"},
		{with(func(r *Rule) { r.Topic = "$share/" + strings.Repeat("g", 4096) + "/a" }), "topic"},
		{with(func(r *Rule) { r.Topic = strings.Repeat("a/", 64) + "a" }), "topic"},
		{with(func(r *Rule) { r.Permission = 0 }), "permission"},
		{with(func(r *Rule) { r.Permission = 4 }), "permission"},
		{with(func(r *Rule) { r.Effect = 0 }), "effect"},
		{with(func(r *Rule) { r.Priority = -1 }), "priority"},
		{with(func(r *Rule) { r.Priority = MaxPriority + 1 }), "priority"},
	} {
		err := (&RuleSet{Name: "n", Rules: []Rule{good, c.rule}}).Validate()
		want := c.field
		if want != "" {
			want = "rules[1]." + want
		}
		if fieldOf(err) != want {
			t.Errorf("%+v: %v, want the field %q", c.rule, err, want)
		}
	}
	for _, name := range []string{"", " a", "a\n", strings.Repeat("é", maxTitle+1), "\xff"} {
		if err := (&RuleSet{Name: name}).Validate(); fieldOf(err) != "name" {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if err := (&RuleSet{Name: strings.Repeat("é", maxTitle), Rules: slices.Repeat([]Rule{good}, MaxRules)}).Validate(); err != nil {
		t.Error(err)
	}
	if err := CheckRules(slices.Repeat([]Rule{good}, MaxRules+1)); fieldOf(err) != "rules" {
		t.Error(err)
	}
}

func fieldOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := err.(*fault.Error); ok && e.Code == fault.Invalid {
		return e.Field
	}
	return fmt.Sprintf("not invalid: %v", err)
}

func TestTextForms(t *testing.T) {
	for text, want := range map[string]Permission{"publish": PermitPublish, "subscribe": PermitSubscribe, "pubsub": PermitBoth} {
		var p Permission
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("%s: %v %v", text, p, err)
		}
		if b, err := p.MarshalText(); err != nil || string(b) != text {
			t.Errorf("%s: %s %v", text, b, err)
		}
	}
	for text, want := range map[string]Effect{"allow": Allow, "deny": Deny} {
		var e Effect
		if err := e.UnmarshalText([]byte(text)); err != nil || e != want || e.String() != text {
			t.Errorf("%s: %v %v", text, e, err)
		}
		if b, err := e.MarshalText(); err != nil || string(b) != text {
			t.Errorf("%s: %s %v", text, b, err)
		}
	}
	var p Permission
	var e Effect
	for _, bad := range []string{"", "Publish", "both"} {
		if fieldOf(p.UnmarshalText([]byte(bad))) != "permission" || fieldOf(e.UnmarshalText([]byte(bad))) != "effect" {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := p.MarshalText(); err == nil {
		t.Error("no permission has a text")
	}
	if _, err := e.MarshalText(); err == nil {
		t.Error("no effect has a text")
	}
}

// names are all names of up to four levels of a small alphabet; z is in no filter of the property test, so that what a
// filter covers is known from them.
var names = func() (all []string) {
	level := []string{"a", "b", "", "$x", "z"}
	last := level
	for range 4 {
		all = append(all, last...)
		var next []string
		for _, n := range last {
			for _, l := range level {
				next = append(next, n+"/"+l)
			}
		}
		last = next
	}
	return slices.DeleteFunc(all, func(n string) bool { return n == "" }) // no name is empty
}()

// naive matches level by level, "#" covering the parent too, without a rule for "$".
func naive(filter, name []string) bool {
	switch {
	case len(filter) > 0 && filter[0] == "#":
		return true
	case len(filter) == 0 || len(name) == 0:
		return len(name) == 0 && (len(filter) == 0 || len(filter) == 1 && filter[0] == "#")
	}
	return (filter[0] == "+" || filter[0] == name[0]) && naive(filter[1:], name[1:])
}

func covered(filter string) map[string]bool {
	set := make(map[string]bool)
	for _, n := range names {
		if naive(strings.Split(filter, "/"), strings.Split(n, "/")) {
			set[n] = true
		}
	}
	return set
}

// TestAgainstNaiveRules compares with the words of the specification, by enumeration of names.
func TestAgainstNaiveRules(t *testing.T) {
	filter := rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$x", "+"}), 1, 3).Draw(t, "levels")
		if rapid.Bool().Draw(t, "rest") {
			levels[len(levels)-1] = "#"
		}
		return strings.Join(levels, "/")
	}).Filter(func(f string) bool { return f != "" })
	rule := rapid.Custom(func(t *rapid.T) Rule {
		f := filter.Draw(t, "filter")
		return Rule{
			ID: f, User: "%", Topic: f, Permission: Permission(rapid.IntRange(1, 3).Draw(t, "permission")),
			Effect: Effect(rapid.IntRange(1, 2).Draw(t, "effect")), Priority: rapid.IntRange(0, 2).Draw(t, "priority"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rule, 1, 5).Draw(t, "rules")
		g := grantOf("u", "c", "", standard(rules...))
		slices.SortStableFunc(rules, func(a, b Rule) int { return a.Priority - b.Priority })
		asked := filter.Draw(t, "asked")
		inAsked := covered(asked)
		want := false
		for _, r := range rules {
			if r.Permission&PermitSubscribe == 0 {
				continue
			}
			in := covered(r.Topic)
			all, some := true, false
			for n := range inAsked {
				all, some = all && in[n], some || in[n]
			}
			if r.Effect == Allow && all {
				want = true
				break
			}
			if r.Effect == Deny && some {
				break
			}
		}
		if got := g.Check(Subscribe, []byte(asked)); got != want {
			t.Fatalf("subscribe %s: %v, want %v", asked, got, want)
		}
		for n := range inAsked {
			if want && !g.Check(Subscribe, []byte(n)) {
				t.Fatalf("subscribe %s is allowed, %s is not", asked, n)
			}
		}
		name := rapid.SampledFrom(names).Draw(t, "name")
		want = false
		for _, r := range rules {
			if r.Permission&PermitPublish != 0 && naive(strings.Split(r.Topic, "/"), strings.Split(name, "/")) {
				want = r.Effect == Allow
				break
			}
		}
		if got := g.Check(Publish, []byte(name)); got != want {
			t.Fatalf("publish %s: %v, want %v", name, got, want)
		}
	})
}

func FuzzRule(f *testing.F) {
	f.Add("agent-%", "a/%u/#", "agent-01", "c", "a/agent-01/x")
	f.Add("%", "$share/g/%c/+", "u", "$share", "$share/g/x")
	f.Fuzz(func(t *testing.T, pattern, ruleTopic, user, clientID, asked string) {
		r := allow(pattern, ruleTopic, PermitBoth)
		if r.Validate() != nil || !isName(user) {
			return
		}
		g := grantOf(user, clientID, "", standard(r))
		for _, c := range g.subscribe {
			if err := topic.CheckFilter(c.filter, topic.Limits{Bytes: 1 << 20, Levels: 1 << 10}); err != nil && !strings.Contains(c.filter, "$share") &&
				topic.CheckName(clientID, topic.Limits{Bytes: 1 << 20}) == nil {
				t.Errorf("%q for %q, %q is %q: %v", ruleTopic, user, clientID, c.filter, err)
			}
		}
		if g.Check(Subscribe, []byte(asked)) && topic.CheckName(asked, topic.Limits{}) == nil && !strings.HasPrefix(asked, "$share/") &&
			!g.Check(Publish, []byte(asked)) {
			t.Errorf("%q may be subscribed, not published", asked)
		}
	})
}

func TestNobodyPublishesToReservedTopics(t *testing.T) {
	g := &Grant{Server: true}
	for name, want := range map[string]string{
		"$SYS": BecauseReserved, "$SYS/x": BecauseReserved, "$share/g/x": BecauseReserved,
		"$SYSTEM/x": BecauseServer, "$spaces/x": BecauseServer, "x/$SYS": BecauseServer,
	} {
		if d := g.Explain(Publish, []byte(name)); d.Why != want || d.Allowed != (want == BecauseServer) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if d := g.Explain(Subscribe, []byte("$share/g/x")); !d.Allowed {
		t.Errorf("%+v", d)
	}
}
