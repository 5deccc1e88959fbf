package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// rule is one rule of a set, as the API shows it and as a file has it.
type rule struct {
	ID         string `json:"id,omitempty" yaml:"id"`
	User       string `json:"user" yaml:"user"`
	Topic      string `json:"topic" yaml:"topic"`
	Permission string `json:"permission,omitempty" yaml:"permission"`
	Effect     string `json:"effect,omitempty" yaml:"effect"`
	Priority   int    `json:"priority" yaml:"priority"`
}

type ruleSet struct {
	ID      string `json:"id" yaml:"id"`
	Name    string `json:"name" yaml:"name"`
	Default bool   `json:"default" yaml:"default"`
	Rules   []rule `json:"rules" yaml:"rules"`
}

var ruleWords = words{
	"name": "NAME", "rules": "rule", "user": "--user", "topic": "--topic", "permission": "--permission", "effect": "--effect",
	"priority": "--priority", "position": "--position", "default": "--default", "id": "SET", "rule": "RULE",
}

const fileUsage = "file with the rules, YAML or JSON, - for standard input"

func newACL(s Streams) *cobra.Command {
	return group(&cobra.Command{
		Use: "acl", Short: "Rule sets: who may publish and subscribe to what",
		Long: "Rule sets: who may publish and subscribe to what. A set is named by its name or its id. Its rules are judged by\n" +
			"priority, the lowest number first, then in their order; the first that matches decides, and what none matches is\n" +
			"refused. A user who was given a set is judged by it alone, everybody else by the organization's default set.",
	},
		newACLList(s), newACLGet(s), newACLCreate(s), newACLSet(s), newACLAdd(s), newACLRemove(s), newACLDefault(s), newACLDelete(s),
		newACLAssign(s), newACLTest(s))
}

var ruleSetID = regexp.MustCompile(`^rs_[a-z0-9]{12}$`)

// ruleSetID finds the id of a set by its name. Nothing stays nothing: the default set.
func (a *api) ruleSetID(ctx context.Context, name string) (string, error) {
	if name == "" || ruleSetID.MatchString(name) {
		return name, nil
	}
	all := *a
	all.count = 0
	var known []string
	for items, err := range all.each(ctx, "/v2/rule-sets", nil) {
		if err != nil {
			return "", err
		}
		for _, text := range items {
			set, err := decode[ruleSet](text)
			if err != nil {
				return "", err
			}
			if set.Name == name {
				return set.ID, nil
			}
			known = append(known, harmless(set.Name))
		}
	}
	if len(known) == 0 {
		return "", fmt.Errorf("rule set %q: there are none; make one with acl create", name)
	}
	return "", fmt.Errorf("rule set %q: there is none of this name, but %s", name, short(strings.Join(known, ", "), 300))
}

func (a *api) ruleSet(ctx context.Context, name string) (ruleSet, error) {
	id, err := a.ruleSetID(ctx, name)
	if err != nil {
		return ruleSet{}, err
	}
	text, err := a.do(ctx, http.MethodGet, route("v2", "rule-sets", id), nil, nil)
	if err != nil {
		return ruleSet{}, err
	}
	return decode[ruleSet](text)
}

// onSet makes a command whose first argument is a rule set; args are all of them.
func onSet(c *cobra.Command, s Streams, o options, run func(ctx context.Context, a *api, id string, args []string) error) *cobra.Command {
	o.words = ruleWords
	if o.args == nil {
		o.args = []source{ofRuleSets}
	}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		name, err := given("SET", args[0])
		if err != nil {
			return err
		}
		id, err := a.ruleSetID(ctx, name)
		if err != nil {
			return err
		}
		return run(ctx, a, id, args)
	})
}

// printRuleSet prints the set, then its rules.
func printRuleSet(ctx context.Context, a *api, method, path string, body any) error {
	text, err := a.do(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.printJSON(text)
	}
	set, err := decode[ruleSet](text)
	if err != nil {
		return err
	}
	err = a.printFields([]field{{name: "id", value: set.ID}, {name: "name", value: set.Name}, {name: "default", value: yes(set.Default)}})
	if err != nil || len(set.Rules) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	t := newTable(a.Out)
	t.row("POSITION", "RULE", "PRIORITY", "EFFECT", "USER", "PERMISSION", "TOPIC")
	for i, r := range set.Rules {
		t.row(number(i), r.ID, number(r.Priority), r.Effect, r.User, r.Permission, r.Topic)
	}
	return t.end()
}

func ruleFields(r *rule) []field {
	return []field{
		{name: "rule", value: r.ID},
		{name: "priority", value: number(r.Priority)},
		{name: "effect", value: r.Effect},
		{name: "user", value: r.User},
		{name: "permission", value: r.Permission},
		{name: "topic", value: r.Topic},
	}
}

// readRules reads a file of rules: a list, or a document with rules as acl get -o json prints it, whose other fields do not
// count. Rules get new ids.
func readRules(file string, in io.Reader) ([]rule, error) {
	text, err := readFile(file, in)
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	rules, err := parseRules(text)
	if err != nil {
		return nil, fmt.Errorf("--file: %s: %w", file, err)
	}
	return rules, nil
}

// typeName is what errors of the library say about our types.
var typeName = regexp.MustCompile(` (in type|into) \S*cli\.\w+`)

func parseRules(text []byte) ([]rule, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%w (a value that begins with %%, or has # behind a blank, needs quotes)", err)
	}
	if len(document.Content) == 0 {
		return nil, errors.New("it is empty")
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var set ruleSet
	var err error
	if document.Content[0].Kind == yaml.SequenceNode {
		err = d.Decode(&set.Rules)
	} else {
		err = d.Decode(&set)
	}
	if err == nil && !errors.Is(d.Decode(new(yaml.Node)), io.EOF) {
		err = errors.New("it has more than one document")
	}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		err = errors.New(typeName.ReplaceAllString(strings.Join(wrong.Errors, "; "), ""))
	}
	if err != nil {
		return nil, err
	}
	if set.Rules == nil {
		return nil, errors.New(`it has no rules; for none write "rules: []"`)
	}
	for i := range set.Rules {
		set.Rules[i].ID = ""
	}
	return set.Rules, nil
}

func newACLList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List rule sets",
		Example: "  cloudsignal acl list",
		Args:    cobra.NoArgs,
	}
	return onAPI(c, s, options{list: true}, func(ctx context.Context, a *api, _ []string) error {
		return list(ctx, a, "/v2/rule-sets", nil, []column[ruleSet]{
			{"ID", func(s *ruleSet) string { return s.ID }},
			{"NAME", func(s *ruleSet) string { return s.Name }},
			{"DEFAULT", func(s *ruleSet) string { return yes(s.Default) }},
			{"RULES", func(s *ruleSet) string { return number(len(s.Rules)) }},
		})
	})
}

func newACLGet(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "get SET", Short: "Show a rule set with its rules",
		Example: "  cloudsignal acl get sensors -o json > sensors.json",
		Args:    cobra.ExactArgs(1),
	}
	return onSet(c, s, options{}, func(ctx context.Context, a *api, id string, _ []string) error {
		return printRuleSet(ctx, a, http.MethodGet, route("v2", "rule-sets", id), nil)
	})
}

func newACLCreate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a rule set",
		Example: "  cloudsignal acl create pumps -f rules.yaml",
		Args:    cobra.ExactArgs(1),
	}
	byDefault := c.Flags().Bool("default", false, "make it the organization's default set")
	file := c.Flags().StringP("file", "f", "", fileUsage+" (default: no rules)")
	return onAPI(c, s, options{words: ruleWords}, func(ctx context.Context, a *api, args []string) error {
		body := map[string]any{"name": args[0], "default": *byDefault}
		if *file != "" {
			rules, err := readRules(*file, a.In)
			if err != nil {
				return err
			}
			body["rules"] = rules
		}
		return printRuleSet(ctx, a, http.MethodPost, "/v2/rule-sets", body)
	})
}

func newACLSet(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "set SET -f FILE", Short: "Replace the rules of a set",
		Long: "Replace the rules of a set by those of a file, all at once; they are in force within a second. The file is a list of\n" +
			"rules, or a document with a list \"rules\", as acl get -o json prints it:\n\n" +
			"  rules:\n" +
			"    - {user: agent-01, topic: 'agents/%u/#', permission: publish, effect: allow}\n" +
			"    - {user: '%', topic: 'broadcast/#', permission: subscribe, effect: allow, priority: 10}\n\n" +
			"user is a name, or has % for any characters; in topic %u is the user's name and %c the client identifier.",
		Example: "  cloudsignal acl set sensors -f rules.yaml",
		Args:    cobra.ExactArgs(1),
	}
	file := c.Flags().StringP("file", "f", "", fileUsage)
	_ = c.MarkFlagRequired("file")
	return onSet(c, s, options{}, func(ctx context.Context, a *api, id string, _ []string) error {
		rules, err := readRules(*file, a.In)
		if err != nil {
			return err
		}
		return printRuleSet(ctx, a, http.MethodPut, route("v2", "rule-sets", id, "rules"), map[string]any{"rules": rules})
	})
}

func newACLAdd(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "add SET --topic TOPIC", Short: "Add a rule to a set",
		Example: "  cloudsignal acl add sensors --user 'pump-%' --topic 'pumps/%u/#' --permission publish",
		Args:    cobra.ExactArgs(1),
	}
	var r rule
	flags := c.Flags()
	flags.StringVar(&r.User, "user", "%", "user name, % for any characters")
	flags.StringVar(&r.Topic, "topic", "", "topic filter; %u is the user's name, %c the client identifier")
	flags.StringVar(&r.Permission, "permission", "pubsub", "publish, subscribe or pubsub")
	flags.StringVar(&r.Effect, "effect", "allow", "allow or deny")
	flags.IntVar(&r.Priority, "priority", 0, "the lowest is judged first")
	position := flags.Int("position", 0, "place among the set's rules, 0 the first (default: the last)")
	_ = c.MarkFlagRequired("topic")
	return onSet(c, s, options{}, func(ctx context.Context, a *api, id string, _ []string) error {
		body := struct {
			rule
			Position *int `json:"position,omitempty"`
		}{rule: r}
		if flags.Changed("position") {
			body.Position = position
		}
		return show(ctx, a, http.MethodPost, route("v2", "rule-sets", id, "rules"), nil, body, ruleFields)
	})
}

func newACLRemove(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "remove SET RULE", Short: "Remove a rule, named by its id, from a set",
		Example: "  cloudsignal acl remove sensors rule_w3x6z9a2c5e8",
		Args:    cobra.ExactArgs(2),
	}
	return onSet(c, s, options{args: []source{ofRuleSets, ofRules}}, func(ctx context.Context, a *api, id string, args []string) error {
		r, err := given("RULE", args[1])
		if err != nil {
			return err
		}
		return a.remove(ctx, route("v2", "rule-sets", id, "rules", r), nil)
	})
}

func newACLDefault(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "default SET", Short: "Have a set judge everybody who was given no other",
		Example: "  cloudsignal acl default sensors",
		Args:    cobra.ExactArgs(1),
	}
	return onSet(c, s, options{}, func(ctx context.Context, a *api, id string, _ []string) error {
		return printRuleSet(ctx, a, http.MethodPatch, route("v2", "rule-sets", id), map[string]any{"default": true})
	})
}

func newACLDelete(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "delete SET", Short: "Delete a rule set",
		Example: "  cloudsignal acl delete old-rules",
		Args:    cobra.ExactArgs(1),
	}
	return onSet(c, s, options{}, func(ctx context.Context, a *api, id string, _ []string) error {
		return a.remove(ctx, route("v2", "rule-sets", id), nil)
	})
}

func newACLAssign(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "assign USER SET", Short: "Have a set, and no other, judge a user; '' for the default set again",
		Example: "  cloudsignal acl assign pump-08 sensors",
		Args:    cobra.ExactArgs(2),
	}
	o := options{words: words{"rule_set": "SET", "name": "USER"}, args: []source{ofUsers, ofRuleSets}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		name, err := a.userName(ctx, args[0])
		if err != nil {
			return err
		}
		id, err := a.ruleSetID(ctx, args[1])
		if err != nil {
			return err
		}
		return show(ctx, a, http.MethodPatch, route("v2", "users", name), nil, map[string]any{"rule_set": id}, userFields)
	})
}

// decision is the API's answer to acl test.
type decision struct {
	Allowed bool   `json:"allowed"`
	Why     string `json:"why"`
	RuleSet string `json:"rule_set"`
	Rule    *rule  `json:"rule"`
}

func decisionFields(d *decision) []field {
	fields := []field{{name: "allowed", value: yes(d.Allowed)}, {name: "why", value: d.Why}}
	if d.RuleSet != "" {
		fields = append(fields, field{name: "rule set", value: d.RuleSet})
	}
	if d.Rule != nil {
		fields = append(fields, ruleFields(d.Rule)...)
	}
	return fields
}

var actions = map[string]string{"pub": "publish", "publish": "publish", "sub": "subscribe", "subscribe": "subscribe"}

func newACLTest(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "test USER pub|sub TOPIC", Short: "Say whether a user may publish or subscribe, and which rule decides",
		Long: "Say whether a user may publish to a topic, or subscribe to a topic filter, and which rule decides. The exit code is 1\n" +
			"if not. The answer comes from the code that judges connections.",
		Example: "  cloudsignal acl test agent-01 pub agents/agent-01/status",
		Args:    cobra.ExactArgs(3),
	}
	clientID := c.Flags().String("client-id", "", "client identifier, which %c in rules stands for")
	o := options{
		words: words{"user": "USER", "action": "pub|sub", "topic": "TOPIC", "client_id": "--client-id"},
		args:  []source{ofUsers, oneOf("pub", "sub")},
	}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		action, ok := actions[args[1]]
		if !ok {
			return fmt.Errorf("%q: want pub or sub", args[1])
		}
		name, err := a.userName(ctx, args[0])
		if err != nil {
			return err
		}
		body := map[string]any{"user": name, "action": action, "topic": args[2]}
		if *clientID != "" {
			body["client_id"] = *clientID
		}
		text, err := a.do(ctx, http.MethodPost, "/v2/access/test", nil, body)
		if err != nil {
			return err
		}
		d, err := decode[decision](text)
		if err != nil {
			return err
		}
		if err := printOne(a, text, decisionFields); err != nil {
			return err
		}
		if !d.Allowed {
			return ErrReported
		}
		return nil
	})
}
