package archtest

import (
	"fmt"
	"go/ast"
	"path"
	"strconv"
)

const (
	maxFileLines     = 700
	maxFunctionLines = 70  // without the rows of a table
	maxCommandLines  = 120 // of all of cmd/cloudsignal but its tests
)

func sizes(f *goFile) []finding {
	if ast.IsGenerated(f.ast) {
		return nil
	}
	var found []finding
	if f.lines > maxFileLines {
		found = append(found, finding{f.path, 0, fmt.Sprintf("%d lines, of at most %d: split it", f.lines, maxFileLines)})
	}
	for _, decl := range f.ast.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := codeLines(f, fn); n > maxFunctionLines {
			found = append(found, finding{
				f.path, f.line(fn.Pos()),
				fmt.Sprintf("%s has %d lines, of at most %d: split it", fn.Name.Name, n, maxFunctionLines),
			})
		}
	}
	return found
}

// codeLines counts the lines of a function but for those inside a list or map of values. A function in there counts.
func codeLines(f *goFile, fn *ast.FuncDecl) int {
	first := f.line(fn.Pos())
	code := make([]bool, f.line(fn.End())-first+1)
	set := func(from, to int, is bool) {
		for n := from; n <= to; n++ {
			code[n-first] = is
		}
	}
	set(first, f.line(fn.End()), true)
	ast.Inspect(fn, func(n ast.Node) bool { // from the outside in, so what is inside overrides
		switch n := n.(type) {
		case *ast.CompositeLit:
			switch n.Type.(type) {
			case *ast.ArrayType, *ast.MapType:
				set(f.line(n.Lbrace)+1, f.line(n.Rbrace)-1, false)
			}
		case *ast.FuncLit:
			set(f.line(n.Pos()), f.line(n.End()), true)
		}
		return true
	})
	count := 0
	for _, is := range code {
		if is {
			count++
		}
	}
	return count
}

func commandSize(files []*goFile) []finding {
	const dir = "cmd/cloudsignal"
	lines := 0
	for _, f := range files {
		if within(f.dir(), dir) && !f.isTest() {
			lines += f.lines
		}
	}
	if lines <= maxCommandLines {
		return nil
	}
	return []finding{{dir, 0, fmt.Sprintf("%d lines, of at most %d: what does more than wire belongs in internal/server or internal/cli", lines, maxCommandLines)}}
}

// skips finds tests that may not run. What cannot run on some machine is named by the Makefile before the tests start.
func skips(f *goFile) []finding {
	if !f.isTest() && !ofTests(f.dir()) {
		return nil
	}
	tests := testParameters(f)
	var found []finding
	ast.Inspect(f.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch call.Sel.Name {
		case "Skip", "Skipf", "SkipNow":
			on := ""
			switch x := call.X.(type) {
			case *ast.Ident:
				on = x.Name
			case *ast.SelectorExpr:
				on = x.Sel.Name // s.t
			}
			if tests[on] {
				found = append(found, finding{f.path, f.line(call.Pos()), on + "." + call.Sel.Name + ": a test that does not run cannot fail"})
			}
		}
		return true
	})
	return found
}

// testParameters are the names by which a file calls a *testing.T, B or F, a testing.TB or a *rapid.T.
func testParameters(f *goFile) map[string]bool {
	names := make(map[string]bool)
	ast.Inspect(f.ast, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok {
			return true
		}
		typ := field.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "testing" && pkg.Name != "rapid" {
			return true
		}
		switch sel.Sel.Name {
		case "T", "B", "F", "TB":
			for _, name := range field.Names {
				names[name.Name] = true
			}
			if len(field.Names) == 0 { // embedded
				names[sel.Sel.Name] = true
			}
		}
		return true
	})
	return names
}

// sleeps finds time.Sleep in tests, where it makes them slow and lets them fail by chance. Inside a synctest bubble time is
// not real; test/scenario runs nowhere else.
func sleeps(f *goFile, bubbles map[string]bool) []finding {
	name := importName(f, "time")
	if name == "" || !f.isTest() && !ofTests(f.dir()) || within(f.dir(), "test/scenario") {
		return nil
	}
	var found []finding
	synctest := importName(f, "testing/synctest")
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			return n.Recv != nil || !bubbles[n.Name.Name]
		case *ast.CallExpr:
			return synctest == "" || !isSelector(n.Fun, synctest, "Test")
		case *ast.SelectorExpr:
			if isSelector(n, name, "Sleep") {
				found = append(found, finding{f.path, f.line(n.Pos()), "time.Sleep: wait for what is to happen, or run in a bubble of testing/synctest"})
			}
		}
		return true
	})
	return found
}

// bubbleFunctions are, by folder, the functions that are handed to synctest.Test by name.
func bubbleFunctions(files []*goFile) map[string]map[string]bool {
	all := make(map[string]map[string]bool)
	for _, f := range files {
		synctest := importName(f, "testing/synctest")
		if synctest == "" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isSelector(call.Fun, synctest, "Test") || len(call.Args) != 2 {
				return true
			}
			if fn, ok := call.Args[1].(*ast.Ident); ok {
				if all[f.dir()] == nil {
					all[f.dir()] = make(map[string]bool)
				}
				all[f.dir()][fn.Name] = true
			}
			return true
		})
	}
	return all
}

// importName is what a file calls a package of the standard library, or nothing.
func importName(f *goFile, pkg string) string {
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != pkg {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(pkg)
	}
	return ""
}

// isSelector tells whether an expression is pkg.name, or name where pkg is imported by a dot.
func isSelector(e ast.Expr, pkg, name string) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && x.Name == pkg && e.Sel.Name == name
	case *ast.Ident:
		return pkg == "." && e.Name == name
	}
	return false
}
