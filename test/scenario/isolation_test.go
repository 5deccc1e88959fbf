package scenario

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
)

var (
	isolationSeed  = flag.Uint64("isolation.seed", 0, "run the isolation property with this seed alone")
	isolationSeeds = flag.Uint64("isolation.seeds", 40, "number of seeds of the isolation property")
)

// TestIsolation: whatever several organizations do on one server at the same time, with the same client identifiers, users,
// topics and filters, each of their clients gets, packet by packet and step by step, what it gets from a server that this
// organization has for itself.
func TestIsolation(t *testing.T) {
	first, last := uint64(1), *isolationSeeds
	if *isolationSeed != 0 {
		first, last = *isolationSeed, *isolationSeed
	}
	var packets int
	for seed := first; seed <= last; seed++ {
		p := newPlan(seed)
		together, apart := p.run(t, nil)
		packets += len(together.lines)
		difference := together.compare(apart)
		if difference == "" {
			continue
		}
		short := p.shrink(t, nil)
		if len(short.operations) == len(p.operations) {
			t.Fatalf("seed %d: %s\nIt was not seen with fewer operations, or only once.", seed, difference)
		}
		t.Fatalf("replay: go test ./test/scenario -run TestIsolation -isolation.seed=%d\n%s\nthe same with as few operations as were found:\n%s",
			seed, difference, short)
	}
	// The property says nothing if nothing happens.
	if n := int(last - first + 1); packets < 500*n {
		t.Errorf("%d packets came in %d runs: the operations do too little", packets, n)
	}
}

// leak is an Authenticator that gives organizations away: what the property must find.
type leak struct {
	broker.Authenticator
	logins int
	turn   func(n int, g *access.Grant) uint64 // the number of the organization that the n-th login gets
}

// Regrant leaves what was given: it would find the mistake, and end the connection.
func (l *leak) Regrant(old *access.Grant) (*access.Grant, error) { return old, nil }

func (l *leak) Login(ctx context.Context, in access.Login) (*access.Grant, error) {
	g, err := l.Authenticator.Login(ctx, in)
	if err != nil {
		return nil, err
	}
	l.logins++
	given := *g
	given.OrganizationNumber = l.turn(l.logins, g)
	return &given, nil
}

// TestIsolationFindsLeaks plants the two mistakes that can join organizations: one log-in that gets another organization's
// grant, and two organizations with one identifier. The property must find them. (One connection in the wrong place may
// end before anybody can see it: a few seeds may miss that.)
func TestIsolationFindsLeaks(t *testing.T) {
	const seeds = 8
	const a, b = 1, 2
	oneLogin := func(n int, g *access.Grant) uint64 {
		switch {
		case n != 12:
			return g.OrganizationNumber
		case g.OrganizationNumber == a:
			return b
		}
		return a
	}
	oneIdentifier := func(_ int, g *access.Grant) uint64 {
		if g.OrganizationNumber == b {
			return a
		}
		return g.OrganizationNumber
	}
	plant := func(turn func(int, *access.Grant) uint64) func(*broker.Config) {
		return func(cfg *broker.Config) { cfg.Authenticator = &leak{Authenticator: cfg.Authenticator, turn: turn} }
	}
	find := func(t *testing.T, change func(*broker.Config), atLeast int) {
		found := 0
		for seed := uint64(1); seed <= seeds; seed++ {
			p := newPlan(seed)
			if together, apart := p.run(t, change); together.compare(apart) != "" {
				found++
			}
		}
		if found < atLeast {
			t.Errorf("the leak was found with %d of %d seeds, want %d", found, seeds, atLeast)
		}
	}
	t.Run("one log-in gets another organization", func(t *testing.T) { find(t, plant(oneLogin), seeds*3/4) })
	t.Run("two organizations have one identifier", func(t *testing.T) { find(t, plant(oneIdentifier), seeds) })
	t.Run("shrinking keeps the difference", func(t *testing.T) {
		p := newPlan(1)
		short := p.shrink(t, plant(oneIdentifier))
		together, apart := short.run(t, plant(oneIdentifier))
		if together.compare(apart) == "" || len(short.operations) > 10 {
			t.Errorf("%d of %d operations are left:\n%s", len(short.operations), len(p.operations), short)
		}
	})
}

// history is what the clients of one run got: one line per packet, in order, with the number of the operation.
type history struct {
	lines []string // by organization, then in the order in which they came
	stats broker.Stats
}

// compare tells the first difference of two histories, and those of the counters, empty if there is none.
func (h *history) compare(apart *history) string {
	for i := range max(len(h.lines), len(apart.lines)) {
		together, alone := "(nothing)", "(nothing)"
		if i < len(h.lines) {
			together = h.lines[i]
		}
		if i < len(apart.lines) {
			alone = apart.lines[i]
		}
		if together != alone {
			return fmt.Sprintf("on one server: %s\nby itself:     %s", together, alone)
		}
	}
	if x, y := stats(h.stats), stats(apart.stats); x != y {
		return fmt.Sprintf("counters of one server:\n%s\nsum of those of many:\n%s", x, y)
	}
	return ""
}

// run runs the plan on one server, with change, and each organization's part of it on a server of its own.
func (p *plan) run(t *testing.T, change func(*broker.Config)) (together, apart *history) {
	all := make([]int, p.organizations)
	for i := range all {
		all[i] = i
	}
	together, apart = p.serve(t, all, change), &history{}
	for _, i := range all {
		h := p.serve(t, []int{i}, nil)
		apart.lines = append(apart.lines, h.lines...)
		apart.stats = addStats(apart.stats, h.stats)
	}
	return together, apart
}

func addStats(a, b broker.Stats) broker.Stats {
	add := func(x, y map[string]uint64) map[string]uint64 {
		z := maps.Clone(y)
		for k, n := range x {
			if z == nil {
				z = make(map[string]uint64)
			}
			z[k] += n
		}
		return z
	}
	a.Connections += b.Connections
	for q := range a.In {
		a.In[q] += b.In[q]
		a.Out[q] += b.Out[q]
	}
	a.Drops, a.Logins = add(a.Drops, b.Drops), add(a.Logins, b.Logins)
	a.Ends, a.Subscribes = add(a.Ends, b.Ends), add(a.Subscribes, b.Subscribes)
	a.Paused, a.Forgotten = add(a.Paused, b.Paused), add(a.Forgotten, b.Forgotten)
	return a
}

// serve runs the operations of some organizations on one server. Time passes for all of them alike, also behind the
// operations of those that are not there. Every operation has had all its effects before the next one: the runs are
// deterministic. (So is the order of retained messages inside one process; where it could be another, it is not compared.)
func (p *plan) serve(t *testing.T, organizations []int, change func(*broker.Config)) *history {
	h := &history{}
	synctest.Test(t, func(t *testing.T) {
		s := &scenario{t: t, clients: make(map[string]*client)}
		s.world = newWorld(t, p.seed, func(cfg *broker.Config) {
			p.limit(cfg)
			if change != nil {
				change(cfg)
			}
		})
		for _, i := range organizations {
			s.world.organization(organizationName(i), p.users, p.rules[i])
			if err := s.world.limit(organizationName(i), parseArgs(strings.Fields(p.limits[i]))); err != nil {
				t.Fatal(err)
			}
		}
		got := make([][]string, p.organizations)
		for n, o := range p.operations {
			if slices.Contains(organizations, o.organization) {
				s.leave(n, o, got)
				if err := s.command(s.credentials(o.line)); err != nil {
					got[o.organization] = append(got[o.organization], fmt.Sprintf("%d: %v", n, err))
				}
			}
			synctest.Wait()
			time.Sleep(o.wait)
			synctest.Wait()
			s.note(n, o, got)
		}
		h.lines = slices.Concat(got...)
		h.stats = s.world.broker.Stats()
		s.end()
	})
	return h
}

// credentials are the words of a line with "password=of:USER@ORGANIZATION" replaced by that user's password, or by a wrong
// one if the organization is not on this server.
func (s *scenario) credentials(line string) []string {
	words := strings.Fields(line)
	for i, w := range words {
		if of, ok := strings.CutPrefix(w, "password=of:"); ok {
			password := s.world.passwords[of]
			if password == "" {
				password = "pw_none"
			}
			words[i] = "password=" + password
		}
	}
	return words
}

// leave ends the connection that a connect is going to replace, as a step of its own: what it hands back and its will have
// arrived, and are acknowledged, before the new one takes over another.
func (s *scenario) leave(n int, o operation, got [][]string) {
	words := strings.Fields(o.line)
	if old := s.clients[words[0]]; old != nil && words[1] == "connect" {
		old.conn.Close()
		synctest.Wait()
		s.note(n, o, got)
	}
}

// kind is the packet's name. What answers a client's own messages, and what others send it, cross in any order once a disk
// is between them.
func kind(packet string) string {
	name, _, _ := strings.Cut(packet, " ")
	return name
}

// note adds what clients got since to their organizations' histories.
func (s *scenario) note(n int, o operation, got [][]string) {
	for _, name := range s.order {
		packets := s.clients[name].taken()
		sortRetained(packets)
		slices.SortStableFunc(packets, func(a, b string) int { return strings.Compare(kind(a), kind(b)) })
		for _, packet := range packets {
			if head, _, assigned := strings.Cut(packet, "assigned-client-id="); assigned {
				packet = head + "assigned-client-id"
			}
			i := organizationOf(name)
			got[i] = append(got[i], fmt.Sprintf("%d [%s] %s: %s", n, o.line, name, packet))
		}
	}
}
