package access

import (
	"crypto/rand"
	"testing"
	"time"
)

// BenchmarkLogin is one log-in: with a password the server made, with a token, with a chosen password for the first time and again, and, to
// compare with, with no password looked at.
func BenchmarkLogin(b *testing.B) {
	d := NewDirectory()
	password, made, err := NewPassword(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	hash, err := HashChosen(rand.Reader, chosen)
	if err != nil {
		b.Fatal(err)
	}
	token, err := NewKey(rand.Reader, TokenPassword)
	if err != nil {
		b.Fatal(err)
	}
	ends := time.Now().Add(time.Hour)
	d.Put(OrganizationRecord{
		ID: orgA, Number: 1, RuleSets: []RuleSet{standard(allow("%", "a/%u/#", PermitBoth))},
		Users: map[string]UserRecord{"made": {PasswordHash: made}, "chosen": {PasswordHash: hash}},
		Identities: map[string]IdentityRecord{tokenUser: {Until: ends, Tokens: []TokenRecord{{
			ID: "tok_1", Expires: ends, Permission: PermitBoth, Passwords: []TokenPassHash{{HashKey(token), ends}},
		}}}},
	})
	run := func(name string, a func() *Authenticator, user, password string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				l := Login{Username: []byte(user + "@" + orgA), Password: []byte(password), HasPassword: true, ClientID: "client", Address: home}
				for p.Next() {
					if _, err := a().Login(b.Context(), l); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
	unverified := NewAuthenticator(d, AuthConfig{})
	unverified.verifier.verify = func(string, []byte) (bool, error) { return true, nil }
	same := NewAuthenticator(d, AuthConfig{})
	keep := func(a *Authenticator) func() *Authenticator { return func() *Authenticator { return a } }
	run("none", keep(unverified), "made", password)
	run("made", keep(same), "made", password)
	run("token", keep(same), tokenUser, token)
	run("again", keep(same), "chosen", chosen)
	run("first", func() *Authenticator { return NewAuthenticator(d, AuthConfig{}) }, "chosen", chosen)
}
