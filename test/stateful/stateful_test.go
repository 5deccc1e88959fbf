// Package stateful runs random sequences of packets, right and wrong ones, of many clients of several organizations against a
// live server, and holds every answer against a model of what may come.
package stateful

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	defaultDuration = 15 * time.Second
	shrinkTime      = 60 * time.Second
	goroutineSlack  = 12       // of the store, which works when it has to, and of connections for requests
	heapSlack       = 64 << 20 // of caches and of organizations that are loaded
)

// settings are what the environment asks for.
func settings(t *testing.T) (seed uint64, one bool, duration time.Duration) {
	seed, duration = uint64(time.Now().UnixNano())%1_000_000_000, defaultDuration
	if s := os.Getenv("FUZZ_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed, one = n, true
	}
	if s := os.Getenv("FUZZ_DURATION"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		duration = d
	}
	return seed, one, duration
}

// TestStateful: no answer that the model does not allow, nothing lost and nothing left.
func TestStateful(t *testing.T) {
	seed, one, duration := settings(t)
	t.Logf("seed %d, for %v", seed, duration)
	w := newWorld(t)
	defer func() { w.close() }()
	end := time.Now().Add(duration)
	first := measure{}
	runs := 0
	for ; runs == 0 || time.Now().Before(end) && !one; runs++ {
		p := newPlan(seed + uint64(runs))
		if fault, trace := p.execute(w, nil); fault != "" {
			report(t, w, p, fault, trace)
			w = newWorld(t)
			return
		}
		if runs == 2 {
			first = take()
		}
		if runs > 2 && runs%10 == 0 {
			if leak := first.leak(); leak != "" {
				t.Fatalf("seed %d, after %d runs: %s", seed, runs, leak)
			}
		}
	}
	if runs > 3 {
		if leak := first.leak(); leak != "" {
			t.Errorf("seed %d, after %d runs: %s", seed, runs, leak)
		}
	}
	now := take()
	t.Logf("%d runs of %d operations; goroutines %d, then %d; heap %d KiB, then %d KiB", runs, planOperations, first.goroutines, now.goroutines, first.heap>>10, now.heap>>10)
	summary(t, w)
}

// explained are the reasons for which messages may be dropped here: the others are bounds that no plan comes near.
var explained = []string{"refused", "topic_invalid", "no_member", "expired", "too_large"}

// summary says what the runs came across.
func summary(t *testing.T, w *world) {
	all := w.gauges()
	var names []string
	for name, n := range all {
		reason, drop := strings.CutPrefix(name, `cloudsignal_messages_dropped_total{reason="`)
		if n > 0 && drop && !slices.Contains(explained, strings.TrimSuffix(reason, `"}`)) {
			t.Errorf("%s is %v: nothing explains it", name, n)
		}
		if n > 0 {
			names = append(names, fmt.Sprintf("%s %v", name, n))
		}
	}
	slices.Sort(names)
	for _, line := range names {
		t.Log(line)
	}
}

// report cuts a plan that has a fault down and prints it.
func report(t *testing.T, w *world, p *plan, fault, trace string) {
	w.close()
	t.Logf("FUZZ_SEED=%d: %s\nwhat came before:\n%s", p.seed, fault, trace)
	short, again := p.shrink(t, nil, shrinkTime)
	t.Errorf("repeat: FUZZ_SEED=%d go test ./test/stateful -run 'TestStateful$'\n%s\nthe same with as few operations as were found (%d): %s\n%s",
		p.seed, fault, len(short.operations), again, short)
}

// shrink takes operations out of a plan that has a fault, as long as it still has one, each time on a server of its own if the
// last one may be spoilt.
func (p *plan) shrink(t *testing.T, tampered func() tamper, limit time.Duration) (short *plan, fault string) {
	end := time.Now().Add(limit)
	w := newWorld(t)
	defer func() { w.close() }()
	short = p
	if fault = p.again(w, tampered); fault == "" {
		return p, "it was not seen again in 3 runs"
	}
	try := func(o []operation) bool {
		next := *p
		next.operations = o
		f, _ := next.execute(w, made(tampered))
		if f == "" {
			return false
		}
		short, fault = &next, f
		w.close()
		w = newWorld(t)
		return true
	}
	for slot := range p.slots() { // whole clients first
		if time.Now().After(end) {
			return short, fault
		}
		try(slices.DeleteFunc(slices.Clone(short.operations), func(o operation) bool { return o.verb != doTick && o.slot == slot }))
	}
	for size := len(short.operations) / 2; size > 0; size /= 2 {
		for at := 0; at < len(short.operations) && time.Now().Before(end); {
			if !try(slices.Delete(slices.Clone(short.operations), at, min(at+size, len(short.operations)))) {
				at += size
			}
		}
	}
	return short, fault
}

// made is what tampers with one run, nil for none.
func made(tampered func() tamper) tamper {
	if tampered == nil {
		return nil
	}
	return tampered()
}

// again runs a plan up to three times, until it has a fault.
func (p *plan) again(w *world, tampered func() tamper) (fault string) {
	for n := 0; n < 3 && fault == ""; n++ {
		fault, _ = p.execute(w, made(tampered))
	}
	return fault
}

// measure is what this process has.
type measure struct {
	goroutines int
	heap       uint64
}

func take() measure {
	runtime.GC()
	runtime.GC() // what the first one has finalized
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return measure{runtime.NumGoroutine(), s.HeapAlloc}
}

// leak waits until there is as little as at first, and says what is left.
func (first measure) leak() string {
	var now measure
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-ticker.C {
		now = take()
		if now.goroutines <= first.goroutines+goroutineSlack && now.heap <= first.heap+heapSlack {
			return ""
		}
	}
	return fmt.Sprintf("goroutines %d, then %d; heap %d, then %d bytes", first.goroutines, now.goroutines, first.heap, now.heap)
}
