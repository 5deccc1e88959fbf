package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is an API whose every request is answered by f: a status, a header's lines and a body.
func answering(f func(*http.Request) (status int, header, body string)) (*api, *bytes.Buffer) {
	out := new(bytes.Buffer)
	return &api{
		Streams: Streams{Out: out}, base: "https://api", output: "text", words: userWords,
		http: &http.Client{
			Timeout:       time.Hour,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				status, header, body := f(r)
				answer := &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body)), Request: r}
				for line := range strings.Lines(header) {
					name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
					answer.Header.Set(name, value)
				}
				return answer, nil
			}),
		},
	}, out
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		status             int
		header, body, want string
	}{
		{
			422, "", `{"detail":"display_name: at most 100 characters are possible","request_id":"req_1","errors":[{"pointer":"/display_name","detail":"at most 100 characters are possible"}]}`,
			"--display-name: at most 100 characters are possible (request req_1)",
		},
		{
			422, "X-Request-Id: req_2", `{"detail":"x","errors":[{"pointer":"/name","detail":"is required"},{"pointer":"/colour","detail":"there is no such field"}]}`,
			"NAME: is required; colour: there is no such field (request req_2)",
		},
		{404, "", `{"detail":"there is no such user"}`, "there is no such user"},
		{422, "", `{"detail":"x","errors":[{"parameter":"name","in":"path","detail":"must not be empty"}]}`, "NAME: must not be empty"},
		{422, "", `{"detail":"all is wrong","errors":[{"pointer":"","detail":""}]}`, "all is wrong"},
		{401, "", `{"error":"token_expired","error_description":"the token has ended","detail":"the token has ended","message":"the token has ended"}`, "the token has ended"},
		{401, "", `{"error":"unauthorized","message":"no"}`, "no"},
		{429, "Retry-After: 40", `{"detail":"too many requests"}`, "too many requests; try again in 40s"},
		{502, "", "<html>", "the API answered 502 Bad Gateway"},
		{500, "", `{"title":7}`, "the API answered 500 Internal Server Error"},
		{302, "Location: https://elsewhere/", "", "the answer leads elsewhere: is this the address of the API?"},
		{403, "", `{"detail":"a\u001b[2Jb"}`, `"a\x1b[2Jb"`},
		{200, "", "<html>", "the answer of https://api is not JSON: is this the address of the API?"},
		{200, "", strings.Repeat(" ", maxAnswer+1), "the answer of https://api has more than 67108864 bytes"},
		{200, "", `{"name":7}`, "the answer has another form than this version knows"},
	} {
		a, _ := answering(func(*http.Request) (int, string, string) { return test.status, test.header, test.body })
		err := show(t.Context(), a, http.MethodGet, "/v2/users/a", nil, nil, userFields)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(test.want, "(request") != strings.Contains(err.Error(), "(request") {
			t.Errorf("%d %.80s: %v, want %s", test.status, test.body, err, test.want)
		}
	}
}

func TestWords(t *testing.T) {
	for pointer, want := range map[string]string{
		"/rules/2/topic": "rule no. 3: topic", "/topic": "--topic", "/a~1b~0c": "a/b~c", "": "", "limit": "limit", "/name/0": "NAME no. 1",
	} {
		if got := ruleWords.of(pointer); got != want {
			t.Errorf("%q: %q, want %q", pointer, got, want)
		}
	}
}

// numbered answers with n users, most at once, and notes what was asked for.
func numbered(n, most int, asked *[]string) func(r *http.Request) (int, string, string) {
	return func(r *http.Request) (int, string, string) {
		*asked = append(*asked, r.URL.RawQuery)
		first, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		limit = min(limit, most)
		var items []string
		for i := first; i < min(first+limit, n); i++ {
			items = append(items, fmt.Sprintf(`{"name": "u%d"}`, i))
		}
		next := ""
		if first+limit < n {
			next = fmt.Sprintf(`,"next_cursor":"%d"`, first+limit)
		}
		return 200, "", `{"data":[` + strings.Join(items, ",") + `]` + next + `}`
	}
}

var names = []column[user]{{"NAME", func(u *user) string { return u.Name }}, {"DISPLAY", func(u *user) string { return u.DisplayName }}}

func TestPages(t *testing.T) {
	for _, test := range []struct {
		n, most, count int // there are, the server gives at once, are asked for
		output, want   string
		asked          []string
	}{
		{0, 9, 0, "text", "NAME  DISPLAY\n", []string{"a=b&limit=1000"}},
		{0, 9, 0, "json", "{\"data\":[]}\n", []string{"a=b&limit=1000"}},
		{3, 2, 0, "text", "NAME  DISPLAY\nu0    -\nu1    -\nu2  -\n", []string{"a=b&limit=1000", "a=b&cursor=2&limit=1000"}},
		{3, 2, 0, "json", "{\"data\":[\n{\"name\":\"u0\"},\n{\"name\":\"u1\"},\n{\"name\":\"u2\"}\n]}\n", []string{"a=b&limit=1000", "a=b&cursor=2&limit=1000"}},
		{9, 2, 3, "json", "{\"data\":[\n{\"name\":\"u0\"},\n{\"name\":\"u1\"},\n{\"name\":\"u2\"}\n]}\n", []string{"a=b&limit=3", "a=b&cursor=2&limit=1"}},
		{2000, 1000, 1, "text", "NAME  DISPLAY\nu0    -\n", []string{"a=b&limit=1"}},
	} {
		var asked []string
		a, out := answering(numbered(test.n, test.most, &asked))
		a.output, a.count = test.output, test.count
		if err := list(t.Context(), a, "/v2/users", url.Values{"a": {"b"}}, names); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(test.want, out.String()); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(test.asked, asked); d != "" {
			t.Error(d)
		}
	}
}

func TestListsThatDoNotWork(t *testing.T) {
	for body, want := range map[string]string{
		`{"data":[],"next_cursor":"x"}`: "does not end",
		`{"data":{}}`:                   "is not a list",
		`{"data":[7]}`:                  "another form",
		`[]`:                            "is not a list",
	} {
		a, _ := answering(func(*http.Request) (int, string, string) { return 200, "", body })
		if err := list(t.Context(), a, "/v2/users", nil, names); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
	// What has come is printed, and that it is not all is an error.
	n := 0
	a, out := answering(func(*http.Request) (int, string, string) {
		if n++; n == 2 {
			return 500, "", ""
		}
		return 200, "", `{"data":[{"name":"a"}],"next_cursor":"b"}`
	})
	a.output = "json"
	err := list(t.Context(), a, "/v2/users", nil, names)
	if err == nil || out.String() != "{\"data\":[\n{\"name\":\"a\"}" {
		t.Errorf("%v: %q", err, out)
	}
}

func TestPagesThatAreTooLargeAreMadeSmaller(t *testing.T) {
	var asked []string
	few := numbered(200, 1000, &asked)
	a, out := answering(func(r *http.Request) (int, string, string) {
		status, header, body := few(r)
		if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 125 {
			body = strings.Repeat(" ", maxAnswer+1)
		}
		return status, header, body
	})
	if err := list(t.Context(), a, "/v2/users", nil, names); err != nil || strings.Count(out.String(), "\nu") != 200 {
		t.Errorf("%v: %s", err, out)
	}
	if d := cmp.Diff([]string{"limit=1000", "limit=125", "cursor=125&limit=125"}, asked); d != "" {
		t.Error(d)
	}
}

// A list of many pages waits when the API says so, and not for ever.
func TestListsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, refusals := time.Now(), 2
		a, out := answering(func(*http.Request) (int, string, string) {
			if refusals > 0 {
				refusals--
				return 429, "Retry-After: 3", "{}"
			}
			return 200, "", `{"data":[{"name":"a"}]}`
		})
		if err := list(t.Context(), a, "/v2/users", nil, names); err != nil || !strings.Contains(out.String(), "a ") {
			t.Errorf("%v: %s", err, out)
		}
		if waited := time.Since(began); waited != 6*time.Second {
			t.Errorf("waited %s", waited)
		}
		for _, seconds := range []string{"1", "31"} {
			asked := 0
			a, _ = answering(func(*http.Request) (int, string, string) { asked++; return 429, "Retry-After: " + seconds, "{}" })
			err := list(t.Context(), a, "/v2/users", nil, names)
			if want := map[string]int{"1": maxWaits + 1, "31": 1}[seconds]; err == nil || asked != want {
				t.Errorf("%v after %d requests, want %d", err, asked, want)
			}
		}
	})
}

func TestTablesAreHarmless(t *testing.T) {
	var out bytes.Buffer
	table := newTable(&out)
	table.row("a\tb", "c")
	table.row("x\x1b[2J", "new\nline")
	table.row("\u202eright", "ä\u00a0b")
	table.row("", "last")
	if err := table.end(); err != nil {
		t.Fatal(err)
	}
	want := `"a\tb"         c` + "\n" + `"x\x1b[2J"     "new\nline"` + "\n" + `"\u202eright"  "ä\u00a0b"` + "\n-              last\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestJSONIsHarmless(t *testing.T) {
	got, err := oneLine([]byte("{ \"a\": \"\u009b2J\u202e\x7f\U000e0041 ä 日本\",\n\"b\": \"\\u001b\" }"))
	want := `{"a":"\u009b2J\u202e\u007f\udb40\udc41 ä 日本","b":"\u001b"}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if _, err := oneLine([]byte("{")); err == nil {
		t.Error("no error")
	}
}

func FuzzJSONKeepsItsValue(f *testing.F) {
	f.Add("a\u009b\U000e0041\xff")
	f.Fuzz(func(t *testing.T, s string) {
		before, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		line, err := oneLine(before)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsFunc(bytes.ReplaceAll(line, []byte("\ufffd"), nil), hidden) {
			t.Errorf("%q is not harmless", line)
		}
		a, err1 := decode[string](before)
		b, err2 := decode[string](line)
		if a != b || errors.Join(err1, err2) != nil {
			t.Errorf("%q became %q", a, b)
		}
	})
}

func TestRoute(t *testing.T) {
	for want, segments := range map[string][]string{
		"/v2/users/a%2Fb": {"v2", "users", "a/b"}, "/v2/%2E%2E": {"v2", ".."}, "/%2E/...": {".", "..."}, "/a%3Fb%23%25": {"a?b#%"},
	} {
		if got := route(segments...); got != want {
			t.Errorf("%q: %s, want %s", segments, got, want)
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 11, 3, 9, 30, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"24h": "2026-11-02T09:30:00Z", "0s": "2026-11-03T09:30:00Z", "2026-01-02": "2026-01-02T00:00:00Z", "2026-01-02T03:04:05+01:00": "2026-01-02T02:04:05Z",
		"-1h": "", "yesterday": "", "": "",
	} {
		got, err := parseMoment(s, now)
		if err == nil != (want != "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestParseRules(t *testing.T) {
	want := []rule{{User: "a", Topic: "b/#", Permission: "publish", Effect: "allow"}, {User: "%", Topic: "c", Priority: 3}}
	for _, text := range []string{
		"- {user: a, topic: b/#, permission: publish, effect: allow}\n- {user: '%', topic: c, priority: 3}\n",
		"rules:\n- user: a\n  topic: 'b/#'\n  permission: publish\n  effect: allow\n- {user: '%', topic: c, priority: 3}\n",
		`{"id":"rs_1","name":"Default","default":true,"rules":[{"id":"rule_1","user":"a","topic":"b/#","permission":"publish","effect":"allow","priority":0},{"id":"rule_2","user":"%","topic":"c","priority":3}]}`,
		`[{"user":"a","topic":"b/#","permission":"publish","effect":"allow"},{"user":"%","topic":"c","priority":3}]`,
	} {
		got, err := parseRules([]byte(text))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, d)
		}
	}
	if got, err := parseRules([]byte("rules: []")); got == nil || len(got) != 0 || err != nil {
		t.Errorf("no rules: %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                               "it is empty",
		"# only a comment":               "it is empty",
		"name: x":                        "it has no rules",
		"rules:":                         "it has no rules",
		"- {user: %, topic: c}":          "needs quotes",
		"- {usr: a}\n- {colour: red}":    "line 1: field usr not found; line 2: field colour not found",
		"rules: 7":                       "line 1: cannot unmarshal !!int `7`",
		"7":                              "cannot unmarshal",
		"- {priority: high}":             "cannot unmarshal",
		"- {user: a}\n---\n- {user: b}":  "more than one document",
		"a: &a [*a]":                     "",
		"rules: []\n--- [":               "",
		strings.Repeat("[", 20_000):      "",
		"rules: [{user: \"a\\xZZ\"}]":    "",
		"- {user: a, topic: b, user: c}": "already defined",
	} {
		if _, err := parseRules([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "cli.") {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}
