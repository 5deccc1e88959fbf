// Package server puts the parts together: it is the only place that knows every package.
package server

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/api"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/control"
	"cloudsignal/internal/engine/pebble"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/transport"
)

// maxWaiting bounds the bytes of all organizations' messages that wait for the disk: enough for 64 that flood at the same time,
// each bounded by broker.Limits.CommitBytes.
const maxWaiting = 256 << 20

// drainTime is how long connections may take to end by themselves when the server stops.
const drainTime = 5 * time.Second

// Server is a running server.
type Server struct {
	cfg       Config
	log       *slog.Logger
	addresses map[string]string
	ca        string // file of the development authority, empty with a certificate of the operator's own
	leaf      *x509.Certificate
	control   *control.Store
	directory *access.Directory
	verifier  *access.Verifier // of users' and of members' passwords: one pool
	store     *pebble.Store
	broker    *broker.Broker // nil until it is started: nobody is connected whom a change could touch
	api       *api.API
	keeper    *keeper
	listeners []*transport.Listener
	https     *httpServer
	metrics   *httpServer
	closers   []func() error // what to undo, first to last
}

// Run starts a server and returns when it serves; Close stops it. An error leaves nothing behind but files.
func Run(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	data, err := filepath.Abs(cfg.Data) // what is printed is pasted into shells elsewhere
	if err != nil {
		return nil, fmt.Errorf("setting data: %w", err)
	}
	cfg.Data = data
	s := &Server{cfg: cfg, log: log, addresses: make(map[string]string)}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.undo())
	}
	return s, nil
}

func (s *Server) undo() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

func (s *Server) start(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("setting data: %w", err)
	}
	unlock, err := lockDirectory(s.cfg.Data)
	if err != nil {
		return fmt.Errorf("setting data: %w", err)
	}
	s.closers = append(s.closers, unlock)

	s.directory = access.NewDirectory()
	s.verifier = access.NewVerifier(access.AuthConfig{})
	s.control, err = control.Open(ctx, control.Options{
		Path: filepath.Join(s.cfg.Data, "control.db"), Directory: s.directory, Announce: s.changed, Verifier: s.verifier,
		MinTokenTTL: duration(s.cfg.TokenFloor),
	})
	if err != nil {
		return withCause("opening the control database", err)
	}
	s.closers = append(s.closers, s.control.Close)
	if err := s.openStore(ctx); err != nil {
		return err
	}
	if _, err := s.control.Bootstrap(ctx, s.saveBootstrap); err != nil {
		return withCause("making the first organization", err)
	}
	if _, err := s.control.EnsureOperator(ctx, s.saveOperator); err != nil {
		return withCause("making the operator's key", err)
	}
	if err := s.startBroker(); err != nil {
		return err
	}
	if s.keeper, err = keep(ctx, s.control, s.broker, s.log); err != nil {
		return withCause("reading what was used this month", err)
	}
	s.closers = append(s.closers, s.keeper.close)
	s.api = api.New(api.Config{Store: s.control, Directory: s.directory, Live: s.broker, Log: s.log, SignUp: s.cfg.SignUp == signUpOpen})
	return s.listen()
}

// changed tells the broker what control has changed.
func (s *Server) changed(c control.Change) {
	switch {
	case s.broker == nil:
	case c.Deleted:
		s.log.Info("an organization was deleted", "organization", c.Organization, "organization_number", c.Number)
		s.broker.Deleted(c.Number)
	default:
		s.broker.Changed(c.Number, c.Users)
	}
}

// openStore opens what the last run left. What belongs to organizations that the control database has never had is not its own: a
// new organization would be given a number of theirs, and what they have.
func (s *Server) openStore(ctx context.Context) error {
	dir := filepath.Join(s.cfg.Data, "store")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("setting data: %w", err)
	}
	reserve, _ := parseBytes(s.cfg.DiskReserve)
	store, err := pebble.Open(pebble.Options{Dir: dir, Reserve: reserve, FreeBytes: pebble.FreeBytes(dir), MaxWaiting: maxWaiting})
	if err != nil {
		return err
	}
	s.store = store
	s.closers = append(s.closers, store.Close)
	numbers, err := store.Organizations()
	if err != nil {
		return fmt.Errorf("reading the store in %s: %w", dir, err)
	}
	last, err := s.control.LastNumber(ctx)
	if err != nil {
		return withCause("reading the control database", err)
	}
	if len(numbers) > 0 && slices.Max(numbers) > last {
		return fmt.Errorf("the store in %s is not of this control.db, which is older or new: put the one back that belongs to it, or move the store away", dir)
	}
	return nil
}

// startBroker starts the broker with what is in the store.
func (s *Server) startBroker() error {
	limits := broker.DefaultLimits()
	limits.DefaultExpiry, limits.MaxExpiry = seconds(s.cfg.SessionExpiry), seconds(s.cfg.MaxSessionExpiry)
	limits.WillGrace = duration(s.cfg.WillGrace)
	var err error
	s.broker, err = broker.New(broker.Config{
		Authenticator: access.NewAuthenticator(s.directory, access.AuthConfig{Verifier: s.verifier, KeyUsed: s.control.KeyUsed}),
		Store:         s.store, Log: s.log, Limits: limits,
	})
	if err != nil {
		return fmt.Errorf("loading the store in %s: %w", s.cfg.Data, err)
	}
	s.closers = append(s.closers, func() error { s.broker.Close(); return nil })
	return nil
}

// Failed is closed when what was written can not be relied on any more: the process is to end, and to start again from what
// is on disk.
func (s *Server) Failed() <-chan struct{} { return s.store.Failed() }

// listen binds every port before it serves one: a port in use leaves no client half served.
func (s *Server) listen() error {
	cert, key := s.cfg.Cert, s.cfg.Key
	var err error
	if cert == "" {
		if cert, key, s.ca, err = transport.DevCertificate(s.cfg.Data, s.certificateHosts(), time.Now(), rand.Reader); err != nil {
			return err
		}
	}
	secure, err := transport.ServerTLS(cert, key)
	if err != nil {
		return err
	}
	if leaf := secure.Certificates[0].Leaf; leaf != nil {
		s.leaf = leaf
		if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
			s.log.Warn("the certificate is not valid now: clients will refuse it", "file", cert, "from", leaf.NotBefore, "until", leaf.NotAfter)
		}
	}
	for _, kind := range []transport.Kind{transport.MQTTS, transport.WSS, transport.MQTT, transport.WS} {
		address := s.address(string(kind))
		if address == Off {
			continue
		}
		cfg := transport.Config{Kind: kind, Address: address, Log: s.log}
		if kind == transport.MQTTS || kind == transport.WSS {
			cfg.TLS = secure
		} else if host, _, _ := net.SplitHostPort(address); !loopback(host) {
			s.log.Warn("unencrypted listener is open to the network", "transport", kind, "address", address)
		}
		l, err := transport.Listen(cfg)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		s.closers = append(s.closers, l.Close)
		s.addresses[string(kind)] = l.Addr().String()
	}
	if s.https, err = s.serveHTTP("https", secure); err != nil {
		return err
	}
	if s.metrics, err = s.serveHTTP("metrics", nil); err != nil {
		return err
	}
	for _, l := range s.listeners {
		l.Serve(s.broker.Accept)
	}
	if s.https != nil {
		s.https.serve(s.routes())
	}
	if s.metrics != nil {
		s.metrics.serve(s.metricsRoutes())
	}
	return nil
}

// withCause is an error with what it hides from clients: whoever starts the server is to know.
func withCause(doing string, err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Err != nil {
		return fmt.Errorf("%s: %w: %w", doing, err, e.Err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// certificateHosts are the hosts of the development certificate: those of the setting, and the addresses that are bound by
// name of an interface.
func (s *Server) certificateHosts() []string {
	hosts := slices.Clone(s.cfg.Host)
	for _, name := range []string{"mqtts", "wss", "https"} {
		host, _, err := net.SplitHostPort(s.address(name))
		if ip := net.ParseIP(host); err == nil && ip != nil && !ip.IsUnspecified() && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func (s *Server) address(name string) string {
	for _, setting := range settings {
		if setting.name == name {
			return *setting.value(&s.cfg)
		}
	}
	return Off
}

// Addresses are the bound addresses by listener: mqtts, wss, https, mqtt, ws, metrics; those that are off are missing.
func (s *Server) Addresses() map[string]string { return s.addresses }

// CA is the file of the development authority, empty if the certificate is the operator's own.
func (s *Server) CA() string { return s.ca }

// Credentials is the file with what the first start made, empty if it is not there any more.
func (s *Server) Credentials() string {
	file := filepath.Join(s.cfg.Data, "bootstrap.json")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// Close stops taking connections, tells those that are there, waits until they are gone, at most drainTime, and gives
// everything back.
func (s *Server) Close() error {
	for _, l := range s.listeners {
		l.StopAccepting()
	}
	drained := s.broker.Drain()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-drained:
	case <-t.C:
		s.log.Warn("connections were closed that did not end in time", "time", drainTime)
	}
	return s.undo()
}

// saveBootstrap keeps what the first start made in a file for its owner alone; it is on disk, under its name, when it
// returns.
func (s *Server) saveBootstrap(b control.Bootstrap) error {
	return s.saveSecret("bootstrap.json", b)
}

// saveOperator keeps the operator's key of a data directory that had none, apart from what its first start made.
func (s *Server) saveOperator(secret string) error {
	return s.saveSecret("operator.json", map[string]string{"operator_key": secret})
}

func (s *Server) saveSecret(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(s.cfg.Data, name)
	f, err := os.CreateTemp(s.cfg.Data, ".secret-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is there only after a failure
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return syncDirectory(s.cfg.Data)
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
