package scenario

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/broker"
)

// operation is one line of one organization's client, in the language of the scenarios, and the time that passes behind it
// for everybody.
type operation struct {
	organization int
	line         string
	wait         time.Duration
}

// plan is all that happens in a run, made from a seed.
type plan struct {
	seed          uint64
	organizations int
	users         []string
	rules         [][]string // by organization
	limits        []string   // the same
	operations    []operation
}

// The clients of organization 2 are called o2c0, o2c1, ...: connections, several of which may use one client identifier.
func organizationName(i int) string         { return fmt.Sprintf("o%d", i) }
func clientName(organization, i int) string { return fmt.Sprintf("o%dc%d", organization, i) }
func organizationOf(client string) int      { return int(client[1] - '0') }

const (
	planOperations = 800
	planClients    = 5 // connections of one organization
)

var (
	planRules = [][]string{
		nil,
		{"% subscribe # allow 5", "% publish # allow 5", "ann pubsub no/# deny", "bob publish t deny 1"},
		{"ann pubsub # allow", "bob subscribe a/# allow", "bob publish own/%c allow", "bob publish a/b/# allow", "bob pubsub t allow"},
		{"% pubsub +/+ allow", "% pubsub a/# allow", "% pubsub t allow", "%nn subscribe # allow"},
	}
	planLimits = []string{ // no rates: a client that is not read would hold up the run, and time with it
		"", "connections=4 subscriptions=3 retained=2", "sessions=2 storage=300 message=90", "month=100",
	}
	planIDs     = []string{"x", "x", "y", "z", ""}
	planTopics  = []string{"t", "t", "a/b", "a/b", "a/b/c", "no/x", "own/x", "$d/x"}
	planFilters = []string{
		"#", "t", "+", "a/+", "a/#", "+/b", "no/#", "own/+", "$d/#", "$share/g/t", "$share/g/a/#", "$share/g/#", "$share/h/#", "a/b/c/+/#", "a/#", "t",
	}
)

// newPlan makes the plan of a seed. The order of organizations in time is part of it.
func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := &plan{seed: seed, organizations: 3 + r.IntN(2), users: []string{"ann", "bob"}}
	for i := range p.organizations {
		p.rules = append(p.rules, planRules[(i+int(seed))%len(planRules)])
		p.limits = append(p.limits, planLimits[(i+int(seed)/len(planRules))%len(planLimits)])
	}
	g := generator{Rand: r, organizations: p.organizations, live: make([][]string, p.organizations), shut: make(map[string]bool)}
	for len(p.operations) < planOperations {
		g.organization, g.number = r.IntN(p.organizations), len(p.operations)
		o := g.operation()
		if r.IntN(25) == 0 {
			o.wait += time.Duration(200+r.IntN(2500)) * time.Millisecond
		}
		p.operations = append(p.operations, o)
	}
	return p
}

// limit makes the server's bounds so small that plans meet them.
func (p *plan) limit(cfg *broker.Config) {
	cfg.Limits.Retained = 4
	cfg.Limits.Session.Subscriptions = 6
	cfg.Limits.Session.Topic.Levels = 4
	cfg.Limits.Session.QueueBytes = 1000
	cfg.Limits.Session.ReceiveMaximum = 8
}

// String is the plan as lines of a scenario.
func (p *plan) String() string {
	var b strings.Builder
	for i, rules := range p.rules {
		fmt.Fprintf(&b, "%s: %s; %s\n", organizationName(i), strings.Join(rules, ", "), p.limits[i])
	}
	for _, o := range p.operations {
		b.WriteString(o.line + "\n")
		if o.wait > 0 {
			fmt.Fprintf(&b, "wait %v\n", o.wait)
		}
	}
	return b.String()
}

// shrink takes operations out of a plan that shows a difference, as long as it still does; in at most 150 runs.
func (p *plan) shrink(t *testing.T, change func(*broker.Config)) *plan {
	short := *p
	runs := 0
	for size := len(short.operations) / 2; size > 0; size /= 2 {
		for at := 0; at < len(short.operations) && runs < 150; {
			try := short
			try.operations = slices.Delete(slices.Clone(short.operations), at, min(at+size, len(short.operations)))
			runs++
			if together, apart := try.run(t, change); together.compare(apart) != "" {
				short = try
			} else {
				at += size
			}
		}
	}
	return &short
}

// generator makes one operation.
type generator struct {
	*rand.Rand
	organization  int
	organizations int
	number        int             // of the operation: payloads are told apart by it
	live          [][]string      // by organization: its clients that are connected, as far as can be told beforehand
	shut          map[string]bool // users that are disabled or deleted
}

func (g *generator) one(of []string) string { return of[g.IntN(len(of))] }

// maybe is the words, once in n times.
func (g *generator) maybe(n int, words string) string {
	if g.IntN(n) > 0 {
		return ""
	}
	return " " + words
}

func (g *generator) payload() string {
	if g.IntN(8) == 0 {
		return "" // clears what is retained
	}
	p := fmt.Sprintf("%s-%d", organizationName(g.organization), g.number)
	if g.IntN(10) == 0 {
		p += strings.Repeat(".", 100)
	}
	return p
}

func (g *generator) operation() operation {
	o := operation{organization: g.organization}
	live := &g.live[g.organization]
	k := g.IntN(100)
	if len(*live) < 2 {
		k = 0
	}
	if k < 15 {
		i := g.IntN(planClients)
		name := clientName(g.organization, i)
		*live = slices.DeleteFunc(*live, func(s string) bool { return s == name })
		if k < 12 {
			user := g.one([]string{"ann", "bob", "ann", "bob", "server"}) + "@" + organizationName(g.organization)
			if g.shut[user] {
				o.wait = 600 * time.Millisecond // as below
			} else {
				*live = append(*live, name)
			}
			o.line = name + g.connect() + " as=" + user
			if keeps(name) {
				o.line += g.maybe(2, "clean=0") + g.maybe(4, "session-expiry=60")
			}
			if i == 0 { // of one alone: two that end at the same moment would end in any order
				o.line += g.maybe(3, "keep-alive=2")
			}
		} else {
			o.line = name + g.connect() + g.wrongLogin()
			o.wait = 600 * time.Millisecond // until it is answered
		}
		return o
	}
	name := g.one(*live)
	switch {
	case g.IntN(100) == 0:
		o.line = g.change()
		return o
	case k < 35:
		o.line = name + g.subscribe(name)
	case k < 75:
		o.line = name + g.publish()
	case k < 80:
		o.line = name + " unsubscribe filter=" + g.one(planFilters) + g.maybe(3, "filter="+g.one(planFilters))
	case k < 82:
		o.line = name + " drop"
	case k < 84:
		o.line = name + " disconnect" + g.maybe(2, "reason=4")
	case k < 98:
		o.line = fmt.Sprintf("%s %s id=%d", name, g.one([]string{"puback", "puback", "puback", "pubrec", "pubcomp", "pubrel"}), 1+g.IntN(4))
	case k < 99:
		o.line = name + " ping"
	default:
		o.line = name + " auth"
	}
	if k >= 80 && k < 84 || k == 99 {
		*live = slices.DeleteFunc(*live, func(s string) bool { return s == name })
	}
	return o
}

// change is one of the organization's own. A user that is disabled comes back before long.
func (g *generator) change() string {
	here := organizationName(g.organization)
	user := g.one([]string{"ann", "bob"}) + "@" + here
	if g.IntN(3) == 0 {
		return "limit " + here + " " + g.one([]string{"connections=2", "connections=0", "month=1000"})
	}
	verb := g.one([]string{"disable", "delete", "rotate"})
	if g.shut[user] {
		verb = "renew"
	}
	g.shut[user] = verb == "disable" || verb == "delete"
	return verb + " " + user
}

func (g *generator) connect() string {
	line := " connect id=" + g.one(planIDs) + " v=" + g.one([]string{"5", "5", "5", "3.1.1", "3.1.1", "3.1"})
	if g.IntN(3) == 0 {
		line += fmt.Sprintf(" will=%s will-payload=%s-will", g.one(planTopics), g.payload()) +
			g.maybe(2, "will-qos=1") + g.maybe(2, "will-retain")
	}
	return line + g.maybe(3, "manual") + g.maybe(3, fmt.Sprintf("receive-maximum=%d", 1+g.IntN(3))) + g.maybe(3, "topic-alias-maximum=2") +
		g.maybe(8, "maximum-packet-size=60")
}

// wrongLogin is one of an unknown user, with a wrong password, or with the password that another organization's user of
// the same name has.
func (g *generator) wrongLogin() string {
	user, here := g.one([]string{"ann", "bob", "server"}), organizationName(g.organization)
	switch g.IntN(3) {
	case 0:
		return fmt.Sprintf(" as=eve@%s password=of:ann@%s", here, here)
	case 1:
		return fmt.Sprintf(" as=%s@%s password=wrong", user, here)
	}
	other := organizationName((g.organization + 1 + g.IntN(g.organizations-1)) % g.organizations)
	return fmt.Sprintf(" as=%s@%s password=of:%s@%s", user, here, user, other)
}

// keeps tells of a client that may have a session which outlives its connection. It takes part in no shared subscription: what
// it gets of one and what it gets of its own come in any order.
func keeps(name string) bool { return (name[len(name)-1]-'0')%2 == 0 }

func (g *generator) subscribe(name string) string {
	filters := planFilters
	if keeps(name) {
		filters = slices.DeleteFunc(slices.Clone(filters), func(f string) bool { return strings.HasPrefix(f, "$share") })
	}
	line := fmt.Sprintf(" subscribe id=%d qos=%d filter=%s filter=%s", 1+g.IntN(9), g.IntN(3), g.one(filters), g.one(filters))
	return line + g.maybe(4, "rap") + g.maybe(4, fmt.Sprintf("rh=%d", 1+g.IntN(2))) + g.maybe(3, fmt.Sprintf("subscription-id=%d", 1+g.IntN(9))) +
		g.maybe(20, "no-local") // an error on a shared one: the connection ends
}

func (g *generator) publish() string {
	line := fmt.Sprintf(" publish id=%d qos=%d payload=%s", 1+g.IntN(9), g.IntN(3), g.payload())
	switch g.IntN(16) {
	case 0:
		line += " alias=1" + g.maybe(2, "topic=t")
	case 1:
		line += " alias=1 topic=" + g.one(planTopics)
	case 2:
		line += " topic=a/b/c/d/e" // too deep
	default:
		line += " topic=" + g.one(planTopics)
	}
	return line + g.maybe(3, "retain") + g.maybe(6, "expiry=2") + g.maybe(8, "user=k:v") + g.maybe(8, "response-topic=t")
}
