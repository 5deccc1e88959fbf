package broker

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"cloudsignal/internal/mqtt"
)

// dialKept connects a client whose session outlives its connection.
func (s *server) dialKept(t *testing.T, id string) *conn {
	t.Helper()
	p := s.connectPacket("any", id, mqtt.V5)
	p.Properties.Set(mqtt.SessionExpiry)
	p.Properties.SessionExpiry = 600
	c := s.Accept(new(sink)).(*conn)
	if err := c.Feed(p.Append(nil, mqtt.V5)); err != nil {
		t.Fatal(err)
	}
	return c
}

// A session whose connection has just ended is there, also while what it leaves is on its way to the disk.
func TestSessionOfConnectionThatEnds(t *testing.T) {
	s := newServer(t, nil)
	for n := range 200 {
		s.dialKept(t, "c").Closed(nil)
		if info, ok, err := s.Session(1, "c"); !ok || err != nil || info.Connected {
			t.Fatalf("time %d: %v, %v, %+v", n, ok, err, info)
		}
	}
}

// onLine is a log that does something when a line comes, once.
type onLine struct {
	slog.Handler
	line string
	do   func()
}

func (l *onLine) Handle(_ context.Context, r slog.Record) error {
	if do := l.do; do != nil && r.Message == l.line {
		l.do = nil
		do()
	}
	return nil
}

// A session that is to be forgotten is, also if its connection ends by itself just before it is ended.
func TestForgetSessionOfConnectionThatEnds(t *testing.T) {
	l := &onLine{Handler: slog.NewTextHandler(io.Discard, nil), line: "connection ended"}
	s := newServer(t, func(cfg *Config) { cfg.Log = slog.New(l) })
	c := s.dialKept(t, "c")
	l.do = func() { c.Closed(nil) }
	if found, err := s.Disconnect(context.Background(), 1, "c", true); !found || err != nil || l.do != nil {
		t.Fatalf("%v, %v, ended by itself: %v", found, err, l.do == nil)
	}
	if info, ok, err := s.Session(1, "c"); ok || err != nil {
		t.Fatalf("the session is still there: %v, %+v", err, info)
	}
}
