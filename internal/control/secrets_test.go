package control_test

import (
	"fmt"
	"strings"
	"testing"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

// TestNoSecretIsKept makes every kind of secret, and looks for each in all that the database has, as bytes and as rows, and in the audit.
func TestNoSecretIsKept(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	var secrets []string
	var b control.Bootstrap
	if _, err := f.Bootstrap(ctx, func(saved control.Bootstrap) error { b = saved; return nil }); err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, b.SecretKey, b.OperatorKey, b.Users[0].Password, b.Users[1].Password)
	in := control.SignUp{Name: "Ana", Email: "ana@example.com", Password: "chosen-by-ana"}
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, in))
	s := must[control.MemberSession](t)(f.LogIn(ctx, home, in.Email, in.Password))
	_, _ = f.LogIn(ctx, home, in.Email, "mistyped-by-ana")
	_, _ = f.LogIn(ctx, home, "mistyped-in-the-wrong-box", "x")
	secrets = append(secrets, in.Password, up.SecretKey, up.Session.Token, s.Token, "mistyped-by-ana", "mistyped-in-the-wrong-box")
	a := must[control.Actor](t)(f.Authenticate(ctx, s.Token, home))
	o := f.In(a, a.Organization)
	for i := range 3 {
		_, password, err := o.CreateUser(ctx, control.NewUser{Name: fmt.Sprint("u", i)})
		f.do(err)
		chosen := fmt.Sprint("chosen-for-u", i)
		secrets = append(secrets, password, must[string](t)(o.RotatePassword(ctx, fmt.Sprint("u", i))), chosen)
		f.do(o.SetPassword(ctx, fmt.Sprint("u", i), chosen))
		_, _, err = o.CreateUser(ctx, control.NewUser{Name: fmt.Sprint("v", i), Password: chosen + "-v"})
		f.do(err)
		secrets = append(secrets, chosen+"-v")
	}
	for _, kind := range []access.KeyKind{access.SecretKey, access.PublishableKey, access.RestrictedKey} {
		n := control.NewKey{Kind: kind, Name: "k"}
		if kind == access.RestrictedKey {
			n.Scopes = []access.Scope{access.UsersRead}
		}
		k, secret, err := o.CreateKey(ctx, n)
		f.do(err)
		_, rotated, err := o.RotateKey(ctx, k.ID)
		f.do(err)
		secrets = append(secrets, secret, rotated)
	}
	token, password := f.token(o, control.NewToken{Email: "bo@example.com"})
	_, again := f.refresh(token, password)
	secrets = append(secrets, password, again)

	f.searchFor(o, secrets, token.User)
}

// searchFor looks for secrets, after something that is there.
func (f *fixture) searchFor(o *control.Organization, secrets []string, there string) {
	f.t.Helper()
	everything, audit := f.dump(), fmt.Sprintf("%s", f.audited(o, ""))
	f.do(f.Sweep(f.t.Context()))
	files := f.bytes()
	if !strings.Contains(everything, there) || !strings.Contains(audit, "mem_") || !strings.Contains(files, there) || len(secrets) < 30 {
		f.t.Fatal("what is searched is not what was written")
	}
	for _, secret := range secrets {
		for where, text := range map[string]string{"a row": everything, "the audit": audit, "the files": files} {
			if strings.Contains(text, secret) || strings.Contains(text, secret[3:]) { // without its kind, too
				f.t.Errorf("%s has %q", where, secret)
			}
		}
		if strings.Contains(audit, access.HashKey(secret).String()) {
			f.t.Errorf("the audit has the hash of %q", secret)
		}
	}
	if strings.Contains(audit, "$argon2id$") || strings.Contains(audit, "$sha256$") {
		f.t.Error("the audit has a password's hash")
	}
}
