// Package control keeps organizations with their users, rule sets, keys, tokens, members, audit and usage in an SQL database. Every
// change is made by an Actor, whose permission is looked at here, and is one transaction that writes the audit and raises the organization's
// revision; after its commit the Directory that log-ins read has the new picture, and then the change is announced. The packet path never
// runs SQL.
package control

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	maxConnections = 8               // to the database: one writes, the others read
	resyncTimeout  = 5 * time.Second // to find out what became of a commit that failed
)

// Options are what Open needs. Path and Directory have no default.
type Options struct {
	Path      string            // of the database file; it is made if it is not there, readable by its owner alone
	Directory *access.Directory // is filled at Open and kept true by every change
	Now       func() time.Time  // default time.Now
	Rand      io.Reader         // default crypto/rand
	// Announce is told of every change after the Directory has it, in order of the commits. It must not call the Store:
	// the next change waits for it.
	Announce func(Change)
	// Verifier verifies members' passwords; default: one of its own. The log-ins of MQTT users may share it.
	Verifier *access.Verifier
	// MinTokenTTL is the shortest life of a temporary token; default DefaultMinTokenTTL.
	MinTokenTTL time.Duration
}

// Change says what a change touched. Users are names; nil is everybody in the organization. Server log-ins go by the name
// server. An organization that was deleted is no longer in the Directory.
type Change struct {
	Organization string // the org_ form
	Number       uint64
	Revision     uint64
	Users        []string
	Deleted      bool
}

// Store is the control database. It is for many goroutines.
type Store struct {
	db        *sql.DB
	directory *access.Directory
	now       func() time.Time
	rand      io.Reader
	announce  func(Change)
	writing   chan struct{} // holds one while a change is made, announced too
	verifier  *access.Verifier
	minTTL    time.Duration // of tokens
	used      used
	sweep     sweep
}

// Open opens the database, brings its schema up to date and fills the Directory.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{directory: o.Directory, now: o.Now, rand: o.Rand, announce: o.Announce, writing: make(chan struct{}, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.rand == nil {
		s.rand = rand.Reader
	}
	if s.announce == nil {
		s.announce = func(Change) {}
	}
	if s.verifier = o.Verifier; s.verifier == nil {
		s.verifier = access.NewVerifier(access.AuthConfig{Now: s.now, Rand: s.rand})
	}
	if s.minTTL = o.MinTokenTTL; s.minTTL <= 0 {
		s.minTTL = DefaultMinTokenTTL
	}
	var err error
	if s.db, err = openFile(o.Path); err != nil {
		return nil, err
	}
	if err = migrate(ctx, s.db); err == nil {
		err = s.loadAll(ctx)
	}
	if err != nil {
		_ = s.db.Close() // nothing was written that could fail to be
		if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code() == sqlite3.SQLITE_NOTADB {
			return nil, fmt.Errorf("control: %s is not a database; move it away to start with an empty one", o.Path)
		}
		return nil, fmt.Errorf("control: database %s: %w", o.Path, err)
	}
	return s, nil
}

// Close waits for a change under way, writes when keys were last used, and closes the database.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), resyncTimeout)
	defer cancel()
	err := s.writeUsed(ctx)
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	return errors.Join(err, s.db.Close())
}

func openFile(path string) (*sql.DB, error) {
	if path == "" {
		return nil, errors.New("control: the database has no path")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	// SQLite would make it readable by others. Its -wal and -shm files take the mode of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("control: database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("control: database: %w", err)
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("control: database: %w", err)
	}
	db.SetMaxOpenConns(maxConnections)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	have, known, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if have > known {
		return fmt.Errorf("its schema is version %d, this program knows up to %d: use the newer program that wrote it", have, known)
	}
	_, err = p.Up(ctx)
	return err
}

func (s *Store) loadAll(ctx context.Context) error {
	s.sweep.from = sweepPoint{ends: s.now().Add(-forgetAfter).UnixMilli()} // what ended before is not loaded
	for after := ""; ; {
		page, err := s.Organizations(ctx, System(), after, MaxPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, o := range page {
			record, err := s.load(ctx, o.ID)
			if err != nil {
				return err
			}
			s.directory.Put(record)
			after = o.ID
		}
	}
}

// lock makes the caller the only one that changes anything, until unlock.
func (s *Store) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) unlock() { <-s.writing }

// begin starts a transaction. One that writes goes on when ctx ends, so that nobody has to wonder whether it was
// committed; it waits for nobody but another process, and that for five seconds.
func (s *Store) begin(ctx context.Context, write bool) (*sql.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if write {
		ctx = context.WithoutCancel(ctx)
	}
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: !write})
	return tx, failed(err)
}

// failed makes a database error one that may be shown. Errors that already may be, and those of a context, stay.
func failed(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return fault.Wrap(fault.Internal, err, "the control database failed")
}
