package broker

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"
)

// failing is a disk whose syncs fail from some moment on.
type failing struct {
	vfs.FS
	now atomic.Bool
}

func (f *failing) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	return &failingFile{file, f}, err
}

func (f *failing) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, category)
	return &failingFile{file, f}, err
}

type failingFile struct {
	vfs.File
	disk *failing
}

func (f *failingFile) sync(do func() error) error {
	if f.disk.now.Load() {
		return errors.New("the disk is broken")
	}
	return do()
}

func (f *failingFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *failingFile) SyncData() error { return f.sync(f.File.SyncData) }

// acknowledged counts the PUBACK and PUBREC packets among those of a write.
func acknowledged(p []byte) (n int) {
	for rest := p; len(rest) > 0; rest = rest[2+int(rest[1]):] {
		if t := mqtt.Type(rest[0] >> 4); t == mqtt.PUBACK || t == mqtt.PUBREC {
			n++
		}
	}
	return n
}

type ackCounter struct {
	sink
	n atomic.Int64
}

func (a *ackCounter) TryWrite(p []byte) (int, error) {
	a.n.Add(int64(acknowledged(p)))
	return a.sink.TryWrite(p)
}

// TestFailedSync: when a sync has failed nothing is acknowledged any more, the publishers' connections end, and nobody gets in
// whose session would have to be kept. The owner of the store is told.
func TestFailedSync(t *testing.T) {
	disk := &failing{FS: vfs.NewMem()}
	store, err := pebble.Open(pebble.Options{Dir: "store", FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(c *Config) { c.Store = store })
	defer store.Close()
	defer s.Close()
	s.offline(t, 1, "t/#")
	for _, q := range []mqtt.QoS{1, 2} {
		if q == 2 {
			disk.now.Store(true)
		}
		out := new(ackCounter)
		c := s.Accept(out).(*conn)
		if err := c.Feed(s.connectPacket("any", "p", mqtt.V5).Append(nil, mqtt.V5)); err != nil {
			t.Fatal(err)
		}
		p := &mqtt.Publish{Topic: []byte("t/x"), Payload: []byte("p"), QoS: q, ID: 1}
		if err := c.Feed(p.Append(nil, mqtt.V5)); err != nil {
			t.Fatal(err)
		}
		s.settle()
		if want := int64(2 - q); out.n.Load() != want {
			t.Errorf("QoS %d: %d acknowledgements, want %d", q, out.n.Load(), want)
		}
		if out.ended.Load() != (q == 2) {
			t.Errorf("QoS %d: the connection has ended: %v", q, out.ended.Load())
		}
		c.Closed(nil)
	}
	<-store.Failed()
	out := new(sink)
	c := s.Accept(out).(*conn)
	p := s.connectPacket("any", "kept", mqtt.V311)
	p.CleanStart = false
	if err := c.Feed(p.Append(nil, mqtt.V311)); err == nil || !out.ended.Load() {
		t.Error("a session was accepted that cannot be kept")
	}
	c.Closed(nil)
}

// TestFullDisk: what would make the store larger is refused with its reason, or closed without an acknowledgement where there
// is no reason to give; what is published at QoS 0, or to those who are there, goes on.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	store, err := pebble.Open(pebble.Options{Dir: "store", FS: vfs.NewMem(), Reserve: 100, FreeBytes: func() (int64, error) {
		if full.Load() {
			return 1, nil
		}
		return 1000, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(c *Config) { c.Store = store })
	defer store.Close()
	defer s.Close()
	s.offline(t, 1, "t/#")
	full.Store(true)
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		out := new(ackCounter)
		c := s.Accept(out).(*conn)
		if err := c.Feed(s.connectPacket("any", "p", v).Append(nil, v)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*mqtt.Publish{
			{Topic: []byte("t/x"), Payload: []byte("p")},
			{Topic: []byte("nobody"), QoS: 1, ID: 2},
			{Topic: []byte("t/x"), Payload: []byte("p"), QoS: 1, ID: 1},
		} {
			if err := c.Feed(p.Append(nil, v)); err != nil {
				t.Fatal(err)
			}
		}
		s.settle()
		if want := map[mqtt.Version]int64{mqtt.V311: 1, mqtt.V5: 2}[v]; out.n.Load() != want {
			t.Errorf("%s: %d acknowledgements, want %d", v, out.n.Load(), want)
		}
		if out.ended.Load() != (v == mqtt.V311) {
			t.Errorf("%s: the connection has ended: %v", v, out.ended.Load())
		}
		c.Closed(nil)
	}
	if n := s.Stats().Drops["store"]; n != 2 {
		t.Errorf("%d messages are counted as refused by the store, want 2", n)
	}
	full.Store(false)
	c, _ := s.dial(t, "any", "p")
	feed(t, c, &mqtt.Publish{Topic: []byte("t/x"), QoS: 1, ID: 1})
	s.settle()
	if c.isEnded() {
		t.Error("it does not go on when there is room again")
	}
	c.Closed(nil)
}
