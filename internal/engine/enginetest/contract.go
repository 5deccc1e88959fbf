package enginetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloudsignal/internal/engine"
)

// The clauses of the contract one by one, each with the smallest store that shows it.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start opens a store, in a place of its own where o names none, and closes it with the test.
func start(t *testing.T, g ground, o Options) Store {
	t.Helper()
	if o.FS == nil {
		at := g.place(t)
		o.FS, o.Dir = at.FS, at.Dir
	}
	s, err := g.open(o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func commit(s Store, organization uint64, operations ...engine.Operation) (engine.Position, error) {
	type result struct {
		first engine.Position
		err   error
	}
	done := make(chan result, 1)
	s.Commit(&engine.Batch{Organization: organization, Operations: operations}, func(first engine.Position, err error) { done <- result{first, err} })
	r := <-done
	return r.first, r.err
}

func mustCommit(t *testing.T, s Store, organization uint64, operations ...engine.Operation) engine.Position {
	t.Helper()
	first, err := commit(s, organization, operations...)
	must(t, err)
	return first
}

func filterOp(f engine.Filter) engine.Operation {
	return engine.Operation{Op: engine.OpFilter, Filter: f, Text: fmt.Sprintf("f/%d/#", f)}
}

func appendOp(body string, filters ...engine.Filter) engine.Operation {
	return engine.Operation{Op: engine.OpAppend, Filters: filters, Entry: &engine.Entry{Publisher: "p", QoS: 1, Body: []byte(body)}}
}

func sessionOp(owner engine.Owner, clientID string) engine.Operation {
	return engine.Operation{Op: engine.OpSession, Session: &engine.Session{Owner: owner, ClientID: clientID, Kind: engine.KindSession}}
}

// log is the bodies of a filter, with positions.
func log(t *testing.T, s Reader, organization uint64, filters ...engine.Filter) []string {
	t.Helper()
	var all []string
	matches, _, err := s.Page(organization, filters, 0, math.MaxUint64, math.MaxInt, nil)
	must(t, err)
	for _, m := range matches {
		all = append(all, fmt.Sprintf("%d %.5s %v", m.Position, m.Body, m.Filters))
	}
	return all
}

func wantLines(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// testCommit: then is not called by the caller's goroutine, what it waited for can be read in it, and it may commit.
func testCommit(t *testing.T, g ground) {
	s := start(t, g, Options{})
	var mu sync.Mutex
	done := make(chan string, 1)
	mu.Lock() // a then that the caller's goroutine called would wait for ever
	s.Commit(&engine.Batch{Organization: 7, Operations: []engine.Operation{filterOp(1), appendOp("a", 1), sessionOp(3, "c")}}, func(first engine.Position, err error) {
		mu.Lock()
		defer mu.Unlock()
		head, _ := s.Head(7)
		_, found, _ := s.Lookup(7, engine.KindSession, "c")
		matches, next, _ := s.Page(7, []engine.Filter{1}, 0, math.MaxUint64, 1, nil)
		result := fmt.Sprint(first, err, head, found, len(matches), next)
		s.Commit(&engine.Batch{Organization: 7, Operations: []engine.Operation{appendOp("b", 1)}}, func(first engine.Position, err error) {
			done <- fmt.Sprintln(result, first, err)
		})
	})
	mu.Unlock()
	if got, want := <-done, "1 <nil> 1 true 1 1 2 <nil>"; strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Commit(&engine.Batch{Organization: 7, Operations: []engine.Operation{appendOp("c", 1)}}, nil)
	if got := mustCommit(t, s, 7); got != 3 {
		t.Errorf("an empty batch behind three messages is at %d", got)
	}
}

// testPositions: consecutive in a batch and over batches, of each organization by itself, whether anything has the message.
func testPositions(t *testing.T, g ground) {
	at := g.place(t)
	s, err := g.open(at)
	must(t, err)
	for i, step := range []struct {
		organization uint64
		operations   []engine.Operation
		want         engine.Position
	}{
		{1, []engine.Operation{filterOp(1)}, 0},
		{1, []engine.Operation{appendOp("a", 1), appendOp("b", 1), appendOp("c")}, 1},
		{2, []engine.Operation{appendOp("a")}, 1},
		{1, []engine.Operation{filterOp(2), appendOp("d", 1, 2, 2, 9)}, 4},
		{1, []engine.Operation{sessionOp(1, "c"), {Op: engine.OpSubscribe, Owner: 1, Subscription: &engine.Subscription{Text: "x"}}}, 4},
		{1, []engine.Operation{{Op: engine.OpTrim, Filter: 1, Position: 99}}, 4},
		{1, []engine.Operation{{Op: engine.OpDropFilter, Filter: 2}, {Op: engine.OpTrimBodies, Position: 9}}, 0}, // refused: not alone
		{1, []engine.Operation{appendOp("e", 1), appendOp("f", 2)}, 5},
	} {
		if first, err := commit(s, step.organization, step.operations...); first != step.want || (err != nil) != (i == 6) {
			t.Errorf("batch %d: at %d, %v, want %d", i, first, err, step.want)
		}
	}
	wantLines(t, "log", log(t, s, 1, 1, 2), "4 d [2]", "5 e [1]", "6 f [2]")
	subs, err := s.Subscriptions(1, 1)
	must(t, err)
	if len(subs) != 1 || subs[0].Since != 4 {
		t.Errorf("subscriptions %v, want one since 4", subs)
	}
	run := s.Run()
	must(t, s.Close())
	s = start(t, g, at)
	if s.Run() != run+1 {
		t.Errorf("run %d after run %d", s.Run(), run)
	}
	if head, err := s.Head(1); head != 6 || err != nil {
		t.Errorf("head %d, %v after a restart, want 6", head, err)
	}
	if got := mustCommit(t, s, 1, appendOp("g", 1)); got != 7 {
		t.Errorf("first position after a restart is %d, want 7", got)
	}
}

// testOrder: many commit at once; then comes in the order of Commit, and positions leave no gap.
func testOrder(t *testing.T, g ground) {
	const organizations, writers, each = 3, 8, 40
	s := start(t, g, Options{})
	type lane struct {
		mu    sync.Mutex
		sent  int
		done  int // only then touches it
		next  engine.Position
		wrong []string
	}
	lanes := make([]lane, organizations+1)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				organization := 1 + uint64(w+i)%organizations
				l := &lanes[organization]
				b := &engine.Batch{Organization: organization}
				for range i % 3 {
					b.Add(appendOp("x"))
				}
				appends := engine.Position(i % 3)
				all.Add(1)
				l.mu.Lock()
				number := l.sent
				l.sent++
				s.Commit(b, func(first engine.Position, err error) {
					defer all.Done()
					want := l.next
					if appends > 0 {
						want++
					}
					if number != l.done || first != want || err != nil {
						l.wrong = append(l.wrong, fmt.Sprintf("then %d of batch %d: at %d, %v, want %d", l.done, number, first, err, want))
					}
					l.done++
					l.next += appends
				})
				l.mu.Unlock()
			}
		})
	}
	all.Wait()
	for i := range lanes {
		if l := &lanes[i]; len(l.wrong) > 0 {
			t.Errorf("organization %d: %d wrong, first %s", i, len(l.wrong), l.wrong[0])
		}
		if head, err := s.Head(uint64(i)); head != lanes[i].next || err != nil {
			t.Errorf("organization %d: head %d, %v, want %d", i, head, err, lanes[i].next)
		}
	}
}

// testRefused: a batch that lacks something fails alone, and leaves nothing.
func testRefused(t *testing.T, g ground) {
	s := start(t, g, Options{})
	mustCommit(t, s, 1, filterOp(1))
	long := strings.Repeat("x", engine.MaxName+1)
	many := make([]engine.Filter, engine.MaxFilters+1)
	for i, op := range []engine.Operation{
		{},
		{Op: 200},
		{Op: engine.OpAppend},
		{Op: engine.OpAppend, Entry: &engine.Entry{Publisher: long}},
		{Op: engine.OpAppend, Entry: &engine.Entry{}, Filters: many},
		{Op: engine.OpReceive, ID: 1},
		{Op: engine.OpRetain, Text: "t"},
		{Op: engine.OpRetain, Text: long, Entry: &engine.Entry{}},
		{Op: engine.OpSession},
		sessionOp(0, "c"),
		{Op: engine.OpSession, Session: &engine.Session{Owner: 1}},
		sessionOp(1, long),
		{Op: engine.OpEnd},
		{Op: engine.OpFilter, Text: "a"},
		{Op: engine.OpDropFilter},
		{Op: engine.OpSubscribe, Owner: 1},
		{Op: engine.OpOutgoing, Owner: 1, Outgoing: &engine.Outgoing{Position: 1}},
		{Op: engine.OpOutgoing, Owner: 1, Outgoing: &engine.Outgoing{}, Entry: &engine.Entry{}},
		{Op: engine.OpOutgoing, Owner: 1, Outgoing: &engine.Outgoing{Position: engine.Shared}, Entry: &engine.Entry{}},
		{Op: engine.OpCursor, Owner: 1 << 63},
		sessionOp(1<<63, "c"),
		{Op: engine.OpProgress, Owner: 1},
		{Op: engine.OpWill, Owner: 1},
		{Op: engine.OpWake, Owner: 1},
		{Op: engine.OpWake, Owner: 1, Event: 99},
		{Op: engine.OpTrim, Position: 1},
	} {
		if _, err := commit(s, 1, appendOp("lost", 1), op); err == nil {
			t.Errorf("%d: %+v was committed", i, op)
		}
		if _, err := commit(s, 1, op); err == nil {
			t.Errorf("%d: %+v alone was committed", i, op)
		}
	}
	if _, err := commit(s, 0, appendOp("lost")); err == nil {
		t.Error("a batch without an organization was committed")
	}
	if got := mustCommit(t, s, 1, appendOp("kept", 1)); got != 1 {
		t.Errorf("after refused batches the first position is %d", got)
	}
	wantLines(t, "log", log(t, s, 1, 1), "1 kept [1]")
	testMaxFilters(t, s)
}

// testMaxFilters: at its bound a batch passes, and each of the filters has the message.
func testMaxFilters(t *testing.T, s Store) {
	t.Helper()
	var filters []engine.Filter
	var operations []engine.Operation
	for i := range engine.Filter(engine.MaxFilters) {
		filters, operations = append(filters, i+1), append(operations, filterOp(i+1))
	}
	at := mustCommit(t, s, 2, append(operations, appendOp("all", filters...))...)
	matches, _, err := s.Page(2, filters, 0, math.MaxUint64, math.MaxInt, nil)
	must(t, err)
	if len(matches) != 1 || matches[0].Position != at {
		t.Fatalf("%d messages, want one at %d", len(matches), at)
	}
	if slices.Sort(matches[0].Filters); !slices.Equal(matches[0].Filters, filters) {
		t.Errorf("%d filters have it, want %d", len(matches[0].Filters), len(filters))
	}
}

// testFull: near the end of the disk what grows is refused, alone, and what frees goes on.
func testFull(t *testing.T, g ground) {
	var mu sync.Mutex
	free, freeErr := int64(1000), error(nil)
	set := func(n int64, err error) {
		mu.Lock()
		defer mu.Unlock()
		free, freeErr = n, err
	}
	s := start(t, g, Options{Reserve: 500, FreeBytes: func() (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		return free, freeErr
	}})
	mustCommit(t, s, 1, filterOp(1), sessionOp(1, "c"), appendOp("a", 1))
	for _, err := range []error{nil, errors.New("unknown")} {
		set(499, err)
		for _, op := range []engine.Operation{appendOp("b", 1), sessionOp(2, "d"), filterOp(2), {Op: engine.OpRetain, Text: "t", Entry: &engine.Entry{}}} {
			if _, err := commit(s, 1, engine.Operation{Op: engine.OpCursor, Owner: 1, Position: 1}, op); !errors.Is(err, engine.ErrFull) {
				t.Errorf("operation %d with a full disk: %v, want ErrFull", op.Op, err)
			}
		}
		if cursor, err := s.Cursor(1, 1); cursor != 0 || err != nil {
			t.Errorf("cursor %d, %v after refused batches", cursor, err)
		}
	}
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpOutgoing, Owner: 1, Outgoing: &engine.Outgoing{Position: 1}, Entry: &engine.Entry{}})
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpComplete, Owner: 1, Position: 1}, engine.Operation{Op: engine.OpUnretain, Text: "t"})
	must(t, s.Trim(1, 1, 1))
	set(500, nil)
	if got := mustCommit(t, s, 1, appendOp("b", 1)); got != 2 {
		t.Errorf("position %d after refused batches, want 2", got)
	}
	select {
	case <-s.Failed():
		t.Error("a full disk is no failure")
	default:
	}
}

// testPage: bounds in bytes and positions, and where to go on.
func testPage(t *testing.T, g ground) {
	s := start(t, g, Options{})
	operations := []engine.Operation{filterOp(1), filterOp(2), filterOp(3)}
	large := strings.Repeat("x", 2000)
	for i := range 20 {
		operations = append(operations, appendOp(fmt.Sprint(i, ",", large[:i*100]), []engine.Filter{1, 2, 3}[:1+i%3]...))
	}
	mustCommit(t, s, 1, operations...)
	for _, test := range []struct {
		filters     []engine.Filter
		after, upTo engine.Position
		maxBytes    int
		first, last engine.Position
		n           int
		next        engine.Position
	}{
		{[]engine.Filter{1}, 0, math.MaxUint64, math.MaxInt, 1, 20, 20, 20},
		{[]engine.Filter{1, 2, 3}, 0, 20, math.MaxInt, 1, 20, 20, 20},
		{[]engine.Filter{3, 2}, 0, 20, math.MaxInt, 2, 20, 13, 20},
		{[]engine.Filter{1}, 5, 7, math.MaxInt, 6, 7, 2, 7},
		{[]engine.Filter{1}, 5, 7, 1, 6, 6, 1, 6},
		{[]engine.Filter{1}, 5, 20, 0, 6, 6, 1, 6},
		{[]engine.Filter{3}, 3, 5, 1000, 0, 0, 0, 5},
		{[]engine.Filter{2}, 0, 20, 2200, 2, 8, 5, 8},
		{[]engine.Filter{1}, 20, 20, 10, 0, 0, 0, 20},
		{[]engine.Filter{1}, 30, 40, 10, 0, 0, 0, 30},
		{nil, 3, 40, 10, 0, 0, 0, 20},
		{[]engine.Filter{77}, 3, 40, 10, 0, 0, 0, 20},
	} {
		matches, next, err := s.Page(1, test.filters, test.after, test.upTo, test.maxBytes, nil)
		must(t, err)
		if len(matches) != test.n || next != test.next {
			t.Errorf("%+v: %d messages, next %d", test, len(matches), next)
		} else if test.n > 0 && (matches[0].Position != test.first || matches[test.n-1].Position != test.last) {
			t.Errorf("%+v: %d to %d", test, matches[0].Position, matches[test.n-1].Position)
		}
	}
	testLongPage(t, s)
	if m, _, err := s.Page(2, []engine.Filter{1}, 0, math.MaxUint64, 10, nil); len(m) != 0 || err != nil {
		t.Errorf("another organization reads %v, %v", m, err)
	}
}

// testLongPage: one page of more messages than a store may like to read ahead, of one filter and of several.
func testLongPage(t *testing.T, s Store) {
	t.Helper()
	const n = 1500
	operations := []engine.Operation{filterOp(11), filterOp(12), filterOp(13)}
	for i := range n {
		operations = append(operations, appendOp("x", engine.Filter(11+i%3)))
	}
	first := mustCommit(t, s, 1, operations...)
	for _, filters := range [][]engine.Filter{{11}, {11, 12, 13}} {
		matches, _, err := s.Page(1, filters, 0, math.MaxUint64, math.MaxInt, nil)
		must(t, err)
		step := engine.Position(3 / len(filters))
		for i := range matches {
			if matches[i].Position != first+engine.Position(i)*step {
				t.Fatalf("message %d of %v is %d", i, filters, matches[i].Position)
			}
		}
		if want := n / int(step); len(matches) != want {
			t.Errorf("%d messages of %v, want %d", len(matches), filters, want)
		}
	}
}

// testHeld: what an Outgoing holds is read until it is complete or its owner ends, whatever happens to log and filter.
func testHeld(t *testing.T, g ground) {
	s := start(t, g, Options{})
	large := strings.Repeat("l", 5000)
	mustCommit(t, s, 1, filterOp(1), filterOp(2), sessionOp(1, "a"), sessionOp(2, "b"),
		appendOp("small", 1), appendOp(large, 1), appendOp("both", 1, 2), appendOp(large, 1, 2), appendOp(large, 2), appendOp("end", 2))
	matches, _, err := s.Page(1, []engine.Filter{1, 2}, 0, math.MaxUint64, math.MaxInt, nil)
	must(t, err)
	out := func(owner engine.Owner, i int) engine.Operation {
		return engine.Operation{Op: engine.OpOutgoing, Owner: owner, Outgoing: &engine.Outgoing{Position: matches[i].Position, ID: uint16(i)}, Entry: &matches[i].Entry}
	}
	mustCommit(t, s, 1, out(1, 0), out(1, 1), out(1, 2), out(1, 3), out(2, 1), out(2, 4))
	must(t, s.Trim(1, 1, 9))
	must(t, s.TrimBodies(1, 9))
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpDropFilter, Filter: 1}, engine.Operation{Op: engine.OpDropFilter, Filter: 2})
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpProgress, Owner: 1, Outgoing: &engine.Outgoing{Position: 1, State: 7}})
	held := func(owner engine.Owner, positions ...engine.Position) {
		t.Helper()
		for p := engine.Position(1); p <= 6; p++ {
			e, ok, err := s.Read(1, owner, p)
			must(t, err)
			if want := slices.Contains(positions, p); ok != want || ok && string(e.Body) != string(matches[p-1].Body) {
				t.Errorf("owner %d holds %d: %v with %d bytes, want %v", owner, p, ok, len(e.Body), want)
			}
		}
	}
	held(1, 1, 2, 3, 4)
	held(2, 2, 5)
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpComplete, Owner: 1, Position: 2}, engine.Operation{Op: engine.OpComplete, Owner: 1, Position: 3})
	must(t, s.TrimBodies(1, 9))
	held(1, 1, 4)
	held(2, 2, 5)
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpEnd, Owner: 2})
	must(t, s.TrimBodies(1, 9))
	held(1, 1, 4)
	held(2)
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpComplete, Owner: 1, Position: 4})
	must(t, s.TrimBodies(1, 9))
	held(1, 1)
	testHeldAtOnce(t, s)
}

// testHeldShared: of one message an owner can have two Outgoings, its own and a shared group's. Each is moved on, held and
// completed by itself, and neither is taken for another owner's.
func testHeldShared(t *testing.T, g ground) {
	s := start(t, g, Options{})
	const own, other = 1, 2
	large := strings.Repeat("l", 5000)
	mustCommit(t, s, 1, filterOp(1), filterOp(2), sessionOp(own, "a"), sessionOp(other, "b"),
		appendOp("small", 1, 2), appendOp(large, 1, 2), appendOp(large, 1), appendOp("end", 1))
	matches, _, err := s.Page(1, []engine.Filter{1}, 0, math.MaxUint64, math.MaxInt, nil)
	must(t, err)
	out := func(owner engine.Owner, position engine.Position) engine.Operation {
		return engine.Operation{
			Op: engine.OpOutgoing, Owner: owner, Outgoing: &engine.Outgoing{Position: position, ID: 1 + uint16(position>>63)},
			Entry: &matches[position&^engine.Shared-1].Entry,
		}
	}
	complete := func(owner engine.Owner, position engine.Position) engine.Operation {
		return engine.Operation{Op: engine.OpComplete, Owner: owner, Position: position}
	}
	has := func(owner engine.Owner, want ...string) {
		t.Helper()
		must(t, s.TrimBodies(1, 9))
		outgoing, err := s.Outgoing(1, owner)
		must(t, err)
		var got []string
		for _, o := range outgoing {
			e, ok, err := s.Read(1, owner, o.Position)
			must(t, err)
			if p := o.Position &^ engine.Shared; !ok || e.Position != p || string(e.Body) != string(matches[p-1].Body) {
				t.Errorf("owner %d has at %d: %v, %d with %d bytes", owner, p, ok, e.Position, len(e.Body))
			}
			got = append(got, fmt.Sprint(o.Position&^engine.Shared, o.Position&engine.Shared != 0, o.ID, o.State))
		}
		wantLines(t, fmt.Sprint("outgoing of ", owner), got, want...)
	}
	const shared = engine.Shared
	mustCommit(t, s, 1, out(own, 1), out(own, 1|shared), out(own, 2), out(own, 2|shared), out(own, 3|shared), out(other, 2|shared))
	must(t, s.Trim(1, 1, 9))
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpProgress, Owner: own, Outgoing: &engine.Outgoing{Position: 2 | shared, ID: 2, State: 7}})
	has(own, "1 false 1 0", "2 false 1 0", "1 true 2 0", "2 true 2 7", "3 true 2 0")
	mustCommit(t, s, 1, complete(own, 1), complete(own, 2), complete(other, 2))
	has(own, "1 true 2 0", "2 true 2 7", "3 true 2 0")
	has(other, "2 true 2 0")
	mustCommit(t, s, 1, out(own, 2), complete(own, 2|shared), complete(own, 1|shared), complete(other, 2|shared))
	has(other)
	has(own, "2 false 1 0", "3 true 2 0")
	mustCommit(t, s, 1, complete(own, 2))
	has(own, "3 true 2 0")
	if _, ok, err := s.Read(1, own, 2|shared); ok || err != nil {
		t.Errorf("what is complete is still read: %v, %v", ok, err)
	}
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpEnd, Owner: own})
	has(own)
}

// testHeldAtOnce: the store is held up, so that a hold and the trim behind it wait together.
func testHeldAtOnce(t *testing.T, s Store) {
	t.Helper()
	large := &engine.Entry{Body: make([]byte, 3000)}
	position := mustCommit(t, s, 1, filterOp(9), engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{9}, Entry: large})
	release := hold(s)
	for _, op := range []engine.Operation{
		appendOp("x"), // one may have got through
		{Op: engine.OpOutgoing, Owner: 1, Outgoing: &engine.Outgoing{Position: position}, Entry: large},
		{Op: engine.OpTrimBodies, Position: position},
	} {
		s.Commit(&engine.Batch{Organization: 1, Operations: []engine.Operation{op}}, nil)
	}
	release()
	mustCommit(t, s, 1)
	if e, ok, err := s.Read(1, 1, position); !ok || err != nil || len(e.Body) != len(large.Body) {
		t.Errorf("held and trimmed at once: %v, %v", ok, err)
	}
}

// testDue: in order of time over all organizations, one time for each owner and event, none of what has ended.
func testDue(t *testing.T, g ground) {
	s := start(t, g, Options{})
	wake := func(owner engine.Owner, event engine.Event, at int64) engine.Operation {
		return engine.Operation{Op: engine.OpWake, Owner: owner, Event: event, At: at}
	}
	due := func(now int64, limit int, want ...string) {
		t.Helper()
		all, err := s.Due(now, limit)
		must(t, err)
		var got []string
		for _, d := range all {
			got = append(got, fmt.Sprint(d.Organization, d.Owner, d.At, d.Event))
		}
		wantLines(t, "due", got, want...)
	}
	mustCommit(t, s, 1, wake(1, engine.SessionEnds, 50), wake(1, engine.WillFires, 20), wake(2, engine.SessionEnds, -5))
	mustCommit(t, s, 2, wake(1, engine.SessionEnds, 30), wake(1, engine.SessionEnds, 40), wake(9, engine.WillFires, 7))
	due(-6, 10)
	due(100, 10, "1 2 -5 1", "2 9 7 2", "1 1 20 2", "2 1 40 1", "1 1 50 1")
	due(20, 2, "1 2 -5 1", "2 9 7 2")
	mustCommit(t, s, 1, engine.Operation{Op: engine.OpEnd, Owner: 1}, wake(2, engine.SessionEnds, 60))
	mustCommit(t, s, 2, engine.Operation{Op: engine.OpUnwake, Owner: 1, Event: engine.SessionEnds})
	due(100, 10, "2 9 7 2", "1 2 60 1")
	must(t, s.DropOrganization(2))
	due(100, 10, "1 2 60 1")
	mustCommit(t, s, 2) // behind whatever the store cleans up
	mustCommit(t, s, 2, wake(9, engine.WillFires, 7))
	due(100, 10, "2 9 7 2", "1 2 60 1")
	must(t, s.DropOrganization(2))
	release := hold(s)
	s.Commit(&engine.Batch{Organization: 2, Operations: []engine.Operation{wake(9, engine.WillFires, 7)}}, nil)
	due(100, 10, "1 2 60 1") // nobody's time is found, and cleaned up behind the batch that makes it somebody's again
	release()
	mustCommit(t, s, 2)
	due(100, 10, "2 9 7 2", "1 2 60 1")
}

// testNumbers: owners and filters that a batch named are never given out again.
func testNumbers(t *testing.T, g ground) {
	at := g.place(t)
	lastOwner, lastFilter := engine.Owner(0), engine.Filter(0)
	for range 4 {
		s, err := g.open(at)
		must(t, err)
		for i := range 100 {
			owner, err := s.NextOwner(1)
			must(t, err)
			filter, err := s.NextFilter(1)
			must(t, err)
			if owner <= lastOwner || filter <= lastFilter {
				t.Fatalf("owner %d after %d, filter %d after %d", owner, lastOwner, filter, lastFilter)
			}
			lastOwner, lastFilter = owner, filter
			if i%10 == 9 {
				mustCommit(t, s, 1, filterOp(filter), sessionOp(owner, fmt.Sprint(owner)))
				mustCommit(t, s, 1, engine.Operation{Op: engine.OpEnd, Owner: owner}, engine.Operation{Op: engine.OpDropFilter, Filter: filter})
			}
		}
		must(t, s.Close())
	}
}

// testStarted: each run's start is known in it and in all later ones, by the clock it was given, whichever way that went.
func testStarted(t *testing.T, g ground) {
	place := g.place(t)
	starts := make(map[uint64]int64)
	for i, at := range []int64{1_000_000_000, 1_000_000_007, -5, 3_000_000_000} {
		starts[uint64(i+1)] = at
		place.Now = func() time.Time { return time.Unix(0, at) }
		s, err := g.open(place)
		must(t, err)
		if s.Run() != uint64(i+1) {
			t.Fatalf("run %d is the store's %d", s.Run(), i+1)
		}
		for run := range uint64(7) {
			got, ok, err := s.Started(run)
			must(t, err)
			if want, there := starts[run]; got != want || ok != there {
				t.Errorf("in run %d: run %d was started at %d, %v, want %d, %v", s.Run(), run, got, ok, want, there)
			}
		}
		must(t, s.Close())
		if _, _, err := s.Started(1); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// testDrop: everything goes but what was used up, and other organizations are not touched.
func testDrop(t *testing.T, g ground) {
	s := start(t, g, Options{})
	for organization := uint64(1); organization <= 3; organization++ {
		mustCommit(t, s, organization, filterOp(1), filterOp(2), sessionOp(5, "c"), appendOp("a", 1), appendOp("b", 1, 2),
			engine.Operation{Op: engine.OpRetain, Text: "t", Entry: &engine.Entry{Body: []byte("r")}},
			engine.Operation{Op: engine.OpWill, Owner: 5, Will: &engine.Will{}}, engine.Operation{Op: engine.OpReceive, Owner: 5, ID: 1})
	}
	before, err := dump(s, 1)
	must(t, err)
	must(t, s.DropOrganization(2))
	organizations, err := s.Organizations()
	must(t, err)
	if !slices.Equal(organizations, []uint64{1, 3}) {
		t.Errorf("organizations %v after the second was dropped", organizations)
	}
	gone, err := dump(s, 2)
	must(t, err)
	if lines := strings.Count(gone, "\n"); lines != 3 || !strings.HasPrefix(gone, "live false head 2\n") {
		t.Errorf("of a dropped organization there is\n%s", gone)
	}
	if _, ok, err := s.Will(2, 5); ok || err != nil {
		t.Errorf("its will is there: %v, %v", ok, err)
	}
	if again, err := dump(s, 1); again != before || err != nil {
		t.Errorf("another organization: %s, %v", difference(again, before), err)
	}
	owner, err := s.NextOwner(2)
	must(t, err)
	if got := mustCommit(t, s, 2, filterOp(3), appendOp("c", 3, 1)); got != 3 || owner <= 5 {
		t.Errorf("a dropped organization goes on at position %d and owner %d", got, owner)
	}
	wantLines(t, "log", log(t, s, 2, 1, 2, 3), "3 c [3]")
}

// testClosed: what waits at Close is committed, and what comes after is told.
func testClosed(t *testing.T, g ground) {
	at := g.place(t)
	s, err := g.open(at)
	must(t, err)
	const batches = 50
	var mu sync.Mutex
	committed := 0
	for range batches {
		s.Commit(&engine.Batch{Organization: 1, Operations: []engine.Operation{appendOp("x")}}, func(_ engine.Position, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				committed++
			}
		})
	}
	must(t, s.Close())
	must(t, s.Close())
	mu.Lock()
	if committed != batches {
		t.Errorf("%d of %d batches that waited at Close were committed", committed, batches)
	}
	mu.Unlock()
	if _, err := commit(s, 1, appendOp("x")); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("commit after Close: %v", err)
	}
	if _, err := s.Organizations(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if head, err := start(t, g, at).Head(1); head != batches || err != nil {
		t.Errorf("head %d, %v after a restart, want %d", head, err, batches)
	}
}
