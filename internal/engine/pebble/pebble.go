// Package pebble is the embedded engine: the records of package engine in one Pebble database. On a file system in
// memory (vfs.NewMem) it is a store to throw away.
//
// One committer writes everything. It packs what waits into one batch of the database, applies it, and packs the next
// while that one's sync is under way; a second goroutine waits for the sync, makes the new state the one that readers
// see, and calls what waited for it. Readers therefore see a snapshot that is durable, whatever Pebble already shows.
//
// # When the disk fails
//
// Below a reserve of free space, batches that grow the store are refused with engine.ErrFull, and all else goes on. A write,
// a sync or a new file that fails, for want of space or of rights or of a sound disk, ends the store: nothing is tried
// again, nothing is written any more, every Commit ends with engine.ErrFailed, and the next Open has all that was
// acknowledged. Readers go on with what is durable until they need a table that Pebble was making at that moment, and did
// not get to the disk: then they end with engine.ErrFailed, never with less. Open refuses, and says why: a folder that cannot be written, a damaged or
// missing file, a newer format. What each kind of damage does is stated in damage_test.go.
package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine"
)

// formatVersion is the version of the layout of keys and records. A store with a greater one is refused.
const formatVersion = 1

// databaseVersion is fixed, so that an update of the library alone does not make a store unreadable for the version
// before. With this one the log carries how far it was synced, which tells a lost end from a damaged middle.
const databaseVersion = pebble.FormatTableFormatV6

// Bounds, where Options says nothing else.
const (
	defaultCache      = 32 << 20 // bytes of blocks read
	maxWaiting        = 64 << 20 // bytes of batches from Commit until then; growing ones beyond get engine.ErrBusy
	maxGroup          = 2 << 20  // bytes of batches that share a write, unless a single one is larger
	memTableSize      = 16 << 20 // bytes not yet in a table, of which Pebble holds up to memTables
	memTables         = 4
	maxOpenFiles      = 512
	maxCachedFilters  = 1 << 16 // running counts in memory; all are forgotten when there are more
	defaultCompactors = 2
)

// Options of a store.
type Options struct {
	Dir string // is made if it is not there; one process has it at a time
	FS  vfs.FS // nil: the disk

	// Below Reserve free bytes, as told by FreeBytes, batches that grow the store are refused with engine.ErrFull: what
	// is left is for those that free space. FreeBytes nil: not looked at. It is asked once for each write.
	Reserve   int64
	FreeBytes func() (int64, error)

	Now func() time.Time // nil: time.Now. It is asked once, at Open

	Cache      int64 // bytes of blocks read that are kept; 0: 32 MiB
	MaxWaiting int   // bytes of batches in memory that wait for the disk; 0: 64 MiB

	// For tests of this package.
	memTable     uint64 // 0: memTableSize
	unsynced     bool   // then is called without a sync: a broken store
	readUnsynced bool   // readers see what is not synced: a broken store
}

// Store is a store of records. All methods may be called by any goroutine at any time; after Close they return
// engine.ErrClosed.
type Store struct {
	options Options
	db      *pebble.DB
	cache   *pebble.Cache
	disk    *disk
	run     uint64

	failOnce sync.Once
	failed   chan struct{}
	cause    error // set before failed is closed

	mu      sync.Mutex // guards what waits
	waiting []request
	held    int // bytes from Commit until then
	closing bool
	wake    chan struct{} // capacity 1

	groups     chan *group
	goroutines sync.WaitGroup

	organizationsMu sync.Mutex
	organizations   map[uint64]*organization // those used in this run

	viewMu  sync.RWMutex
	view    *view // nil after Close
	readers sync.WaitGroup

	packer packer

	closeOnce sync.Once
	closeErr  error
}

// Open opens the store, and makes it if there is none. A store that another process has open, that is damaged or was
// written by a newer version is refused with an error that says so.
func Open(o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Cache == 0 {
		o.Cache = defaultCache
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = maxWaiting
	}
	if o.memTable == 0 {
		o.memTable = memTableSize
	}
	s := &Store{
		options: o, failed: make(chan struct{}), wake: make(chan struct{}, 1), groups: make(chan *group),
		organizations: make(map[uint64]*organization),
	}
	s.disk = &disk{FS: o.FS, fail: s.fail}
	s.cache = pebble.NewCache(o.Cache)
	if err := s.open(); err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		s.cache.Unref()
		return nil, err
	}
	s.publish(&view{snapshot: s.db.NewSnapshot()})
	s.packer.init(s)
	s.goroutines.Add(2)
	go s.commit()
	go s.sync()
	return s, nil
}

func (s *Store) open() error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the database has its own count of it
	made, err := s.checkFormat()
	if err != nil {
		return err
	}
	if err := s.checkManifest(); err != nil {
		return s.damaged(err)
	}
	o := s.databaseOptions()
	o.Lock, o.ErrorIfNotExists = lock, made // else a store that lost the file which names its tables opens as an empty one
	s.db, err = pebble.Open(s.options.Dir, o)
	switch {
	case s.disk.dead.Load():
		return s.unwritable()
	case err != nil:
		return s.damaged(err)
	}
	err = s.begin()
	if err == nil && !made {
		err = s.writeFormat()
	}
	if s.disk.dead.Load() {
		return s.unwritable()
	}
	return err
}

func (s *Store) unwritable() error {
	<-s.failed // whoever has marked the disk is about to
	if pebble.IsCorruptionError(s.cause) {
		return s.damaged(s.cause)
	}
	return fmt.Errorf("engine: the store in %s cannot be written: %w", s.options.Dir, s.cause)
}

// lock makes the folder and locks it.
func (s *Store) lock() (*pebble.Lock, error) {
	if err := s.options.FS.MkdirAll(s.options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("engine: cannot make the folder %s: %w", s.options.Dir, err)
	}
	lock, err := pebble.LockDirectory(s.options.Dir, s.options.FS)
	switch {
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("engine: the store in %s cannot be written: %w", s.options.Dir, err)
	case err != nil:
		return nil, fmt.Errorf("engine: %s is in use by another process, or cannot be locked: stop that one first: %w", s.options.Dir, err)
	}
	return lock, nil
}

func (s *Store) damaged(err error) error {
	return fmt.Errorf("engine: the store in %s cannot be opened: %w. If a file is damaged or missing, "+
		"move the folder away and restore it from a backup", s.options.Dir, err)
}

// begin checks the format, and counts this run with the time of its start, durably.
func (s *Store) begin() error {
	format, err := s.number(keyFormat)
	if err != nil {
		return s.damaged(err)
	}
	if err := s.refuseNewer(format); err != nil {
		return err
	}
	run, err := s.number(keyRun)
	if err != nil {
		return s.damaged(err)
	}
	s.run = run + 1
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }() // only gives memory back
	for _, pair := range [][2][]byte{
		{keyFormat, binary.AppendUvarint(nil, formatVersion)},
		{keyRun, binary.AppendUvarint(nil, s.run)},
		{keyStart(nil, s.run), binary.BigEndian.AppendUint64(nil, uint64(s.options.Now().UnixNano()))},
	} {
		if err := b.Set(pair[0], pair[1], nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}

// formatFile says that there is a store, and in which format, to whoever is not to touch it otherwise. It is written
// once, behind the first run's begin.
const formatFile = "FORMAT"

// checkFormat tells whether a store was made here, and refuses one of a newer format before anything is changed.
func (s *Store) checkFormat() (made bool, err error) {
	text, found, err := s.slurp(formatFile)
	if err != nil {
		return false, s.damaged(err)
	}
	if !found {
		return false, nil
	}
	format, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return false, s.damaged(fmt.Errorf("file %s has %q, not a number", formatFile, text))
	}
	return true, s.refuseNewer(format)
}

func (s *Store) refuseNewer(format uint64) error {
	if format <= formatVersion {
		return nil
	}
	return fmt.Errorf("engine: the store in %s has format %d, and this version knows formats up to %d: start the newer version that wrote it",
		s.options.Dir, format, formatVersion)
}

func (s *Store) writeFormat() error {
	name := s.disk.PathJoin(s.options.Dir, formatFile)
	f, err := s.disk.Create(name+".tmp", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, formatVersion)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.disk.Rename(name+".tmp", name); err != nil {
		return err
	}
	return syncDir(s.disk, s.options.Dir)
}

func (s *Store) number(k []byte) (uint64, error) {
	var n uint64
	_, err := get(s.db, k, func(v []byte) error {
		d := decoder{rest: v}
		n = d.uvarint()
		return d.err("number")
	})
	return n, err
}

func (s *Store) databaseOptions() *pebble.Options {
	o := &pebble.Options{
		FS: s.disk, Cache: s.cache, FormatMajorVersion: databaseVersion, Logger: logger{s},
		MemTableSize: s.options.memTable, MemTableStopWritesThreshold: memTables, MaxOpenFiles: maxOpenFiles,
		CompactionConcurrencyRange: func() (int, int) { return 1, defaultCompactors },
		EventListener: &pebble.EventListener{
			BackgroundError: s.fail, // a table cannot be read or made: what is on disk is not known
			DataCorruption:  func(i pebble.DataCorruptionInfo) { s.fail(i.Details) },
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// logger turns what Pebble would end the process for into a failure. The rest it says comes back as errors too.
type logger struct{ s *Store }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}

func (l logger) Fatalf(format string, args ...any) { l.s.fail(fmt.Errorf(format, args...)) }

// fail is called with the first failure, and with later ones, by any goroutine, Pebble's too.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.disk.dead.Store(true)
		s.cause = err
		close(s.failed)
	})
}

// failure is nil, or engine.ErrFailed with the cause.
func (s *Store) failure() error {
	select {
	case <-s.failed:
		return fmt.Errorf("%w: %w", engine.ErrFailed, s.cause)
	default:
		return nil
	}
}

// Failed is closed when a write or a sync has failed. From then on every Commit ends with engine.ErrFailed, nothing is
// written any more, and what is on disk is as after a crash: the process is to end and start again. Readers show what is
// durable, or end with engine.ErrFailed too.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Run is the number of this run: one more at each Open, from 1.
func (s *Store) Run() uint64 { return s.run }

// Started tells when a run of this store was started, in Unix nanoseconds, by the clock that run was given; this run's
// and all before. What a record says of "connected in run N" had ended, at the latest, when run N+1 was started.
func (s *Store) Started(run uint64) (at int64, ok bool, err error) {
	err = s.read(func(r pebble.Reader) error {
		ok, err = get(r, keyStart(nil, run), func(v []byte) error {
			if len(v) != 8 {
				return (&decoder{bad: true}).err("run")
			}
			at = int64(binary.BigEndian.Uint64(v))
			return nil
		})
		return err
	})
	return at, ok, err
}

// Close commits what waits, calls what waits for it, and closes the files. It waits for readers that are under way, so
// it must not be called by what they visit, nor by a then.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		s.signal()
		s.goroutines.Wait()
		s.publish(nil)
		s.readers.Wait()
		if s.failure() == nil {
			s.closeErr = s.db.Flush() // tables have checksums throughout, and open sooner than a log
		}
		if err := s.db.Close(); s.closeErr == nil {
			s.closeErr = err
		}
		s.cache.Unref()
		if err := s.failure(); err != nil {
			s.closeErr = err
		}
	})
	return s.closeErr
}

// organization is what is known of an organization that was used in this run. It is never forgotten: it knows numbers
// that were given out and are not on disk yet. About 100 bytes.
type organization struct {
	number          uint64
	durable         atomic.Uint64 // position that readers may know
	owners, filters atomic.Uint64 // numbers given out

	meta  meta // the packer's: with everything packed
	dirty bool // the packer's: meta is to be written with this group
}

// organization loads what is on disk at its first use. Nothing of it has been packed before that, so what the database
// shows is durable.
func (s *Store) organization(number uint64) (*organization, error) {
	s.organizationsMu.Lock()
	defer s.organizationsMu.Unlock()
	if o := s.organizations[number]; o != nil {
		return o, nil
	}
	v := s.acquire()
	if v == nil {
		return nil, engine.ErrClosed
	}
	defer v.release(s)
	o := &organization{number: number}
	_, err := get(v.snapshot, key(nil, kindOrganization, number), func(b []byte) (err error) {
		o.meta, err = decodeMeta(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	o.durable.Store(uint64(o.meta.position))
	o.owners.Store(o.meta.owners)
	o.filters.Store(o.meta.filters)
	s.organizations[number] = o
	return o, nil
}

// NextOwner returns a number that no owner of the organization has had. It waits for nothing: the number is used up on
// disk with the first batch that names it, and if a crash takes that batch, nobody has seen it.
func (s *Store) NextOwner(organization uint64) (engine.Owner, error) {
	o, err := s.organization(organization)
	if err != nil {
		return 0, err
	}
	return engine.Owner(o.owners.Add(1)), nil
}

// NextFilter is NextOwner for durable filters.
func (s *Store) NextFilter(organization uint64) (engine.Filter, error) {
	o, err := s.organization(organization)
	if err != nil {
		return 0, err
	}
	return engine.Filter(o.filters.Add(1)), nil
}
