package control_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

func TestBootstrap(t *testing.T) {
	f := fresh(t)
	var saved []control.Bootstrap
	save := func(b control.Bootstrap) error {
		if _, ok := f.directory.Organization(b.Organization); ok || len(f.changes) != 0 {
			t.Error("in use before it is saved")
		}
		saved = append(saved, b)
		return nil
	}
	if made, err := f.Bootstrap(t.Context(), save); !made || err != nil || len(saved) != 1 {
		t.Fatalf("%v, %v, saved %d times", made, err, len(saved))
	}
	b := saved[0]
	text, err := json.Marshal(b)
	want := `^\{"organization":"(org_[a-z0-9]{12})","users":\[\{"username":"agent-01@org_[a-z0-9]{12}","password":"pw_[a-z2-7]{33}"\},` +
		`\{"username":"dashboard@org_[a-z0-9]{12}","password":"pw_[a-z2-7]{33}"\}\],"secret_key":"sk_[a-z2-7]{39}","operator_key":"op_[a-z2-7]{39}"\}$`
	if err != nil || !regexp.MustCompile(want).Match(text) {
		t.Errorf("%v: %s", err, text)
	}
	info := must[[]control.OrganizationInfo](t)(f.Organizations(t.Context(), control.System(), "", control.MaxPage))
	if len(info) != 1 || info[0].ID != b.Organization || info[0].Name != "My Workspace" {
		t.Errorf("%+v", info)
	}

	a := access.NewAuthenticator(f.directory, access.AuthConfig{})
	for _, c := range []struct{ username, password string }{
		{b.Users[0].Username, b.Users[0].Password}, {b.Users[1].Username, b.Users[1].Password}, {"server@" + b.Organization, b.SecretKey},
	} {
		g, err := a.Login(t.Context(), access.Login{Username: []byte(c.username), Password: []byte(c.password), HasPassword: true, ClientID: "c"})
		if err != nil {
			t.Fatalf("%s: %v", c.username, err)
		}
		for topic, who := range map[string]string{
			"publish agents/agent-01/status": "agent-01", "subscribe agents/agent-01/inbox": "agent-01",
			"publish commands/x": "dashboard", "subscribe agents/#": "dashboard",
			"publish agents/agent-02/x": "", "subscribe #": "", "subscribe commands/#": "", "subscribe agents/agent-01/#": "dashboard",
		} {
			verb, name, _ := strings.Cut(topic, " ")
			action := access.Publish
			if verb == "subscribe" {
				action = access.Subscribe
			}
			allowed := g.User == who || g.User == access.ServerUser || g.User == "dashboard" && topic == "subscribe agents/agent-01/inbox"
			if got := g.Check(action, []byte(name)); got != allowed {
				t.Errorf("%s: %s: %v", g.User, topic, got)
			}
		}
	}

	for range 2 {
		if made, err := f.Bootstrap(t.Context(), save); made || err != nil || len(saved) != 1 {
			t.Errorf("again: %v, %v, saved %d times", made, err, len(saved))
		}
	}
	if len(f.changes) != 1 || f.changes[0].Revision != 1 || f.changes[0].Users != nil {
		t.Errorf("announced %+v", f.changes)
	}
	f.checkDirectory()
}

func TestBootstrapThatIsNotSaved(t *testing.T) {
	f := fresh(t)
	full := errors.New("disk full")
	var lost control.Bootstrap
	made, err := f.Bootstrap(t.Context(), func(b control.Bootstrap) error { lost = b; return full })
	if made || !errors.Is(err, full) {
		t.Errorf("%v, %v", made, err)
	}
	if all := must[[]control.OrganizationInfo](t)(f.Organizations(t.Context(), control.System(), "", control.MaxPage)); len(all) != 0 || len(f.changes) != 0 {
		t.Errorf("%+v, announced %+v", all, f.changes)
	}
	if _, ok := f.directory.Organization(lost.Organization); ok {
		t.Error("in the directory")
	}
	f.do(f.Close())
	again := open(t, f.path)
	made, err = again.Bootstrap(t.Context(), func(b control.Bootstrap) error {
		if b.SecretKey == lost.SecretKey || b.Organization == lost.Organization {
			t.Error("the same secrets again")
		}
		return nil
	})
	if !made || err != nil {
		t.Errorf("%v, %v", made, err)
	}
}

func TestNoBootstrapBesideAnOrganization(t *testing.T) {
	f := fresh(t)
	f.organization("a")
	made, err := f.Bootstrap(t.Context(), func(control.Bootstrap) error { t.Error("saves"); return nil })
	if made || err != nil {
		t.Errorf("%v, %v", made, err)
	}
}
