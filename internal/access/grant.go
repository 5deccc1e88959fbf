package access

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"cloudsignal/internal/topic"
)

// Grant is what a log-in may do. It is immutable; a change of rules makes a new one (Authenticator.Regrant).
type Grant struct {
	User               string // the name without its organization
	Organization       string // always the org_ form, whichever the client used
	OrganizationNumber uint64
	ClientID           string
	Server             bool // logged in as server with a secret key: everything inside the organization is allowed
	Limits             Limits
	Revision           uint64 // of the organization, when the grant was made

	Expires time.Time // when the credential ends, and the connection with it; zero: never
	Token   bool      // logged in with a temporary token

	credential string     // what it logged in with: the user's password hash, the key's hash, or the token's id
	narrow     *narrowing // of a token, nil of others
	open       bool       // the organization has no rules: everything inside it is allowed
	set        string     // the rule set that judges, empty if there is none
	publish    []compiled
	subscribe  []compiled
}

// narrowing is what a token leaves of what the rules allow.
type narrowing struct {
	permission Permission
	any        bool     // there are no topics: it narrows nothing
	topics     []string // filters without $share
}

// allows says whether n leaves a on a topic name, or on a filter, which must be contained in one of the token's.
func (n *narrowing) allows(a Action, name []byte) bool {
	if a == Publish {
		return n.permission&PermitPublish != 0 && (n.any || slices.ContainsFunc(n.topics, func(filter string) bool {
			return topic.Covers(filter, name)
		}))
	}
	_, inner, _, err := topic.SplitShare(string(name))
	return err == nil && n.permission&PermitSubscribe != 0 && (n.any || slices.ContainsFunc(n.topics, func(filter string) bool {
		return topic.Contains(filter, inner)
	}))
}

// compiled is a rule that holds for one user and client: its topic with the values put in.
type compiled struct {
	filter string
	rule   *Rule
}

// Why a decision is what it is.
const (
	BecauseServer   = "server"   // a server log-in may do everything
	BecauseNoRules  = "no_rules" // the organization has no rules
	BecauseRule     = "rule"     // the rule that is named
	BecauseNoMatch  = "no_match" // no rule allows it
	BecauseReserved = "reserved" // nobody publishes to $SYS, or to a topic that begins like a shared subscription
	BecauseInvalid  = "invalid"  // the filter cannot be read
	BecauseToken    = "token"    // the token's own permissions or topics do not allow it
)

// Decision is an answer with its reason. Rule is the id of the deciding rule, empty if none did.
type Decision struct {
	Allowed bool
	RuleSet string
	Rule    string
	Why     string
}

// Check says whether a is allowed on a topic name (Publish) or a topic filter (Subscribe), which are well-formed. It does
// not allocate for Publish and does not keep name.
func (g *Grant) Check(a Action, name []byte) bool {
	allowed, _, _ := g.decide(a, name)
	return allowed
}

// Explain is Check with its reason.
func (g *Grant) Explain(a Action, name []byte) Decision {
	allowed, rule, why := g.decide(a, name)
	d := Decision{Allowed: allowed, RuleSet: g.set, Why: why}
	if rule != nil {
		d.Rule = rule.ID
	}
	return d
}

func (g *Grant) decide(a Action, name []byte) (bool, *Rule, string) {
	switch {
	case a != Publish && a != Subscribe:
		return false, nil, BecauseInvalid
	case a == Publish && reserved(name):
		return false, nil, BecauseReserved
	case g.Server:
		return true, nil, BecauseServer
	case g.narrow != nil && !g.narrow.allows(a, name):
		return false, nil, BecauseToken
	case g.open:
		return true, nil, BecauseNoRules
	case a == Publish:
		return g.decidePublish(name)
	}
	return g.decideSubscribe(string(name))
}

// reserved says whether a topic name is nobody's to publish to: $SYS and below would be taken for the server's words, and to what
// begins with $share nobody could subscribe.
func reserved(name []byte) bool {
	if len(name) == 0 || name[0] != '$' {
		return false
	}
	first, _, _ := bytes.Cut(name, []byte{'/'})
	return string(first) == "$SYS" || string(first) == "$share"
}

// decidePublish: the first rule whose topic covers the name decides.
func (g *Grant) decidePublish(name []byte) (bool, *Rule, string) {
	for i := range g.publish {
		c := &g.publish[i]
		if topic.Covers(c.filter, name) {
			return c.rule.Effect == Allow, c.rule, BecauseRule
		}
	}
	return false, nil, BecauseNoMatch
}

// decideSubscribe: going through the rules in order, one allow must contain the filter before any deny overlaps it. So
// no name that matches the filter is one the rules deny.
func (g *Grant) decideSubscribe(filter string) (bool, *Rule, string) {
	_, filter, _, err := topic.SplitShare(filter)
	if err != nil {
		return false, nil, BecauseInvalid
	}
	for i := range g.subscribe {
		c := &g.subscribe[i]
		if c.rule.Effect == Allow {
			if topic.Contains(c.filter, filter) {
				return true, c.rule, BecauseRule
			}
		} else if topic.Overlaps(c.filter, filter) {
			return false, c.rule, BecauseRule
		}
	}
	return false, nil, BecauseNoMatch
}

// preparedSet is a rule set in the order in which it is judged, its topics without $share.
type preparedSet struct {
	id     string
	rules  []Rule
	topics []string // of rules, stripped
}

func prepare(s *RuleSet) *preparedSet {
	p := &preparedSet{id: s.ID, rules: slices.Clone(s.Rules)}
	slices.SortStableFunc(p.rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	p.topics = make([]string, len(p.rules))
	for i := range p.rules {
		if _, rest, _, err := topic.SplitShare(p.rules[i].Topic); err == nil {
			p.topics[i] = rest // else it stays empty, which matches nothing: Validate refuses such rules
		}
	}
	return p
}

// compile fills g with the rules of p that hold for its user and client.
func (p *preparedSet) compile(g *Grant) {
	g.set = p.id
	for i := range p.rules {
		r := &p.rules[i]
		if p.topics[i] == "" || !matchUser(r.User, g.User) {
			continue
		}
		filter, ok := substitute(p.topics[i], g.User, g.ClientID)
		if !ok {
			continue
		}
		if r.Permission&PermitPublish != 0 {
			g.publish = append(g.publish, compiled{filter, r})
		}
		if r.Permission&PermitSubscribe != 0 {
			g.subscribe = append(g.subscribe, compiled{filter, r})
		}
	}
}

// substitute puts the values of %u and %c into a rule's topic, in one pass, so that a value with %u in it is not read
// again. It is false if one that is needed could reach beyond its place in a level.
func substitute(pattern, user, clientID string) (string, bool) {
	if strings.IndexByte(pattern, '%') < 0 {
		return pattern, true
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		value := ""
		switch {
		case pattern[i] != '%' || i+1 == len(pattern):
			b.WriteByte(pattern[i])
			continue
		case pattern[i+1] == 'u':
			value = user
		case pattern[i+1] == 'c':
			value = clientID
		default:
			b.WriteByte('%')
			continue
		}
		if value == "" || strings.ContainsAny(value, "/+#\x00") {
			return "", false
		}
		b.WriteString(value)
		i++
	}
	return b.String(), true
}
