package archtest

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// goFile is one parsed Go file.
type goFile struct {
	path    string // from the module's root, with slashes
	lines   int
	fset    *token.FileSet
	ast     *ast.File
	imports []imported
}

type imported struct {
	path string
	line int
}

func (f *goFile) dir() string { return path.Dir(f.path) }

func (f *goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f *goFile) line(n token.Pos) int { return f.fset.Position(n).Line }

// finding is one broken rule: where, and what to do about it.
type finding struct {
	path string
	line int // 0: the file or folder as a whole
	text string
}

func (f finding) String() string {
	if f.line == 0 {
		return f.path + ": " + f.text
	}
	return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.text)
}

// check applies every rule to a module's tree.
func check(tree fs.FS) ([]finding, []*goFile, error) {
	var found []finding
	var files []*goFile
	err := walk(tree, func(name string, text []byte) error {
		found = append(found, marks(name, text)...)
		if path.Ext(name) != ".go" {
			return nil
		}
		f, err := parse(name, text)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	bubbles := bubbleFunctions(files)
	for _, f := range files {
		found = append(found, place(f)...)
		found = append(found, floorsOf(f)...)
		found = append(found, testLibraries(f)...)
		found = append(found, sizes(f)...)
		found = append(found, skips(f)...)
		found = append(found, sleeps(f, bubbles[f.dir()])...)
	}
	found = append(found, commandSize(files)...)
	slices.SortFunc(found, func(a, b finding) int {
		return cmp.Or(strings.Compare(a.path, b.path), a.line-b.line, strings.Compare(a.text, b.text))
	})
	return found, files, nil
}

// walk hands on the files that people write: no build output, no packages of others, no test data.
func walk(tree fs.FS, each func(name string, text []byte) error) error {
	return fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			base := entry.Name()
			switch {
			case name == ".", name == ".ci":
				return nil
			case base[0] == '.', base[0] == '_', base == "node_modules", base == "testdata", base == "vendor",
				name == "bin", name == "data", name == "web/dist":
				return fs.SkipDir
			}
			return nil
		}
		if !written(name) || !entry.Type().IsRegular() {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return each(name, text)
	})
}

func written(name string) bool {
	switch path.Ext(name) {
	case ".go", ".mod", ".mjs", ".js", ".ts", ".tsx", ".css", ".html", ".sql", ".sh", ".md", ".yml", ".yaml", ".txtar":
		return true
	}
	return name == "Makefile" || strings.HasPrefix(name, ".ci/")
}

func parse(name string, text []byte) (*goFile, error) {
	f := &goFile{path: name, lines: bytes.Count(text, []byte("\n")), fset: token.NewFileSet()}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		f.lines++
	}
	var err error
	if f.ast, err = parser.ParseFile(f.fset, name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
		return nil, err
	}
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		f.imports = append(f.imports, imported{p, f.line(spec.Pos())})
	}
	return f, nil
}

// marks finds notes of work left undone, in any text. The pattern is put together so that this file holds none.
func marks(name string, text []byte) []finding {
	var found []finding
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if m := mark.Find(line); m != nil {
			found = append(found, finding{name, n, fmt.Sprintf("%q: do it now, or say in words what is not done and why", m)})
		}
	}
	return found
}

var mark = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
