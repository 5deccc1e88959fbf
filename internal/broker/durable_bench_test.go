package broker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"
)

// counting counts what a store asks of a disk.
type counting struct {
	vfs.FS
	syncs, written atomic.Int64
}

func (c *counting) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	return &countingFile{f, c}, err
}

func (c *counting) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(from, to, category)
	return &countingFile{f, c}, err
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
	f.c.syncs.Add(1)
	return f.File.SyncData()
}

// offline makes n sessions that subscribe to what the crowd publishes and go away.
func (s *server) offline(t testing.TB, n int, filter string) {
	t.Helper()
	for i := range n {
		out := new(sink)
		c := s.Accept(out).(*conn)
		p := s.connectPacket("any", fmt.Sprintf("away-%d", i), mqtt.V5)
		p.Properties.Set(mqtt.SessionExpiry)
		p.Properties.SessionExpiry = 1000
		if err := c.Feed(p.Append(nil, mqtt.V5)); err != nil {
			t.Fatal(err)
		}
		feed(t, c, subscribe(1, filter))
		c.Closed(nil)
	}
	s.settle()
}

// acked is a network connection that tells how many PUBACKs have come: each has at most 6 bytes.
type acked struct {
	sink
	acks chan int
}

func (a *acked) TryWrite(p []byte) (int, error) {
	for rest := p; len(rest) > 0; rest = rest[2+int(rest[1]):] {
		if mqtt.Type(rest[0]>>4) == mqtt.PUBACK {
			a.acks <- 1
		}
	}
	return a.sink.TryWrite(p)
}

// BenchmarkStored: QoS 1 messages of 256 bytes to sessions that are away, all on one filter, by 64 publishers with a window of
// 50: acknowledged means synced, and what is written does not grow with the sessions.
func BenchmarkStored(b *testing.B) {
	const publishers, window = 64, 50
	for _, sessions := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			fs := &counting{FS: vfs.Default}
			store, err := pebble.Open(pebble.Options{Dir: b.TempDir(), FS: fs})
			if err != nil {
				b.Fatal(err)
			}
			s := newServer(b, func(c *Config) { c.Store = store })
			defer store.Close()
			defer s.Close()
			s.offline(b, sessions, "t/#")
			fs.syncs.Store(0)
			fs.written.Store(0)
			var left atomic.Int64
			left.Store(int64(b.N))
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for i := range publishers {
				all.Go(func() {
					out := &acked{acks: make(chan int, 2*window)}
					c := s.Accept(out).(*conn)
					if err := c.Feed(s.connectPacket("any", fmt.Sprintf("p-%d", i), mqtt.V5).Append(nil, mqtt.V5)); err != nil {
						b.Error(err)
						return
					}
					p := &mqtt.Publish{Topic: []byte("t/x"), Payload: make([]byte, 256), QoS: 1}
					flight := 0
					for left.Add(-1) >= 0 {
						if flight == window {
							<-out.acks
							flight--
						}
						p.ID = p.ID%1000 + 1
						if err := c.Feed(p.Append(nil, mqtt.V5)); err != nil {
							b.Error(err)
							return
						}
						flight++
					}
					for ; flight > 0; flight-- {
						<-out.acks
					}
					c.Closed(nil)
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			b.ReportMetric(float64(fs.syncs.Load()), "fdatasyncs")
			b.ReportMetric(float64(b.N)/float64(max(1, fs.syncs.Load())), "messages/fdatasync")
			b.ReportMetric(float64(fs.written.Load())/float64(b.N), "written-bytes/op")
		})
	}
}
