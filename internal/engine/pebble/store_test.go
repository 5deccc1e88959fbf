package pebble

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"cloudsignal/internal/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = "store"
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shut(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDisk is a store on a real disk: it comes back, and one process has it at a time.
func TestDisk(t *testing.T) {
	dir := t.TempDir() + "/a/b"
	s := open(t, Options{Dir: dir})
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1}, message(0))
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second Open: %v, want that it is in use", err)
	}
	shut(t, s)
	s = open(t, Options{Dir: dir})
	defer shut(t, s)
	if matches, _, err := s.Page(1, []engine.Filter{1}, 0, 9, 9, nil); len(matches) != 1 || err != nil || s.Run() != 2 {
		t.Errorf("run %d has %v, %v", s.Run(), matches, err)
	}
}

// TestNewerFormat: by its file, before anything is changed, and by its key.
func TestNewerFormat(t *testing.T) {
	fs := filled(t, false)
	damage(t, fs, formatFile, func([]byte) []byte { return []byte("2\n") })
	before := fs.String()
	_, err := Open(Options{Dir: "store", FS: fs})
	if err == nil || !strings.Contains(err.Error(), "format 2") || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a file that says 2: %v", err)
	}
	if after := fs.String(); after != before {
		t.Errorf("files were changed: before\n%s\nafter\n%s", before, after)
	}
	damage(t, fs, formatFile, func([]byte) []byte { return []byte("1\n") })
	s := open(t, Options{FS: fs})
	if err := s.db.Set(keyFormat, binary.AppendUvarint(nil, 7), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if _, err = Open(Options{Dir: "store", FS: fs}); err == nil || !strings.Contains(err.Error(), "format 7") {
		t.Errorf("a key that says 7: %v", err)
	}
}

// gate holds back syncs of logs while it is closed.
type gate struct {
	sync.Mutex
	open *sync.Cond
	shut bool
}

func newGate() *gate {
	g := &gate{}
	g.open = sync.NewCond(g)
	return g
}

func (g *gate) String() string { return "gate" }

func (g *gate) set(shut bool) {
	g.Lock()
	defer g.Unlock()
	g.shut = shut
	g.open.Broadcast()
}

func (g *gate) MaybeError(op errorfs.Op) error {
	g.Lock()
	defer g.Unlock()
	for g.shut && strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
		g.open.Wait()
	}
	return nil
}

// until asks again and again.
func until(is func() bool) {
	for !is() {
		runtime.Gosched()
	}
}

// TestDuringSync: what was written and is not synced yet is seen by no reader, of messages, records or positions, and then
// is not called.
func TestDuringSync(t *testing.T) {
	g := newGate()
	s := open(t, Options{FS: errorfs.Wrap(vfs.NewMem(), g)})
	defer shut(t, s)
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1}, message(0))
	seen := func() string {
		matches, next, err := s.Page(1, []engine.Filter{1}, 0, 9, 9999, nil)
		head, errHead := s.Head(1)
		_, there, errLookup := s.Lookup(1, 1, "c")
		if err := errors.Join(err, errHead, errLookup); err != nil {
			t.Error(err)
		}
		return fmt.Sprint(len(matches), next, head, there)
	}
	g.set(true)
	done := make(chan error, 1)
	b := &engine.Batch{Organization: 1, Operations: []engine.Operation{
		message(1), {Op: engine.OpSession, Session: &engine.Session{Owner: 1, Kind: 1, ClientID: "c"}},
	}}
	s.Commit(b, func(_ engine.Position, err error) { done <- err })
	until(func() bool {
		there, _ := get(s.db, keyLookup(nil, 1, 1, "c"), func([]byte) error { return nil })
		return there
	})
	s.Commit(&engine.Batch{Organization: 1}, nil) // once the committer has taken it, it is done with the first
	until(func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.waiting) == 0
	})
	if got := seen(); got != "1 1 1 false" {
		t.Errorf("during the sync readers see %s", got)
	}
	select {
	case <-done:
		t.Error("then was called before the sync was done")
	default:
	}
	g.set(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := seen(); got != "2 2 2 true" {
		t.Errorf("behind the sync readers see %s", got)
	}
}

// TestBusy: while the disk stands still, Commit takes batches up to its bound, then only those that do not grow the
// store; none blocks, and all end in their order.
func TestBusy(t *testing.T) {
	g := newGate()
	s := open(t, Options{FS: errorfs.Wrap(vfs.NewMem(), g), MaxWaiting: 10_000})
	defer shut(t, s)
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1})
	g.set(true)
	var done sync.WaitGroup
	var last, committed, busy int
	for i := range 200 {
		b := &engine.Batch{Organization: 1, Operations: []engine.Operation{message(i)}}
		if i%2 == 1 {
			b.Operations[0] = engine.Operation{Op: engine.OpCursor, Owner: 1, Position: engine.Position(i)}
		}
		done.Add(1)
		s.Commit(b, func(_ engine.Position, err error) {
			defer done.Done()
			switch {
			case i < last:
				t.Errorf("batch %d ended behind %d", i, last)
			case err == nil:
				committed++
			case errors.Is(err, engine.ErrBusy) && i%2 == 0:
				busy++
			default:
				t.Errorf("batch %d: %v", i, err)
			}
			last = i
		})
	}
	g.set(false)
	done.Wait()
	if committed < 110 || busy < 50 {
		t.Errorf("%d committed, %d refused", committed, busy)
	}
	wait(t, s, message(0)) // there is room again
	if cursor, err := s.Cursor(1, 1); cursor != 199 || err != nil {
		t.Errorf("cursor %d, %v", cursor, err)
	}
}

// TestStopsAtFailure: after a failed sync nothing reaches the disk, the durable part is still read, and the store closes.
func TestStopsAtFailure(t *testing.T) {
	var failing atomic.Bool
	var later []string
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead || !failing.Load() || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpFileWrite && later == nil {
			return nil
		}
		if later = append(later, fmt.Sprint(op.Kind, " ", op.Path)); len(later) == 1 {
			return errorfs.ErrInjected
		}
		return nil
	})
	s := open(t, Options{FS: errorfs.Wrap(vfs.NewMem(), inject)})
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1}, message(0))
	failing.Store(true)
	for i := range 3 {
		err := s.wait(&engine.Batch{Organization: 1, Operations: []engine.Operation{message(i)}})
		if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("commit %d: %v, want ErrFailed with its cause", i, err)
		}
	}
	<-s.Failed()
	if err := s.Trim(1, 1, 1); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("trim: %v", err)
	}
	if matches, _, err := s.Page(1, []engine.Filter{1}, 0, 9, 1000, nil); len(matches) != 1 || err != nil {
		t.Errorf("readers see %d messages, %v, want the durable one", len(matches), err)
	}
	if err := s.Close(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("close: %v, want ErrFailed", err)
	}
	if len(later) != 1 {
		t.Errorf("after the failure the disk was changed: %v", later[1:])
	}
}

// TestReaders reads from many goroutines while others commit, trim and at last close: each page is a run of positions
// without a gap, and nothing is left open.
func TestReaders(t *testing.T) {
	s := open(t, Options{FS: vfs.NewMem(), memTable: 64 << 10})
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1})
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		writers.Go(func() {
			for i := range 200 {
				wait(t, s, message(i))
			}
		})
		readers.Go(func() {
			for after := engine.Position(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				matches, next, err := s.Page(1, []engine.Filter{1}, after, math.MaxUint64, 2000, nil)
				if err != nil && !errors.Is(err, engine.ErrClosed) {
					t.Error(err)
					return
				}
				for i := 1; i < len(matches); i++ {
					if matches[i].Position != matches[i-1].Position+1 {
						t.Errorf("%d follows %d", matches[i].Position, matches[i-1].Position)
					}
				}
				if n := len(matches); n > 0 && matches[n-1].Position != next {
					t.Errorf("page goes on behind %d, its last message is %d", next, matches[n-1].Position)
				}
				if head, err := s.Head(1); err == nil && next > head {
					t.Errorf("page up to %d, head %d", next, head)
				}
				if after = next; after > 50 {
					after = 0
				}
			}
		})
	}
	for i := range engine.Position(20) {
		if err := s.Trim(1, 1, i*20); err != nil {
			t.Error(err)
		}
	}
	writers.Wait()
	shut(t, s)
	close(stop)
	readers.Wait()
}

// TestNothingLeft: when all has ended and was trimmed, only what numbers are used up is left, and trims are remembered.
func TestNothingLeft(t *testing.T) {
	s := open(t, Options{FS: vfs.NewMem()})
	defer shut(t, s)
	const owners = 5
	large := engine.Entry{Body: make([]byte, 1000)}
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1}, engine.Operation{Op: engine.OpFilter, Filter: 2})
	wait(t, s, engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{1, 2}, Entry: &large}, message(1))
	for owner := engine.Owner(1); owner <= owners; owner++ {
		wait(t, s, engine.Operation{Op: engine.OpSession, Session: &engine.Session{Owner: owner, Kind: 1, ClientID: fmt.Sprint(owner)}},
			engine.Operation{Op: engine.OpWake, Owner: owner, Event: engine.SessionEnds, At: 5},
			engine.Operation{Op: engine.OpWill, Owner: owner, Will: &engine.Will{}},
			engine.Operation{Op: engine.OpOutgoing, Owner: owner, Outgoing: &engine.Outgoing{Position: 1}, Entry: &large})
		wait(t, s, engine.Operation{Op: engine.OpWake, Owner: owner, Event: engine.SessionEnds, At: 7})
		for i := range smallOwner * int(owner-1) / 2 {
			wait(t, s, engine.Operation{Op: engine.OpReceive, Owner: owner, ID: uint16(i)})
		}
		wait(t, s, engine.Operation{Op: engine.OpEnd, Owner: owner})
	}
	wait(t, s, engine.Operation{Op: engine.OpSession, Session: &engine.Session{Owner: 9, Kind: 1, ClientID: "short"}},
		engine.Operation{Op: engine.OpReceive, Owner: 9, ID: 1}, engine.Operation{Op: engine.OpEnd, Owner: 9})
	if err := errors.Join(s.Trim(1, 1, 2), s.TrimBodies(1, 2)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []engine.Filter{1, bodies} {
		if cut, err := trimOf(s.db, 1, f); cut != 2 || err != nil {
			t.Errorf("trim of %d is remembered as %d, %v", f, cut, err)
		}
	}
	wait(t, s, engine.Operation{Op: engine.OpDropFilter, Filter: 1}, engine.Operation{Op: engine.OpDropFilter, Filter: 2})
	for kind := kindOrganization + 1; kind <= kindTime; kind++ {
		err := scan(s.db, []byte{kind}, func(rest, _ []byte) error {
			if kind != kindTrim || last8(rest) != uint64(bodies) {
				t.Errorf("left is %02x%x", kind, rest)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLayout pins the bytes of keys and records: they are on the disks of users, under formatVersion.
func TestLayout(t *testing.T) {
	e := engine.Entry{Publisher: "p", QoS: 2, Retain: true, Expires: 5, Body: []byte("hi")}
	entry := "0e0000000000000005" + "0170" + "6869"
	for name, pair := range map[string][2]string{
		"start of run": {hex.EncodeToString(keyStart(nil, 3)), "01" + "72756e" + "0000000000000003"},
		"index":        {hex.EncodeToString(keyIndex(nil, 1, 2, 3)), "03" + "0000000000000001" + "0000000000000002" + "0000000000000003"},
		"body":         {hex.EncodeToString(key2(nil, kindBody, 1, 258)), "04" + "0000000000000001" + "0000000000000102"},
		"lookup":       {hex.EncodeToString(keyLookup(nil, 1, 2, "ab")), "08" + "0000000000000001" + "02" + "6162"},
		"subscription": {hex.EncodeToString(keySubText(nil, 1, 2, "a")), "09" + "0000000000000001" + "0000000000000002" + "01" + "61"},
		"received":     {hex.EncodeToString(keyReceived(nil, 1, 2, 0x0102)), "09" + "0000000000000001" + "0000000000000002" + "02" + "0102"},
		"copy":         {hex.EncodeToString(keySubPosition(nil, 1, 2, subCopy, 3)), "09" + "0000000000000001" + "0000000000000002" + "04" + "0000000000000003"},
		"wake":         {hex.EncodeToString(keyWake(nil, 1, 2, engine.WillFires)), "09" + "0000000000000001" + "0000000000000002" + "07" + "02"},
		"held":         {hex.EncodeToString(keyHeld(nil, 1, 2, 3)), "0a" + "0000000000000001" + "0000000000000003" + "0000000000000002"},
		"held, shared": {hex.EncodeToString(keyHeld(nil, 1, 2, 3|engine.Shared)), "0a" + "0000000000000001" + "0000000000000003" + "8000000000000002"},
		"sent, shared": {hex.EncodeToString(keySubPosition(nil, 1, 2, subOutgoing, 3|engine.Shared)), "09" + "0000000000000001" + "0000000000000002" + "03" + "8000000000000003"},
		"retained":     {hex.EncodeToString(keyRetained(nil, 1, "a")), "0b" + "0000000000000001" + "61"},
		"time":         {hex.EncodeToString(keyTime(nil, engine.Due{At: 1, Organization: 2, Owner: 3, Event: 1})), "0c" + "8000000000000001" + "0000000000000002" + "0000000000000003" + "01"},
		"before 1970":  {hex.EncodeToString(keyTime(nil, engine.Due{At: -1}))[:18], "0c" + "7fffffffffffffff"},

		"entry":          {hex.EncodeToString(appendEntry(nil, &e)), entry},
		"an index's":     {hex.EncodeToString(appendIndexEntry(nil, &indexEntry{count: 1, bytes: 300, size: 2})), "01" + "ac02" + "02"},
		"organization":   {hex.EncodeToString(appendMeta(nil, &meta{position: 1, owners: 2, filters: 3, live: true})), "01020301"},
		"a subscription": {hex.EncodeToString(appendSubscription(nil, &engine.Subscription{Filter: 1, Options: []byte("o")}, 2)), "0102" + "6f"},
		"outgoing":       {hex.EncodeToString(appendOutgoing(nil, &engine.Outgoing{Filter: 1, ID: 2, State: 3, Extra: []byte("x")})), "010203" + "78"},
		"session": {
			hex.EncodeToString(appendSession(nil, &engine.Session{Kind: 2, ClientID: "c", User: "u", Expiry: 1, Connected: 2, EndsAt: 3, State: []byte("s")})),
			"02" + "0163" + "0175" + "01" + "02" + "0000000000000003" + "73",
		},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %s, want %s", name, pair[0], pair[1])
		}
	}
	if end := after([]byte{1, 2, 0xff, 0xff}); !bytes.Equal(end, []byte{1, 3}) {
		t.Errorf("behind 0102ffff is %x", end)
	}
}

// FuzzRecords: no bytes make a decoder panic, and what one accepts comes back the same from encoding and decoding again.
func FuzzRecords(f *testing.F) {
	e := engine.Entry{Publisher: "p", QoS: 2, Retain: true, Expires: 5, Body: []byte("hi")}
	f.Add(appendEntry(nil, &e))
	f.Add(appendIndexEntry(nil, &indexEntry{count: 1, bytes: 300, size: 2}))
	f.Add(appendSession(nil, &engine.Session{Kind: 2, ClientID: "c", User: "u", Expiry: 1, Connected: 2, EndsAt: 3, State: []byte("s")}))
	f.Add(appendOutgoing(nil, &engine.Outgoing{Filter: 1, ID: 2, State: 3, Extra: []byte("x")}))
	f.Add(appendSubscription(nil, &engine.Subscription{Filter: 1, Options: []byte("o")}, 2))
	f.Add(appendMeta(nil, &meta{position: 1, owners: 2, filters: 3, live: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var one, two engine.Entry
		if decodeEntry(b, &one) == nil {
			err := decodeEntry(appendEntry(nil, &one), &two)
			same(t, one, two, err)
		}
		if v, err := decodeIndexEntry(b); err == nil {
			w, err := decodeIndexEntry(append(appendIndexEntry(nil, &v), v.inline...))
			same(t, v, w, err)
		}
		if v, err := decodeSession(7, b); err == nil {
			w, err := decodeSession(7, appendSession(nil, &v))
			same(t, v, w, err)
		}
		if v, err := decodeOutgoing(7, b); err == nil {
			w, err := decodeOutgoing(7, appendOutgoing(nil, &v))
			same(t, v, w, err)
		}
		if v, err := decodeSubscription("s", b); err == nil {
			w, err := decodeSubscription("s", appendSubscription(nil, &v, v.Since))
			same(t, v, w, err)
		}
		if v, err := decodeMeta(b); err == nil {
			w, err := decodeMeta(appendMeta(nil, &v))
			same(t, v, w, err)
		}
	})
}

func same(t *testing.T, a, b any, err error) {
	t.Helper()
	if err != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("%+v came back as %+v, %v", a, b, err)
	}
}
