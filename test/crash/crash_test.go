// Package crash kills the built server while clients with sessions work on it, starts it again on its data, and holds what
// the clients were promised against what they got. A SIGKILL leaves the page cache: that what is promised is also synced,
// the trace of system calls in this package shows.
package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

// TestKill kills the server 2 times at each QoS, or as often as CRASH_KILLS says; CRASH_SEED=n repeats the choices of a run.
func TestKill(t *testing.T) {
	kills, seed := setting(t, "CRASH_KILLS", 2), uint64(setting(t, "CRASH_SEED", int(time.Now().UnixMilli())))
	for _, qos := range []mqtt.QoS{1, 2} {
		t.Run(fmt.Sprintf("QoS%d", qos), func(t *testing.T) { judgeRun(t, qos, kills, seed) })
	}
}

func setting(t *testing.T, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func judgeRun(t *testing.T, qos mqtt.QoS, kills int, seed uint64) {
	t.Logf("seed=%d qos=%d kills=%d", seed, qos, kills)
	dir, err := os.MkdirTemp("", "cloudsignal-killed-*")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the data and the server's log stay in %s", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	w, err := newWorld(dir, qos, seed)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := w.play(kills); err != nil {
		w.ledger.fault(fault{kind: broken, who: broken, text: err.Error()})
	}
	v := w.ledger.check()
	t.Logf("seed=%d qos=%d kills=%d seconds=%.1f %s", seed, qos, w.killed, time.Since(began).Seconds(), &v)
	seen := make(map[string]int)
	for _, f := range v.faults {
		if seen[f.kind]++; seen[f.kind] <= maxEvidence {
			t.Error(w.ledger.evidence(f))
		}
	}
	if v.count(broken) > 0 {
		b, _ := os.ReadFile(w.log.Name())
		t.Logf("the server's log ends:\n%s", b[max(0, len(b)-4096):])
	}
}

// world is one server that is killed, and its clients.
type world struct {
	dir  string
	qos  mqtt.QoS
	rand *rand.Rand
	seed uint64
	log  *os.File

	server           *process
	place            *place
	ledger           *ledger
	agent, dashboard login
	startTime        time.Duration // how long the last start took
	killed           int

	peers             []*peer
	loading, churning atomic.Bool
	willClients       sync.WaitGroup
}

func newWorld(dir string, qos mqtt.QoS, seed uint64) (*world, error) {
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	began := time.Now()
	w := &world{
		dir: dir, qos: qos, rand: rand.New(rand.NewPCG(seed, uint64(qos))), seed: seed, log: log, place: newPlace(),
		ledger: newLedger(qos, func() time.Duration { return time.Since(began) }),
	}
	w.churning.Store(true)
	return w, nil
}

// play lets the clients work, kills, and waits until all that is owed has come or nothing comes any more.
func (w *world) play(kills int) error {
	defer w.log.Close()
	if err := w.start(); err != nil {
		return err
	}
	defer func() { w.server.kill() }()
	late := w.cast()
	ctx, stop := context.WithCancel(context.Background())
	willCtx, stopWills := context.WithCancel(ctx)
	var living sync.WaitGroup
	defer living.Wait()
	defer stop()
	defer w.willClients.Wait()
	defer stopWills()
	for _, p := range w.peers {
		living.Go(func() { p.live(ctx) })
	}
	if !await(patience, often, func() bool {
		return w.all(func(p *peer) bool { return p.filter == "" || w.ledger.isSubscribed(p.receiver) })
	}) {
		return fmt.Errorf("not everybody has subscribed")
	}
	w.loading.Store(true)
	for i := range kills {
		if i == kills/2 {
			living.Go(func() { late.live(ctx) })
		}
		if err := w.round(willCtx, i); err != nil {
			return err
		}
	}
	if err := w.start(); err != nil {
		return err
	}
	if err := w.works(func() bool { return true }); err != nil {
		return err
	}
	stopWills() // those of the last round that were late: they drop
	return w.settle(ctx)
}

// cast makes the clients; the one it returns comes later than the others.
func (w *world) cast() (late *peer) {
	const root = "agents/agent-01/"
	for i := range 4 {
		p := w.peer(fmt.Sprintf("publisher-%d", i), i, &w.agent)
		p.topic = func(int) string { return fmt.Sprintf("%sload/%s/%d", root, p.name, p.rand.IntN(3)) }
	}
	fixed := w.peer("kept-fixed", 0, &w.agent)
	fixed.kind, fixed.topic = kept, func(int) string { return fmt.Sprintf("%skept/fixed/%d", root, fixed.rand.IntN(3)) }
	// Sends nothing again after a crash, and publishes in each run to topics of its own: what is there later has survived.
	fleeting := w.peer("kept-fleeting", 0, &w.agent)
	fleeting.clean, fleeting.kind = true, kept
	fleeting.topic = func(run int) string { return fmt.Sprintf("%skept/run-%d/%d", root, run, fleeting.rand.IntN(3)) }

	for i, s := range []struct {
		name, filter   string
		leave          habit
		receiveMaximum uint16
	}{
		{"everything", "agents/#", stays, 0},
		{"wildcard", root + "load/+/1", stays, 0},
		{"polite", root + "load/#", polite, 0},
		{"dropping", root + "load/#", drops, 0},
		{"narrow", "agents/+/load/+/2", anyways, 3},
		{"watcher", root + "will/#", drops, 0},
		{"member-staying", "$share/g/" + root + "load/#", stays, 0},
		{"member-polite", "$share/g/" + root + "load/#", polite, 0},
		{"member-dropping", "$share/g/" + root + "load/#", drops, 5},
		{"late", root + "load/publisher-0/#", drops, 0},
	} {
		p := w.peer(s.name, i, &w.dashboard)
		p.filter, p.leave, p.receiveMaximum = s.filter, s.leave, s.receiveMaximum
		p.receiver = w.ledger.subscriber(p.name, p.filter)
	}
	late = w.peers[len(w.peers)-1]
	w.peers = w.peers[:len(w.peers)-1]
	return late
}

// peer makes a client of 5.0 or 3.1.1 by turns.
func (w *world) peer(name string, i int, who *login) *peer {
	p := &peer{w: w, name: name, version: mqtt.V5, login: who, rand: rand.New(rand.NewPCG(w.seed, uint64(len(w.peers))+100))}
	if i%2 == 1 {
		p.version = mqtt.V311
	}
	p.nextID, p.inbound = uint16(p.rand.IntN(1<<16)), make(map[uint16]string)
	w.peers = append(w.peers, p)
	return p
}

func (w *world) all(ok func(*peer) bool) bool {
	for _, p := range w.peers {
		if !ok(p) {
			return false
		}
	}
	return true
}

// start runs the server until it is ready.
func (w *world) start() error {
	began := time.Now()
	if err := w.launch(); err != nil {
		return err
	}
	r, err := w.server.await()
	if err != nil {
		return err
	}
	w.startTime = time.Since(began)
	if w.agent.Username == "" {
		if w.agent, w.dashboard, err = readLogins(r.Credentials); err != nil {
			return err
		}
	}
	w.place.set(r.Addresses["mqtt"])
	return nil
}

func (w *world) launch() (err error) {
	w.server, err = launch(w.log, exec.Command(program, arguments(filepath.Join(w.dir, "data"))...))
	return err
}

// kill is a crash.
func (w *world) kill(when string) error {
	w.place.set("")
	w.ledger.note(broken, "killed %s", when)
	w.killed++
	if !w.server.kill() {
		return fmt.Errorf("the server ended by itself: %v", w.server.err)
	}
	return nil
}

// moment is when a server is killed.
type moment uint8

const (
	underLoad moment = iota
	inItsStart
	whenWillsFire // wills of an earlier run
	inReconnects
)

var moments = []moment{underLoad, inItsStart, whenWillsFire, inReconnects, underLoad}

// round starts the server if it is down, and kills it.
func (w *world) round(ctx context.Context, i int) error {
	when := moments[i%len(moments)]
	if when == inItsStart {
		if err := w.launch(); err != nil {
			return err
		}
		w.wait(time.Duration(w.rand.Int64N(int64(w.startTime))))
		return w.kill("in its start")
	}
	if i > 0 {
		if err := w.start(); err != nil {
			return err
		}
	}
	ready := time.Now()
	waiting := w.wills(ctx, i)
	if when == inReconnects {
		w.wait(between(w.rand, 0, 15))
		return w.kill("in reconnects")
	}
	if err := w.works(func() bool { return waiting.Load() == 0 }); err != nil {
		return err
	}
	if when == whenWillsFire {
		w.wait(time.Until(ready.Add(willGrace + between(w.rand, -50, 100))))
		return w.kill("when wills fire")
	}
	w.wait(between(w.rand, 20, 400))
	return w.kill("under load")
}

// works waits until every publisher is served again, and ok.
func (w *world) works(ok func() bool) error {
	run := int64(w.place.run)
	if !await(patience, often, func() bool {
		return ok() && w.all(func(p *peer) bool { return p.topic == nil || p.progress.Load() == run })
	}) {
		return fmt.Errorf("the load does not run again after a start")
	}
	return nil
}

// wait lets time pass: when a crash comes must have nothing to do with what happens.
func (w *world) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.server.exited:
	}
}

// wills connects clients with a will. Most stay until they are killed with the server, one drops, and one takes its will
// back. None comes again. waiting is how many have no CONNACK yet.
func (w *world) wills(ctx context.Context, round int) (waiting *atomic.Int32) {
	waiting = new(atomic.Int32)
	clients := []struct {
		clean   bool
		version int
		leave   habit
	}{{true, 0, stays}, {false, 0, stays}, {false, 1, stays}, {true, 1, drops}, {false, 0, polite}}
	waiting.Store(int32(len(clients)))
	peers := len(w.peers)
	for i, c := range clients {
		p := w.peer(fmt.Sprintf("will-%d-%d", round, i), c.version, &w.agent)
		p.clean, p.leave, p.willTopic = c.clean, c.leave, "agents/agent-01/will/now"
		p.rand = rand.New(rand.NewPCG(w.seed, uint64(1000+10*round+i)))
		w.willClients.Go(func() {
			for !p.connect(ctx) { // the will of an attempt that had no CONNACK may come or not
				if ctx.Err() != nil {
					return
				}
			}
			waiting.Add(-1)
			p.die(ctx)
		})
	}
	w.peers = w.peers[:peers]
	return waiting
}

// die is the end of a client with a will.
func (p *peer) die(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { p.conn.Close() })()
	switch p.leave {
	case drops:
		select {
		case <-time.After(between(p.rand, 0, 100)):
		case <-ctx.Done():
		}
		p.end()
	case polite:
		// From here on it may come or not, until the server has closed.
		p.w.ledger.withdraw(p.willTopic, p.willNumber, false)
		p.send(&mqtt.Disconnect{})
		p.flush()
		for range p.in {
		}
		if p.w.place.up(p.run) && ctx.Err() == nil {
			p.w.ledger.withdraw(p.willTopic, p.willNumber, true)
		}
	}
	for range p.in {
	}
	p.conn.Close()
}

// How long nothing must come before a run is over.
const (
	quietDone    = time.Second     // when nothing is missing
	quietMissing = 6 * time.Second // when something is
	maxSettle    = 2 * time.Minute
)

// settle stops the load and waits for the rest.
func (w *world) settle(ctx context.Context) error {
	w.loading.Store(false)
	w.churning.Store(false)
	if !await(patience, often, func() bool { return w.all(func(p *peer) bool { return p.clean || p.inFlight.Load() == 0 }) }) {
		return fmt.Errorf("not every message is acknowledged at the end")
	}
	began := time.Now()
	await(maxSettle, slowly, func() bool {
		if w.ledger.quiet() < quietDone || time.Since(began) < 2*willGrace {
			return false
		}
		v := w.ledger.check()
		return !v.missing() || w.ledger.quiet() > quietMissing
	})
	fresh := w.peer("fresh", 0, &w.dashboard)
	fresh.clean, fresh.filter = true, "agents/agent-01/kept/#"
	fresh.receiver = w.ledger.subscriber(fresh.name, fresh.filter)
	fresh.receiver.fresh = true
	var done sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	done.Go(func() { fresh.live(ctx) })
	await(quietMissing, slowly, func() bool {
		v := w.ledger.check()
		return v.count(wrongKept) == 0
	})
	stop()
	done.Wait()
	return nil
}
