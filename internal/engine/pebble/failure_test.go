package pebble

import (
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cloudsignal/internal/engine"
)

// What a store does when the disk fails it; what it does about damaged files is in damage_test.go, a newer format in
// TestNewerFormat, and that nothing is written behind a failed sync in TestStopsAtFailure.

// failing lets some kinds of operations fail as the system would let them, while it is on.
type failing struct {
	on    atomic.Bool
	err   error
	kinds []errorfs.OpKind
}

func (*failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if f.on.Load() && slices.Contains(f.kinds, op.Kind) {
		return &os.PathError{Op: "test", Path: op.Path, Err: f.err}
	}
	return nil
}

// The operations that change a disk, by what they need: a full disk may show in some, a read-only one shows in all.
var (
	writes  = []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt}
	syncs   = []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}
	creates = []errorfs.OpKind{errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpRename}
	changes = slices.Concat(writes, syncs, creates, []errorfs.OpKind{
		errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpMkdirAll, errorfs.OpLock,
	})
)

// TestFailingDisk: whatever fails while the store runs, commits end with ErrFailed and the cause from there on, readers show
// all that is durable or end with ErrFailed, and the next Open on a good disk has all that was acknowledged.
func TestFailingDisk(t *testing.T) {
	for _, test := range []struct {
		name string
		*failing
	}{
		{"failed write", &failing{err: syscall.EIO, kinds: writes}},
		{"failed sync", &failing{err: syscall.EIO, kinds: syncs}},
		{"full at a write", &failing{err: syscall.ENOSPC, kinds: writes}},
		{"full at a sync", &failing{err: syscall.ENOSPC, kinds: syncs}},
		{"full at a new file", &failing{err: syscall.ENOSPC, kinds: creates}},
		{"read-only", &failing{err: syscall.EROFS, kinds: changes}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mem := vfs.NewMem()
			s := open(t, Options{FS: errorfs.Wrap(mem, test.failing), memTable: 16 << 10})
			wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1}, message(0))
			test.on.Store(true)
			acknowledged, err := 1, error(nil)
			for ; err == nil && acknowledged < 1000; acknowledged++ {
				err = s.wait(&engine.Batch{Organization: 1, Operations: []engine.Operation{message(acknowledged)}})
			}
			acknowledged-- // the last one failed
			if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, test.err) {
				t.Fatalf("commit: %v, want ErrFailed with %v", err, test.err)
			}
			<-s.Failed()
			matches, _, err := s.Page(1, []engine.Filter{1}, 0, math.MaxUint64, math.MaxInt, nil)
			if (len(matches) != acknowledged || err != nil) && !errors.Is(err, engine.ErrFailed) {
				t.Errorf("readers see %d messages, %v, want %d", len(matches), err, acknowledged)
			}
			test.on.Store(false)
			if err := s.wait(&engine.Batch{Organization: 1, Operations: []engine.Operation{message(0)}}); !errors.Is(err, engine.ErrFailed) {
				t.Errorf("commit once the disk is good again: %v, want ErrFailed until the next Open", err)
			}
			if err := s.Close(); !errors.Is(err, engine.ErrFailed) {
				t.Errorf("close: %v", err)
			}
			s = open(t, Options{FS: mem, memTable: 16 << 10})
			defer shut(t, s)
			matches, _, err = s.Page(1, []engine.Filter{1}, 0, math.MaxUint64, math.MaxInt, nil)
			if err != nil || len(matches) < acknowledged {
				t.Fatalf("%d messages are there, %v; %d were acknowledged", len(matches), err, acknowledged)
			}
			wait(t, s, message(0))
			if head, err := s.Head(1); head != engine.Position(len(matches)+1) || err != nil {
				t.Errorf("head %d, %v behind %d messages", head, err, len(matches))
			}
		})
	}
}

// TestUnwritableAtOpen: Open says which folder cannot be written, and why, and has changed nothing.
func TestUnwritableAtOpen(t *testing.T) {
	for _, test := range []struct {
		name string
		*failing
		dir  string
		want string
	}{
		{"read-only", &failing{err: syscall.EROFS, kinds: changes[:len(changes)-2]}, "store", "cannot be written"},
		{"read-only, and the lock tells", &failing{err: syscall.EROFS, kinds: []errorfs.OpKind{errorfs.OpLock}}, "store", "cannot be written"},
		{"of another user", &failing{err: syscall.EACCES, kinds: []errorfs.OpKind{errorfs.OpLock}}, "store", "cannot be written"},
		{"no folder, read-only", &failing{err: syscall.EROFS, kinds: changes}, "new", "cannot make the folder"},
		{"full", &failing{err: syscall.ENOSPC, kinds: slices.Concat(writes, creates)}, "store", "cannot be written"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fs := filled(t, true)
			before := fs.String()
			test.on.Store(true)
			_, err := Open(Options{Dir: test.dir, FS: errorfs.Wrap(fs, test.failing)})
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.dir) {
				t.Errorf("open: %v, want %q of %s, and %v", err, test.want, test.dir, test.err)
			}
			if after := fs.String(); after != before && test.err != syscall.ENOSPC {
				t.Errorf("files were changed: before\n%s\nafter\n%s", before, after)
			}
			if got := become(t, fs); got != whole {
				t.Errorf("on a good disk it is %s", got)
			}
		})
	}
}

// TestFreeBytes: the free space of a real disk, as the bound below which growing batches are refused.
func TestFreeBytes(t *testing.T) {
	dir := t.TempDir() + "/store"
	free := FreeBytes(dir)
	if _, err := free(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no folder: %v", err)
	}
	grow := engine.Operation{Op: engine.OpFilter, Filter: 1}
	for _, test := range []struct {
		reserve int64
		want    error
	}{{1, nil}, {math.MaxInt64, engine.ErrFull}} {
		s := open(t, Options{Dir: dir, Reserve: test.reserve, FreeBytes: free})
		if err := s.wait(&engine.Batch{Organization: 1, Operations: []engine.Operation{grow}}); !errors.Is(err, test.want) {
			t.Errorf("with a reserve of %d: %v, want %v", test.reserve, err, test.want)
		}
		wait(t, s, engine.Operation{Op: engine.OpCursor, Owner: 1, Position: 1})
		shut(t, s)
	}
	if n, err := free(); n < 1 || err != nil {
		t.Errorf("%d bytes are free, %v", n, err)
	}
}
