package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"cloudsignal/web"
)

// httpServer is one HTTP listener.
type httpServer struct {
	listener net.Listener
	server   *http.Server
	running  sync.WaitGroup
}

// serveHTTP binds the listener of a setting, nil if it is off. Its connections are refused until serve.
func (s *Server) serveHTTP(name string, secure *tls.Config) (*httpServer, error) {
	address := s.address(name)
	if address == Off {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return nil, fmt.Errorf("setting %s: cannot listen on %q: %w", name, address, err)
	}
	h := &httpServer{listener: l, server: &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.With("listener", name).Handler(), slog.LevelDebug),
	}}
	if secure != nil {
		cfg := secure.Clone()
		cfg.NextProtos = []string{"h2", "http/1.1"}
		h.listener = tls.NewListener(l, cfg)
		h.server.TLSConfig = cfg
	}
	s.addresses[name] = l.Addr().String()
	s.closers = append(s.closers, h.close)
	return h, nil
}

func (h *httpServer) serve(routes http.Handler) {
	h.server.Handler = routes
	h.running.Go(func() { h.server.Serve(h.listener) }) //nolint:errcheck // it ends by close
}

// close lets requests that are being answered end, for a second.
func (h *httpServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil {
		h.server.Close() //nolint:errcheck // it is the end either way
	}
	h.listener.Close() //nolint:errcheck // closed already if it served
	h.running.Wait()
	return nil
}

// routes are the paths of the HTTPS listener.
func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", s.health)
	m.Handle("/try", web.Try())
	m.HandleFunc("GET /try/config.json", s.tryConfig)
	m.Handle("/", s.api) // its own paths, and a problem document for all others
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/try", http.StatusFound) })
	return m
}

// health says whether the server lives (it answers) and is ready (it takes new connections). Not ready is 503.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	ready := !s.broker.Draining()
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]bool{"live": true, "ready": ready})
}

// tryConfig tells the page /try where this server's WebSocket is, as the browser reached the server.
func (s *Server) tryConfig(w http.ResponseWriter, r *http.Request) {
	address, ok := s.addresses["wss"]
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "this server has no WebSocket listener (setting wss)"})
		return
	}
	_, port, _ := net.SplitHostPort(address)
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	writeJSON(w, http.StatusOK, map[string]string{"wss": "wss://" + net.JoinHostPort(host, port) + "/"})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client is gone
}
