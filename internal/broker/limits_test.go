package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/mqtt"
)

// TestPace: in no second are there more than two seconds' worth of messages (one that was saved up, one that came), at the moment
// that a refusal names there is one, and who asks for no more than the rate is never refused.
func TestPace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 50).Draw(t, "rate")
		var p pace
		now := int64(time.Hour)
		var taken []int64
		for range rapid.IntRange(1, 300).Draw(t, "messages") {
			now += rapid.Int64Range(0, int64(time.Second)/int64(rate)).Draw(t, "pause")
			at := p.take(rate, now)
			if at == 0 {
				taken = append(taken, now)
				continue
			}
			if at <= now {
				t.Fatalf("at %d a message is put off to %d", now, at)
			}
			if p.take(rate, at) != 0 {
				t.Fatalf("at %d, the moment that was named, there is no message", at)
			}
			now = at
			taken = append(taken, now)
		}
		for i := range taken {
			if n := i + 2*rate; n < len(taken) && taken[n]-taken[i] < int64(time.Second) {
				t.Fatalf("%d messages in %v, at a rate of %d", 2*rate+1, time.Duration(taken[n]-taken[i]), rate)
			}
		}
		interval := int64(time.Second)/int64(rate) + 1
		for range 3 * rate {
			if now += interval; p.take(rate, now) != 0 {
				t.Fatal("who keeps the rate is refused")
			}
		}
	})
}

// TestNeighbour: one organization at every limit it has changes nothing for another. Its publishers wait, all at the same time;
// the other's messages are taken and delivered meanwhile, and nothing of its is counted as refused.
func TestNeighbour(t *testing.T) {
	now := atomic.Pointer[time.Time]{}
	start := time.Now()
	now.Store(&start)
	const other = "org_other0000000"
	s := newServer(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	password, hash, err := access.NewPassword(seeded("neighbour"))
	if err != nil {
		t.Fatal(err)
	}
	s.directory.Put(access.OrganizationRecord{ID: other, Number: 2, Revision: 1, Users: map[string]access.UserRecord{"any": {PasswordHash: hash}}})
	const rate, publishers, burst = 5, 20, 10
	s.change([]string{}, func(r *access.OrganizationRecord) {
		r.Limits = access.Limits{MaxMessageRate: rate, MaxConnections: publishers + 1, MaxSessions: 1, MaxRetained: 1, MaxSubscriptions: 1}
	})
	var flood sync.WaitGroup
	var flooders []*conn
	taken := make(chan struct{}, publishers*burst)
	for i := range publishers {
		c, _ := s.dial(t, "any", fmt.Sprint("flood-", i))
		flooders = append(flooders, c)
		flood.Go(func() {
			p := &mqtt.Publish{Topic: []byte("sensors/a/temperature"), Payload: []byte("x")}
			for range burst {
				if err := c.Feed(p.Append(nil, mqtt.V5)); err != nil {
					break
				}
				taken <- struct{}{}
			}
			c.Closed(errors.New("the flood is over"))
		})
	}
	connect := func(id string) (*conn, *sink) {
		n := new(sink)
		c := s.Accept(n).(*conn)
		p := s.connectPacket("any", id, mqtt.V5)
		p.Username, p.Password = []byte("any@"+other), []byte(password)
		p.Properties.Set(mqtt.SessionExpiry)
		p.Properties.SessionExpiry = 60
		feed(t, c, p)
		return c, n
	}
	subscriber, got := connect("s")
	feed(t, subscriber, subscribe(0, "a", "b", "c/#"))
	publisher, _ := connect("p")
	const messages = 1000
	for i := range messages {
		feed(t, publisher, &mqtt.Publish{Topic: fmt.Appendf(nil, "c/%d", i%3), Payload: []byte("x"), Retain: true})
	}
	if n := got.writes.Load() - 2; n != messages {
		t.Errorf("%d of %d messages came", n, messages)
	}
	if u := s.Usage(2); len(u.Refusals) > 0 || u.Messages != messages || u.Retained != 3 || u.Sessions != 2 {
		t.Errorf("usage of the other: %+v", u)
	}
	for range rate {
		<-taken
	}
	for _, c := range flooders {
		c.end(ending{label: "test"})
	}
	flood.Wait()
	if u := s.Usage(1); u.Messages != rate {
		t.Errorf("%d messages of the flood were taken, of %d a second, and no time has passed", u.Messages, rate)
	}
	publisher.Closed(nil)
	subscriber.Closed(nil)
}

// TestUsageMonths: what is counted belongs to the month of its moment, in UTC; a limit begins anew with the month, and what was
// counted before this run counts.
func TestUsageMonths(t *testing.T) {
	var now atomic.Pointer[time.Time]
	set := func(s string) {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		now.Store(&at)
	}
	set("2026-11-30T23:59:50+01:00")
	s := newServer(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	s.SetMonth(1, "2026-11", 7)
	if u := s.Usage(1); u.Month != "2026-11" || u.Messages != 7 {
		t.Errorf("before it is loaded: %+v", u)
	}
	s.change([]string{}, func(r *access.OrganizationRecord) { r.Limits.MaxMessagesPerMonth = 10 })
	c, _ := s.dial(t, "any", "a")
	publish := func(times int) {
		for range times {
			feed(t, c, &mqtt.Publish{Topic: []byte("t"), Payload: []byte("x")})
		}
	}
	publish(2)
	set("2026-12-01T00:59:59+01:00") // still November in UTC
	publish(2)
	if u := s.Usage(1); u.Month != "2026-11" || u.Messages != 10 || u.Refusals["month"] != 1 {
		t.Errorf("at the end of November: %+v", u)
	}
	set("2026-12-01T01:00:00+01:00")
	publish(1)
	s.SetMonth(1, "2026-11", 100) // of a month that is over
	if u := s.Usage(1); u.Month != "2026-12" || u.Messages != 1 {
		t.Errorf("in December: %+v", u)
	}
	set("2027-01-01T00:00:00Z")
	publish(3)
	want := []UsageDelta{
		{Number: 1, Month: "2026-11", Messages: 3, BytesIn: 21, Refused: 1},
		{Number: 1, Month: "2026-12", Messages: 1, BytesIn: 7},
		{Number: 1, Month: "2027-01", Messages: 3, BytesIn: 21},
	}
	if got := s.TakeUsage(); !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got := s.TakeUsage(); len(got) > 0 {
		t.Errorf("taken twice: %+v", got)
	}
	c.Closed(nil)
}

// TestStorageFigure: what is counted on the way of a PUBLISH, what the janitor takes out, and what a start counts are one figure:
// that of the store.
func TestStorageFigure(t *testing.T) {
	store := newStore(t)
	s := newServer(t, func(c *Config) { c.Store = store })
	o := s.home(t)
	var all []*conn
	for i, filters := range [][]string{{"a/#"}, {"a/+", "b"}, {"a/#", "$share/g/b"}} {
		p := s.connectPacket("any", fmt.Sprint("s", i), mqtt.V5)
		p.Properties.Set(mqtt.SessionExpiry)
		p.Properties.SessionExpiry = 1000
		c := s.Accept(new(sink)).(*conn)
		feed(t, c, p, subscribe(1, filters...))
		all = append(all, c)
	}
	all[0].Closed(nil)
	check := func(when string) {
		t.Helper()
		s.settle()
		var want int64
		for number := range o.durables() {
			_, bytes, err := store.Backlog(1, number, 0)
			if err != nil {
				t.Fatal(err)
			}
			want += int64(bytes)
		}
		if got := o.logged.Load(); got != want {
			t.Errorf("%s: %d bytes are counted, the store has %d", when, got, want)
		}
	}
	publisher, _ := s.dial(t, "any", "p")
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			feed(t, publisher, &mqtt.Publish{
				Topic: []byte([]string{"a/x", "b", "a/y/z"}[i%3]), Payload: make([]byte, 10+i%2*400), QoS: 1, ID: uint16(i + 1), Retain: i%5 == 0,
			})
		}
	}
	publish(0, 90)
	check("after publishing")
	for i := range 200 {
		for _, c := range all[1:] {
			feed(t, c, &mqtt.Ack{Type: mqtt.PUBACK, ID: uint16(i%100 + 1)})
		}
	}
	s.settle()
	o.saveCursors()
	s.settle()
	o.trim()
	if o.logged.Load() == 0 {
		t.Error("what waits for the session that is away is not counted any more")
	}
	check("after a trim")
	publish(90, 120)
	feed(t, all[1], &mqtt.Unsubscribe{ID: 9, Filters: [][]byte{[]byte("b")}})
	check("after more")
	if found, err := s.Disconnect(context.Background(), 1, "s0", true); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	check("after a session's end")
	for _, c := range append(all[1:], publisher) {
		c.Closed(nil)
	}
	s.Close()
	before, retained := o.logged.Load(), o.retained.disk.Load()
	again := newServer(t, func(c *Config) { c.Store = store })
	if n := again.home(t); n.logged.Load() != before || n.retained.disk.Load() != retained || before == 0 || retained == 0 {
		t.Errorf("%d and %d bytes at the next start, %d and %d before", n.logged.Load(), n.retained.disk.Load(), before, retained)
	}
}

// TestPublishFaults: what is wrong with a message from outside is said with its field, and nothing is published.
func TestPublishFaults(t *testing.T) {
	s := newServer(t, nil)
	server, err := s.cfg.Authenticator.Standing(1, access.ServerUser, "")
	if err != nil {
		t.Fatal(err)
	}
	long := string(make([]byte, 70_000))
	for _, c := range []struct {
		m     Message
		code  fault.Code
		field string
	}{
		{Message{}, fault.Invalid, "topic"},
		{Message{Topic: "a/#"}, fault.Invalid, "topic"},
		{Message{Topic: "a", QoS: 3}, fault.Invalid, "qos"},
		{Message{Topic: "a", Payload: make([]byte, 1<<20)}, fault.Invalid, "payload"},
		{Message{Topic: "a", ResponseTopic: "+"}, fault.Invalid, "response_topic"},
		{Message{Topic: "a", ContentType: "\xff"}, fault.Invalid, "content_type"},
		{Message{Topic: "a", ContentType: "a\x00"}, fault.Invalid, "content_type"},
		{Message{Topic: "a", CorrelationData: []byte(long)}, fault.Invalid, "correlation_data"},
		{Message{Topic: "a", UserProperties: [][2]string{{"a", "b"}, {long, "b"}}}, fault.Invalid, "user_properties[1]"},
		{Message{Topic: "a", UserProperties: make([][2]string, 1001)}, fault.Invalid, "user_properties"},
	} {
		_, err := s.Publish(context.Background(), server, &c.m)
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Code != c.code || f.Field != c.field {
			t.Errorf("%.40q: %v, want %s %s", c.m.Topic, err, c.code, c.field)
		}
	}
	ended, end := context.WithCancel(context.Background())
	end()
	gone := *server
	gone.OrganizationNumber = 9
	if _, err := s.Publish(ended, &gone, &Message{Topic: "a"}); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("to an organization that is not there: %v", err)
	}
	if n := s.Usage(1).Messages; n != 0 {
		t.Errorf("%d messages were published", n)
	}
	s.Drain()
	if _, err := s.Publish(context.Background(), server, &Message{Topic: "a"}); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("while it stops: %v", err)
	}
}

// TestTakeOverRate: clients that take each other over all the time do so as often as they may; then the newer is refused, and the older
// stays. One that comes later takes over again.
func TestTakeOverRate(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_700_000_000_000_000_000)
	s := newServer(t, func(c *Config) {
		c.Now = func() time.Time { return time.Unix(0, clock.Load()) }
		c.Limits = DefaultLimits()
		c.Limits.TakeOverRate = 3
	})
	var conns []*conn
	enter := func() bool {
		out := new(sink)
		c := s.Accept(out).(*conn)
		done := make(chan error, 1)
		go func() { done <- c.Feed(s.connectPacket("any", "the one", mqtt.V5).Append(nil, mqtt.V5)) }()
		if n := len(conns); n > 0 {
			select {
			case <-conns[n-1].done:
				conns[n-1].Closed(nil)
			case err := <-done:
				done <- err
			}
		}
		if err := <-done; err != nil {
			c.Closed(nil)
			return false
		}
		conns = append(conns, c)
		return true
	}
	for i := range 4 { // the first takes nobody over
		if !enter() {
			t.Fatalf("client %d is refused", i+1)
		}
	}
	for range 5 {
		if enter() {
			t.Fatal("a fourth take-over of the second is let in")
		}
	}
	if last := conns[len(conns)-1]; last.isEnded() {
		t.Error("the older client was ended by a newer that was refused")
	}
	if n := s.Stats().Logins[overTakeOvers]; n != 5 {
		t.Errorf("%d refusals are counted, want 5", n)
	}
	clock.Add(int64(time.Second) / 3)
	if !enter() {
		t.Error("a client is refused that comes when it may")
	}
	conns[len(conns)-1].Closed(nil)
	s.checkEmpty(t)
}
