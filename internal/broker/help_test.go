package broker

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/access"
	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/transport"
)

// sink is a network connection that takes everything at once and counts it.
type sink struct {
	bytes  atomic.Int64
	writes atomic.Int64
	ended  atomic.Bool
}

func (s *sink) TryWrite(p []byte) (int, error) {
	s.bytes.Add(int64(len(p)))
	s.writes.Add(1)
	return len(p), nil
}

func (s *sink) Write(bufs net.Buffers) error {
	for _, b := range bufs {
		s.bytes.Add(int64(len(b)))
	}
	s.writes.Add(1)
	return nil
}
func (s *sink) Shutdown()    { s.ended.Store(true) }
func (s *sink) Close() error { s.ended.Store(true); return nil }
func (s *sink) RemoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1)
}
func (s *sink) Kind() transport.Kind { return transport.MQTT }
func (s *sink) LoggedIn()            {}

// server is a broker with one organization, its two users, and rules.
type server struct {
	*Broker
	passwords map[string]string

	mu        sync.Mutex
	directory *access.Directory
	record    access.OrganizationRecord
}

const acme = "org_acme00000000"

var acmeRules = []access.Rule{
	{ID: "1", User: "sub", Topic: "secret/#", Permission: access.PermitBoth, Effect: access.Deny},
	{ID: "2", User: "sub", Topic: "sensors/#", Permission: access.PermitSubscribe, Effect: access.Allow, Priority: 1},
	{ID: "3", User: "pub", Topic: "sensors/%c/private/#", Permission: access.PermitPublish, Effect: access.Deny},
	{ID: "4", User: "p%", Topic: "sensors/+/temperature", Permission: access.PermitPublish, Effect: access.Allow, Priority: 1},
	{ID: "5", User: "any", Topic: "#", Permission: access.PermitBoth, Effect: access.Allow, Priority: 1},
}

func newServer(t testing.TB, change func(*Config)) *server {
	t.Helper()
	s := &server{passwords: make(map[string]string)}
	record := access.OrganizationRecord{
		ID: acme, Number: 1, Revision: 1, Users: make(map[string]access.UserRecord),
		RuleSets: []access.RuleSet{{ID: "set", Name: "default", Default: true, Rules: acmeRules}},
	}
	for _, user := range []string{"pub", "sub", "any"} {
		password, hash, err := access.NewPassword(seeded(user))
		if err != nil {
			t.Fatal(err)
		}
		s.passwords[user] = password
		record.Users[user] = access.UserRecord{PasswordHash: hash}
	}
	s.directory, s.record = access.NewDirectory(), record
	s.directory.Put(record)
	cfg := Config{Authenticator: access.NewAuthenticator(s.directory, access.AuthConfig{Failures: -1})}
	if change != nil {
		change(&cfg)
	}
	if cfg.Store == nil {
		cfg.Store = newStore(t)
	}
	var err error
	if s.Broker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close) // again, where the test does it
	return s
}

// change changes the organization's record, and tells the broker.
func (s *server) change(users []string, f func(r *access.OrganizationRecord)) {
	s.put(f)
	s.Changed(1, users)
}

func (s *server) put(f func(r *access.OrganizationRecord)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.Users = maps.Clone(s.record.Users)
	s.record.Revision++
	f(&s.record)
	s.directory.Put(s.record)
}

// newStore is a store in memory. It is closed behind the broker.
func newStore(t testing.TB) *pebble.Store {
	t.Helper()
	store, err := pebble.Open(pebble.Options{Dir: "store", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// home is the server's organization.
func (s *server) home(t testing.TB) *Organization {
	t.Helper()
	o, err := s.organization(1)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// seeded is randomness that is the same each time.
func seeded(s string) *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte(s), 1000)) }

func (s *server) connectPacket(user, id string, v mqtt.Version) *mqtt.Connect {
	return &mqtt.Connect{
		Version: v, CleanStart: true, ClientID: []byte(id), HasUsername: true, HasPassword: true,
		Username: []byte(user + "@" + acme), Password: []byte(s.passwords[user]),
	}
}

// dial connects a client, which must be accepted.
func (s *server) dial(t testing.TB, user, id string) (*conn, *sink) {
	t.Helper()
	n := new(sink)
	c := s.Accept(n).(*conn)
	if err := c.Feed(s.connectPacket(user, id, mqtt.V5).Append(nil, mqtt.V5)); err != nil || n.writes.Load() != 1 || n.ended.Load() {
		t.Fatalf("%s as %s: %v, %d writes", id, user, err, n.writes.Load())
	}
	return c, n
}

func feed(t testing.TB, c *conn, packets ...mqtt.Packet) {
	t.Helper()
	var b []byte
	for _, p := range packets {
		b = p.Append(b, mqtt.V5)
	}
	if err := c.Feed(b); err != nil {
		t.Fatal(err)
	}
}

func subscribe(q mqtt.QoS, filters ...string) *mqtt.Subscribe {
	p := &mqtt.Subscribe{ID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: []byte(f), QoS: q})
	}
	return p
}

// crowd is a publisher and n subscribers of what it publishes. Each subscriber acknowledges.
type crowd struct {
	publisher   *conn
	subscribers []*conn
	sinks       []*sink
	packet      []byte // PUBLISH
	puback      []byte // of a subscriber; nil at QoS 0
	id          uint16
}

func newCrowd(t testing.TB, s *server, n int, q mqtt.QoS) *crowd {
	t.Helper()
	k := &crowd{}
	for i := range n {
		c, out := s.dial(t, "sub", fmt.Sprintf("sub-%d", i))
		feed(t, c, subscribe(q, "sensors/+/temperature"))
		k.subscribers, k.sinks = append(k.subscribers, c), append(k.sinks, out)
	}
	k.publisher, _ = s.dial(t, "pub", "pub-1")
	p := &mqtt.Publish{Topic: []byte("sensors/pub-1/temperature"), Payload: bytes.Repeat([]byte("x"), 100), QoS: q}
	if q > 0 {
		p.ID = 1
		k.puback = (&mqtt.Ack{Type: mqtt.PUBACK, ID: 1}).Append(nil, mqtt.V311) // four bytes, of 5.0 too
	}
	k.packet = p.Append(nil, mqtt.V5)
	return k
}

// publish publishes once; at QoS 1 every subscriber acknowledges before it returns.
func (k *crowd) publish(t testing.TB) {
	if err := k.publisher.Feed(k.packet); err != nil {
		t.Fatal(err)
	}
	if k.puback == nil {
		return
	}
	if k.id++; k.id == 0 {
		k.id = 1
	}
	k.puback[2], k.puback[3] = byte(k.id>>8), byte(k.id)
	for _, c := range k.subscribers {
		if err := c.Feed(k.puback); err != nil {
			t.Fatal(err)
		}
	}
}

// check: the publishing that was measured reached everybody, and nobody owes anything.
func (k *crowd) check(t testing.TB, n int) {
	t.Helper()
	for i, s := range k.sinks {
		if got := s.writes.Load() - 2; got != int64(n) { // CONNACK and SUBACK
			t.Fatalf("subscriber %d got %d writes, want %d", i, got, n)
		}
		if k.subscribers[i].session.Busy() {
			t.Fatalf("the window of subscriber %d is full", i)
		}
	}
}

// checkEmpty: what is left of the organization when nobody is connected any more is nothing.
func (s *server) checkEmpty(t *testing.T) {
	t.Helper()
	s.settle()
	o := s.home(t)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live != 0 || o.sessions != 0 || len(o.recorded) != 0 || o.held.Load() != 0 || o.filtered.Load() != 0 || o.logged.Load() != 0 {
		t.Errorf("%d connections, %d sessions, %d client identifiers with records, %d subscriptions, %d bytes of them and %d of the log are counted",
			o.live, o.sessions, len(o.recorded), o.held.Load(), o.filtered.Load(), o.logged.Load())
	}
	if len(o.clients) != 0 || len(o.groups) != 0 || o.tree.Len() != 0 || len(o.filters) != 0 {
		t.Errorf("%d clients, %d groups, %d filters and %d durable ones are left", len(o.clients), len(o.groups), o.tree.Len(), len(o.filters))
	}
	if stats := s.Stats(); stats.Connections != 0 || stats.Filters != 0 {
		t.Errorf("%d connections and %d filters are counted", stats.Connections, stats.Filters)
	}
	s.Broker.mu.Lock()
	defer s.Broker.mu.Unlock()
	if len(s.conns) != 0 || s.attached != 0 {
		t.Errorf("%d connections are known, %d attached", len(s.conns), s.attached)
	}
}

// retainedMessage is a message to be retained, of n payload bytes.
func retainedMessage(name string, n int, expiry uint32) *mqtt.Publish {
	p := &mqtt.Publish{Topic: []byte(name), Payload: bytes.Repeat([]byte("r"), n), Retain: true}
	if expiry > 0 {
		p.Properties.Set(mqtt.MessageExpiry)
		p.Properties.MessageExpiry = expiry
	}
	return p
}
