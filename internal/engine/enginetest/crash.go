package enginetest

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cloudsignal/internal/engine"
)

const (
	crashSeeds         = 3
	crashBatches       = 90
	crashOrganizations = 2
	crashWindow        = 6 // batches under way at once
	observations       = 8 // before each sync of a log
)

func testCrash(t *testing.T, open Factory) {
	for seed := range uint64(crashSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			points, err := crashes(open, 100+seed, crashEvery)
			must(t, err)
			if points < crashBatches {
				t.Errorf("only %d writes to crash at, of %d batches", points, crashBatches)
			}
		})
	}
}

// Crashes runs random batches, crashes before every single change of the file system, and opens what each crash left. It
// returns how many there were, and the first promise that was broken:
//
//   - a batch whose then was called is there, wholly;
//   - of all others those that are there are wholly there, and are the first of their organization;
//   - what a reader showed before the crash is there;
//   - what a reader shows after it is there after the next crash;
//   - the store goes on from there as if nothing had been.
//
// A crash leaves what was synced, and none, some or all of the rest.
func Crashes(open Factory, seed uint64) (points int, err error) { return crashes(open, seed, 1) }

// crashes opens only one crash in every so many.
func crashes(open Factory, seed uint64, every int) (points int, err error) {
	w := newWorkload(generate(seed, crashBatches, crashOrganizations))
	fs := vfs.NewCrashableMem()
	rng := random(seed, 2)
	var all []crash
	var mu sync.Mutex
	hooked := errorfs.Wrap(cloneable{fs}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
			return nil
		}
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			for range observations { // what is on its way and not synced must not be seen
				w.observe()
				runtime.Gosched()
			}
		}
		mu.Lock()
		defer mu.Unlock()
		c := crash{before: w.state()} // first what was promised, then the crash
		config := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 0, 50, 100}[rng.IntN(4)], RNG: rng}
		c.fs, c.what = fs.CrashClone(config), fmt.Sprintf("crash %d, before %v of %s, keeping %d%%", len(all), op.Kind, op.Path, config.UnsyncedDataPercent)
		c.after = w.state()
		all = append(all, c)
		return nil
	}))
	s, err := open(Options{FS: hooked})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(w.run(s), s.Close()); err != nil {
		return 0, err
	}
	for i := int(seed) % every; i < len(all); i += every {
		if err := w.verify(open, &all[i], i); err != nil {
			return len(all), fmt.Errorf("%s: %w", all[i].what, err)
		}
		all[i].fs = nil
	}
	return len(all), nil
}

// cloneable is a file system that can be cloned while it is used: ReuseForWrite of a MemFS takes a lock twice, and a
// clone that comes in between waits for ever.
type cloneable struct{ *vfs.MemFS }

func (fs cloneable) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Rename(from, to); err != nil {
		return nil, err
	}
	return fs.OpenReadWrite(to, c)
}

type crash struct {
	what          string
	fs            *vfs.MemFS
	before, after progress
}

// progress is how far a workload has come, by organization.
type progress struct{ sent, durable, seen map[uint64]int }

// workload is batches on their way into a store, and what the model says after each.
type workload struct {
	batches []*engine.Batch
	of      map[uint64][]*engine.Batch
	dumps   map[uint64][]string // by organization, after as many of its batches

	mu       sync.Mutex
	store    Store
	progress progress
	err      error
	failed   int // batches
}

func newWorkload(batches []*engine.Batch) *workload {
	w := &workload{batches: batches, of: make(map[uint64][]*engine.Batch), dumps: make(map[uint64][]string)}
	w.progress = progress{make(map[uint64]int), make(map[uint64]int), make(map[uint64]int)}
	model := newOracle()
	for n := range uint64(crashOrganizations) {
		text, _ := dump(model, n+1) // a model has no errors
		w.dumps[n+1] = []string{text}
	}
	for _, b := range batches {
		n := b.Organization
		model.Apply(b)
		text, _ := dump(model, n)
		w.of[n], w.dumps[n] = append(w.of[n], b), append(w.dumps[n], text)
	}
	return w
}

func (w *workload) state() progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	clone := func(m map[uint64]int) map[uint64]int {
		c := make(map[uint64]int, len(m))
		for k, v := range m {
			c[k] = v
		}
		return c
	}
	return progress{clone(w.progress.sent), clone(w.progress.durable), clone(w.progress.seen)}
}

// run commits everything, a few at once, and waits.
func (w *workload) run(s Store) error {
	w.mu.Lock()
	w.store = s
	w.mu.Unlock()
	window := make(chan struct{}, crashWindow)
	for _, b := range w.batches {
		window <- struct{}{}
		n := b.Organization
		w.mu.Lock()
		w.progress.sent[n]++
		w.mu.Unlock()
		s.Commit(b, func(_ engine.Position, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case err == nil && w.failed == 0:
				w.progress.durable[n]++
			case err == nil:
				w.err = errors.Join(w.err, errors.New("a batch was acknowledged behind one that failed"))
			case errors.Is(err, engine.ErrFailed):
				w.failed++
			default:
				w.err = errors.Join(w.err, err)
			}
			<-window
		})
	}
	for range cap(window) {
		window <- struct{}{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store = nil
	return w.err
}

// observe reads how far readers see: the marker's state is the number of the last batch that they do.
func (w *workload) observe() {
	w.mu.Lock()
	s := w.store
	w.mu.Unlock()
	if s == nil {
		return
	}
	for n := range w.dumps {
		session, ok, err := s.Session(n, marker)
		if err != nil || !ok {
			continue // dropped with its organization
		}
		seen, err := strconv.Atoi(string(session.State))
		w.mu.Lock()
		if err != nil {
			w.err = errors.Join(w.err, err)
		}
		w.progress.seen[n] = max(w.progress.seen[n], seen)
		w.mu.Unlock()
	}
}

// verify opens what a crash left.
func (w *workload) verify(open Factory, c *crash, i int) error {
	s, err := open(Options{FS: c.fs})
	if err != nil {
		return fmt.Errorf("the store cannot be opened any more: %w", err)
	}
	found, err := w.found(s, c.before, c.after)
	if err == nil {
		err = started(s)
	}
	if err == nil && i%5 == 0 {
		err = w.goOn(s, found)
	}
	if err == nil && i%5 == 1 {
		err = w.again(open, c.fs, found)
	}
	return errors.Join(err, s.Close())
}

// started checks that the start of every run is known: a number that was counted has its time.
func started(s Store) error {
	for run := uint64(1); run <= s.Run(); run++ {
		if _, ok, err := s.Started(run); !ok || err != nil {
			return errors.Join(err, fmt.Errorf("in run %d, the start of run %d is not known", s.Run(), run))
		}
	}
	return nil
}

// found tells how many batches of each organization are there.
func (w *workload) found(s Store, before, after progress) (map[uint64]int, error) {
	found := make(map[uint64]int)
	for n, dumps := range w.dumps {
		got, err := dump(s, n)
		if err != nil {
			return nil, err
		}
		least := max(before.durable[n], before.seen[n])
		there := after.sent[n]
		for there >= 0 && dumps[there] != got {
			there--
		}
		switch {
		case there < 0:
			return nil, fmt.Errorf("organization %d: neither of the states after %d to %d batches; beside the first, %s",
				n, least, after.sent[n], difference(got, dumps[least]))
		case there < least:
			return nil, fmt.Errorf("organization %d: only %d batches are there, %d were acknowledged and %d seen", n, there, before.durable[n], before.seen[n])
		}
		found[n] = there
	}
	return found, nil
}

// goOn commits what is missing of the workload, up to a few batches.
func (w *workload) goOn(s Store, found map[uint64]int) error {
	for n, there := range found {
		upTo := min(there+4, len(w.of[n]))
		for _, b := range w.of[n][there:upTo] {
			if _, err := commit(s, n, b.Operations...); err != nil {
				return err
			}
		}
		got, err := dump(s, n)
		if err != nil {
			return err
		}
		if got != w.dumps[n][upTo] {
			return fmt.Errorf("organization %d, going on from batch %d to %d: %s", n, there, upTo, difference(got, w.dumps[n][upTo]))
		}
		if err := numbers(s, n, w.of[n][:upTo]); err != nil {
			return err
		}
	}
	return nil
}

// numbers checks that no owner or filter that a batch made is given out again.
func numbers(s Store, organization uint64, batches []*engine.Batch) error {
	owner, err := s.NextOwner(organization)
	if err != nil {
		return err
	}
	filter, err := s.NextFilter(organization)
	if err != nil {
		return err
	}
	for op := range operations(batches) {
		if op.Session != nil && op.Session.Owner >= owner || op.Op == engine.OpFilter && op.Filter >= filter {
			return fmt.Errorf("organization %d: the next owner is %d and the next filter %d, which an earlier batch made", organization, owner, filter)
		}
	}
	return nil
}

func operations(batches []*engine.Batch) func(func(*engine.Operation) bool) {
	return func(yield func(*engine.Operation) bool) {
		for _, b := range batches {
			if slices.ContainsFunc(b.Operations, func(op engine.Operation) bool { return !yield(&op) }) {
				return
			}
		}
	}
}

// again crashes once more, keeping only what was synced: the store has shown what is there, so it must stay.
func (w *workload) again(open Factory, fs *vfs.MemFS, found map[uint64]int) error {
	s, err := open(Options{FS: fs.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		return fmt.Errorf("not after a second crash: %w", err)
	}
	shown := progress{sent: found, durable: found}
	if _, err = w.found(s, shown, shown); err != nil {
		err = fmt.Errorf("after a second crash: %w", err)
	}
	return errors.Join(err, s.Close())
}
