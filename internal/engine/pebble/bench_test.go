package pebble

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine"
)

// counting counts what a store asks of a disk.
type counting struct {
	vfs.FS
	fdatasyncs, written atomic.Int64 // of logs and tables
}

func (c *counting) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &countingFile{f, c}, nil
}

func (c *counting) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.Create(name, category))
}

func (c *counting) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return c.wrap(c.FS.ReuseForWrite(from, to, category))
}

type countingFile struct {
	vfs.File
	c *counting
}

func (f *countingFile) Write(p []byte) (int, error) {
	f.c.written.Add(int64(len(p)))
	return f.File.Write(p)
}

func (f *countingFile) SyncData() error {
	f.c.fdatasyncs.Add(1)
	return f.File.SyncData()
}

// bench is a store on disk with filters 1 to n of an organization.
func bench(b *testing.B, filters int) (*Store, *counting) {
	b.Helper()
	fs := &counting{FS: vfs.Default}
	s := open(b, Options{Dir: b.TempDir(), FS: fs})
	b.Cleanup(func() { shut(b, s) })
	for f := range filters {
		wait(b, s, engine.Operation{Op: engine.OpFilter, Filter: engine.Filter(f + 1), Text: "f/#"})
	}
	fs.fdatasyncs.Store(0)
	fs.written.Store(0)
	return s, fs
}

// BenchmarkCommit: durable appends of 256 bytes, each to one filter, by writers who wait for each.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s, fs := bench(b, 1)
			entry := &engine.Entry{Publisher: "publisher", QoS: 1, Body: make([]byte, 256)}
			var left atomic.Int64
			left.Store(int64(b.N))
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range writers {
				all.Go(func() {
					done := make(chan error, 1)
					batch := &engine.Batch{Organization: 1}
					batch.Add(engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{1}, Entry: entry})
					then := func(_ engine.Position, err error) { done <- err }
					for left.Add(-1) >= 0 {
						s.Commit(batch, then)
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(fs.fdatasyncs.Load()), "fdatasyncs")
			b.ReportMetric(float64(b.N)/float64(max(1, fs.fdatasyncs.Load())), "appends/sync")
		})
	}
}

// BenchmarkPublish: one message of 512 bytes or 4 KiB to many durable filters. What is written beside the body is a pointer each.
func BenchmarkPublish(b *testing.B) {
	for _, filters := range []int{1, 100, engine.MaxFilters} {
		for _, size := range []int{512, 4096} {
			b.Run(fmt.Sprintf("%d/%d", filters, size), func(b *testing.B) {
				s, fs := bench(b, filters)
				all := make([]engine.Filter, filters)
				for i := range all {
					all[i] = engine.Filter(i + 1)
				}
				batch := &engine.Batch{Organization: 1}
				batch.Add(engine.Operation{Op: engine.OpAppend, Filters: all, Entry: &engine.Entry{Publisher: "publisher", QoS: 1, Body: make([]byte, size)}})
				b.ResetTimer()
				for range b.N {
					if err := s.wait(batch); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(fs.written.Load())/float64(b.N), "written-bytes/op")
				b.ReportMetric(float64(fs.written.Load())/float64(b.N)/float64(filters), "written-bytes/filter")
			})
		}
	}
}

// holders has many sessions that are away hold one filter, and clears the counts.
func holders(t testing.TB, s *Store, fs *counting, n int) {
	t.Helper()
	operations := []engine.Operation{{Op: engine.OpFilter, Filter: 1, Text: "f/#"}}
	for owner := range engine.Owner(n) {
		operations = append(operations,
			engine.Operation{Op: engine.OpSession, Session: &engine.Session{Owner: owner + 1, ClientID: fmt.Sprint("client", owner), Kind: engine.KindSession}},
			engine.Operation{Op: engine.OpSubscribe, Owner: owner + 1, Subscription: &engine.Subscription{Text: "f/#", Filter: 1}})
	}
	wait(t, s, operations...)
	if err := s.db.Flush(); err != nil { // else the first table of the publishes would have them too
		t.Fatal(err)
	}
	fs.fdatasyncs.Store(0)
	fs.written.Store(0)
}

func publish() engine.Operation {
	return engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{1}, Entry: &engine.Entry{Publisher: "publisher", QoS: 1, Body: make([]byte, 512)}}
}

// BenchmarkHolders: one message to one filter, which many sessions hold that are away. It is written once for all.
func BenchmarkHolders(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, fs := bench(b, 0)
			holders(b, s, fs, n)
			batch := &engine.Batch{Organization: 1, Operations: []engine.Operation{publish()}}
			b.ResetTimer()
			for range b.N {
				if err := s.wait(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(fs.written.Load())/float64(b.N), "written-bytes/op")
			b.ReportMetric(float64(fs.fdatasyncs.Load()), "fdatasyncs")
		})
	}
}

// TestHolders: what a message takes on disk does not grow with the number of sessions that it is for.
func TestHolders(t *testing.T) {
	const publishes = 200
	written := func(n int) int64 {
		fs := &counting{FS: vfs.NewMem()}
		s := open(t, Options{FS: fs})
		defer shut(t, s)
		holders(t, s, fs, n)
		for range publishes {
			wait(t, s, publish())
		}
		return fs.written.Load()
	}
	one := written(1)
	if one < publishes*512 {
		t.Fatalf("%d messages took %d bytes", publishes, one)
	}
	for _, n := range []int{100, 10_000} {
		if all := written(n); all > one+one/100 {
			t.Errorf("%d messages to %d sessions took %d bytes, to one session %d", publishes, n, all, one)
		}
	}
}

// BenchmarkPage: pages of 100 small messages from the middle of a log, of one filter and of many; and from a log of
// which everything before was trimmed.
func BenchmarkPage(b *testing.B) {
	const each = 20_000
	for _, filters := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(filters), func(b *testing.B) {
			s, _ := bench(b, filters)
			all := make([]engine.Filter, filters)
			for i := range all {
				all[i] = engine.Filter(i + 1)
			}
			fill(b, s, each, all)
			var matches []engine.Match
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				var err error
				if matches, _, err = s.Page(1, all, each/2, each, 100*(entryBytes+128+9), matches[:0]); err != nil || len(matches) != 100 {
					b.Fatal(len(matches), err)
				}
			}
		})
	}
	b.Run("trimmed", func(b *testing.B) {
		s, _ := bench(b, 1)
		fill(b, s, each, []engine.Filter{1})
		if err := s.Trim(1, 1, each-100); err != nil {
			b.Fatal(err)
		}
		var matches []engine.Match
		b.ResetTimer()
		for range b.N {
			var err error
			if matches, _, err = s.Page(1, []engine.Filter{1}, 0, each, 1, matches[:0]); err != nil || len(matches) != 1 {
				b.Fatal(len(matches), err)
			}
		}
	})
}

// fill appends small messages, each to one filter in turn.
func fill(b *testing.B, s *Store, n int, filters []engine.Filter) {
	b.Helper()
	batch := &engine.Batch{Organization: 1}
	for i := range n {
		f := filters[i%len(filters)]
		batch.Add(engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{f}, Entry: &engine.Entry{Publisher: "publisher", Body: make([]byte, 128)}})
	}
	if err := s.wait(batch); err != nil {
		b.Fatal(err)
	}
}
