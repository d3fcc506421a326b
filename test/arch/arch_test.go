// Package arch keeps the structure: who may import whom, one comment a package, and budgets that keep files, functions
// and packages small enough to read. It reads the source files itself, so that Go's test cache notices every change.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berthd/berth/"

// mayImport lists, for each top folder, the top folders (or single packages) of ours that it may import beside itself.
var mayImport = map[string][]string{
	"internal":     {},
	"proto":        {},
	"runtime":      {"internal"},
	"cni-plugins":  {"internal"},
	"shim":         {"internal", "proto"},
	"contentstore": {"internal", "proto"},
	"snapshotter":  {"internal", "proto"},
	"manager":      {"internal", "proto", "contentstore", "snapshotter", "cni-plugins"},
	"gateway":      {"internal", "proto"},
	"cli":          {"internal", "proto"},
	"test":         {"internal", "proto"},
	"hack":         {},
}

// sourceFile is one parsed Go file that people wrote.
type sourceFile struct {
	path  string // from the top of the checkout
	lines int
	ast   *ast.File
	fset  *token.FileSet
}

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func parseAll(t *testing.T) []sourceFile {
	t.Helper()
	root := "../.."
	var files []sourceFile
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, content, parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		relative, err := filepath.Rel(root, path)
		files = append(files, sourceFile{path: relative, lines: strings.Count(string(content), "\n"), ast: file, fset: fset})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found %d source files only: the walk is broken", len(files))
	}
	return files
}

func topFolder(path string) string {
	top, _, _ := strings.Cut(path, "/")
	return top
}

func TestImportsFollowTheTable(t *testing.T) {
	for _, file := range parseAll(t) {
		top := topFolder(file.path)
		allowed, known := mayImport[top]
		if !known {
			t.Errorf("%s: the folder %s is not in the table of ARCHITECTURE.md", file.path, top)
			continue
		}
		for _, spec := range file.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			ours, found := strings.CutPrefix(path, module)
			if !found || topFolder(ours) == top {
				continue
			}
			if !contains(allowed, topFolder(ours)) {
				t.Errorf("%s imports %s: %s/ may import only %v of ours", file.path, ours, top, allowed)
			}
		}
	}
}

// TestRuntimeIsLight follows the imports of the runtime, which starts for every container: to set up Go's network takes a
// twentieth of what else it does.
func TestRuntimeIsLight(t *testing.T) {
	imports := map[string][]string{}
	for _, file := range parseAll(t) {
		if file.isTest() {
			continue
		}
		dir := filepath.Dir(file.path)
		for _, spec := range file.ast.Imports {
			imports[dir] = append(imports[dir], strings.Trim(spec.Path.Value, `"`))
		}
	}
	seen, todo := map[string]bool{"runtime": true}, []string{"runtime"}
	for len(todo) > 0 {
		dir := todo[0]
		todo = todo[1:]
		for _, path := range imports[dir] {
			if topFolder(path) == "net" {
				t.Errorf("%s imports %s, and the runtime imports it", dir, path)
			}
			if ours, is := strings.CutPrefix(path, module); is && !seen[ours] {
				seen[ours] = true
				todo = append(todo, ours)
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("the runtime imports %d packages only: the walk is broken", len(seen))
	}
}

// The runtime, the shim and the manager meet the others over protocols only: nothing can import a package main.
func TestProgramsAreNotLibraries(t *testing.T) {
	programs := map[string]bool{"runtime": false, "shim": false, "manager": false, "cli": false, "cni-plugins": false}
	for _, file := range parseAll(t) {
		dir := filepath.Dir(file.path)
		if _, is := programs[dir]; is && !file.isTest() {
			programs[dir] = true
			if file.ast.Name.Name != "main" {
				t.Errorf("%s is package %s, want main: other components must not import it", file.path, file.ast.Name.Name)
			}
		}
	}
	for dir, seen := range programs {
		if !seen {
			t.Errorf("%s/ has no Go file", dir)
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	for _, file := range parseAll(t) {
		dir := filepath.Dir(file.path)
		if file.isTest() && !strings.HasPrefix(dir, "test/") {
			continue
		}
		if _, seen := comments[dir]; !seen {
			comments[dir] = nil
		}
		if file.ast.Doc != nil {
			comments[dir] = append(comments[dir], file.path)
		}
	}
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", dir, len(files), files)
		}
	}
}

func TestNoInitAndNoBlankWiring(t *testing.T) {
	for _, file := range parseAll(t) {
		if file.isTest() {
			continue
		}
		for _, declaration := range file.ast.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if ok && function.Recv == nil && function.Name.Name == "init" {
				t.Errorf("%s has an init function: main wires, in order", file.path)
			}
		}
	}
}

// TestCallsThatSysMakes: internal/sys makes these calls with the repetition, or the reading of errors, that their callers
// would forget.
func TestCallsThatSysMakes(t *testing.T) {
	reasons := map[string]string{
		"Openat2":   "fails at random on a busy host",
		"PidfdOpen": "has two errors for a process that is gone",
	}
	for _, file := range parseAll(t) {
		if file.isTest() || strings.HasPrefix(file.path, "internal/sys/") {
			continue
		}
		ast.Inspect(file.ast, func(node ast.Node) bool {
			if call, ok := node.(*ast.SelectorExpr); ok && reasons[call.Sel.Name] != "" {
				if from, ok := call.X.(*ast.Ident); ok && from.Name == "unix" {
					t.Errorf("%s calls unix.%s, which %s: sys.%[2]s doesn't", file.path, call.Sel.Name, reasons[call.Sel.Name])
				}
			}
			return true
		})
	}
}

func contains(list []string, want string) bool {
	for _, item := range list {
		if item == want {
			return true
		}
	}
	return false
}
