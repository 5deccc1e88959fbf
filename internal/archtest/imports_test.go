package archtest

import (
	"fmt"
	"path"
	"strings"
)

const module = "cloudsignal"

// floors: a package imports lower floors only. cmd/cloudsignal stands on top of them.
var floors = map[string]int{
	"archtest": 0, "fault": 0, "mqtt": 0, "topic": 0,
	"access": 1, "client": 1, "engine": 1, "session": 1, "transport": 1,
	"broker": 2, "control": 2,
	"api": 3, "bench": 3,
	"cli": 4, "server": 4,
}

const (
	commandFloor = 5
	webFloor     = 3 // the files of web/ are served from above it; web itself may import anything
)

// testOnly are import paths, each with what is below it, for tests and packages of tests (engine/enginetest).
var testOnly = []string{
	"testing",
	"net/http/httptest",
	"github.com/cockroachdb/datadriven",
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal/testscript",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
}

// within tells whether a slash-separated path is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// family is the name under internal/ that a folder belongs to: engine for internal/engine and internal/engine/pebble.
func family(dir string) (string, bool) {
	rest, ok := strings.CutPrefix(dir, "internal/")
	name, _, _ := strings.Cut(rest, "/")
	return name, ok
}

// free tells of a folder whose packages may import whatever they like.
func free(dir string) bool { return within(dir, "web") || within(dir, "test") }

// ofTests tells of a package that only tests import.
func ofTests(dir string) bool {
	return within(dir, "test") || strings.HasPrefix(dir, "internal/") && strings.HasSuffix(path.Base(dir), "test")
}

// place finds packages that the house has no room for.
func place(f *goFile) []finding {
	dir := f.dir()
	name, internal := family(dir)
	switch {
	case internal:
		if _, ok := floors[name]; ok {
			return nil
		}
		return []finding{{f.path, 0, fmt.Sprintf("package internal/%s has no floor: give it one in floors, internal/archtest/imports_test.go", name)}}
	case within(dir, "cmd/cloudsignal"), within(dir, "examples"), free(dir):
		return nil
	}
	return []finding{{f.path, 0, "a Go package stands below internal/, cmd/cloudsignal, web, test or examples"}}
}

// floorsOf finds imports of this module that do not go down. Tests obey too.
func floorsOf(f *goFile) []finding {
	if free(f.dir()) {
		return nil
	}
	var found []finding
	for _, i := range f.imports {
		if !within(i.path, module) {
			continue
		}
		if why := refuse(f.dir(), strings.TrimPrefix(strings.TrimPrefix(i.path, module), "/")); why != "" {
			found = append(found, finding{f.path, i.line, fmt.Sprintf("imports %s: %s", i.path, why)})
		}
	}
	return found
}

// refuse says why a folder may not import another, or nothing.
func refuse(from, to string) string {
	fromName, _ := family(from)
	toName, toInternal := family(to)
	switch {
	case within(from, "examples"):
		return "a user copies an example, and has none of this module"
	case within(to, "test"):
		return "only packages below test/ import those"
	case fromName == "cli" && toName == "server":
		return "the command line is an outsider: it speaks MQTT and the API only"
	case toInternal && fromName == toName:
		return "" // a package and what is below it; the compiler refuses rings
	}
	above, okFrom := floorOf(from)
	below, okTo := floorOf(to)
	if okFrom && okTo && below >= above {
		return fmt.Sprintf("floor %d imports only lower floors, and this is floor %d", above, below)
	}
	return "" // what has no floor, place reports
}

func floorOf(dir string) (int, bool) {
	if name, ok := family(dir); ok {
		floor, ok := floors[name]
		return floor, ok
	}
	switch {
	case within(dir, "web"):
		return webFloor, true
	case within(dir, "cmd"):
		return commandFloor, true
	}
	return 0, false
}

// testLibraries finds what belongs to tests in the program.
func testLibraries(f *goFile) []finding {
	if f.isTest() || ofTests(f.dir()) {
		return nil
	}
	var found []finding
	for _, i := range f.imports {
		own, ours := strings.CutPrefix(i.path, module+"/")
		if ours && ofTests(own) {
			found = append(found, finding{f.path, i.line, fmt.Sprintf("imports %s: that is for tests", i.path)})
		}
		for _, library := range testOnly {
			if within(i.path, library) {
				found = append(found, finding{f.path, i.line, fmt.Sprintf("imports %s: that is for tests", i.path)})
			}
		}
	}
	return found
}
