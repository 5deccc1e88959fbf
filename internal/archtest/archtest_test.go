// Package archtest keeps the house in order: who imports whom, how large things get, what tests may not do.
package archtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTree(t *testing.T) {
	found, files, err := check(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f *goFile) bool { return f.path == "internal/mqtt/packet.go" }) {
		t.Fatalf("internal/mqtt/packet.go is not among the %d Go files of this tree", len(files))
	}
	for _, f := range found {
		t.Error(f)
	}
}

func source(pkg string, rest ...string) string {
	return "package " + pkg + "\n\n" + strings.Join(rest, "\n") + "\n"
}

func imports(paths ...string) string {
	var b strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&b, "import _ %q\n", p)
	}
	return source("x", b.String())
}

// empty is a file of so many lines.
func empty(pkg string, lines int) string { return "package " + pkg + strings.Repeat("\n", lines) }

func statements(n int) string { return strings.Repeat("\tprintln()\n", n) }

func function(lines int) string { return "func F() {\n" + statements(lines-2) + "}" }

// sleeper is a test file whose F sleeps within what is given, a format.
func sleeper(importLine, body string) string {
	return source("x", importLine, `import "testing"`, `import "testing/synctest"`, body)
}

// TestPlanted plants one violation at a time. want is the findings, in order, each by a part of it; none where it is allowed.
func TestPlanted(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"down", map[string]string{"internal/broker/a.go": imports("cloudsignal/internal/session", "cloudsignal/internal/mqtt")}, nil},
		{
			"the same floor",
			map[string]string{"internal/session/a.go": imports("cloudsignal/internal/engine")},
			[]string{"internal/session/a.go:3: imports cloudsignal/internal/engine: floor 1 imports only lower floors, and this is floor 1"},
		},
		{
			"up",
			map[string]string{"internal/mqtt/a.go": imports("fmt", "cloudsignal/internal/broker")},
			[]string{"internal/mqtt/a.go:4: imports cloudsignal/internal/broker: floor 0 imports only lower floors, and this is floor 2"},
		},
		{"up from a test", map[string]string{"internal/mqtt/a_test.go": imports("cloudsignal/internal/client")}, []string{"this is floor 1"}},
		{
			"the same floor by a folder below",
			map[string]string{"internal/session/a.go": imports("cloudsignal/internal/engine/pebble")},
			[]string{"floor 1 imports only lower floors"},
		},
		{
			"the same floor from a folder below",
			map[string]string{"internal/engine/pebble/a.go": imports("cloudsignal/internal/session")},
			[]string{"internal/engine/pebble/a.go:3: imports cloudsignal/internal/session"},
		},
		{"a folder below and its parent", map[string]string{
			"internal/engine/pebble/a.go": imports("cloudsignal/internal/engine", "cloudsignal/internal/mqtt"),
			"internal/server/a.go":        imports("cloudsignal/internal/engine/pebble"),
		}, nil},
		{"a name that begins alike", map[string]string{"internal/engine/a.go": imports("cloudsignal2/internal/broker")}, nil},
		{
			"cli and server",
			map[string]string{"internal/cli/a.go": imports("cloudsignal/internal/server")},
			[]string{"the command line is an outsider"},
		},
		{"the top", map[string]string{"cmd/cloudsignal/main.go": imports("cloudsignal/internal/server", "cloudsignal/internal/cli", "cloudsignal/web")}, nil},
		{"web from the server", map[string]string{"internal/server/a.go": imports("cloudsignal/web")}, nil},
		{"web from below", map[string]string{"internal/broker/a.go": imports("cloudsignal/web")}, []string{"this is floor 3"}},
		{"web and tests import anything", map[string]string{
			"web/embed.go":                 imports("cloudsignal/internal/fault"),
			"test/scenario/a_test.go":      imports("cloudsignal/internal/server", "cloudsignal/test/peer", "pgregory.net/rapid"),
			"test/conformance/run/main.go": imports("cloudsignal/internal/server", "github.com/google/go-cmp/cmp"),
		}, nil},
		{
			"a package of the tests",
			map[string]string{"internal/server/a_test.go": imports("cloudsignal/test/peer")},
			[]string{"only packages below test/ import those"},
		},
		{"an example", map[string]string{"examples/gauge/main.go": imports("cloudsignal/internal/client")}, []string{"a user copies an example"}},
		{"no floor", map[string]string{"internal/util/a.go": source("util")}, []string{"internal/util/a.go: package internal/util has no floor"}},
		{"no floor for tests alone either", map[string]string{"internal/util/a_test.go": source("util")}, []string{"internal/util has no floor"}},
		{
			"no place",
			map[string]string{"pkg/a.go": source("pkg"), "main.go": source("main")},
			[]string{"main.go: a Go package stands below", "pkg/a.go: a Go package stands below"},
		},
		{"another command", map[string]string{"cmd/other/main.go": source("main")}, []string{"a Go package stands below"}},

		{"a test's library in the program", map[string]string{"internal/topic/a.go": imports(
			"pgregory.net/rapid", "github.com/google/go-cmp/cmp", "github.com/rogpeppe/go-internal/testscript",
			"github.com/cockroachdb/datadriven", "go.uber.org/goleak", "testing/fstest", "net/http/httptest",
		)}, []string{"a.go:3: imports pgregory.net/rapid: that is for tests", "go-cmp", "testscript", "datadriven", "goleak", "testing/fstest", "httptest"}},
		{
			"a package of tests in the program",
			map[string]string{"internal/engine/pebble/a.go": imports("cloudsignal/internal/engine/enginetest")},
			[]string{"imports cloudsignal/internal/engine/enginetest: that is for tests"},
		},
		{"a test's library in tests", map[string]string{
			"internal/topic/a_test.go":         imports("pgregory.net/rapid", "testing"),
			"internal/engine/enginetest/a.go":  imports("pgregory.net/rapid", "testing", "cloudsignal/internal/engine"),
			"internal/engine/pebble/a_test.go": imports("cloudsignal/internal/engine/enginetest"),
		}, nil},

		{"a file at the bound", map[string]string{"internal/mqtt/a.go": empty("mqtt", 700)}, nil},
		{"a long file", map[string]string{"internal/mqtt/a.go": empty("mqtt", 701)}, []string{"internal/mqtt/a.go: 701 lines, of at most 700"}},
		{"a long test file", map[string]string{"test/script/a_test.go": empty("mqtt", 801)}, []string{"801 lines"}},
		{"a long generated file", map[string]string{"internal/api/a.go": "// Code generated by x. DO NOT EDIT.\n\n" + empty("api", 801)}, nil},
		{"a function at the bound", map[string]string{"internal/mqtt/a.go": source("mqtt", function(70))}, nil},
		{"a long function", map[string]string{"internal/mqtt/a.go": source("mqtt", function(71))}, []string{"internal/mqtt/a.go:3: F has 71 lines, of at most 70"}},
		{"a long test", map[string]string{"internal/mqtt/a_test.go": source("mqtt", function(71))}, []string{"F has 71 lines"}},
		{"a table", map[string]string{"internal/mqtt/a_test.go": source("mqtt", "func F() {\n\t_ = []int{\n"+strings.Repeat("\t\t1,\n", 90)+"\t}\n"+statements(66)+"}")}, nil},
		{
			"more than a table",
			map[string]string{"internal/mqtt/a_test.go": source("mqtt", "func F() {\n\t_ = []int{\n"+strings.Repeat("\t\t1,\n", 90)+"\t}\n"+statements(67)+"}")},
			[]string{"F has 71 lines"},
		},
		{
			"code in a table",
			map[string]string{"internal/mqtt/a_test.go": source("mqtt", "func F() {\n\t_ = []func(){\n\t\tfunc() {\n"+statements(70)+"\t\t},\n\t}\n}")},
			[]string{"F has 76 lines"},
		},
		{"the command at the bound", map[string]string{
			"cmd/cloudsignal/main.go": empty("main", 60), "cmd/cloudsignal/b.go": empty("main", 60),
			"cmd/cloudsignal/main_test.go": empty("main", 60),
		}, nil},
		{"a long command", map[string]string{
			"cmd/cloudsignal/main.go": empty("main", 60), "cmd/cloudsignal/b.go": empty("main", 61),
		}, []string{"cmd/cloudsignal: 121 lines, of at most 120"}},

		{
			"asleep",
			map[string]string{"internal/mqtt/a_test.go": sleeper(`import "time"`, "func F(t *testing.T) { time.Sleep(1) }")},
			[]string{"internal/mqtt/a_test.go:6: time.Sleep"},
		},
		{"asleep by another name", map[string]string{"test/script/a.go": sleeper(`import clock "time"`, "var nap = clock.Sleep")}, []string{"a.go:6: time.Sleep"}},
		{
			"asleep beside a bubble",
			map[string]string{"internal/mqtt/a_test.go": sleeper(`import "time"`,
				"func F(t *testing.T) {\n\tsynctest.Test(t, G)\n\ttime.Sleep(1)\n}\nfunc G(t *testing.T) { H() }\nfunc H() { time.Sleep(1) }")},
			[]string{"a_test.go:8: time.Sleep", "a_test.go:11: time.Sleep"},
		},
		{"asleep in a bubble", map[string]string{
			"internal/mqtt/a_test.go": sleeper(`import "time"`, "func F(t *testing.T) {\n\tsynctest.Test(t, func(t *testing.T) { time.Sleep(1) })\n\tsynctest.Test(t, G)\n}"),
			"internal/mqtt/b_test.go": sleeper(`import "time"`, "func G(t *testing.T) { time.Sleep(1) }"),
			"test/scenario/a_test.go": sleeper(`import "time"`, "func F() { time.Sleep(1) }"),
			"internal/mqtt/a.go":      source("mqtt", `import "time"`, "func F() { time.Sleep(1) }"),
		}, nil},
		{
			"skipped",
			map[string]string{"internal/mqtt/a_test.go": source("mqtt", `import "testing"`,
				"type s struct { t *testing.T }", `func F(tt *testing.T) { tt.Skip("") }`, "func G(f *testing.F) { f.SkipNow() }",
				`func H(tb testing.TB, d *decoder) { d.Skip(1); tb.Skipf("") }`, "func (s *s) i() { s.t.Skip() }")},
			[]string{"a_test.go:5: tt.Skip", "a_test.go:6: f.SkipNow", "a_test.go:7: tb.Skipf", "a_test.go:8: t.Skip"},
		},

		{"marks", map[string]string{
			"internal/mqtt/a.go": source("mqtt", "// TO"+"DO: more", "// FIX"+"ME(x) more"), "docs/guide.md": "a\nXX" + "X\n", "Makefile": "a: # HA" + "CK\n",
			".ci/run": "# TO" + "DO\n",
		}, []string{".ci/run:1: ", "Makefile:1: ", "docs/guide.md:2: ", `internal/mqtt/a.go:3: "TO` + `DO": do it now`, "internal/mqtt/a.go:4: "}},
		{"no marks", map[string]string{
			"internal/mqtt/a.go": source("mqtt", "// mktemp XX"+"XXXX, TO"+"DOS"), "web/node_modules/a/a.js": "// TO" + "DO", "web/dist/try.html": "TO" + "DO",
			"internal/mqtt/testdata/a.go": "TO" + "DO", ".git/a.md": "TO" + "DO",
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := make(fstest.MapFS)
			for name, text := range test.files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			found, _, err := check(tree)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != len(test.want) {
				t.Fatalf("found %q, want %q", found, test.want)
			}
			for i, f := range found {
				if !strings.Contains(f.String(), test.want[i]) {
					t.Errorf("found %q, want %q", f, test.want[i])
				}
			}
		})
	}
}

func TestBrokenFile(t *testing.T) {
	_, _, err := check(fstest.MapFS{"internal/mqtt/a.go": &fstest.MapFile{Data: []byte("package")}})
	if err == nil || !strings.Contains(err.Error(), "internal/mqtt/a.go") {
		t.Fatalf("got %v, want an error that names the file", err)
	}
}
