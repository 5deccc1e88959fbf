package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var issued = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// development calls DevCertificate and returns what it left.
func development(t *testing.T, dir string, hosts []string, now time.Time) (ca, leaf *x509.Certificate) {
	t.Helper()
	certFile, keyFile, caFile, err := DevCertificate(dir, hosts, now, rand.Reader)
	must(t, err)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	caPair, err := tls.LoadX509KeyPair(caFile, filepath.Join(dir, "tls", "ca-key.pem"))
	must(t, err)
	return caPair.Leaf, pair.Leaf
}

func TestDevCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, leaf := development(t, dir, []string{"Broker.example", "*.lan", "192.0.2.7", "2001:db8::1", "localhost"}, issued)
	if !ca.IsCA || !ca.BasicConstraintsValid || !ca.MaxPathLenZero || ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Errorf("the CA is %+v", ca)
	}
	if ca.NotAfter.Before(issued.AddDate(5, 0, 0)) {
		t.Errorf("the CA ends on %v", ca.NotAfter)
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("the certificate is %+v", leaf)
	}
	for _, c := range []*x509.Certificate{ca, leaf} {
		if k, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() || c.SerialNumber.BitLen() != 127 {
			t.Errorf("%s: %s, serial number of %d bits", c.Subject, c.PublicKeyAlgorithm, c.SerialNumber.BitLen())
		}
	}
	if days := leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24; days > 398 {
		t.Errorf("it is good for %.1f days", days)
	}
	if len(ca.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId) {
		t.Error("the key identifiers do not lead from the certificate to its CA")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	good := []string{"localhost", "127.0.0.1", "::1", "broker.example", "BROKER.example", "a.lan", "192.0.2.7", "2001:db8::1"}
	if own, err := os.Hostname(); err == nil && validName(own) {
		good = append(good, own)
	}
	for _, host := range good {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: issued}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"example", "192.0.2.8", "a.b.lan"} {
		if leaf.VerifyHostname(host) == nil {
			t.Errorf("%s is in the certificate", host)
		}
	}
	for name, mode := range map[string]os.FileMode{"server-key.pem": 0o600, "ca-key.pem": 0o600, "server.pem": 0o644, "ca.pem": 0o644} {
		info, err := os.Stat(filepath.Join(dir, "tls", name))
		must(t, err)
		if info.Mode() != mode {
			t.Errorf("%s has the mode %v", name, info.Mode())
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tls")); err != nil || len(left) != 4 {
		t.Errorf("%v is there, %v", left, err)
	}
}

// A client that trusts the CA connects by every name, on every secure kind.
func TestDevCertificateServes(t *testing.T) {
	for _, kind := range []Kind{MQTTS, WSS} {
		l, _ := serve(t, Config{Kind: kind}, nil)
		for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
			cfg := clientTLS(t)
			cfg.ServerName = name
			c, err := tls.Dial("tcp", l.Addr().String(), cfg)
			if err != nil {
				t.Errorf("%s by %s: %v", kind, name, err)
				continue
			}
			c.Close()
		}
	}
}

func TestDevCertificateIsKept(t *testing.T) {
	day := 24 * time.Hour
	steps := []struct {
		name             string
		hosts            []string
		at               time.Duration
		sameCA, sameLeaf bool
		before           func(dir string) error
	}{
		{"the first", []string{"a.example", "192.0.2.1"}, 0, false, false, nil},
		{"a restart", []string{"a.example", "192.0.2.1"}, time.Minute, true, true, nil},
		{"in another order, twice, in capitals", []string{"192.0.2.1", "A.Example", "a.example", "localhost"}, day, true, true, nil},
		{"one more", []string{"a.example", "192.0.2.1", "b.example"}, day, true, false, nil},
		{"one less", []string{"a.example", "b.example"}, day, true, false, nil},
		{"another address", []string{"a.example", "b.example", "192.0.2.2"}, day, true, false, nil},
		{"none", nil, day, true, false, nil},
		{"a year later, not yet near its end", nil, 366 * day, true, true, nil},
		{"near its end", nil, 370 * day, true, false, nil},
		{"the clock went back before it was made", nil, 2 * day, true, false, nil},
		{"its key is gone", nil, 3 * day, true, false, func(dir string) error { return os.Remove(filepath.Join(dir, "server-key.pem")) }},
		{"it is broken", nil, 3 * day, true, false, func(dir string) error { return os.WriteFile(filepath.Join(dir, "server.pem"), []byte("-"), 0o644) }},
		{"years later", nil, 3000 * day, true, false, nil},
		{"the CA is near its end", nil, 3640 * day, false, false, nil},
		{"the CA is gone", nil, 3641 * day, false, false, func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "ca.pem")), os.Remove(filepath.Join(dir, "ca-key.pem")))
		}},
		{"only the CA's key had been written", nil, 3641 * day, false, false, func(dir string) error { return os.Remove(filepath.Join(dir, "ca.pem")) }},
	}
	dir := t.TempDir()
	var ca, leaf *x509.Certificate
	for _, s := range steps {
		if s.before != nil {
			must(t, s.before(filepath.Join(dir, "tls")))
		}
		now := issued.Add(s.at)
		nextCA, nextLeaf := development(t, dir, s.hosts, now)
		if ca != nil && (ca.Equal(nextCA) != s.sameCA || leaf.Equal(nextLeaf) != s.sameLeaf) {
			t.Errorf("%s: the same CA %v, the same certificate %v", s.name, ca.Equal(nextCA), leaf.Equal(nextLeaf))
		}
		ca, leaf = nextCA, nextLeaf
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: roots, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if leaf.NotAfter.After(ca.NotAfter) {
			t.Errorf("%s: it outlives its CA", s.name)
		}
	}
}

func TestDevCertificateErrors(t *testing.T) {
	for _, host := range []string{"", "https://a.example", "a.example:8883", "a b", "*", "a.*.example", "a..b", "[::1]", strings.Repeat("x", 64)} {
		_, _, _, err := DevCertificate(t.TempDir(), []string{host}, issued, rand.Reader)
		if err == nil || !strings.Contains(err.Error(), "must be a DNS name or an IP address") {
			t.Errorf("%q: %v", host, err)
		}
	}
	dir := t.TempDir()
	development(t, dir, nil, issued)
	// A CA that others may trust is not replaced without being asked to.
	key := filepath.Join(dir, "tls", "ca-key.pem")
	must(t, os.Remove(key))
	_, _, _, err := DevCertificate(dir, nil, issued, rand.Reader)
	if err == nil || !strings.Contains(err.Error(), "remove both to have a new one made") {
		t.Errorf("without the CA's key: %v", err)
	}
	if _, _, _, err := DevCertificate(t.TempDir(), nil, issued, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without randomness: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, _, _, err := DevCertificate(file, nil, issued, rand.Reader); err == nil {
		t.Error("in a file: no error")
	}
}

func TestSameSet(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{{"", "", true}, {"a b", "b a", true}, {"a", "a b", false}, {"a b", "a", false}, {"a b", "a c", false}} {
		if got := sameSet(strings.Fields(tt.a), strings.Fields(tt.b), strings.EqualFold); got != tt.want {
			t.Errorf("%q and %q: %v", tt.a, tt.b, got)
		}
	}
	if !sameSet([]net.IP{net.IPv4(1, 2, 3, 4)}, []net.IP{{1, 2, 3, 4}}, net.IP.Equal) {
		t.Error("two forms of one address differ")
	}
}
