// Package enginetest is the contract of an engine, as tests: whatever keeps a broker's records passes Run. The oracle is
// the same operations on plain maps. The file system below the engine forgets what was not synced, so a store
// that acknowledges too early fails here, and only here: a process that is killed leaves the page cache behind.
package enginetest

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine"
)

// Reader is what both an engine and the oracle answer.
type Reader interface {
	Organizations() ([]uint64, error)
	Head(organization uint64) (engine.Position, error)
	Filters(organization uint64, visit func(f engine.Filter, text string) error) error
	Sessions(organization uint64, visit func(engine.Session) error) error
	Session(organization uint64, owner engine.Owner) (engine.Session, bool, error)
	Lookup(organization uint64, kind engine.Kind, clientID string) (engine.Owner, bool, error)
	Subscriptions(organization uint64, owner engine.Owner) ([]engine.Subscription, error)
	Received(organization uint64, owner engine.Owner) ([]uint16, error)
	Outgoing(organization uint64, owner engine.Owner) ([]engine.Outgoing, error)
	Read(organization uint64, owner engine.Owner, position engine.Position) (engine.Entry, bool, error)
	Cursor(organization uint64, owner engine.Owner) (engine.Position, error)
	Will(organization uint64, owner engine.Owner) (engine.Will, bool, error)
	Retained(organization uint64, visit func(engine.Retained) error) error
	RetainedOf(organization uint64, topic string) (engine.Entry, bool, error)
	Due(now int64, limit int) ([]engine.Due, error)
	Page(organization uint64, filters []engine.Filter, after, upTo engine.Position, maxBytes int, dst []engine.Match) ([]engine.Match, engine.Position, error)
	Backlog(organization uint64, filter engine.Filter, after engine.Position) (messages, bytes uint64, err error)
}

// Store is the engine under test.
type Store interface {
	Reader
	Commit(b *engine.Batch, then func(first engine.Position, err error))
	Run() uint64
	Started(run uint64) (at int64, ok bool, err error)
	Failed() <-chan struct{}
	NextOwner(organization uint64) (engine.Owner, error)
	NextFilter(organization uint64) (engine.Filter, error)
	Trim(organization uint64, filter engine.Filter, upTo engine.Position) error
	TrimBodies(organization uint64, upTo engine.Position) error
	DropOrganization(organization uint64) error
	Close() error
}

// Options are what the suite asks of an engine.
type Options struct {
	FS        vfs.FS
	Dir       string // "": any, the same each time
	Reserve   int64
	FreeBytes func() (int64, error)
	Now       func() time.Time // nil: time.Now
}

// Factory opens an engine on a file system, the same store each time for the same folder of the same file system. It should be set to small
// buffers, so that short runs reach everything that engine does to its files.
type Factory func(Options) (Store, error)

// ground is an engine under test, and where its stores are.
type ground struct {
	open  Factory
	place func(t *testing.T) Options // a new one: FS, Dir
}

// Run is the contract, in memory.
func Run(t *testing.T, open Factory) {
	RunOn(t, open, func(*testing.T) Options { return Options{FS: vfs.NewMem()} })
	t.Run("Crash", func(t *testing.T) { testCrash(t, open) })
	t.Run("Fault", func(t *testing.T) { testFault(t, open) })
}

// RunOn is the contract on any file system, each store in a new place on it. Crash and Fault are not in there: they need a
// file system that forgets what was not synced, and that is copied at any write, which no real disk does at will.
func RunOn(t *testing.T, open Factory, place func(t *testing.T) Options) {
	g := ground{open, place}
	t.Run("Commit", func(t *testing.T) { testCommit(t, g) })
	t.Run("Positions", func(t *testing.T) { testPositions(t, g) })
	t.Run("Order", func(t *testing.T) { testOrder(t, g) })
	t.Run("Refused", func(t *testing.T) { testRefused(t, g) })
	t.Run("Full", func(t *testing.T) { testFull(t, g) })
	t.Run("Page", func(t *testing.T) { testPage(t, g) })
	t.Run("Held", func(t *testing.T) { testHeld(t, g) })
	t.Run("HeldShared", func(t *testing.T) { testHeldShared(t, g) })
	t.Run("Due", func(t *testing.T) { testDue(t, g) })
	t.Run("Numbers", func(t *testing.T) { testNumbers(t, g) })
	t.Run("Started", func(t *testing.T) { testStarted(t, g) })
	t.Run("Drop", func(t *testing.T) { testDrop(t, g) })
	t.Run("Closed", func(t *testing.T) { testClosed(t, g) })
	t.Run("Random", func(t *testing.T) { testRandom(t, g) })
}
