package control_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// source is the package's code, with the texts of its constants.
type source struct {
	files  map[string]*ast.File
	consts map[string]string
}

func readSource(t *testing.T) *source {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	s := &source{files: make(map[string]*ast.File), consts: make(map[string]string)}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.files[file.Name()] = tree
		for _, d := range tree.Decls {
			if d, ok := d.(*ast.GenDecl); ok && d.Tok == token.CONST {
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					for i := range v.Values {
						s.consts[v.Names[i].Name] = s.literal(v.Values[i])
					}
				}
			}
		}
	}
	return s
}

// literal is the text of a string expression, with ? for what is neither a literal nor a constant.
func (s *source) literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	case *ast.BinaryExpr:
		return s.literal(e.X) + s.literal(e.Y)
	case *ast.Ident:
		if text, ok := s.consts[e.Name]; ok {
			return text
		}
		return "?"
	case *ast.SelectorExpr:
		return "?"
	}
	return ""
}

// crossing are the functions that may look into every organization: who has a token's id and nothing else comes in by the first, the others
// forget what has ended, and Organizations lists them.
var crossing = map[string]bool{"organizationOfToken": true, "sweepDirectoryPage": true, "sweepRows": true, "Organizations": true}

// TestEveryStatementNamesTheOrganization reads the statements in the source: those that scope runs are confined to the
// organization whose number is $1, and others are about nothing that belongs to an organization.
func TestEveryStatementNamesTheOrganization(t *testing.T) {
	confined := regexp.MustCompile(`(?s)WHERE (t\.)?organization = \$1|` +
		`(UPDATE|FROM|DELETE FROM) organizations .*WHERE number = \$1( RETURNING [a-z_, ]*)?$|` +
		`^INSERT INTO \w+ \(organization, .*VALUES \(\$1, `)
	owned := regexp.MustCompile(`\b(users|rules|rule_sets|api_keys|identities|tokens|token_passwords|audit|monthly_usage)\b`)
	statements, above := 0, 0
	s := readSource(t)
	for name, tree := range s.files {
		if name == "scope.go" {
			for _, d := range tree.Decls {
				ast.Inspect(d, func(n ast.Node) bool { return s.inspect(t, name, n, confined, &statements) })
			}
			continue
		}
		for _, d := range tree.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if text, ok := s.direct(n); ok && !crossing[f.Name.Name] {
					if above++; text == "?" || owned.MatchString(text) {
						t.Errorf("%s: %s runs a statement beside scope: %s", name, f.Name.Name, text)
					}
				}
				return s.inspect(t, name, n, confined, &statements)
			})
		}
	}
	if statements < 60 || above < 15 {
		t.Errorf("only %d and %d statements were found", statements, above)
	}
}

// direct is the text of a statement that is run without scope.
func (s *source) direct(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	switch method.Sel.Name {
	case "ExecContext", "QueryContext", "QueryRowContext":
		return s.literal(call.Args[1]), true
	case "Exec", "QueryRow":
		return "?", true
	}
	return "", false
}

func (s *source) inspect(t *testing.T, file string, n ast.Node, confined *regexp.Regexp, statements *int) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return true
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return true
	}
	receiver, _ := method.X.(*ast.Ident)
	switch method.Sel.Name {
	case "exec", "row", "rows", "atMost":
		if receiver == nil || receiver.Name != "t" {
			return true
		}
		for _, arg := range call.Args {
			if text := s.literal(arg); regexp.MustCompile(`^\s*(SELECT|INSERT|UPDATE|DELETE)`).MatchString(text) {
				*statements++
				if !confined.MatchString(text) {
					t.Errorf("%s: %s", file, text)
				}
			}
		}
	}
	return true
}
