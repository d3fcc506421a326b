package arch

import (
	"go/ast"
	"path/filepath"
	"testing"
)

// The budgets. Who passes one of them splits by concept, and does not raise the number.
const (
	maxFilesInPackage  = 20
	maxFileLines       = 500
	maxFunctionLines   = 100
	softFunctionLines  = 60 // passed by fewer than softFunctionShare of all functions
	softFunctionShare  = 0.05
	maxParameters      = 5
	maxStructFields    = 15
	maxBlackBoxPackage = 40 // black-box tests: a file a feature
)

func TestPackagesAndFilesAreSmall(t *testing.T) {
	files := map[string]int{}
	for _, file := range parseAll(t) {
		if !file.isTest() {
			files[filepath.Dir(file.path)]++
		}
		if file.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", file.path, file.lines, maxFileLines)
		}
	}
	for dir, count := range files {
		limit := maxFilesInPackage
		if dir == "cli" || topFolder(dir) == "test" {
			limit = maxBlackBoxPackage // a file a command
		}
		if count > limit {
			t.Errorf("package %s has %d files, more than %d", dir, count, limit)
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	functions, long := 0, 0
	for _, file := range parseAll(t) {
		for _, declaration := range file.ast.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			functions++
			lines := file.fset.Position(function.End()).Line - file.fset.Position(function.Pos()).Line + 1
			switch {
			case lines > maxFunctionLines:
				t.Errorf("%s: %s has %d lines, more than %d", file.path, function.Name.Name, lines, maxFunctionLines)
			case lines > softFunctionLines:
				long++
				t.Logf("%s: %s has %d lines", file.path, function.Name.Name, lines)
			}
			if count := function.Type.Params.NumFields(); count > maxParameters {
				t.Errorf("%s: %s has %d parameters, more than %d: use a struct", file.path, function.Name.Name, count, maxParameters)
			}
		}
	}
	if share := float64(long) / float64(functions); share >= softFunctionShare {
		t.Errorf("%d of %d functions (%.1f %%) have more than %d lines", long, functions, 100*share, softFunctionLines)
	}
}

func TestStructsAreSmall(t *testing.T) {
	for _, file := range parseAll(t) {
		ast.Inspect(file.ast, func(node ast.Node) bool {
			spec, ok := node.(*ast.TypeSpec)
			if !ok {
				return true
			}
			structure, ok := spec.Type.(*ast.StructType)
			if ok && structure.Fields.NumFields() > maxStructFields {
				t.Errorf("%s: struct %s has %d fields, more than %d", file.path, spec.Name.Name, structure.Fields.NumFields(), maxStructFields)
			}
			return true
		})
	}
}
