package conformance

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"cloudsignal/internal/mqtt"
)

// row is one normative statement: what it demands, in our words, and either what shows it or why it does not concern us.
type row struct {
	id     string // 3.1.2-1 stands for [MQTT-3.1.2-1]
	demand string
	by     []any // a test of this package, part of one (field), "scenario/NAME", or "TestX in PACKAGE"
	excuse excuse
}

// excuse is why a row has no test. There are no others.
type excuse string

const (
	clientAlone excuse = "binds the client alone"
	notOffered  excuse = "optional feature that we do not offer"
)

func tested(id, demand string, by ...any) row { return row{id: id, demand: demand, by: by} }
func client(id, demand string) row            { return row{id: id, demand: demand, excuse: clientAlone} }

func missing(id, demand, feature string) row {
	return row{id: id, demand: demand, excuse: notOffered + excuse(": "+feature)}
}

// field is one case of TestConnectFields.
type field string

// spec is the table of one version.
type spec struct {
	version mqtt.Version
	ids     int
	rows    []row
}

func specs() []spec { return []spec{{mqtt.V5, 251, rows5}, {mqtt.V311, 135, rows311}} }

// published reads the identifiers of a version from testdata/ids.txt, in the order of the specification.
func published(t *testing.T, s spec) (ids []string) {
	t.Helper()
	b, err := os.ReadFile("testdata/ids.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(b), fmt.Sprintf("## MQTT %s: %d ids\n", s.version, s.ids))
	if !found {
		t.Fatalf("testdata/ids.txt has no MQTT %s", s.version)
	}
	list, _, _ = strings.Cut(list, "##")
	for line := range strings.Lines(list) {
		section, numbers, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, n := range strings.Fields(numbers) {
			ids = append(ids, section+n)
		}
	}
	if len(ids) != s.ids {
		t.Fatalf("testdata/ids.txt has %d identifiers of MQTT %s, not %d", len(ids), s.version, s.ids)
	}
	return ids
}

// TestTable: a row for each identifier and no other, each with a test that exists or with one of the two excuses.
func TestTable(t *testing.T) {
	for _, s := range specs() {
		var got []string
		for _, r := range s.rows {
			got = append(got, r.id)
			if (len(r.by) == 0) == (r.excuse == "") {
				t.Errorf("%s %s: give it either a test or an excuse", s.version, r.id)
			}
			if why, feature, _ := strings.Cut(string(r.excuse), ": "); r.excuse != "" && r.excuse != clientAlone && (excuse(why) != notOffered || feature == "") {
				t.Errorf("%s %s: %q is no excuse", s.version, r.id, r.excuse)
			}
			if len(r.demand) < 20 {
				t.Errorf("%s %s: say what it demands", s.version, r.id)
			}
			for _, by := range r.by {
				exists(t, s.version.String()+" "+r.id, by)
			}
		}
		if want := published(t, s); !slices.Equal(got, want) {
			for _, id := range want {
				if !slices.Contains(got, id) {
					t.Errorf("%s %s has no row", s.version, id)
				}
			}
			for n, id := range got {
				if n >= len(want) || id != want[n] {
					t.Errorf("%s: row %d is %s: it is unknown, there twice, or not in its order", s.version, n, id)
					break
				}
			}
		}
		t.Log(totals(s))
	}
}

// TestBehaviours: the second list, of what brokers get wrong, is whole.
func TestBehaviours(t *testing.T) {
	b, err := os.ReadFile("testdata/behaviours.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(behaviours) != len(want) {
		t.Errorf("%d behaviours, want %d", len(behaviours), len(want))
	}
	for n, r := range behaviours[:min(len(behaviours), len(want))] {
		if r.id != want[n] {
			t.Errorf("behaviour %d is %q, want %q", n, r.id, want[n])
		}
		if len(r.by) == 0 {
			t.Errorf("%s has no test", r.id)
		}
		for _, by := range r.by {
			exists(t, r.id, by)
		}
	}
}

// exists checks that there is what a row names. Tests of this package the compiler has found.
func exists(t *testing.T, id string, by any) {
	t.Helper()
	switch by := by.(type) {
	case func(*testing.T):
	case field:
		if _, ok := connectFields(&world{v: mqtt.V5})[string(by)]; !ok {
			t.Errorf("%s: TestConnectFields has no %q", id, by)
		}
	case string:
		if name, ok := strings.CutPrefix(by, "scenario/"); ok {
			if _, err := os.Stat(path.Join("../scenario/testdata", name+".txt")); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			return
		}
		name, pkg, ok := strings.Cut(by, " in ")
		files, err := filepath.Glob(path.Join("../..", pkg, "*_test.go"))
		if !ok || err != nil {
			t.Errorf("%s: %q is neither scenario/NAME nor TestX in PACKAGE", id, by)
		}
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), "\nfunc "+name+"(") {
				return
			}
		}
		t.Errorf("%s: there is no %s", id, by)
	default:
		t.Errorf("%s: a %T is no test", id, by)
	}
}

// testName is a test of this package as it is called.
func testName(f func(*testing.T)) string {
	name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}

// allRan reports the rows whose test has not run in the row's version, when every test was to run.
func allRan() (wrong []string) {
	for _, s := range specs() {
		for _, r := range s.rows {
			for _, by := range r.by {
				f, ok := by.(func(*testing.T))
				if _, part := by.(field); part {
					f, ok = TestConnectFields, true
				}
				if ok && !slices.Contains(ran.in[testName(f)], s.version) {
					wrong = append(wrong, fmt.Sprintf("%s %s: %s does not run in that version", s.version, r.id, testName(f)))
				}
			}
		}
	}
	return wrong
}

// totals counts the rows by what they have.
func totals(s spec) string {
	count := make(map[excuse]int)
	for _, r := range s.rows {
		why, _, _ := strings.Cut(string(r.excuse), ": ")
		count[excuse(why)]++
	}
	return fmt.Sprintf("MQTT %s: %d statements, %d with a test; excused: %d (%s), %d (%s)",
		s.version, len(s.rows), count[""], count[clientAlone], clientAlone, count[notOffered], notOffered)
}

const document = "../../docs/conformance.md"

// TestDocument: docs/conformance.md says what the tables say. go test ./test/conformance -run Document -rewrite writes it anew.
func TestDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Conformance\n\nGenerated by `make conformance` from the tables in `test/conformance`; it is checked by `go test ./test/conformance`.\n" +
		"Every normative statement of MQTT 5.0 and 3.1.1 has a row: what it demands, in our words, and the test that fails when it is\n" +
		"broken. Tests without a package are those of `test/conformance`: they run against the built program with its default\n" +
		"configuration, over TCP, TLS and WSS.\n\n")
	for _, s := range specs() {
		b.WriteString("- " + totals(s) + ".\n")
	}
	for _, s := range specs() {
		fmt.Fprintf(&b, "\n## MQTT %s\n\n| id | demand | shown by |\n|---|---|---|\n", s.version)
		for _, r := range s.rows {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", r.id, r.demand, shownBy(r))
		}
	}
	b.WriteString("\n## What brokers get wrong\n\n| behaviour | shown by |\n|---|---|\n")
	for _, r := range behaviours {
		fmt.Fprintf(&b, "| %s | %s |\n", r.id, shownBy(r))
	}
	if *rewrite {
		if err := os.WriteFile(document, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if is, err := os.ReadFile(document); err != nil || string(is) != b.String() {
		t.Errorf("docs/conformance.md is out of date (make conformance writes it): %v", err)
	}
}

func shownBy(r row) string {
	if r.excuse != "" {
		return "*" + string(r.excuse) + "*"
	}
	var names []string
	for _, by := range r.by {
		switch by := by.(type) {
		case func(*testing.T):
			names = append(names, testName(by))
		case field:
			names = append(names, fmt.Sprintf("TestConnectFields (%s)", by))
		case string:
			names = append(names, by)
		}
	}
	return strings.Join(names, ", ")
}
