package control_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

var ana = control.SignUp{Name: "Ana", Email: "Ana@Example.com", Password: "correct horse"}

func TestSignUp(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	want := control.Member{ID: up.Member.ID, Name: "Ana", Email: "Ana@Example.com", CreatedAt: f.now}
	if up.Member != want || !strings.HasPrefix(up.Member.ID, "mem_") || up.Organization.Name != "Ana's Workspace" || up.Organization.Revision != 1 {
		t.Errorf("%+v", up)
	}
	if s := up.Session; !strings.HasPrefix(s.Token, "ses_") || !s.ExpiresAt.Equal(f.now.Add(control.MemberSessionTTL)) || s.Member != want ||
		len(s.Organizations) != 1 || s.Organizations[0] != (control.Membership{Organization: up.Organization.ID, Name: "Ana's Workspace", Role: control.Owner}) {
		t.Errorf("%+v", s)
	}
	member := must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home))
	if member.Kind != control.MemberActor || member.ID != up.Member.ID || member.Name != ana.Email || member.Organization != up.Organization.ID ||
		member.Role != control.Owner || member.Address != home {
		t.Errorf("%+v", member)
	}
	key := must[control.Actor](t)(f.Authenticate(ctx, up.SecretKey, home))
	for _, a := range []control.Actor{member, key} {
		if info := must[control.OrganizationInfo](t)(f.In(a, up.Organization.ID).Info(ctx)); info != up.Organization {
			t.Errorf("%+v, want %+v", info, up.Organization)
		}
	}
	if len(f.changes) != 1 || f.changes[0].Number != up.Organization.Number {
		t.Errorf("announced %+v", f.changes)
	}
	f.wantLogin(f.In(member, up.Organization.ID), "server", up.SecretKey, "")
	f.checkDirectory()

	again := ana
	again.Email = "ana@EXAMPLE.com"
	_, err := f.SignUp(ctx, home, again)
	wants(t, err, fault.Conflict, "email")
	if all := must[[]control.OrganizationInfo](t)(f.Organizations(ctx, control.System(), "", 10)); len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

func TestSignUpErrors(t *testing.T) {
	f := fresh(t)
	for _, c := range []struct{ name, email, password, field string }{
		{"", "a@example.com", "correct horse", "name"},
		{strings.Repeat("x", 81), "a@example.com", "correct horse", "name"},
		{"Ana", "", "correct horse", "email"},
		{"Ana", "ana", "correct horse", "email"},
		{"Ana", "Ana <ana@example.com>", "correct horse", "email"},
		{"Ana", " ana@example.com", "correct horse", "email"},
		{"Ana", "ana@example.com, bo@example.com", "correct horse", "email"},
		{"Ana", `"a b"@example.com`, "correct horse", "email"},
		{"Ana", "ana@example.com\r\nx", "correct horse", "email"},
		{"Ana", strings.Repeat("a", 250) + "@b.c", "correct horse", ""},
		{"Ana", strings.Repeat("a", 251) + "@b.c", "correct horse", "email"},
		{"Ana", "ana@example.com", "short", "password"},
	} {
		_, err := f.SignUp(t.Context(), home, control.SignUp{Name: c.name, Email: c.email, Password: c.password})
		if c.field == "" {
			f.do(err)
			continue
		}
		wants(t, err, fault.Invalid, c.field)
	}
}

func TestLogInAndOut(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	f.now = f.now.Add(time.Hour)
	s := must[control.MemberSession](t)(f.LogIn(ctx, home, "ANA@example.com", ana.Password))
	if s.Token == up.Session.Token || s.Member != up.Member || len(s.Organizations) != 1 || !s.ExpiresAt.Equal(f.now.Add(control.MemberSessionTTL)) {
		t.Errorf("%+v", s)
	}
	for email, password := range map[string]string{
		ana.Email: "wrong password", "bo@example.com": ana.Password, "": "", "not an address": ana.Password, ana.Email + " ": ana.Password,
	} {
		_, err := f.LogIn(ctx, home, email, password)
		wants(t, err, fault.Unauthorized, "")
		if err.Error() != "the e-mail address or the password is wrong" {
			t.Error(err)
		}
	}
	a := must[control.Actor](t)(f.Authenticate(ctx, s.Token, home))
	f.do(f.LogOut(ctx, a))
	if _, err := f.Authenticate(ctx, s.Token, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Error(err)
	}
	wants(t, f.LogOut(ctx, control.System()), fault.Forbidden, "")
	must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home)) // another session stays
	f.now = up.Session.ExpiresAt
	if _, err := f.Authenticate(ctx, up.Session.Token, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Errorf("an ended session: %v", err)
	}
	f.now = f.now.Add(time.Millisecond)
	f.do(f.Sweep(ctx))
	if n := f.count("member_sessions"); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	var last control.MemberSession
	for range control.MaxMemberSessions {
		f.now = f.now.Add(time.Second)
		last = must[control.MemberSession](t)(f.LogIn(ctx, home, ana.Email, ana.Password))
	}
	if n := f.count("member_sessions"); n != control.MaxMemberSessions {
		t.Errorf("%d sessions", n)
	}
	if _, err := f.Authenticate(ctx, up.Session.Token, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Errorf("the oldest: %v", err)
	}
	must[control.Actor](t)(f.Authenticate(ctx, last.Token, home))
}

func TestLogInIsLimited(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	must[control.MemberSession](t)(f.LogIn(ctx, home, ana.Email, ana.Password))
	for _, email := range []string{ana.Email, "nobody@example.com"} { // the same answers for both
		codes := ""
		for i := range 52 {
			_, err := f.LogIn(ctx, netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 50)}), email, "wrong password") // the same each time: it is remembered
			codes += fmt.Sprint(fault.CodeOf(err), " ")
		}
		if want := strings.Repeat("unauthorized ", 50) + strings.Repeat("too_many_requests ", 2); codes != want {
			t.Errorf("%s: %s", email, codes)
		}
	}
	must[control.MemberSession](t)(f.LogIn(ctx, home, ana.Email, ana.Password)) // the owner is not locked out
}

func TestMemberOfSeveral(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	up := must[control.SignedUp](t)(f.SignUp(ctx, home, ana))
	second := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "Second"))
	f.exec(fmt.Sprintf(`INSERT INTO memberships (organization, member, role, created_at) VALUES (%d, '%s', 'owner', 0)`, second.Number, up.Member.ID))
	a := must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home))
	if a.Organization != "" || a.Role != "" {
		t.Errorf("%+v acts in one of two", a)
	}
	if all := must[[]control.OrganizationInfo](t)(f.Organizations(ctx, a, "", 10)); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	if all := must[[]control.Membership](t)(f.Memberships(ctx, a)); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	within := must[control.Actor](t)(f.Within(ctx, a, second.UUID))
	if within.Organization != second.ID || within.Role != control.Owner {
		t.Errorf("%+v", within)
	}
	f.do(f.In(within, second.ID).Delete(ctx))
	a = must[control.Actor](t)(f.Authenticate(ctx, up.Session.Token, home)) // it has another organization
	f.do(f.In(a, up.Organization.ID).Delete(ctx))
	if _, err := f.Authenticate(ctx, up.Session.Token, home); fault.CodeOf(err) != fault.Unauthorized {
		t.Errorf("a member of nothing: %v", err)
	}
	for _, table := range []string{"members", "memberships", "member_sessions", "organizations", "api_keys", "audit WHERE organization <> 0"} {
		if n := f.count(table); n != 0 {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
	must[control.SignedUp](t)(f.SignUp(ctx, home, ana)) // may come back
}
