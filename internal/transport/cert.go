package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	caYears     = 10
	leafDays    = 397                 // browsers accept no more than 398
	renewBefore = 30 * 24 * time.Hour // what expires within this is made anew
	backdate    = time.Hour           // for clients whose clock is behind
)

// DevCertificate makes, or finds and keeps, a certificate authority for development and a server certificate of it, in
// dir/tls. The certificate is good for localhost, 127.0.0.1, ::1, this computer's name and hosts (names and IP
// addresses). It is made anew when the hosts are others or it expires within 30 days; the authority stays, so that who
// trusts it once need not again. The authority has no name constraints: hosts change, and it must not. It is good for
// ten years, and made anew in the last 30 days of them.
func DevCertificate(dir string, hosts []string, now time.Time, rand io.Reader) (certFile, keyFile, caFile string, err error) {
	dir = filepath.Join(dir, "tls")
	certFile, keyFile = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	caFile = filepath.Join(dir, "ca.pem")
	names, addresses, err := subjects(hosts)
	if err != nil {
		return "", "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the CA is there to be read; keys are 0600
		return "", "", "", fmt.Errorf("development certificate: %w", err)
	}
	ca, err := authority(caFile, filepath.Join(dir, "ca-key.pem"), now, rand)
	if err != nil {
		return "", "", "", err
	}
	if !goodLeaf(certFile, keyFile, ca.Leaf, names, addresses, now) {
		if err := makeLeaf(certFile, keyFile, ca, names, addresses, now, rand); err != nil {
			return "", "", "", fmt.Errorf("development certificate: %w", err)
		}
	}
	return certFile, keyFile, caFile, nil
}

// subjects sorts hosts, and those that are always there, into names and addresses.
func subjects(hosts []string) (names []string, addresses []net.IP, err error) {
	names = []string{"localhost"}
	addresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if own, err := os.Hostname(); err == nil && validName(own) {
		hosts = append([]string{own}, hosts...)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			if !slices.ContainsFunc(addresses, ip.Equal) {
				addresses = append(addresses, ip)
			}
			continue
		}
		if !validName(h) {
			return nil, nil, fmt.Errorf("host %q: must be a DNS name or an IP address, without scheme and port", h)
		}
		if h = strings.ToLower(h); !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	return names, addresses, nil
}

// validName says whether h can be a DNS name in a certificate; its first label may be "*".
func validName(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for i, label := range strings.Split(h, ".") {
		if label == "*" && i == 0 && len(h) > 1 {
			continue
		}
		bad := func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, bad) {
			return false
		}
	}
	return true
}

// authority finds the CA or, if there is none or its time is over, makes it.
func authority(certFile, keyFile string, now time.Time, rand io.Reader) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case err == nil && now.Add(renewBefore).Before(pair.Leaf.NotAfter):
		return pair, nil
	case err == nil, errors.Is(err, fs.ErrNotExist) && missing(certFile):
		return makeAuthority(certFile, keyFile, now, rand)
	}
	// It is not replaced behind the back of those who trust it.
	return pair, fmt.Errorf("development CA in %s and %s: %w; remove both to have a new one made", certFile, keyFile, err)
}

func missing(file string) bool {
	_, err := os.Stat(file)
	return errors.Is(err, fs.ErrNotExist)
}

func makeAuthority(certFile, keyFile string, now time.Time, rand io.Reader) (tls.Certificate, error) {
	var id [2]byte
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return tls.Certificate{}, fmt.Errorf("development CA: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "CloudSignal development CA " + hex.EncodeToString(id[:])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(caYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if err := issue(certFile, keyFile, template, nil, rand); err != nil {
		return tls.Certificate{}, fmt.Errorf("development CA: %w", err)
	}
	return tls.LoadX509KeyPair(certFile, keyFile)
}

// goodLeaf says whether the server certificate that is there will do. What cannot be read is made anew.
func goodLeaf(certFile, keyFile string, ca *x509.Certificate, names []string, addresses []net.IP, now time.Time) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return false
	}
	leaf := pair.Leaf
	if leaf.CheckSignatureFrom(ca) != nil || now.Before(leaf.NotBefore) || !now.Add(renewBefore).Before(leaf.NotAfter) {
		return false
	}
	return sameSet(leaf.DNSNames, names, func(a, b string) bool { return a == b }) &&
		sameSet(leaf.IPAddresses, addresses, net.IP.Equal)
}

// sameSet says whether a and b, neither with doubles, hold the same in any order.
func sameSet[T any](a, b []T, equal func(T, T) bool) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x T) bool {
		return !slices.ContainsFunc(b, func(y T) bool { return equal(x, y) })
	})
}

func makeLeaf(
	certFile, keyFile string, ca tls.Certificate, names []string, addresses []net.IP, now time.Time, rand io.Reader,
) error {
	end := now.AddDate(0, 0, leafDays)
	if end.After(ca.Leaf.NotAfter) {
		end = ca.Leaf.NotAfter
	}
	return issue(certFile, keyFile, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "CloudSignal development server"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
		IPAddresses:           addresses,
	}, &ca, rand)
}

// issue makes a key and its certificate, signed by ca, or by itself if that is nil. The key is written first: a
// certificate without its key is never there.
func issue(certFile, keyFile string, template *x509.Certificate, ca *tls.Certificate, rand io.Reader) error {
	var serial [16]byte
	if _, err := io.ReadFull(rand, serial[:]); err != nil {
		return err
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive and of a fixed length (RFC 5280, 4.1.2.2)
	template.SerialNumber = new(big.Int).SetBytes(serial[:])
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return err
	}
	parent, signer := template, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyFile, "PRIVATE KEY", keyDER, 0o600); err != nil {
		return err
	}
	return writePEM(certFile, "CERTIFICATE", der, 0o644)
}

// writePEM replaces a file at once: whoever reads it, after a crash too, finds the old content or the new.
func writePEM(file, kind string, der []byte, mode fs.FileMode) error {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // after the rename it is not there
	_, err = tmp.Write(b.Bytes())
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
