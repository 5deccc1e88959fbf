package broker

import (
	"crypto/rand"
	"strings"
	"testing"

	"cloudsignal/internal/access"
)

// What clients send may hold a secret in the wrong place; no line of log shows it, wherever it is cut.
func TestPrintableShowsNoSecret(t *testing.T) {
	password, _, err := access.NewPassword(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := access.NewKey(rand.Reader, access.SecretKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{password, key} {
		for _, text := range []string{secret, "a/" + secret + "/b", "agent@" + secret, "agent@org_" + secret, secret + "@org_k7xm4pqr2n5t"} {
			if got := printable([]byte(text)); strings.Contains(got, secret[3:]) {
				t.Errorf("%q is printed as %q", text, got)
			}
			if got := printableUsername([]byte(text)); strings.Contains(got, secret[3:]) {
				t.Errorf("%q is printed as the user name %q", text, got)
			}
		}
		for before := range 140 {
			text := strings.Repeat("a", before) + secret + secret + strings.Repeat("b", 100)
			if got := printable([]byte(text)); strings.Contains(got, secret[3:11]) {
				t.Errorf("behind %d bytes: %q", before, got)
			}
		}
	}
	if got, want := printable([]byte("a/b_c\n")), `a/b_c\n`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
