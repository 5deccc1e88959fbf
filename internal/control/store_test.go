package control_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// fixture is a store on a file of its own.
type fixture struct {
	*control.Store
	t         *testing.T
	path      string
	now       time.Time
	directory *access.Directory
	changes   []control.Change
}

func open(t *testing.T, path string) *fixture {
	t.Helper()
	f := &fixture{t: t, path: path, now: time.UnixMilli(1_700_000_000_123).UTC(), directory: access.NewDirectory()}
	s, err := control.Open(t.Context(), control.Options{
		Path: path, Directory: f.directory, Now: func() time.Time { return f.now },
		Announce: func(c control.Change) {
			// What is announced is there to be read.
			if r, ok := f.directory.Organization(c.Organization); ok && r.Revision != c.Revision {
				t.Errorf("announced %+v, the directory has revision %d", c, r.Revision)
			}
			f.changes = append(f.changes, c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Store = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func fresh(t *testing.T) *fixture { return open(t, filepath.Join(t.TempDir(), "control.db")) }

func (f *fixture) organization(name string) *control.Organization {
	f.t.Helper()
	info, err := f.CreateOrganization(f.t.Context(), control.System(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.In(control.System(), info.ID)
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (f *fixture) do(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// wants fails unless err has this code, and this field if one is given.
func wants(t *testing.T, err error, code fault.Code, field string) {
	t.Helper()
	e, _ := errors.AsType[*fault.Error](err)
	if e == nil || e.Code != code || e.Field != field || e.Message == "" {
		t.Errorf("%v (%s); want %s of %q", err, fault.CodeOf(err), code, field)
	}
}

// checkDirectory compares the directory with that of a fresh Open of the same file.
func (f *fixture) checkDirectory() {
	f.t.Helper()
	d := access.NewDirectory()
	s, err := control.Open(f.t.Context(), control.Options{Path: f.path, Directory: d, Now: func() time.Time { return f.now }})
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { f.do(s.Close()) }()
	all := must[[]control.OrganizationInfo](f.t)(f.Organizations(f.t.Context(), control.System(), "", control.MaxPage))
	for _, o := range all {
		got, _ := f.directory.Whole(o.ID)
		want, _ := d.Whole(o.UUID)
		f.dropForgotten(&got)
		if !reflect.DeepEqual(got, want) {
			f.t.Fatalf("the directory has\n%+v\nthe file has\n%+v", got, want)
		}
		if got.Revision != o.Revision || got.Number != o.Number || got.Disabled != o.Disabled || got.Limits != o.Limits {
			f.t.Fatalf("the directory has %+v, the list %+v", got, o)
		}
	}
}

// dropForgotten takes out of a picture what is only there until the next Sweep, or the identity's next token.
func (f *fixture) dropForgotten(r *access.OrganizationRecord) {
	before := f.now.Add(-70 * time.Minute)
	for user, i := range r.Identities {
		if !i.Until.After(before) {
			delete(r.Identities, user)
			continue
		}
		var tokens []access.TokenRecord
		for _, k := range i.Tokens {
			if k.Expires.After(before) {
				tokens = append(tokens, k)
			}
		}
		i.Tokens = tokens
		r.Identities[user] = i
	}
}

func TestOrganizations(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	a := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "Ana's Workspace"))
	b := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "Bo"))
	if a.Number != 1 || b.Number != 2 || a.ID == b.ID || a.UUID == b.UUID ||
		!a.CreatedAt.Equal(f.now) || a.Name != "Ana's Workspace" || a.Revision != 1 {
		t.Errorf("%+v, %+v", a, b)
	}
	inOrder := []control.OrganizationInfo{a, b}
	if b.ID < a.ID {
		inOrder = []control.OrganizationInfo{b, a}
	}
	if all := must[[]control.OrganizationInfo](t)(f.Organizations(ctx, control.System(), "", control.MaxPage)); !slices.Equal(all, inOrder) {
		t.Errorf("%+v", all)
	}
	if one := must[[]control.OrganizationInfo](t)(f.Organizations(ctx, control.System(), inOrder[0].ID, 1)); !slices.Equal(one, inOrder[1:]) {
		t.Errorf("%+v", one)
	}
	for _, id := range []string{a.ID, a.UUID, strings.ToUpper(a.UUID)} {
		if info := must[control.OrganizationInfo](t)(f.In(control.System(), id).Info(ctx)); info != a {
			t.Errorf("%s: %+v", id, info)
		}
	}
	name, yes, connections := "Bob", true, 5
	must[control.OrganizationInfo](t)(f.In(control.System(), b.UUID).Update(ctx, control.OrganizationUpdate{Name: &name}))
	must[control.OrganizationInfo](t)(f.In(control.System(), b.ID).Update(ctx, control.OrganizationUpdate{Disabled: &yes}))
	must[control.OrganizationInfo](t)(f.In(control.System(), b.ID).SetLimits(ctx, control.LimitsUpdate{MaxConnections: &connections}))
	want := b
	want.Name, want.Disabled, want.Limits.MaxConnections, want.Revision = name, true, connections, 4
	if info := must[control.OrganizationInfo](t)(f.In(control.System(), b.ID).Info(ctx)); info != want {
		t.Errorf("%+v, want %+v", info, want)
	}
	f.checkDirectory()

	bad, negative := "", -1
	_, err := f.CreateOrganization(ctx, control.System(), " x")
	wants(t, err, fault.Invalid, "name")
	_, err = f.In(control.System(), a.ID).Update(ctx, control.OrganizationUpdate{Name: &bad})
	wants(t, err, fault.Invalid, "name")
	_, err = f.In(control.System(), a.ID).SetLimits(ctx, control.LimitsUpdate{MaxConnections: &negative})
	wants(t, err, fault.Invalid, "max_connections")
	_, err = f.In(control.System(), "org_zzzzzzzzzzzz").Update(ctx, control.OrganizationUpdate{Name: &name})
	wants(t, err, fault.NotFound, "")
	wants(t, f.In(control.System(), "org_zzzzzzzzzzzz").Delete(ctx), fault.NotFound, "")

	fill(t, f.In(control.System(), b.ID))
	f.changes = nil
	f.do(f.In(control.System(), b.ID).Delete(ctx))
	if len(f.changes) != 1 || f.changes[0].Organization != b.ID || f.changes[0].Users != nil {
		t.Errorf("announced %+v", f.changes)
	}
	if _, ok := f.directory.Organization(b.UUID); ok {
		t.Error("a deleted organization is in the directory")
	}
	if c := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "C")); c.Number != 3 {
		t.Errorf("number %d is given out again", c.Number)
	}
	f.checkDirectory()
}

// fill gives an organization one of everything.
func fill(t *testing.T, o *control.Organization) (set access.RuleSet, key control.Key) {
	t.Helper()
	ctx := t.Context()
	set, err := o.CreateRuleSet(ctx, control.NewRuleSet{Name: "set", Rules: []access.Rule{
		{User: "%", Topic: "a/#", Permission: access.PermitBoth, Effect: access.Allow},
		{User: "bob", Topic: "b/%u", Permission: access.PermitPublish, Effect: access.Deny, Priority: 7},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := o.CreateUser(ctx, control.NewUser{Name: "bob", RuleSet: set.ID}); err != nil {
		t.Fatal(err)
	}
	if key, _, err = o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "key"}); err != nil {
		t.Fatal(err)
	}
	return set, key
}

func TestNoOrganizationReachesAnother(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	mine, other := f.organization("mine"), f.organization("other")
	set, key := fill(t, mine)
	if _, _, err := other.CreateUser(ctx, control.NewUser{Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	info := must[control.OrganizationInfo](t)(mine.Info(ctx))
	record, _ := f.directory.Organization(info.ID)
	f.changes = nil

	yes := true
	_, err := other.User(ctx, "bob")
	wants(t, err, fault.NotFound, "")
	_, err = other.UpdateUser(ctx, "bob", control.UserUpdate{Disabled: &yes})
	wants(t, err, fault.NotFound, "")
	_, err = other.RotatePassword(ctx, "bob")
	wants(t, err, fault.NotFound, "")
	wants(t, other.SetPassword(ctx, "bob", "correct horse"), fault.NotFound, "")
	wants(t, other.DeleteUser(ctx, "bob"), fault.NotFound, "")
	_, err = other.UpdateUser(ctx, "eve", control.UserUpdate{RuleSet: &set.ID})
	wants(t, err, fault.Invalid, "rule_set")
	_, _, err = other.CreateUser(ctx, control.NewUser{Name: "new", RuleSet: set.ID})
	wants(t, err, fault.Invalid, "rule_set")
	_, err = other.RuleSet(ctx, set.ID)
	wants(t, err, fault.NotFound, "")
	_, err = other.ReplaceRules(ctx, set.ID, nil)
	wants(t, err, fault.NotFound, "")
	wants(t, makeDefault(ctx, other, set.ID), fault.NotFound, "")
	wants(t, other.DeleteRuleSet(ctx, set.ID), fault.NotFound, "")
	wants(t, other.RevokeKey(ctx, key.ID), fault.NotFound, "")
	if users := must[[]control.User](t)(other.ListUsers(ctx, "", 10)); len(users) != 1 || users[0].Name != "eve" {
		t.Errorf("lists %+v", users)
	}
	if sets := must[[]access.RuleSet](t)(other.ListRuleSets(ctx)); len(sets) != 0 {
		t.Errorf("lists %+v", sets)
	}
	if keys := must[[]control.Key](t)(other.ListKeys(ctx, "", control.MaxPage)); len(keys) != 0 {
		t.Errorf("lists %+v", keys)
	}

	if now, _ := f.directory.Organization(info.ID); now != record || len(f.changes) != 0 {
		t.Errorf("something changed: %+v", f.changes)
	}
	if again := must[control.OrganizationInfo](t)(mine.Info(ctx)); again != info {
		t.Errorf("%+v was %+v", again, info)
	}
	f.checkDirectory()
}

func TestNoOrganization(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	fill(t, f.organization("a"))
	for _, id := range []string{"", "org_zzzzzzzzzzzz", "1", "%", "' OR 1=1 --"} {
		o := f.In(control.System(), id)
		_, e1 := o.Info(ctx)
		_, e2 := o.ListUsers(ctx, "", 10)
		_, _, e3 := o.CreateUser(ctx, control.NewUser{Name: "x"})
		_, e4 := o.ListRuleSets(ctx)
		_, _, e5 := o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "x"})
		_, e6 := o.ListKeys(ctx, "", control.MaxPage)
		for _, err := range []error{e1, e2, e3, e4, e5, e6, o.DeleteUser(ctx, "bob")} {
			wants(t, err, fault.NotFound, "")
		}
	}
}

func TestReopen(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	set, _ := fill(t, o)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, f.path)
	all := must[[]control.OrganizationInfo](t)(again.Organizations(t.Context(), control.System(), "", control.MaxPage))
	if got := must[access.RuleSet](t)(again.In(control.System(), all[0].ID).RuleSet(t.Context(), set.ID)); !reflect.DeepEqual(got, set) {
		t.Errorf("%+v was %+v", got, set)
	}
	again.checkDirectory()
	if len(again.changes) != 0 {
		t.Errorf("Open announced %+v", again.changes)
	}
	if _, err := f.In(control.System(), all[0].ID).Info(t.Context()); fault.CodeOf(err) != fault.Internal || strings.Contains(err.Error(), "sql") {
		t.Errorf("closed: %v", err)
	}
}

func TestFileIsPrivateAndDurable(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "a b?c#d%41.db"))
	f.organization("a")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(f.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", info.Name(), info.Mode())
		}
	}
	f.checkDirectory()
}

func TestNewerSchemaIsRefused(t *testing.T) {
	f := fresh(t)
	f.organization("a")
	f.do(f.Close())
	db, err := sql.Open("sqlite", f.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)`); err != nil {
		t.Fatal(err)
	}
	f.do(db.Close())
	_, err = control.Open(t.Context(), control.Options{Path: f.path, Directory: access.NewDirectory()})
	if err == nil || !strings.Contains(err.Error(), "99999") || !strings.Contains(err.Error(), "newer program") ||
		!strings.Contains(err.Error(), f.path) {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	content := strings.Repeat("this is not a database\n", 500)
	if err := os.WriteFile(text, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		text:                                  "not a database",
		dir:                                   "is a directory",
		filepath.Join(dir, "missing", "c.db"): "no such file",
		"":                                    "no path",
	} {
		_, err := control.Open(t.Context(), control.Options{Path: path, Directory: access.NewDirectory()})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	if b, err := os.ReadFile(text); err != nil || string(b) != content {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestContextEnds(t *testing.T) {
	f := fresh(t)
	o := f.organization("a")
	f.changes = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, e1 := o.Info(ctx)
	_, _, e2 := o.CreateUser(ctx, control.NewUser{Name: "x"})
	_, e3 := f.CreateOrganization(ctx, control.System(), "x")
	for _, err := range []error{e1, e2, e3, o.Delete(ctx)} {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if len(f.changes) != 0 {
		t.Errorf("announced %+v", f.changes)
	}
	f.checkDirectory()
}

func makeDefault(ctx context.Context, o *control.Organization, set string) error {
	yes := true
	_, err := o.UpdateRuleSet(ctx, set, control.RuleSetUpdate{Default: &yes})
	return err
}
