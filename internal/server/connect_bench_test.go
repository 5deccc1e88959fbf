package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/transport"
)

const (
	benchOrganization = "org_bench0000000"
	benchPassword     = "correct horse battery staple"
	firstTimes        = 64 // users whose chosen password is verified once, before the memory of it is given up
)

// judge is the Authenticator that a benchmark measures. A new one knows no chosen password yet.
type judge struct {
	*access.Authenticator
	unchecked bool // every password is right
}

func (j *judge) Login(ctx context.Context, l access.Login) (*access.Grant, error) {
	if !j.unchecked {
		return j.Authenticator.Login(ctx, l)
	}
	name, _, err := access.ParseUsername(string(l.Username))
	if err != nil {
		return nil, err
	}
	return j.Standing(1, name, l.ClientID)
}

// switchable is the Authenticator of the broker: which judge it is may change between log-ins.
type switchable struct{ atomic.Pointer[judge] }

func (s *switchable) Login(ctx context.Context, l access.Login) (*access.Grant, error) {
	return s.Load().Login(ctx, l)
}

func (s *switchable) Standing(organization uint64, user, clientID string) (*access.Grant, error) {
	return s.Load().Standing(organization, user, clientID)
}

func (s *switchable) Regrant(old *access.Grant) (*access.Grant, error) { return s.Load().Regrant(old) }

func (s *switchable) Last(old *access.Grant) (*access.Grant, error) { return s.Load().Last(old) }

func (s *switchable) Has(organization uint64, user string) bool {
	return s.Load().Has(organization, user)
}

func (s *switchable) Limits(organization uint64) (access.Limits, bool) {
	return s.Load().Limits(organization)
}

// BenchmarkConnect is whole connections over TCP: dial, CONNECT, CONNACK, close. Compare the lines of one run only.
func BenchmarkConnect(b *testing.B) {
	directory := access.NewDirectory()
	record := access.OrganizationRecord{ID: benchOrganization, Number: 1, Revision: 1, Users: make(map[string]access.UserRecord)}
	password, hash, err := access.NewPassword(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	record.Users["made"] = access.UserRecord{PasswordHash: hash}
	for i := range firstTimes {
		if hash, err = access.HashChosen(rand.Reader, benchPassword); err != nil {
			b.Fatal(err)
		}
		record.Users[fmt.Sprintf("chosen-%d", i)] = access.UserRecord{PasswordHash: hash}
	}
	directory.Put(record)
	authenticator := new(switchable)
	fresh := func(unchecked bool) {
		authenticator.Store(&judge{Authenticator: access.NewAuthenticator(directory, access.AuthConfig{}), unchecked: unchecked})
	}
	fresh(false)
	address := serveBench(b, authenticator)
	always := func(user string) func(int64) string { return func(int64) string { return user } }

	b.Run("unchecked", func(b *testing.B) {
		fresh(true)
		defer fresh(false)
		connectAll(b, address, password, always("made"))
	})
	b.Run("made", func(b *testing.B) { connectAll(b, address, password, always("made")) })
	b.Run("chosen-first", func(b *testing.B) {
		connectAll(b, address, benchPassword, func(n int64) string {
			if n%firstTimes == 0 {
				fresh(false)
			}
			return fmt.Sprintf("chosen-%d", n%firstTimes)
		})
	})
	b.Run("chosen-again", func(b *testing.B) {
		fresh(false)
		if err := connectOnce(address, "chosen-0", benchPassword, "warm"); err != nil {
			b.Fatal(err)
		}
		connectAll(b, address, benchPassword, always("chosen-0"))
	})
}

// serveBench starts a broker behind a plain listener.
func serveBench(b *testing.B, authenticator broker.Authenticator) string {
	store, err := pebble.Open(pebble.Options{Dir: "store", FS: vfs.NewMem()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	br, err := broker.New(broker.Config{Authenticator: authenticator, Store: store})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(br.Close)
	l, err := transport.Listen(transport.Config{Kind: transport.MQTT, Address: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	l.Serve(br.Accept)
	return l.Addr().String()
}

func connectAll(b *testing.B, address, password string, user func(n int64) string) {
	var n atomic.Int64
	var once sync.Once
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1) - 1
			if err := connectOnce(address, user(i), password, fmt.Sprintf("client-%d", i)); err != nil {
				once.Do(func() { b.Error(err) })
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "connects/s")
}

// connectOnce is one connection. The client resets it at its end, so that no port waits.
func connectOnce(address, user, password, clientID string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it has served
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	p := mqtt.Connect{
		Version: mqtt.V5, CleanStart: true, ClientID: []byte(clientID), HasUsername: true, Username: []byte(user + "@" + benchOrganization),
		HasPassword: true, Password: []byte(password),
	}
	if _, err := conn.Write(p.Append(nil, mqtt.V5)); err != nil {
		return err
	}
	var head [4]byte // type, length, flags, reason
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	if head[0] != byte(mqtt.CONNACK)<<4 || head[3] != 0 {
		return fmt.Errorf("%s: CONNACK % x", user, head)
	}
	return nil
}
