package access

import (
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	orgA  = "org_k7xm4pqr2n5t"
	orgB  = "org_000000000000"
	uuidA = "3f2b8c1a-9d4e-4f6a-8b7c-0123456789ab"
	uuidB = "3f2b8c1a-9d4e-4f6a-8b7c-0123456789ac"
)

func TestParseUsername(t *testing.T) {
	long := strings.Repeat("a", maxUserName)
	for _, c := range []struct{ in, name, organization string }{
		{"agent-01@" + orgA, "agent-01", orgA},
		{"A_b-9@" + uuidA, "A_b-9", uuidA},
		{"a@" + strings.ToUpper(uuidA), "a", strings.ToUpper(uuidA)},
		{long + "@" + orgA, long, orgA},
		{"server@" + orgA, "server", orgA},
		{"token_k7xm4pqr2n5t@" + orgA, "token_k7xm4pqr2n5t", orgA},
	} {
		name, organization, err := ParseUsername(c.in)
		if err != nil || name != c.name || organization != c.organization {
			t.Errorf("ParseUsername(%q) = %q, %q, %v", c.in, name, organization, err)
		}
	}
	for _, in := range []string{
		"", "@", "a", "a@", "@" + orgA, "a@b@" + orgA, " a@" + orgA, "a @" + orgA, "a@" + orgA + " ", "a@ " + orgA, "a\x00@" + orgA, "a@" + orgA + "\n",
		long + "a@" + orgA, "é@" + orgA, "a/b@" + orgA, "a@" + strings.ToUpper(orgA), "a@org_k7xm4pqr2n5", "a@org_k7xm4pqr2n5tt", "a@org_k7xm4pqr2n5T",
		"a@org-k7xm4pqr2n5t", "a@k7xm4pqr2n5t", "a@" + uuidA[1:], "a@" + uuidA + "0", "a@" + strings.ReplaceAll(uuidA, "-", "0"),
		"a@g" + uuidA[1:], "+@" + orgA, "#@" + orgA,
		"%@" + orgA, strings.Repeat("x", 1<<16),
	} {
		if name, organization, err := ParseUsername(in); err == nil || name != "" || organization != "" {
			t.Errorf("ParseUsername(%.80q) = %q, %q, %v", in, name, organization, err)
		}
	}
}

func TestValidUserName(t *testing.T) {
	for _, name := range []string{"a", "agent-01", "Server1", "tokens", "_", "-", strings.Repeat("a", 64)} {
		if err := ValidUserName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "server", "Server", "token_", "token_x", "TOKEN_x", "a b", "a@b", "é", "a%", strings.Repeat("a", 65), "a\n"} {
		if err := ValidUserName(name); fieldOf(err) != "name" {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzUsername(f *testing.F) {
	for _, s := range []string{"", "@", "a@" + orgA, "a@b@" + orgA, "server@" + uuidA, "é@" + orgA, "a@org_", "\x00@\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, organization, err := ParseUsername(s)
		if err != nil {
			if name != "" || organization != "" {
				t.Errorf("%q: %q and %q beside an error", s, name, organization)
			}
			return
		}
		if name+"@"+organization != s || strings.Contains(name, "@") || strings.Contains(organization, "@") || !utf8.ValidString(s) || len(name) > 64 {
			t.Errorf("%q is split into %q and %q", s, name, organization)
		}
		if strings.ContainsAny(s, " \t\r\n\x00/+#%") {
			t.Errorf("%q is accepted", s)
		}
	})
}
