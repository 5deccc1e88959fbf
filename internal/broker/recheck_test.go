package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine"
	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestLiveEffect: a user's connection ends for what has changed about it, and nobody has to do anything for that.
func TestLiveEffect(t *testing.T) {
	s := newServer(t, nil)
	c, _ := s.dial(t, "any", "a")
	other, _ := s.dial(t, "pub", "b")
	s.change([]string{"any"}, func(r *access.OrganizationRecord) { delete(r.Users, "any") })
	<-c.done // how long it takes: BenchmarkLiveEffect
	if other.isEnded() {
		t.Error("another user's connection has ended too")
	}
	c.Closed(nil)
	other.Closed(nil)
	s.Close()
	s.checkEmpty(t)
}

// TestChangedWhileLoggingIn: what changes between the log-in and the moment at which the connection can be found is in force on it.
func TestChangedWhileLoggingIn(t *testing.T) {
	var s *server
	s = newServer(t, func(c *Config) {
		c.Authenticator = &late{Authenticator: c.Authenticator, then: func() {
			s.change([]string{"any"}, func(r *access.OrganizationRecord) { delete(r.Users, "any") })
		}}
	})
	n := new(sink)
	c := s.Accept(n).(*conn)
	err := c.Feed(s.connectPacket("any", "a", mqtt.V5).Append(nil, mqtt.V5))
	if !errors.Is(err, errEnded) || !c.isEnded() {
		t.Errorf("the connection of a user that was deleted meanwhile goes on: %v", err)
	}
	c.Closed(nil)
	s.Close()
	s.checkEmpty(t)
}

// TestTakenBackIsGone: a subscription that the rules have taken back is not on the disk any more, nor is its durable filter, without a
// restart or a return of the client.
func TestTakenBackIsGone(t *testing.T) {
	store := newStore(t)
	s := newServer(t, func(c *Config) { c.Store = store })
	p := s.connectPacket("any", "kept", mqtt.V5)
	p.Properties.Set(mqtt.SessionExpiry)
	p.Properties.SessionExpiry = 1000
	c := s.Accept(new(sink)).(*conn)
	feed(t, c, p, subscribe(1, "gone/#", "$share/g/gone", "stays"))
	s.put(func(r *access.OrganizationRecord) {
		rule := access.Rule{ID: "1", User: "any", Topic: "stays", Permission: access.PermitBoth, Effect: access.Allow}
		r.RuleSets = []access.RuleSet{{ID: "set", Name: "default", Default: true, Rules: []access.Rule{rule}}}
	})
	s.home(t).recheck(&change{any: true, all: true})
	s.settle()
	subs, err := store.Subscriptions(1, c.owner)
	if err != nil || len(subs) != 1 || subs[0].Text != "stays" {
		t.Errorf("on the disk are %v, %v", subs, err)
	}
	var filters []string
	err = store.Filters(1, func(_ engine.Filter, text string) error { filters = append(filters, text); return nil })
	if err != nil || !slices.Equal(filters, []string{"stays"}) {
		t.Errorf("durable filters: %v, %v", filters, err)
	}
	feed(t, c, subscribe(1, "stays"))
	if s.Usage(1).Subscriptions != 1 {
		t.Errorf("%d subscriptions are counted", s.Usage(1).Subscriptions)
	}
	c.Closed(nil)
}

// late changes something when a log-in has just been judged.
type late struct {
	Authenticator
	then func()
}

func (l *late) Regrant(old *access.Grant) (*access.Grant, error) {
	if l.then != nil {
		l.then()
		l.then = nil
	}
	return l.Authenticator.Regrant(old)
}

// TestManyChanges: a flood of changes is looked at once for many of them, and what it leaves to be remembered is bounded.
func TestManyChanges(t *testing.T) {
	s := newServer(t, nil)
	o := s.home(t)
	k := &o.changes
	k.mu.Lock()
	k.running = true // nobody looks
	k.mu.Unlock()
	for i := range 3 * maxChangedUsers {
		s.Changed(1, []string{fmt.Sprint("pub", i%2000)})
	}
	k.mu.Lock()
	w := k.changed
	k.mu.Unlock()
	if !w.all || len(w.users) > maxChangedUsers || !w.concerns("anybody") {
		t.Errorf("%d users are remembered, all %v", len(w.users), w.all)
	}
	s.follow(o)
	if k.running || k.changed.any {
		t.Error("there is still something to look at")
	}
}

// TestDeletedOrganization: nothing of a deleted organization is left, in memory or in the store, whatever it had; and what it
// has left because of a crash goes at the next start, unless no organization is known at all.
func TestDeletedOrganization(t *testing.T) {
	fs := vfs.NewCrashableMem()
	open := func(fs *vfs.MemFS) *pebble.Store {
		store, err := pebble.Open(pebble.Options{Dir: "store", FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open(fs)
	s := newServer(t, func(c *Config) { c.Store = store })
	kept := s.connectPacket("any", "kept", mqtt.V5)
	kept.HasWill, kept.WillTopic = true, []byte("w")
	kept.Properties.Set(mqtt.SessionExpiry)
	kept.Properties.SessionExpiry = 1000
	c := s.Accept(new(sink)).(*conn)
	feed(t, c, kept, subscribe(2, "a/#", "$share/g/a/b"))
	feed(t, c, &mqtt.Publish{Topic: []byte("a/b"), Payload: []byte("x"), QoS: 1, ID: 1, Retain: true})
	s.settle()
	if s.Usage(1).StorageBytes == 0 {
		t.Fatal("nothing is kept that could be dropped")
	}
	before := fs.CrashClone(vfs.CrashCloneCfg{})
	s.directory.Remove(acme)
	s.Deleted(1)
	<-c.done
	c.Closed(nil)
	s.Close()
	if s.Broker.home(1) != nil {
		t.Error("the organization is still there")
	}
	checkStored(t, store, 0)
	if err := store.Close(); err != nil {
		t.Error(err)
	}

	// It was deleted, and the server was killed before it knew: with another organization that is there, and without.
	for _, others := range []int{1, 0} {
		store := open(before.CrashClone(vfs.CrashCloneCfg{}))
		if others > 0 {
			done := make(chan error, 1)
			store.Commit(&engine.Batch{Organization: 7, Operations: []engine.Operation{{Op: engine.OpAppend, Entry: &engine.Entry{}}}},
				func(_ engine.Position, err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		again := newServer(t, func(c *Config) {
			c.Store = store
			directory := access.NewDirectory()
			if others > 0 {
				directory.Put(access.OrganizationRecord{ID: "org_other0000000", Number: 7, Revision: 1})
			}
			c.Authenticator = access.NewAuthenticator(directory, access.AuthConfig{})
		})
		again.Close()
		checkStored(t, store, 1)
		if numbers, err := store.Organizations(); err != nil || others > 0 == slices.Contains(numbers, 1) {
			t.Errorf("with %d others the store has %v, %v", others, numbers, err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// checkStored: the store has n organizations, and if none nothing of the first either.
func checkStored(t *testing.T, store *pebble.Store, n int) {
	t.Helper()
	numbers, err := store.Organizations()
	if err != nil || len(numbers) != n {
		t.Errorf("%v, %v: want %d organizations", numbers, err, n)
	}
	if n > 0 {
		return
	}
	left := 0
	err = errors.Join(
		store.Sessions(1, func(engine.Session) error { left++; return nil }),
		store.Filters(1, func(engine.Filter, string) error { left++; return nil }),
		store.Retained(1, func(engine.Retained) error { left++; return nil }),
	)
	if due, e := store.Due(1<<62, 10); e != nil || len(due) > 0 {
		t.Errorf("due: %v, %v", due, e)
	}
	if err != nil || left > 0 {
		t.Errorf("%d records are left, %v", left, err)
	}
}

// benchmarkCrowd is connections of the organization, each with as many subscriptions.
func benchmarkCrowd(b *testing.B, s *server, conns, filters int) (all []*conn) {
	b.Helper()
	for i := range conns {
		c, _ := s.dial(b, "any", fmt.Sprint("crowd-", i))
		if filters > 0 {
			p := subscribe(1)
			for f := range filters {
				p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: fmt.Appendf(nil, "crowd/%d/%d/+", i, f), QoS: 1})
			}
			feed(b, c, p)
		}
		all = append(all, c)
	}
	return all
}

// told is a network connection that says when it ends.
type told struct {
	sink
	once sync.Once
	over chan struct{}
}

func (n *told) Shutdown() { n.once.Do(func() { close(n.over) }) }

// BenchmarkLiveEffect is from Changed to the client's DISCONNECT, among 1,000 connections of the organization; and the time in which
// 1,000 connections with 10 subscriptions each are judged again.
func BenchmarkLiveEffect(b *testing.B) {
	b.Run("disable", func(b *testing.B) {
		s := newServer(b, nil)
		benchmarkCrowd(b, s, 1000, 10)
		enable := func(disabled bool) {
			s.change([]string{"pub"}, func(r *access.OrganizationRecord) {
				u := r.Users["pub"]
				u.Disabled = disabled
				r.Users["pub"] = u
			})
		}
		for b.Loop() {
			b.StopTimer()
			enable(false)
			n := &told{over: make(chan struct{})}
			c := s.Accept(n).(*conn)
			feed(b, c, s.connectPacket("pub", "one", mqtt.V5))
			b.StartTimer()
			enable(true)
			<-n.over
			if n.writes.Load() != 2 {
				b.Fatal("the client was not told")
			}
		}
	})
	b.Run("recheck", func(b *testing.B) {
		s := newServer(b, nil)
		all := benchmarkCrowd(b, s, 1000, 10)
		o := s.home(b)
		b.ReportAllocs()
		for b.Loop() {
			s.put(func(*access.OrganizationRecord) {})
			o.recheck(&change{any: true, all: true})
		}
		if got := all[999].grant.Load().Revision; got != s.record.Revision {
			b.Fatalf("the grant is of revision %d", got)
		}
		if held := o.held.Load(); held != 10_000 {
			b.Fatalf("%d subscriptions are left", held)
		}
	})
}
