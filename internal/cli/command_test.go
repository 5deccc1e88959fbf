package cli

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands calls f for every command of the tree that does something itself.
func commands(c *cobra.Command, f func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		commands(sub, f)
	}
	if !c.HasSubCommands() {
		f(c)
	}
}

var called = regexp.MustCompile(`cloudsignal [^)>\n]*`)

// split takes a line apart as a shell does; only ' is known.
func split(line string) (words []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

func TestEveryCommandHasAnExampleThatParses(t *testing.T) {
	n := 0
	commands(New(Streams{}), func(c *cobra.Command) {
		n++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		calls := called.FindAllString(strings.ReplaceAll(c.Example, "\\\n", ""), -1)
		if !strings.Contains(c.Example, c.CommandPath()) || !strings.HasPrefix(c.Example, "  ") {
			t.Errorf("%s: its example does not show it: %q", c.CommandPath(), c.Example)
		}
		for _, call := range calls {
			root := New(Streams{})
			shown, args, err := root.Find(split(call)[1:])
			if err != nil {
				t.Errorf("%s: %v", call, err)
				continue
			}
			if err := shown.ParseFlags(args); err != nil {
				t.Errorf("%s: %v", call, err)
			} else if err := shown.ValidateArgs(shown.Flags().Args()); err != nil {
				t.Errorf("%s: %v", call, err)
			} else if err := shown.ValidateRequiredFlags(); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
	})
	if n < 40 {
		t.Errorf("%d commands", n)
	}
}

// A process list shows flags to everybody.
func TestNoFlagTakesASecret(t *testing.T) {
	commands(New(Streams{}), func(c *cobra.Command) {
		for _, name := range []string{"password", "key", "secret", "token", "secret-key", "api-key"} {
			if c.Flags().Lookup(name) != nil {
				t.Errorf("%s --%s", c.CommandPath(), name)
			}
		}
	})
}

func TestEveryCommandOnTheAPIPrintsJSON(t *testing.T) {
	commands(New(Streams{}), func(c *cobra.Command) {
		if f := c.Flags().ShorthandLookup("o"); f == nil || !strings.Contains(f.Usage, "json") {
			t.Errorf("%s has no -o json", c.CommandPath())
		}
	})
}

// request is what a server was asked.
type request struct{ method, uri, key, organization, body string }

// speaks runs a command against a server that gives these answers by method and path, and notes what it is asked.
func speaks(t *testing.T, answers map[string]string, args ...string) (stdout string, asked []request, err error) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, request{
			r.Method, r.RequestURI, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.Header.Get("X-Organization"), string(body),
		})
		answer, ok := answers[r.Method+" "+r.URL.EscapedPath()]
		switch {
		case !ok:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			answer = `{"title":"Not Found","status":404,"detail":"there is no such thing","code":"not_found","request_id":"req_1"}`
		case strings.HasPrefix(answer, "/"):
			http.Redirect(w, r, answer, http.StatusTemporaryRedirect)
			return
		case answer == "":
			w.WriteHeader(http.StatusNoContent)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envAPI, server.URL)
	t.Setenv(envCA, ca)
	var out bytes.Buffer
	root := New(Streams{In: strings.NewReader("from standard input\n"), Out: &out, Err: io.Discard})
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), asked, err
}

// keyless takes away what the environment may have.
func keyless(t *testing.T) {
	for _, name := range []string{envKey, envCredentials, envOrganization, "CLOUDSIGNAL_USERNAME", "CLOUDSIGNAL_PASSWORD", "CLOUDSIGNAL_URL"} {
		t.Setenv(name, "")
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const testBootstrap = `{"organization":"org_aaaaaaaaaaaa","users":[{"username":"agent-01@org_aaaaaaaaaaaa","password":"pw_x"}],"secret_key":"sk_own","operator_key":"op_all"}`

func TestWhichKey(t *testing.T) {
	keyless(t)
	file := write(t, "bootstrap.json", testBootstrap)
	organization := `{"id":"org_x"}`
	for _, test := range []struct {
		args         string
		key          string // in the environment
		want, header string
	}{
		{"user get a --credentials FILE", "", "sk_own", ""},
		{"user get a --credentials FILE", "sk_other", "sk_own", ""},
		{"user get a", "sk_other", "sk_other", ""},
		{"user get a --organization org_b", "ses_x", "ses_x", "org_b"},
		{"user get a --credentials FILE --organization org_aaaaaaaaaaaa", "", "sk_own", "org_aaaaaaaaaaaa"},
		{"user get a --credentials FILE --organization org_b", "", "op_all", "org_b"},
		{"user get a@org_aaaaaaaaaaaa --credentials FILE", "", "sk_own", ""},
		{"org get org_x --credentials FILE", "", "op_all", ""},
		{"org limit org_x --max-retained 5 --credentials FILE", "", "op_all", ""},
		{"org limit org_aaaaaaaaaaaa --max-retained 5 --credentials FILE", "", "op_all", ""},
		{"org limit --credentials FILE", "", "sk_own", ""},
		{"org list --credentials FILE", "", "op_all", ""},
		{"org rename org_aaaaaaaaaaaa y --credentials FILE", "", "sk_own", ""},
		{"org usage org_x --credentials FILE", "", "op_all", "org_x"},
		{"org delete org_x --yes --credentials FILE", "", "op_all", ""},
		{"token refresh tok_x --password-file -", "sk_other", "", ""},
	} {
		t.Setenv(envKey, test.key)
		_, asked, err := speaks(t, map[string]string{
			"GET /v2/users/a": "{}", "GET /v2/organizations/org_x": organization, "PATCH /v2/organizations/org_x/limits": "{}",
			"PATCH /v2/organizations/org_aaaaaaaaaaaa/limits": "{}", "PATCH /v2/organizations/org_aaaaaaaaaaaa": organization,
			"GET /v2/organizations/org_aaaaaaaaaaaa/limits": "{}", "GET /v2/organizations": `{"data":[]}`,
			"GET /v2/usage": "{}", "DELETE /v2/organizations/org_x": "", "POST /v2/tokens/refresh": "{}",
		}, split(strings.ReplaceAll(test.args, "FILE", file))...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
		} else if len(asked) != 1 || asked[0].key != test.want || asked[0].organization != test.header {
			t.Errorf("%s: asked %+v", test.args, asked)
		}
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	keyless(t)
	const secret = "sk_hush hush"
	broken := write(t, "broken.json", `{"organization":7,"secret_key":"hush hush"`)
	for _, test := range []struct{ args, key, want string }{
		{"user list", "", "no credentials: set CLOUDSIGNAL_KEY"},
		{"user list", secret, "CLOUDSIGNAL_KEY is no API key"},
		{"pub -t a -m b", secret, "CLOUDSIGNAL_KEY is no API key"},
		{"pub -t a -m b", "pk_hush", "holds a key of kind pk: only a secret key"},
		{"user list --credentials " + broken, "", "broken.json is not a bootstrap.json"},
		{"user list --credentials missing.json", "", "--credentials: open missing.json"},
		{"user list --api http://localhost", "sk_hush", "give an address such as https://"},
		{"user list --api https://a:hush@localhost", "sk_hush", "user name or password in it"},
		{"user list --api https://a:hush@local%zz", "sk_hush", "this is not an address"},
		{"user list --api https://localhost/?a=b", "sk_hush", "no query"},
		{"user create a --password-file missing.txt", "sk_hush", "--password-file: open missing.txt"},
		{"user create a --password-file - -o secret", "sk_hush", "is not printed"},
		{"user list -o xml", "sk_hush", `--output "xml": want text or json`},
		{"user create a -o xml", "sk_hush", `--output "xml": want text, json or secret`},
		{"user list -o secret", "sk_hush", "want text or json"},
		{"user list -n -1", "sk_hush", "--count -1: must not be negative"},
		{"user list --timeout 0s", "sk_hush", "--timeout 0s: must be more than 0"},
		{"user get a@org_b", "sk_hush", "a@org_b is not of organization org_aaaaaaaaaaaa"},
		{"user get ", "sk_hush", "accepts 1 arg"},
		{"user get ''", "sk_hush", "NAME must not be empty"},
		{"user set a", "sk_hush", "give what to change"},
		{"user bogus", "sk_hush", `unknown command "bogus"`},
		{"user delete a", "sk_hush", "there is no such thing (request req_1)"},
		{"org delete org_b", "sk_hush", "give --yes"},
		{"org limit --max-retained 1", "sk_hush", "ORGANIZATION: whose limits?"},
		{"session list --connected --offline", "sk_hush", "not both"},
		{"acl test a read b", "sk_hush", `"read": want pub or sub`},
		{"acl get none", "sk_hush", `rule set "none": there is none of this name, but Default`},
		{"token create a --ttl 1500ms", "sk_hush", "--ttl 1.5s: want whole seconds"},
		{"audit list --from soon", "sk_hush", `--from "soon": want how long ago`},
		{"login --email a", "", `required flag(s) "password-file"`},
	} {
		t.Setenv(envKey, test.key)
		_, _, err := speaks(t, map[string]string{
			"GET /v2/me":        `{"kind":"key","organization":"org_aaaaaaaaaaaa"}`,
			"GET /v2/rule-sets": `{"data":[{"id":"rs_1","name":"Default"}]}`,
		}, split(test.args)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %s", test.args, err, test.want)
		}
	}
}

// What is sent for a command line, and printed of the answer.
func TestCommands(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	rules := write(t, "rules.yaml", "- {user: a, topic: 'b/#', permission: publish, effect: allow}\n")
	made := `{"username":"a@org_x","name":"a","created_at":"2026-11-03T09:30:00.123Z","password":"pw_x"}`
	for _, test := range []struct{ args, answer, uri, body, out string }{
		{"user create a", made, "POST /v2/users", `{"name":"a"}`, "username       a@org_x\npassword       pw_x\n"},
		{"user create a -o secret", made, "POST /v2/users", `{"name":"a"}`, "pw_x\n"},
		{"user create a -o json", made, "POST /v2/users", `{"name":"a"}`, made + "\n"},
		{
			"user create a --password-file - --display-name 'A a' --rule-set rs_aaaaaaaaaaaa", made, "POST /v2/users",
			`{"display_name":"A a","name":"a","password":"from standard input","rule_set":"rs_aaaaaaaaaaaa"}`, "username ",
		},
		{"user rotate a -o secret", made, "POST /v2/users/a/rotate", `{}`, "pw_x\n"},
		{"user set a --rule-set ''", made, "PATCH /v2/users/a", `{"rule_set":""}`, ""},
		{"user disable a", made, "PATCH /v2/users/a", `{"disabled":true}`, ""},
		{"user terminate a", `{"username":"a","sessions_terminated":2}`, "POST /v2/utilities/users/a/terminate", "", "connections ended  2\n"},
		{"key create a --scope publish", `{"secret":"rk_x"}`, "POST /v2/keys", `{"kind":"restricted","name":"a","scopes":["publish"]}`, "rk_x"},
		{"key create a", `{"secret":"sk_x"}`, "POST /v2/keys", `{"kind":"secret","name":"a"}`, "sk_x"},
		{"org usage --month 2026-11", `{"month":"2026-11","messages":5,"limits":{"max_messages_per_month":9}}`, "GET /v2/usage?month=2026-11", "", "5 of 9"},
		{"org limit org_x", `{"max_retained":0,"max_sessions":7}`, "GET /v2/organizations/org_x/limits", "", "max_sessions  7\nmax_retained  none\n"},
		{"org limit org_x --max-retained 0", `{}`, "PATCH /v2/organizations/org_x/limits", `{"max_retained":0}`, ""},
		{"session get a/b..", `{"client_id":"a/b.."}`, "GET /v2/session?client_id=a%2Fb..", "", "client id"},
		{"session delete ..", "", "DELETE /v2/session?client_id=..", "", ""},
		{"session disconnect /", `{"client_id":"/"}`, "POST /v2/session/disconnect?client_id=%2F", "", "client id"},
		{"session list --offline --user a", `{"data":[]}`, "GET /v2/sessions?connected=false&limit=1000&user=a", "", "CLIENT ID"},
		{"retained get a/+", `{"payload":"aGk=","encoding":"base64"}`, "GET /v2/retained/message?topic=a%2F%2B", "", "hi\n"},
		{"retained get a", `{"payload":{"b":1}}`, "GET /v2/retained/message?topic=a", "", "{\"b\":1}\n"},
		{"retained list -n 3", `{"data":[]}`, "GET /v2/retained?limit=3", "", "TOPIC"},
		{"acl set rs_aaaaaaaaaaaa -f " + rules, `{"id":"rs_1","rules":[]}`, "PUT /v2/rule-sets/rs_aaaaaaaaaaaa/rules", `{"rules":[{"user":"a","topic":"b/#","permission":"publish","effect":"allow","priority":0}]}`, "id       rs_1\n"},
		{
			"acl add rs_aaaaaaaaaaaa --topic x --position 0", `{}`, "POST /v2/rule-sets/rs_aaaaaaaaaaaa/rules",
			`{"user":"%","topic":"x","permission":"pubsub","effect":"allow","priority":0,"position":0}`, "",
		},
		{"acl remove rs_aaaaaaaaaaaa rule_1", "", "DELETE /v2/rule-sets/rs_aaaaaaaaaaaa/rules/rule_1", "", ""},
		{"acl test a pub t --client-id c", `{"allowed":true,"why":"a rule"}`, "POST /v2/access/test", `{"action":"publish","client_id":"c","topic":"t","user":"a"}`, "allowed  yes\nwhy      a rule\n"},
		{"audit list --from 2026-11-03", `{"data":[]}`, "GET /v2/audit?from=2026-11-03T00%3A00%3A00.000Z&limit=1000", "", "TIME"},
		{"signup --name A --email a@b.c --password-file - -o secret", `{"secret_key":"sk_new"}`, "POST /v2/signup", `{"email":"a@b.c","name":"A","password":"from standard input"}`, "sk_new\n"},
		{"logout", "", "POST /v2/logout", "", ""},
	} {
		method, uri, _ := strings.Cut(test.uri, " ")
		path, _, _ := strings.Cut(test.uri, "?")
		out, asked, err := speaks(t, map[string]string{path: test.answer}, split(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		if len(asked) != 1 || asked[0].method != method || asked[0].uri != uri || asked[0].body != test.body {
			t.Errorf("%s: asked %+v", test.args, asked)
		}
		if !strings.Contains(out, test.out) || test.answer == "" && out != "" {
			t.Errorf("%s: printed %q, want %q", test.args, out, test.out)
		}
	}
}

func TestVersion(t *testing.T) {
	for args, want := range map[string]string{"version": Version() + "\n", "version -o json": `{"version":"` + Version() + `"}` + "\n"} {
		if out, _, err := speaks(t, nil, split(args)...); err != nil || out != want {
			t.Errorf("%s: %q %v, want %q", args, out, err, want)
		}
	}
	if _, _, err := speaks(t, nil, "version", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "want text or json") {
		t.Error(err)
	}
}

// An error is a line of text, or with -o json one object.
func TestErrors(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	wrong := `{"title":"x","status":422,"detail":"/name: is odd","code":"invalid","request_id":"req_2","errors":[{"pointer":"/name","detail":"is odd"}]}`
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, wrong)
	}))
	defer server.Close()
	ca := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for args, want := range map[string]string{
		"user create a":                          "cloudsignal: NAME: is odd (request req_2)\n",
		"user create a -o json":                  `{"error":"NAME: is odd (request req_2)","code":"invalid","request_id":"req_2","errors":[{"pointer":"/name","detail":"is odd"}]}` + "\n",
		"user create -o json":                    `{"error":"accepts 1 arg(s), received 0","code":"command_line"}` + "\n",
		"user create a -ojson --ca none":         `{"error":"--ca: open none: no such file or directory","code":"command_line"}` + "\n",
		"user create a --nonsense --output=json": `{"error":"unknown flag: --nonsense (cloudsignal user create --help lists the flags)","code":"command_line"}` + "\n",
		"nonsense -o json":                       `{"error":"unknown shorthand flag: 'o' in -o (cloudsignal --help lists the flags)","code":"command_line"}` + "\n",
		"version -o xml":                         "cloudsignal: --output \"xml\": want text or json\n",
	} {
		var out, errors bytes.Buffer
		all := split(args)
		if strings.HasPrefix(args, "user create a") && !strings.Contains(args, "--ca") && !strings.Contains(args, "nonsense") {
			all = append(all, "--api", server.URL, "--ca", ca)
		}
		code := Run(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: &errors}, all)
		if code != 1 || out.Len() > 0 || errors.String() != want {
			t.Errorf("%s: %d, %q on standard output, %q, want %q", args, code, out.String(), errors.String(), want)
		}
	}
	var out, errors bytes.Buffer
	if code := Run(t.Context(), Streams{Out: &out, Err: &errors}, []string{"version"}); code != 0 || errors.Len() > 0 {
		t.Errorf("%d %s", code, errors.String())
	}
}

func TestKeysAreNotSentElsewhere(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	_, asked, err := speaks(t, map[string]string{"GET /v2/me": "/v2/other", "GET /v2/other": "{}"}, "whoami")
	if err == nil || !strings.Contains(err.Error(), "leads elsewhere") || len(asked) != 1 {
		t.Errorf("%v, asked %+v", err, asked)
	}
}

func TestDeniedIsExitCode(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	out, _, err := speaks(t, map[string]string{
		"POST /v2/access/test": `{"allowed":false,"why":"denied","rule_set":"rs_1","rule":{"id":"rule_1","user":"%","topic":"t","effect":"deny","permission":"pubsub"}}`,
	}, "acl", "test", "a", "sub", "t")
	if err != ErrReported || !strings.Contains(out, "rule        rule_1\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestOrganizationOfATokenIsAsked(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	_, asked, err := speaks(t, map[string]string{
		"GET /v2/me": `{"organization":"org_aaaaaaaaaaaa"}`, "POST /v2/tokens/create": `{}`,
	}, "token", "create", "a@b.c", "--ttl", "90s", "--keep")
	if err != nil || len(asked) != 2 {
		t.Fatalf("%v %+v", err, asked)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(asked[1].body), &body); err != nil {
		t.Fatal(err)
	}
	if body["organization_id"] != "org_aaaaaaaaaaaa" || body["ttl"] != 90.0 || body["replace_existing"] != false || body["secret_key"] != nil {
		t.Errorf("%v", body)
	}
}

// directive is the last line of what __complete prints.
var directive = regexp.MustCompile(`:\d+\n$`)

func TestCompletion(t *testing.T) {
	keyless(t)
	t.Setenv(envKey, "sk_x")
	answers := map[string]string{
		"GET /v2/users":          `{"data":[{"name":"agent-01"},{"name":"dashboard"}]}`,
		"GET /v2/sessions":       `{"data":[{"client_id":"desk"},{"client_id":"$(touch x)"},{"client_id":"a b"},{"client_id":"a\nb"},{"client_id":"de\u001b"}]}`,
		"GET /v2/rule-sets":      `{"data":[{"id":"rs_1","name":"Default"}]}`,
		"GET /v2/rule-sets/rs_1": `{"id":"rs_1","rules":[{"id":"rule_1"},{"id":"rule_2"}]}`,
		"GET /v2/organizations":  `{"data":[{"id":"org_1"}]}`,
		"GET /v2/tokens":         `{"data":[{"token_id":"tok_1"}]}`,
		"GET /v2/keys":           `{"data":[{"id":"key_1"}]}`,
	}
	for _, test := range []struct{ args, want string }{
		{"user get ''", "agent-01 dashboard"},
		{"user get a", "agent-01"},
		{"user get agent-01 ''", ""},
		{"session get ''", "desk"},
		{"session list --user d", "dashboard"},
		{"acl get D", "Default"},
		{"acl remove Default rule", "rule_1 rule_2"},
		{"acl assign agent-01 ''", "Default"},
		{"acl test agent-01 ''", "pub sub"},
		{"acl add Default --effect d", "deny"},
		{"user create x --rule-set ''", "Default"},
		{"user create x -o s", "secret"},
		{"org get ''", "org_1"},
		{"token revoke ''", "tok_1"},
		{"key revoke ''", "key_1"},
		{"key create x --scope users:", "users:read users:write"},
		{"user list --api https://localhost:1 --organization ''", ""},
	} {
		out, _, err := speaks(t, answers, append([]string{"__complete"}, split(test.args)...)...)
		out = directive.ReplaceAllString(out, "")
		if got := strings.Join(strings.Fields(out), " "); err != nil || got != test.want {
			t.Errorf("%s: %q, %v, want %q", test.args, got, err, test.want)
		}
	}
}
