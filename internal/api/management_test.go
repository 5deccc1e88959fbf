package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/control"
)

type object = map[string]any

func TestUsers(t *testing.T) {
	f := newFixture(t)
	key := f.a.secret
	made := f.call(key, "POST", "/v2/users", object{"name": "agent-01", "display_name": "The first"}).want(201)
	made.is("name", "agent-01", "username", "agent-01@"+f.a.id, "display_name", "The first", "disabled", "false", "rule_set", "", "created_at", "2026-11-03T09:30:00.000Z")
	if !strings.HasPrefix(made.text("password"), "pw_") {
		t.Errorf("%s: the password was not made", made.Body)
	}
	chosen := f.call(key, "POST", "/v2/users", object{"name": "by-hand", "password": f.chosen("a chosen one"), "rule_set": f.a.ruleSet}).want(201)
	if chosen.is("rule_set", f.a.ruleSet); strings.Contains(chosen.Body.String(), `"password"`) {
		t.Errorf("%s shows a password that was chosen", chosen.Body)
	}
	f.call(key, "POST", "/v2/users", object{"name": "agent-01"}).wrong(409, "/name")
	f.call(key, "POST", "/v2/users", object{"name": "server"}).wrong(422, "/name")
	f.call(key, "POST", "/v2/users", object{"name": "a b"}).wrong(422, "/name")
	f.call(key, "POST", "/v2/users", object{"name": "ab", "rule_set": f.b.ruleSet}).wrong(422, "/rule_set")
	f.call(key, "POST", "/v2/users", object{"name": "ab", "password": f.chosen("2 short")}).wrong(422, "/password")

	f.call(key, "GET", "/v2/users/agent-01", nil).want(200).is("name", "agent-01", "username", "agent-01@"+f.a.id)
	f.pass(time.Minute)
	f.call(key, "PATCH", "/v2/users/agent-01", object{"disabled": true, "rule_set": f.a.ruleSet}).want(200).is("disabled", "true", "display_name", "The first")
	f.call(key, "GET", "/v2/users/agent-01", nil).want(200).is("disabled", "true", "rule_set", f.a.ruleSet)
	f.call(key, "PATCH", "/v2/users/agent-01", object{}).want(200).is("disabled", "true", "rule_set", f.a.ruleSet)
	f.call(key, "PATCH", "/v2/users/agent-01", object{"rule_set": "", "display_name": ""}).want(200).is("rule_set", "", "display_name", "")

	again := f.call(key, "POST", "/v2/users/agent-01/rotate", nil).want(200).is("username", "agent-01@"+f.a.id)
	if p := again.text("password"); p == made.text("password") || !strings.HasPrefix(p, "pw_") {
		t.Error("the password was not rotated")
	}
	f.call(key, "GET", "/v2/users/agent-01", nil).is("password_at", "2026-11-03T09:31:00.000Z", "created_at", "2026-11-03T09:30:00.000Z")
	if r := f.call(key, "POST", "/v2/users/agent-01/rotate", object{"password": f.chosen("another chosen one")}).want(200); strings.Contains(r.Body.String(), `"password"`) {
		t.Errorf("%s shows a password that was chosen", r.Body)
	}
	f.call(key, "POST", "/v2/users/agent-01/rotate", object{"password": f.chosen("2 brief")}).wrong(422, "/password")

	f.call(key, "DELETE", "/v2/users/agent-01", nil).want(204)
	f.call(key, "GET", "/v2/users/agent-01", nil).want(404)
	f.call(key, "DELETE", "/v2/users/agent-01", nil).want(404)
	f.call(key, "PATCH", "/v2/users/agent-01", object{"disabled": false}).want(404)
	f.call(key, "POST", "/v2/users/agent-01/rotate", nil).want(404)
}

func TestKeys(t *testing.T) {
	f := newFixture(t)
	key := f.a.secret
	made := f.call(key, "POST", "/v2/keys", object{"name": "Reader", "kind": "restricted", "scopes": []string{"users:read"}}).want(201)
	secret := made.text("secret")
	made.is("kind", "restricted", "name", "Reader", "scopes", "[users:read]", "masked", "rk_..."+secret[len(secret)-4:])
	id := made.text("id")
	f.call(secret, "GET", "/v2/users", nil).want(200)
	f.call(secret, "GET", "/v2/keys", nil).want(403)
	f.call(secret, "GET", "/v2/me", nil).want(200).is("kind", "key", "id", id, "name", "Reader", "key_kind", "restricted", "scopes", "[users:read]")
	f.call(key, "GET", "/v2/keys/"+id, nil).want(200).is("id", id, "kind", "restricted", "last_used_at", "2026-11-03T09:30:00.000Z")

	rotated := f.call(key, "POST", "/v2/keys/"+id+"/rotate", nil).want(200).is("id", id, "name", "Reader", "scopes", "[users:read]")
	f.call(secret, "GET", "/v2/users", nil).want(401)
	f.call(rotated.text("secret"), "GET", "/v2/users", nil).want(200)
	f.call(key, "DELETE", "/v2/keys/"+id, nil).want(204)
	f.call(rotated.text("secret"), "GET", "/v2/users", nil).want(401)
	f.call(key, "GET", "/v2/keys/"+id, nil).want(404)
	f.call(key, "DELETE", "/v2/keys/"+id, nil).want(404)
	f.call(key, "POST", "/v2/keys/"+id+"/rotate", nil).want(404)

	f.call(key, "POST", "/v2/keys", object{"name": "x", "kind": "restricted"}).wrong(422, "/scopes")
	f.call(key, "POST", "/v2/keys", object{"name": "x", "kind": "restricted", "scopes": []string{"users:eat"}}).wrong(422, "/scopes/0")
	f.call(key, "POST", "/v2/keys", object{"name": "x", "kind": "legacy"}).wrong(422, "/kind")
	f.call(key, "POST", "/v2/keys", object{"name": "x", "kind": "secret", "scopes": []string{"users:read"}}).wrong(422, "/scopes")
	f.call("", "GET", "/v2/me", nil, secretHeader, key).want(200).is("kind", "key")
}

// A key does not make one that may more than itself.
func TestKeysAreNotALadder(t *testing.T) {
	f := newFixture(t)
	narrow := f.restricted(&f.a, access.KeysWrite, access.KeysRead)
	f.call(narrow, "POST", "/v2/keys", object{"name": "x", "kind": "secret"}).want(403)
	f.call(narrow, "POST", "/v2/keys", object{"name": "x", "kind": "restricted", "scopes": []string{"users:read"}}).want(403)
	f.call(narrow, "POST", "/v2/keys", object{"name": "x", "kind": "restricted", "scopes": []string{"keys:read"}}).want(201)
}

// Nor does it end one that may more than itself.
func TestKeysTakeNoMoreThanTheyHave(t *testing.T) {
	f := newFixture(t)
	narrow := f.restricted(&f.a, access.KeysWrite, access.UsersRead)
	made := func(kind string, scopes ...string) string {
		return f.call(f.a.secret, "POST", "/v2/keys", object{"name": "x", "kind": kind, "scopes": append([]string{}, scopes...)}).want(201).text("id")
	}
	for _, id := range []string{f.a.key, made("publishable"), made("restricted", "users:write"), made("restricted", "users:read", "rules:read")} {
		f.call(narrow, "DELETE", "/v2/keys/"+id, nil).want(403).is("code", "forbidden")
		f.call(f.a.secret, "GET", "/v2/keys/"+id, nil).want(200)
		f.call(f.a.secret, "DELETE", "/v2/keys/"+id, nil).want(204)
	}
	f.call(narrow, "DELETE", "/v2/keys/"+made("restricted", "users:read"), nil).want(204)
	f.call(narrow, "DELETE", "/v2/keys/"+f.call(narrow, "GET", "/v2/me", nil).text("id"), nil).want(204) // itself
	f.call(narrow, "GET", "/v2/users", nil).want(401)
}

// A change to what is already so is none: no entry in the audit, no revision, nothing announced.
func TestChangesThatChangeNothing(t *testing.T) {
	f := newFixture(t)
	one := "/v2/organizations/" + f.a.id
	rule := object{"user": "%", "topic": "#", "permission": "pubsub", "effect": "allow", "priority": 0, "position": 0}
	f.call(f.operator, "PATCH", one+"/limits", object{"max_sessions": 9}).want(200)
	count := func() int {
		return len(f.call(f.a.secret, "GET", "/v2/audit", nil).want(200).at("data").([]any))
	}
	revision := func() uint64 {
		r, _ := f.api.config.Directory.Organization(f.a.id)
		return r.Revision
	}
	before, was, seen := count(), revision(), 0
	for _, op := range f.document() {
		if op.method != "PATCH" {
			continue
		}
		seen++
		same := map[string]object{
			"update-organization": {"name": "Person 1's Workspace", "disabled": false}, "update-limits": {"max_sessions": 9, "max_retained": 0},
			"update-user": {"display_name": "", "disabled": false, "rule_set": ""}, "update-rule-set": {"name": "Rules", "default": true}, "update-rule": rule,
		}[op.OperationID]
		if same == nil {
			t.Errorf("what is no change to %s?", op.OperationID)
		}
		for _, body := range []object{{}, same} {
			f.call(f.operator, op.method, f.a.target(op), body, organizationHeader, f.a.id).want(200)
		}
	}
	if n := count(); n != before || revision() != was || seen < 5 {
		t.Errorf("%d new entries, revision %d after %d, %d operations", n-before, revision(), was, seen)
	}
	f.call(f.a.secret, "PATCH", "/v2/users/nobody", object{}).want(404)
	f.call(f.a.secret, "PATCH", one, object{"name": "Another"}).want(200)
	if n := count(); n != before+1 || revision() != was+1 {
		t.Errorf("a change has %d entries, revision %d after %d", n-before, revision(), was)
	}
}

// What only operators may is refused with that reason, whatever scopes a key has, and the document asks for no scope.
func TestWhatIsForOperators(t *testing.T) {
	f := newFixture(t)
	n := 0
	for _, op := range f.document() {
		if !declared(op.Operation).ours {
			continue
		}
		n++
		for _, secret := range []string{f.a.secret, f.a.session, f.a.publishable, f.restricted(&f.a, access.OrganizationWrite), f.restricted(&f.a, access.UsersRead)} {
			r := f.call(secret, op.method, f.a.target(op), f.sample(op)).want(403)
			if !strings.Contains(r.text("detail"), "only an operator") {
				t.Errorf("%s: %s", r.what, r.text("detail"))
			}
		}
		for _, s := range op.Security {
			for _, scopes := range s {
				if len(scopes) > 0 {
					t.Errorf("%s: the document asks for %v", op.OperationID, scopes)
				}
			}
		}
	}
	if n != 2 {
		t.Errorf("%d operations", n)
	}
	f.call(f.a.secret, "POST", "/v2/logout", nil).want(403)
	f.call(f.operator, "POST", "/v2/logout", nil).want(403)
}

// The bounds in the document are those that hold: a text of the greatest length is taken, and of the least.
func TestBoundsAreEnforced(t *testing.T) {
	f := newFixture(t)
	text := func(n int) string { return strings.Repeat("a", n) }
	for i, c := range []struct {
		method, target, field string
		least, most, status   int
		body                  object
	}{
		{"POST", "/v2/signup", "name", 1, 80, 201, object{"password": "twelve ravens"}},
		{"POST", "/v2/signup", "password", 8, 256, 201, object{"name": "Ada"}},
		{"POST", "/v2/users", "password", 8, 256, 201, object{"name": "u"}},
		{"POST", "/v2/users/" + f.a.user + "/rotate", "password", 8, 256, 200, object{}},
		{"POST", "/v1/publish", "topic", 1, 4096, 200, object{"payload": "x"}},
		{"POST", "/v2/rule-sets", "name", 1, 100, 201, object{}},
		{"POST", "/v2/keys", "name", 1, 100, 201, object{"kind": "secret"}},
	} {
		for j, n := range []int{c.least, c.most, c.least - 1, c.most + 1} {
			body := object{c.field: text(n)}
			for name, v := range c.body {
				body[name] = v
			}
			if c.target == "/v2/signup" {
				body["email"] = fmt.Sprintf("p%d-%d@example.com", i, j)
			} else if c.target == "/v2/users" {
				body["name"] = fmt.Sprint("u", j)
			}
			if r := f.call(f.a.secret, c.method, c.target, body); j < 2 {
				r.want(c.status)
			} else {
				r.wrong(422, "/"+c.field)
			}
		}
	}
}

func TestRuleSets(t *testing.T) {
	f := newFixture(t)
	key := f.a.secret
	rules := []any{
		object{"user": "agent-01", "topic": "agents/agent-01/#", "permission": "publish"},
		object{"user": "%", "topic": "secret/#", "permission": "pubsub", "effect": "deny", "priority": 3},
	}
	made := f.call(key, "POST", "/v2/rule-sets", object{"name": "Agents", "default": true, "rules": rules}).want(201)
	made.is("name", "Agents", "default", "true", "rules.0.topic", "agents/agent-01/#", "rules.0.effect", "allow", "rules.0.priority", "0",
		"rules.1.effect", "deny", "rules.1.priority", "3", "rules.1.permission", "pubsub")
	set := "/v2/rule-sets/" + made.text("id")
	f.call(key, "POST", "/v2/rule-sets", object{"name": "Agents"}).wrong(409, "/name")
	f.call(key, "POST", "/v2/rule-sets", object{"name": "x", "rules": []any{rules[0], rules[0], object{"user": "a", "topic": "a/#/b", "permission": "publish"}}}).wrong(422, "/rules/2/topic")
	f.call(key, "POST", "/v2/rule-sets", object{"name": "x", "rules": []any{object{"user": "a", "topic": "a", "permission": "all"}}}).wrong(422, "/rules/0/permission")
	f.call(key, "POST", "/v2/rule-sets", object{"name": "x", "rules": []any{object{"user": "a@b", "topic": "a", "permission": "publish"}}}).wrong(422, "/rules/0/user")

	f.call(key, "PATCH", set, object{"name": "All agents"}).want(200).is("name", "All agents", "default", "true")
	f.call(key, "PATCH", "/v2/rule-sets/"+f.a.ruleSet, object{"default": true}).want(200)
	f.call(key, "GET", set, nil).want(200).is("name", "All agents", "default", "false")
	f.call(key, "PATCH", set, object{"name": "Rules"}).wrong(409, "/name")

	first := made.text("rules.0.id")
	put := f.call(key, "PUT", set+"/rules", object{"rules": []any{
		object{"user": "%", "topic": "new/#", "permission": "subscribe"},
		object{"id": first, "user": "agent-01", "topic": "kept/#", "permission": "publish"},
	}}).want(200)
	put.is("rules.1.id", first, "rules.1.topic", "kept/#", "rules.0.topic", "new/#")
	f.call(key, "PUT", set+"/rules", object{"rules": []any{object{"id": f.a.rule, "user": "%", "topic": "x", "permission": "publish"}}}).wrong(422, "/rules/0/id")
	f.call(key, "PUT", set+"/rules", object{"rules": []any{}}).want(200).is("rules", "[]")
	f.call(key, "DELETE", set, nil).want(204)
	f.call(key, "GET", set, nil).want(404)
	f.call(key, "PATCH", "/v2/users/"+f.a.user, object{"rule_set": f.a.ruleSet}).want(200)
	f.call(key, "DELETE", "/v2/rule-sets/"+f.a.ruleSet, nil).want(409).is("code", "conflict")
}

func TestRules(t *testing.T) {
	f := newFixture(t)
	key := f.a.secret
	all := "/v2/rule-sets/" + f.a.ruleSet + "/rules"
	topics := func() (s string) {
		for _, r := range f.call(key, "GET", "/v2/rule-sets/"+f.a.ruleSet, nil).want(200).at("rules").([]any) {
			s += fmt.Sprint(dig(r, "topic"), " ")
		}
		return s
	}
	last := f.call(key, "POST", all, object{"user": "%", "topic": "last", "permission": "publish"}).want(201).is("effect", "allow", "priority", "0")
	f.call(key, "POST", all, object{"user": "%", "topic": "first", "permission": "subscribe", "effect": "deny", "priority": 7, "position": 0}).want(201).
		is("effect", "deny", "priority", "7", "permission", "subscribe")
	if got := topics(); got != "first # last " {
		t.Errorf("the order is %s", got)
	}
	one := all + "/" + last.text("id")
	f.call(key, "PATCH", one, object{"position": 0}).want(200).is("topic", "last", "permission", "publish")
	if got := topics(); got != "last first # " {
		t.Errorf("the order is %s", got)
	}
	f.call(key, "PATCH", one, object{"topic": "changed/+", "permission": "pubsub", "effect": "deny", "priority": 9, "user": "a-%"}).want(200).
		is("topic", "changed/+", "permission", "pubsub", "effect", "deny", "priority", "9", "user", "a-%", "id", last.text("id"))
	f.call(key, "PATCH", one, object{"topic": "a/#/b"}).wrong(422, "/topic")
	f.call(key, "PATCH", one, object{"user": "a b"}).wrong(422, "/user")
	f.call(key, "POST", all, object{"user": "%", "topic": "x", "permission": "publish", "position": 9}).wrong(422, "/position")
	f.call(key, "POST", all, object{"user": "%", "topic": "", "permission": "publish"}).wrong(422, "/topic")
	f.call(key, "DELETE", one, nil).want(204)
	f.call(key, "DELETE", one, nil).want(404)
	f.call(key, "PATCH", one, object{"priority": 1}).want(404)
	f.call(key, "POST", "/v2/rule-sets/rs_none/rules", object{"user": "%", "topic": "x", "permission": "publish"}).want(404)
	if got := topics(); got != "first # " {
		t.Errorf("the order is %s", got)
	}
}

// The documentation's example, answered with the rule that decides.
func TestAccess(t *testing.T) {
	f := newFixture(t)
	key := f.a.secret
	set := f.call(key, "POST", "/v2/rule-sets", object{"name": "Default", "default": true, "rules": []any{
		object{"user": "agent-01", "topic": "agents/agent-01/#", "permission": "publish"},
		object{"user": "agent-01", "topic": "agents/agent-01/inbox", "permission": "subscribe"},
		object{"user": "dashboard", "topic": "devices/%c/#", "permission": "publish", "effect": "deny"},
	}}).want(201)
	for _, name := range []string{"agent-01", "dashboard"} {
		f.call(key, "POST", "/v2/users", object{"name": name}).want(201)
	}
	test := func(user, action, topic, client string) *answer {
		return f.call(key, "POST", "/v2/access/test", object{"user": user, "action": action, "topic": topic, "client_id": client})
	}
	test("agent-01", "publish", "agents/agent-01/status", "").want(200).is("allowed", "true", "rule_set", set.text("id"),
		"rule.id", set.text("rules.0.id"), "rule.topic", "agents/agent-01/#", "rule.effect", "allow")
	test("agent-01", "subscribe", "agents/agent-01/inbox", "").want(200).is("allowed", "true", "rule.id", set.text("rules.1.id"))
	test("agent-01", "subscribe", "agents/#", "").want(200).is("allowed", "false", "rule", "<nil>")
	test("dashboard", "publish", "devices/d7/x", "d7").want(200).is("allowed", "false", "rule.id", set.text("rules.2.id"))
	test("server", "publish", "anything/at/all", "").want(200).is("allowed", "true")
	if why := test("agent-01", "subscribe", "agents/#", "").text("why"); why == "" {
		t.Error("no reason is given")
	}
	test("nobody", "publish", "a", "").want(404)
	test("agent-01", "publish", "a/#", "").wrong(422, "/topic")
	test("agent-01", "subscribe", "a/#/b", "").wrong(422, "/topic")
	test("agent-01", "eat", "a", "").wrong(422, "/action")
}

func TestOrganizations(t *testing.T) {
	f := newFixture(t)
	key, one := f.a.secret, "/v2/organizations/"+f.a.id
	for _, target := range []string{one, "/v2/organizations/" + f.a.uuid, "/v2/organization"} {
		f.call(key, "GET", target, nil).want(200).is("id", f.a.id, "uuid", f.a.uuid, "name", "Person 1's Workspace", "limits.max_connections", "0")
	}
	f.call(key, "GET", "/v2/organizations", nil).want(200).is("data.0.id", f.a.id, "data.1", "<nil>")
	f.call(f.a.session, "GET", "/v2/organizations", nil).want(200).is("data.0.id", f.a.id, "data.1", "<nil>")
	if all := f.call(f.operator, "GET", "/v2/organizations", nil).want(200).at("data").([]any); len(all) != 2 {
		t.Errorf("the operator sees %v", all)
	}
	f.call(key, "PATCH", one, object{"name": "Weather"}).want(200).is("name", "Weather")
	f.call(key, "PATCH", one, object{"name": "Weather\u0007"}).wrong(422, "/name")
	f.call(key, "PATCH", one, object{"disabled": true}).want(403)
	f.call(f.a.session, "PATCH", one, object{"disabled": true}).want(403)
	f.call(key, "POST", "/v2/organizations", object{"name": "Another"}).want(403)
	f.call(f.a.session, "POST", "/v2/organizations", object{"name": "Another"}).want(403)

	made := f.call(f.operator, "POST", "/v2/organizations", object{"name": "Made by hand"}).want(201).is("name", "Made by hand", "disabled", "false")
	other := "/v2/organizations/" + made.text("id")
	f.call(f.operator, "PATCH", other, object{"disabled": true}).want(200).is("disabled", "true", "name", "Made by hand")
	f.call(f.operator, "GET", other, nil).want(200).is("disabled", "true")
	f.call(f.operator, "DELETE", other, nil).want(204)
	f.call(f.operator, "GET", other, nil).want(404)

	f.call(f.operator, "GET", "/v2/users", nil).wrong(422, "header X-Organization")
	f.call(f.operator, "GET", "/v2/users", nil, organizationHeader, f.a.id).want(200).is("data.0.username", f.a.user+"@"+f.a.id)
	f.call(f.operator, "GET", "/v2/users", nil, organizationHeader, f.b.uuid).want(200).is("data.0.username", f.b.user+"@"+f.b.id)
	f.call(f.a.session, "GET", "/v2/users", nil, organizationHeader, f.a.uuid).want(200).is("data.0.username", f.a.user+"@"+f.a.id)
	f.call(key, "GET", "/v2/users", nil, organizationHeader, f.a.id).want(200).is("data.0.username", f.a.user+"@"+f.a.id)

	f.call(f.a.session, "DELETE", one, nil).want(204)
	f.call(key, "GET", "/v2/me", nil).want(401)
	f.call(f.operator, "GET", one, nil).want(404)
	f.call(f.b.secret, "GET", "/v2/organization", nil).want(200)
}

func TestLimits(t *testing.T) {
	f := newFixture(t)
	limits := "/v2/organizations/" + f.a.id + "/limits"
	f.call(f.a.secret, "GET", limits, nil).want(200).is("max_connections", "0", "max_storage_bytes", "0")
	f.call(f.a.secret, "PATCH", limits, object{"max_connections": 10}).want(403)
	f.call(f.a.session, "PATCH", limits, object{"max_connections": 10}).want(403)
	set := object{
		"max_connections": 10, "max_message_bytes": 2000, "max_publish_rate": 30, "max_message_rate": 40, "max_messages_per_month": 5_000_000_000,
		"max_subscriptions": 60, "max_sessions": 70, "max_retained": 80, "max_storage_bytes": 9_000_000_000,
	}
	f.call(f.operator, "PATCH", limits, set).want(200)
	r := f.call(f.a.secret, "GET", limits, nil).want(200)
	for name, value := range set {
		if got := fmt.Sprintf("%.0f", r.at(name)); got != fmt.Sprint(value) {
			t.Errorf("%s is %s, want %v", name, got, value)
		}
	}
	f.call(f.operator, "PATCH", limits, object{"max_connections": 0}).want(200).is("max_connections", "0", "max_sessions", "70")
	f.call(f.a.secret, "GET", "/v2/organization", nil).want(200).is("limits.max_connections", "0", "limits.max_retained", "80")
	f.call(f.b.secret, "GET", "/v2/organization", nil).want(200).is("limits.max_retained", "0")
	f.call(f.operator, "PATCH", limits, object{"max_connections": -1}).wrong(422, "/max_connections")
	f.call(f.operator, "PATCH", limits, object{"max_storage_bytes": 1e30}).wrong(422, "/max_storage_bytes")
}

func TestAudit(t *testing.T) {
	f := newFixture(t)
	f.pass(time.Hour)
	from := f.now()
	f.call(f.a.secret, "PATCH", "/v2/users/"+f.a.user, object{"disabled": true}).want(200)
	f.pass(time.Hour)
	f.call(f.a.secret, "PATCH", "/v2/users/"+f.a.user, object{"disabled": false}).want(200)
	me := f.call(f.a.secret, "GET", "/v2/me", nil).text("id")

	query := "/v2/audit?from=" + from.Format(time.RFC3339)
	r := f.call(f.a.secret, "GET", query, nil).want(200)
	if all := r.at("data").([]any); len(all) != 2 {
		t.Fatalf("%s: want two entries", r.Body)
	}
	r.is("data.0.at", "2026-11-03T11:30:00.000Z", "data.0.action", "user.update", "data.0.target", f.a.user, "data.0.before.disabled", "true",
		"data.0.after.disabled", "false", "data.0.actor.kind", "key", "data.0.actor.id", me, "data.0.address", "192.0.2.1", "data.1.after.disabled", "true")
	until := f.call(f.a.secret, "GET", query+"&until="+f.now().Format(time.RFC3339), nil).want(200)
	until.is("data.0.id", r.text("data.1.id"), "data.1", "<nil>")
	for _, none := range []string{"&actor=key_nobody", "&action=user.delete", "&target=nobody"} {
		f.call(f.a.secret, "GET", query+none, nil).want(200).is("data", "[]")
	}
	for _, both := range []string{"&actor=" + me, "&action=user.update", "&target=" + f.a.user} {
		f.call(f.a.secret, "GET", query+both, nil).want(200).is("data.1.id", r.text("data.1.id"))
	}
	f.call(f.b.secret, "GET", query, nil).want(200).is("data", "[]")
	f.call(f.a.secret, "GET", "/v2/audit?from=yesterday", nil).wrong(422, "query from")
}

// Who deleted an organization is known when its audit is gone with it.
func TestServerAudit(t *testing.T) {
	f := newFixture(t)
	f.call(f.operator, "DELETE", "/v2/organizations/"+f.b.id, nil).want(204)
	r := f.call(f.operator, "GET", "/v2/audit?action=organization.delete", nil).want(200)
	r.is("data.0.target", f.b.id, "data.0.actor.kind", "operator", "data.0.address", "192.0.2.1", "data.0.before.name", "Person 2's Workspace", "data.1", "<nil>")
	f.call(f.operator, "GET", "/v2/audit", nil).want(200).is("data.1.action", "organization.create", "data.2.action", "organization.create", "data.3", "<nil>")
	f.call(f.operator, "GET", "/v2/audit?action=organization.create", nil, organizationHeader, f.a.id).want(200).is("data.0.target", f.a.id, "data.1", "<nil>")
	f.call(f.operator, "GET", "/v2/users", nil).wrong(422, "header "+organizationHeader)
	for _, secret := range []string{f.a.secret, f.a.session} {
		if text := f.call(secret, "GET", "/v2/audit", nil).want(200).Body.String(); strings.Contains(text, f.b.id) {
			t.Errorf("shows another organization's: %s", text)
		}
	}
}

// Every kind of actor there is has a place in the document.
func TestActorKindsAreDocumented(t *testing.T) {
	f := newFixture(t)
	made := f.call(f.a.secret, "POST", "/v2/tokens/create", object{"organization_id": f.a.id, "user_email": "bo@example.com"}).want(200)
	again := f.call("", "POST", "/v2/tokens/refresh", object{"token_id": made.text("token_id"), "current_token_password": made.text("access_token")}).want(200)
	f.call(f.a.secret, "GET", "/v2/audit?action=token.refresh", nil).want(200).is("data.0.actor.kind", "token", "data.0.target", again.text("token_id"))
}

func TestUsage(t *testing.T) {
	f := newFixture(t)
	f.call(f.a.secret, "GET", "/v2/usage", nil).want(200).is("month", "2026-11", "messages", "0", "now.connections", "0", "limits.max_connections", "0")
	f.call(f.a.secret, "GET", "/v2/usage?month=2026-10", nil).want(200).is("month", "2026-10", "messages", "0")

	record, ok := f.api.config.Directory.Organization(f.a.id)
	if !ok {
		t.Fatal("the organization is not in the directory")
	}
	totals := control.UsageTotals{Month: "2026-11", Messages: 7, Deliveries: 8, BytesIn: 9, BytesOut: 10, Refused: 11}
	f.must(f.store.AddUsage(t.Context(), []control.UsageAdd{{Number: record.Number, UsageTotals: totals}}))
	me := f.call(f.a.secret, "GET", "/v2/me", nil).text("id")
	grant, err := f.api.config.Directory.KeyGrant(f.a.id, me)
	f.must(err)
	for i := range 8 {
		_, err = f.broker.Publish(t.Context(), grant, &broker.Message{Topic: fmt.Sprint("t/", i%3), Payload: []byte("x"), Retain: true})
		f.must(err)
	}
	f.call(f.operator, "PATCH", "/v2/organizations/"+f.a.id+"/limits", object{"max_retained": 5}).want(200)
	f.call(f.a.secret, "GET", "/v2/usage", nil).want(200).is("month", "2026-11", "messages", "8", "deliveries", "8", "bytes_in", "9", "bytes_out", "10",
		"refused", "11", "now.retained", "3", "limits.max_retained", "5")
	f.call(f.b.secret, "GET", "/v2/usage", nil).want(200).is("messages", "0", "now.retained", "0", "limits.max_retained", "0")
	f.call(f.a.secret, "GET", "/v2/usage?month=2026-10", nil).want(200).is("messages", "0")
	for _, month := range []string{"2026-13", "2026", "November", "2026-00"} {
		f.call(f.a.secret, "GET", "/v2/usage?month="+month, nil).wrong(422, "query month")
	}
}

// A caller with too many requests waits; another one does not.
func TestCallersAreLimited(t *testing.T) {
	f := newFixture(t)
	f.api.callers.burst = 3
	clear(f.api.callers.of)
	for i := range 3 {
		r := f.call(f.a.secret, "GET", "/v2/me", nil).want(200)
		if got := r.Header().Get("X-RateLimit-Remaining"); got != fmt.Sprint(2-i) {
			t.Errorf("request %d: %s remain", i, got)
		}
	}
	r := f.call(f.a.secret, "GET", "/v2/me", nil).want(http.StatusTooManyRequests).is("code", "too_many_requests")
	if r.Header().Get("Retry-After") != "1" || r.Header().Get("RateLimit") != `"requests";r=0;t=1` {
		t.Errorf("%v", r.Header())
	}
	f.call(f.b.secret, "GET", "/v2/me", nil).want(200)
	f.call(f.a.session, "GET", "/v2/me", nil).want(200)
	f.pass(time.Second)
	f.call(f.a.secret, "GET", "/v2/me", nil).want(200)
}

// Whoever guesses is stopped by address, and the right credentials work behind the same address all the while.
func TestGuessesAreLimited(t *testing.T) {
	f := newFixture(t)
	f.api.addresses.burst = 5
	clear(f.api.addresses.of)
	limited := 0
	for range 10 {
		if r := f.call("sk_guess", "GET", "/v2/me", nil); r.Code == http.StatusTooManyRequests {
			limited++
		} else {
			r.want(401)
		}
	}
	if limited != 5 {
		t.Errorf("%d of 10 guesses were limited, want 5", limited)
	}
	f.call(f.a.secret, "GET", "/v2/me", nil).want(200)
	if c := f.api.Counters(); c.Limited != 5 || c.Unauthorized != 5 {
		t.Errorf("counted %+v", c)
	}
}
