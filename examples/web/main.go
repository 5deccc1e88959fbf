// Command web is a web site whose visitors chat over MQTT, each with a temporary token of their own. The organization's
// secret key stays in this program; a browser sees nothing but a token that ends by itself. It uses the standard library only.
//
//	CLOUDSIGNAL_KEY=sk_... go run ./examples/web -ca data/ca.pem
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

//go:embed page
var page embed.FS

const (
	apiTimeout = 10 * time.Second
	maxAnswer  = 1 << 20 // bytes of one answer of the API
	ruleSet    = "Visitors of the web example"
)

// site is the program: one page, and one address that gives its visitors tokens.
type site struct {
	api, mqtt    string // https://HOST:PORT and wss://HOST:PORT/
	key          string
	ttl          time.Duration
	client       *http.Client
	organization string
	rules        string // id of the rule set that judges the visitors
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run() error {
	s := &site{key: os.Getenv("CLOUDSIGNAL_KEY")}
	listen := flag.String("listen", "127.0.0.1:8000", "address of the web site")
	ca := flag.String("ca", "", "file of the authority that vouches for the server (default: the system's)")
	flag.StringVar(&s.api, "api", "https://localhost:8443", "address of the API")
	flag.StringVar(&s.mqtt, "mqtt", "wss://localhost:18885/", "address that browsers connect to")
	flag.DurationVar(&s.ttl, "ttl", time.Hour, "how long a token is valid")
	flag.Parse()
	if s.key == "" {
		return errors.New("set CLOUDSIGNAL_KEY to a secret key of your organization (sk_...); the server printed one at its first start")
	}
	var err error
	if s.client, err = newClient(*ca); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.routes(), ReadTimeout: apiTimeout, WriteTimeout: 2 * apiTimeout, IdleTimeout: time.Minute}
	fmt.Printf("Open http://%s in two windows.\n", l.Addr())
	go func() {
		<-ctx.Done()
		server.Close() //nolint:errcheck // it is the end either way
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newClient trusts the authority of a file, or the system's.
func newClient(ca string) (*http.Client, error) {
	roots := (*x509.CertPool)(nil)
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
	}
	return &http.Client{
		Timeout:   apiTimeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, nil
}

// prepare asks whose key it holds, and sees to the rules of the visitors: they may chat, and nothing else.
func (s *site) prepare(ctx context.Context) error {
	var organization struct{ ID string }
	if err := s.call(ctx, http.MethodGet, "/v2/organization", nil, &organization); err != nil {
		return err
	}
	s.organization = organization.ID
	var sets struct {
		Data []struct{ ID, Name string }
	}
	if err := s.call(ctx, http.MethodGet, "/v2/rule-sets?limit=1000", nil, &sets); err != nil {
		return err
	}
	for _, set := range sets.Data {
		if set.Name == ruleSet {
			s.rules = set.ID
			return nil
		}
	}
	var made struct{ ID string }
	err := s.call(ctx, http.MethodPost, "/v2/rule-sets", map[string]any{
		"name":  ruleSet,
		"rules": []map[string]any{{"user": "%", "topic": "chat/#", "permission": "pubsub", "effect": "allow", "priority": 0}},
	}, &made)
	s.rules = made.ID
	return err
}

func (s *site) routes() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	m := http.NewServeMux()
	m.Handle("GET /", http.FileServerFS(files))
	m.HandleFunc("POST /token", s.token)
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' " + origin(s.api) + " " + origin(s.mqtt) +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	headed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		m.ServeHTTP(w, r)
	})
	return http.NewCrossOriginProtection().Handler(headed) // no other site gets tokens with a visitor's cookie
}

// origin is scheme, host and port of an address.
func origin(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Scheme + "://" + u.Host
}

// token gives a visitor a token. Here your program looks up who is logged in, and answers 401 if nobody is.
func (s *site) token(w http.ResponseWriter, r *http.Request) {
	visitor := s.visitor(w, r)
	var made struct {
		Credentials          struct{ Username, Password string } `json:"mqtt_credentials"`
		ID                   string                              `json:"token_id"`
		ExpiresIn            int                                 `json:"expires_in"`
		ExpiresAt            time.Time                           `json:"expires_at"`
		RefreshRecommendedAt time.Time                           `json:"refresh_recommended_at"`
	}
	err := s.call(r.Context(), http.MethodPost, "/v2/tokens/create", map[string]any{
		"organization_id":  s.organization,
		"user_email":       visitor + "@visitors.example", // the same visitor gets the same MQTT user name
		"replace_existing": false,                         // the token of another window of this visitor goes on
		"ttl":              int(s.ttl.Seconds()),
		"rule_set":         s.rules,
	}, &made)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]any{
		"mqtt": s.mqtt, "api": s.api, "username": made.Credentials.Username, "password": made.Credentials.Password,
		"token_id": made.ID, "expires_in": made.ExpiresIn, "expires_at": made.ExpiresAt,
		"refresh_recommended_at": made.RefreshRecommendedAt,
	}
	if err != nil {
		log.Print(err)
		w.WriteHeader(http.StatusBadGateway)
		answer = map[string]any{"error": "there is no token to be had at the moment"}
	}
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // the visitor is gone
}

// visitor is who asks, by a cookie. This site has no log-in: everybody is somebody new.
func (s *site) visitor(w http.ResponseWriter, r *http.Request) string {
	if c, err := r.Cookie("visitor"); err == nil && len(c.Value) == len(rand.Text()) {
		return c.Value
	}
	id := rand.Text()
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure: this site is plain HTTP on loopback
		Name: "visitor", Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	return id
}

// call asks the API. An answer that is no success is an error with the API's own words.
func (s *site) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.api+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+s.key)
	r.Header.Set("Content-Type", "application/json")
	answer, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		var problem struct{ Detail, Code string }
		json.Unmarshal(text, &problem) //nolint:errcheck // then the status says all there is
		return fmt.Errorf("%s %s answered %s: %s", method, path, answer.Status, cmp.Or(problem.Detail, problem.Code, "no reason"))
	}
	return json.Unmarshal(text, out)
}
