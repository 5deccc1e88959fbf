package transport

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// ServerTLS reads a certificate (with its chain, the server's own first) and its key, both PEM.
func ServerTLS(certFile, keyFile string) (*tls.Config, error) {
	chain, err := readPEM("certificate", certFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	key, err := readPEM("key", keyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s with key file %s: %w", certFile, keyFile, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// readPEM reads a file that must hold a block whose type ends with kind.
func readPEM(what, file, kind string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s file: %w", what, err)
	}
	var found []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasPrefix(block.Type, "ENCRYPTED ") || block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%s file %s: the key is encrypted; remove its passphrase", what, file)
		}
		if strings.HasSuffix(block.Type, kind) {
			return data, nil
		}
		found = append(found, block.Type)
	}
	if found == nil {
		return nil, fmt.Errorf("%s file %s: holds no PEM block", what, file)
	}
	return nil, fmt.Errorf("%s file %s: needs a PEM block %s, but holds %s", what, file, kind, strings.Join(found, ", "))
}

// secured is the socket as crypto/tls sees it.
type secured struct {
	*socket
	tooOld bool // the client offers no version that we accept
}

// SetWriteDeadline does nothing: deadlines are conn's, and close_notify would put its own 5 s in their place.
func (*secured) SetWriteDeadline(time.Time) error { return nil }

// secure does the TLS handshake. Who speaks HTTP to a WSS port is told so in HTTP.
func (c *conn) secure() error {
	s := &secured{socket: c.raw}
	t := tls.Server(s, c.l.tls)
	err := t.Handshake()
	if err == nil {
		c.net = t
		return nil
	}
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil {
		if c.l.cfg.Kind == WSS && slices.Contains(httpStarts, string(plain.RecordHeader[:])) {
			a := refusal(FailedNotTLS, http.StatusBadRequest, "this port is encrypted; use wss:// in place of ws:// (https:// of http://)")
			c.raw.Write(a.bytes()) //nolint:errcheck // it is refused either way
		}
		return &refusedError{FailedNotTLS, err}
	}
	if s.tooOld {
		return &refusedError{FailedTLSVersion, err}
	}
	return err
}

// httpStarts is how plain HTTP requests begin, as long as a TLS record's header.
var httpStarts = []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET", "CONNE"}

// listenerTLS is the configuration a listener serves with. Where a client offers our protocol by ALPN it is selected;
// what else it offers is no reason to refuse it, as crypto/tls would.
func listenerTLS(base *tls.Config, kind Kind) *tls.Config {
	protocol := "mqtt"
	if kind.webSocket() {
		protocol = "http/1.1"
	}
	cfg := base.Clone()
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	cfg.NextProtos = nil
	cfg.GetConfigForClient = nil
	bare := cfg.Clone()
	cfg.NextProtos = []string{protocol}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s, ok := hello.Conn.(*secured); ok {
			s.tooOld = !slices.ContainsFunc(hello.SupportedVersions, func(v uint16) bool {
				return v >= cfg.MinVersion && (v == tls.VersionTLS12 || v == tls.VersionTLS13)
			})
		}
		if slices.Contains(hello.SupportedProtos, protocol) {
			return nil, nil //nolint:nilnil // crypto/tls: nil means the configuration as it is
		}
		return bare, nil // its session tickets are sealed with cfg's keys
	}
	return cfg
}
