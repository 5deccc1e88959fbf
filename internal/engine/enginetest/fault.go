package enginetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cloudsignal/internal/engine"
)

// testFault lets one change of the file system fail, or all from one on, each time another. Whatever fails, nothing is
// acknowledged that is not there afterwards, nothing behind the failure is, and the store can be closed.
func testFault(t *testing.T, open Factory) {
	batches := generate(200, crashBatches, crashOrganizations)
	failures := 0
	for n := int64(0); ; n += faultStep {
		w := newWorkload(batches)
		f := &fault{at: n, on: n/faultStep%2 == 0}
		failed, err := f.run(open, w)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if failed {
			failures++
		}
		if f.what == "" { // there were not as many
			break
		}
	}
	if failures < 4 {
		t.Errorf("only %d runs failed", failures)
	}
}

type fault struct {
	at   int64
	on   bool // all from there on
	n    atomic.Int64
	what string
}

func (f *fault) String() string {
	return fmt.Sprintf("write %d (%s, on: %v) fails", f.at, f.what, f.on)
}

func (f *fault) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpLock {
		return nil
	}
	n := f.n.Add(1) - 1
	if n == f.at {
		f.what = fmt.Sprint(op.Kind, " of ", op.Path)
	}
	if n == f.at || f.on && n > f.at {
		return errorfs.ErrInjected
	}
	return nil
}

func (f *fault) run(open Factory, w *workload) (failed bool, err error) {
	fs := vfs.NewCrashableMem()
	s, err := open(Options{FS: errorfs.Wrap(fs, f)})
	if err != nil {
		if f.what == "" {
			return false, err
		}
		return true, f.reopen(open, fs, w)
	}
	err = w.run(s)
	if _, committed := commit(s, 1); committed != nil {
		failed = true
		select {
		case <-s.Failed():
		default:
			err = errors.Join(err, errors.New("a commit failed, and Failed is open"))
		}
		if !errors.Is(committed, engine.ErrFailed) {
			err = errors.Join(err, fmt.Errorf("commit after the failure: %w", committed))
		}
	} else if w.failed > 0 {
		err = errors.Join(err, errors.New("a commit behind a failed one went through"))
	}
	if closed := s.Close(); closed != nil && !failed && f.what == "" {
		err = errors.Join(err, closed)
	}
	return failed, errors.Join(err, f.reopen(open, fs, w))
}

// reopen opens what is there, as it is and as a power cut would leave it.
func (f *fault) reopen(open Factory, fs *vfs.MemFS, w *workload) error {
	at := w.state()
	for _, left := range []*vfs.MemFS{fs.CrashClone(vfs.CrashCloneCfg{}), fs} {
		s, err := open(Options{FS: left})
		if err != nil {
			return fmt.Errorf("the store cannot be opened any more: %w", err)
		}
		_, err = w.found(s, at, at)
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	return nil
}
