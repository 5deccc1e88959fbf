package access

import (
	"crypto/rand"
	"strings"
	"testing"

	"cloudsignal/internal/fault"
)

func TestRedact(t *testing.T) {
	password, _, err := NewPassword(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{password: "pw_..."}
	for _, kind := range secretKinds {
		key, err := NewKey(rand.Reader, kind)
		if err != nil {
			t.Fatal(err)
		}
		secrets[key] = Mask(key)
	}
	for secret, masked := range secrets {
		for _, around := range []string{"|", "a|b", "_|_", "x_|_sk_", "sk_|", "/|/", "é|é", "org_|", "agent@|", "|" + password, "||", "|a"} {
			text := strings.ReplaceAll(around, "|", secret)
			got := Redact(text)
			if strings.Contains(got, secret) || !strings.Contains(got, masked) || !HasSecret(text) || HasSecret(got) {
				t.Errorf("%q becomes %q", text, got)
			}
			if around != "|"+password && got != strings.ReplaceAll(around, "|", masked) {
				t.Errorf("%q becomes %q", text, got)
			}
		}
		for cut := range len(secret) + 20 {
			text := "0123456789" + secret + "0123456789"
			if got := RedactStart(text, cut); cut <= 10 && got != text[:cut] || cut > 10 && !strings.HasPrefix(got, "0123456789"+masked) || strings.Contains(got, secret[4:12]) {
				t.Errorf("%d bytes of %q become %q", cut, text, got)
			}
		}
		for _, field := range []error{
			CheckTitle("field", "My "+secret), CheckTitle("field", secret), ValidUserName(secret),
		} {
			if fault.CodeOf(field) != fault.Invalid || strings.Contains(field.Error(), secret) {
				t.Errorf("%q as a name: %v", secret, field)
			}
		}
	}
	for _, text := range []string{
		"", "_", "sk_", "pw_", "sk_" + strings.Repeat("a", 39), "pw_" + strings.Repeat("a", 32), "pw_" + strings.Repeat("1", 33),
		"org_k7xm4pqr2n5t", "tok_k7xm4pqr2n5t", "a plain sentence", strings.Repeat("_", 200), "sk-" + strings.Repeat("a", 39),
	} {
		if got := Redact(text); got != text || HasSecret(text) {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// What has nothing to hide is not copied: it is on the way of every line of log.
func TestRedactIsCheap(t *testing.T) {
	text := strings.Repeat("agents/agent_01/inbox ", 6)
	if n := testing.AllocsPerRun(100, func() { Redact(text) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
