package access

import (
	"strings"
	"unicode/utf8"

	"cloudsignal/internal/fault"
	"cloudsignal/internal/topic"
)

// Bounds of rules.
const (
	MaxRules           = 1000      // in one rule set
	MaxPriority        = 1_000_000 // of a rule; the lowest is 0 and comes first
	maxUserPattern     = 128       // bytes
	maxRuleTopic       = 4096      // bytes, before %u and %c are replaced
	maxRuleTopicLevels = 64
	maxTitle           = 100 // characters of a name meant for people
)

// Permission is what a rule is about: publishing, subscribing, or both.
type Permission uint8

// Permissions. PermitBoth is the sum of the others.
const (
	PermitPublish   Permission = 1
	PermitSubscribe Permission = 2
	PermitBoth      Permission = PermitPublish | PermitSubscribe
)

var permissionTexts = map[Permission]string{PermitPublish: "publish", PermitSubscribe: "subscribe", PermitBoth: "pubsub"}

// String is publish, subscribe or pubsub.
func (p Permission) String() string { return permissionTexts[p] }

// MarshalText gives publish, subscribe or pubsub.
func (p Permission) MarshalText() ([]byte, error) {
	if s, ok := permissionTexts[p]; ok {
		return []byte(s), nil
	}
	return nil, fault.Field("permission", "must be publish, subscribe or pubsub")
}

// UnmarshalText takes publish, subscribe or pubsub.
func (p *Permission) UnmarshalText(text []byte) error {
	for value, s := range permissionTexts {
		if s == string(text) {
			*p = value
			return nil
		}
	}
	return fault.Field("permission", "must be publish, subscribe or pubsub")
}

// Effect is what a rule that matches does.
type Effect uint8

// Effects.
const (
	Allow Effect = iota + 1
	Deny
)

var effectTexts = map[Effect]string{Allow: "allow", Deny: "deny"}

// String is allow or deny.
func (e Effect) String() string { return effectTexts[e] }

// MarshalText gives allow or deny.
func (e Effect) MarshalText() ([]byte, error) {
	if s, ok := effectTexts[e]; ok {
		return []byte(s), nil
	}
	return nil, fault.Field("effect", "must be allow or deny")
}

// UnmarshalText takes allow or deny.
func (e *Effect) UnmarshalText(text []byte) error {
	for value, s := range effectTexts {
		if s == string(text) {
			*e = value
			return nil
		}
	}
	return fault.Field("effect", "must be allow or deny")
}

// Rule is one line of a rule set.
type Rule struct {
	ID string
	// User is a user name without its organization, exact or with % for any run of characters.
	User string
	// Topic is a topic filter; %u stands for the user name, %c for the client identifier. A leading $share/GROUP/ does
	// not count.
	Topic      string
	Permission Permission
	Effect     Effect
	Priority   int // 0 to MaxPriority; rules of equal priority are judged in the order of the set
}

// RuleSet is a named list of rules. The default one judges every user who was given no other.
type RuleSet struct {
	ID      string
	Name    string
	Default bool
	Rules   []Rule
}

// Validate says what is wrong with a rule set, naming the field: name, rules, rules[2].topic.
func (s *RuleSet) Validate() error {
	if err := CheckTitle("name", s.Name); err != nil {
		return err
	}
	return CheckRules(s.Rules)
}

// CheckRules says what is wrong with the rules of a set, naming the field: rules, rules[2].topic.
func CheckRules(rules []Rule) error {
	if len(rules) > MaxRules {
		return fault.Field("rules", "%d rules, at most %d are possible in a set", len(rules), MaxRules)
	}
	for i := range rules {
		if err := rules[i].Validate(); err != nil {
			return fault.Under(indexed("rules", i), err)
		}
	}
	return nil
}

// Validate says what is wrong with a rule, naming the field: user, topic, permission, effect, priority.
func (r *Rule) Validate() error {
	if err := checkUserPattern(r.User); err != nil {
		return err
	}
	if err := CheckNoSecret("user", r.User); err != nil {
		return err
	}
	if err := CheckNoSecret("topic", r.Topic); err != nil {
		return err
	}
	_, filter, _, err := topic.SplitShare(r.Topic)
	if err != nil {
		return fault.Field("topic", "%s", err.Error())
	}
	if filter == "" {
		return fault.Field("topic", "must not be empty")
	}
	if len(r.Topic) > maxRuleTopic {
		return fault.Field("topic", "%d bytes, at most %d are possible", len(r.Topic), maxRuleTopic)
	}
	if err := topic.CheckFilter(filter, topic.Limits{Bytes: maxRuleTopic, Levels: maxRuleTopicLevels}); err != nil {
		return fault.Field("topic", "%s", err.Error())
	}
	if r.Permission.String() == "" {
		return fault.Field("permission", "must be publish, subscribe or pubsub")
	}
	if r.Effect.String() == "" {
		return fault.Field("effect", "must be allow or deny")
	}
	if r.Priority < 0 || r.Priority > MaxPriority {
		return fault.Field("priority", "must be from 0 to %d", MaxPriority)
	}
	return nil
}

func checkUserPattern(pattern string) error {
	switch {
	case pattern == "":
		return fault.Field("user", "must not be empty; %% stands for every user")
	case len(pattern) > maxUserPattern:
		return fault.Field("user", "%d characters, at most %d are possible", len(pattern), maxUserPattern)
	case strings.ContainsRune(pattern, '@'):
		return fault.Field("user", "must be the name without @ and the organization")
	}
	for i := range len(pattern) {
		if c := pattern[i]; c != '%' && !isNameByte(c) {
			return fault.Field("user", "only letters, digits, - and _ are possible, and %% for any run of them")
		}
	}
	return nil
}

const holdsSecret = "holds a key, a token or a password; such a value belongs into no name, and if somebody may have seen it, rotate it"

// CheckNoSecret refuses a text that is kept and shown and holds one of our secrets.
func CheckNoSecret(field, s string) error {
	if HasSecret(s) {
		return fault.Field(field, holdsSecret)
	}
	return nil
}

// CheckTitle judges a name meant for people: 1 to 100 printable characters, no blank at either end, no secret.
func CheckTitle(field, s string) error {
	switch {
	case s == "":
		return fault.Field(field, "must not be empty")
	case !utf8.ValidString(s):
		return fault.Field(field, "must be UTF-8")
	case utf8.RuneCountInString(s) > maxTitle:
		return fault.Field(field, "at most %d characters are possible", maxTitle)
	case strings.TrimSpace(s) != s:
		return fault.Field(field, "must not begin or end with a blank")
	case HasSecret(s):
		return fault.Field(field, holdsSecret)
	}
	for _, r := range s {
		if !printable(r) {
			return fault.Field(field, "must not have control characters")
		}
	}
	return nil
}

// matchUser matches a name against a pattern in which % stands for any run of characters, the empty one too. The time is
// at most len(pattern)*len(name), both bounded.
func matchUser(pattern, name string) bool {
	p, n := 0, 0
	star, from := -1, 0 // the last % and where in name its run ends for now
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '%':
			star, from = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			from++
			p, n = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "%") == ""
}
