// Command mutants breaks the program on purpose, one mutation of table.go or conformance.go at a time, and runs the test that has to notice.
//
//	mutants [PATTERN]    those whose name matches; from the module's root
//
// It works on a copy of the tree, as it is, committed or not. First every row must fit the source, and every test must pass on
// it as it is: else a test that fails anyway would be taken for one that notices.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	buildTime = 5 * time.Minute
	testTime  = 2 * time.Minute // of one test; a mutation that makes it hang is noticed by that
)

// edit takes the place of a text that is in its file once.
type edit struct{ old, new string }

// test is what must turn red: the tests of a package whose names match, as for go test -run.
type test struct{ pkg, run string }

// mutation is a row of the table.
type mutation struct {
	name  string
	file  string // from the module's root
	edits []edit
	test  test
}

func main() {
	pattern := "."
	if len(os.Args) > 1 {
		pattern = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, pattern)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, pattern string) (err error) {
	selected, err := selectRows(pattern)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	r := runner{ctx: ctx, tree: filepath.Join(temp, "tree"), binary: filepath.Join(temp, "mutant.test")}
	if err := r.copyTree(); err != nil {
		return err
	}
	if err := r.fit(); err != nil {
		return err
	}
	if err := r.unchanged(selected); err != nil {
		return err
	}
	var wrong []string
	for _, m := range selected {
		begin := time.Now()
		result, output, err := r.mutate(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Printf("%-14s %5.1f s  %s%s\n", result, time.Since(begin).Seconds(), m.name, by(result, output))
		if result != killed {
			wrong = append(wrong, m.name)
			fmt.Printf("    %s, %s -run '%s'\n%s", m.file, m.test.pkg, m.test.run, output)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("of %d mutations %d were not noticed, or do not build: %s", len(selected), len(wrong), strings.Join(wrong, "; "))
	}
	fmt.Printf("%d mutations, each noticed\n", len(selected))
	return nil
}

// all are the rows of both tables.
func all() []mutation { return slices.Concat(table, conformance) }

func selectRows(pattern string) (selected []mutation, err error) {
	like, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for _, m := range all() {
		if names[m.name] {
			return nil, fmt.Errorf("the tables have two rows %q", m.name)
		}
		names[m.name] = true
		if like.MatchString(m.name) {
			selected = append(selected, m)
		}
	}
	if len(selected) == 0 {
		return nil, fmt.Errorf("none of %d mutations matches %s", len(all()), pattern)
	}
	return selected, nil
}

// timedOut is what the testing package says.
const timedOut = "test timed out"

// What became of a mutation.
const (
	killed   = "killed"
	survived = "SURVIVED"
	unbuilt  = "DOES NOT BUILD"
)

type runner struct {
	ctx    context.Context
	tree   string
	binary string
}

// copyTree copies what git knows, or would add.
func (r *runner) copyTree() error {
	list, err := exec.CommandContext(r.ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		info, err := os.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and that is not committed yet
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		to := filepath.Join(r.tree, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// fit checks every row against the source, those too that were not asked for.
func (r *runner) fit() error {
	var stale []error
	for _, m := range all() {
		if _, _, err := r.mutant(m); err != nil {
			stale = append(stale, err)
		}
	}
	return errors.Join(stale...)
}

// mutant is the file of a mutation, as it is and changed.
func (r *runner) mutant(m mutation) (original, changed []byte, err error) {
	original, err = os.ReadFile(filepath.Join(r.tree, m.file))
	if err != nil {
		return nil, nil, fmt.Errorf("table.go is out of date, row %q: %w", m.name, err)
	}
	changed = original
	for _, e := range m.edits {
		if n := bytes.Count(original, []byte(e.old)); n != 1 {
			return nil, nil, fmt.Errorf("table.go is out of date, row %q: %s has this %d times, not once:\n%s", m.name, m.file, n, e.old)
		}
		changed = bytes.Replace(changed, []byte(e.old), []byte(e.new), 1)
	}
	if bytes.Equal(original, changed) {
		return nil, nil, fmt.Errorf("row %q of table.go changes nothing", m.name)
	}
	return original, changed, nil
}

// unchanged runs each test on the source as it is.
func (r *runner) unchanged(selected []mutation) error {
	done, built := make(map[test]bool), ""
	for _, m := range selected {
		if done[m.test] {
			continue
		}
		done[m.test] = true
		result, output, err := r.test(m.test, m.test.pkg == built)
		built = m.test.pkg
		switch {
		case err != nil:
			return err
		case result == unbuilt:
			return fmt.Errorf("the tests of %s do not build as they are:\n%s", m.test.pkg, output)
		case result == killed:
			return fmt.Errorf("%s -run '%s' fails on the source as it is:\n%s", m.test.pkg, m.test.run, output)
		case strings.Contains(output, "no tests to run"):
			return fmt.Errorf("%s has no test that matches '%s'", m.test.pkg, m.test.run)
		}
	}
	fmt.Printf("%d tests pass on the source as it is\n", len(done))
	return nil
}

func (r *runner) mutate(m mutation) (result, output string, err error) {
	original, changed, err := r.mutant(m)
	if err != nil {
		return "", "", err
	}
	name := filepath.Join(r.tree, m.file)
	if err := os.WriteFile(name, changed, 0o600); err != nil {
		return "", "", err
	}
	result, output, err = r.test(m.test, false)
	return result, output, errors.Join(err, os.WriteFile(name, original, 0o600))
}

// test builds a package's tests, unless they are, and runs some. The two are apart: what does not build has not been noticed
// by a test.
func (r *runner) test(t test, built bool) (result, output string, err error) {
	if !built {
		out, err := r.command(buildTime, r.tree, "go", "test", "-c", "-vet=off", "-trimpath", "-o", r.binary, t.pkg)
		if err != nil {
			return unbuilt, out, r.ctx.Err()
		}
	}
	out, err := r.command(testTime+time.Minute, filepath.Join(r.tree, t.pkg),
		r.binary, "-test.failfast", "-test.run", t.run, "-test.timeout", testTime.String())
	var exit *exec.ExitError
	switch {
	case err == nil:
		return survived, out, nil
	case errors.As(err, &exit):
		return killed, out, r.ctx.Err()
	}
	return "", out, err // it could not be started
}

func (r *runner) command(limit time.Duration, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.WaitDelay = dir, 10*time.Second
	out, err := c.CombinedOutput()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		out = append(out, timedOut...)
	}
	return string(out), err
}

var failure = regexp.MustCompile(`--- FAIL: (\S+)`)

// by names the test that has noticed: of the lines about it the innermost, which is the last.
func by(result, output string) string {
	if result != killed {
		return ""
	}
	failures := failure.FindAllStringSubmatch(output, -1)
	switch {
	case strings.Contains(output, timedOut):
		return ", by its time"
	case len(failures) > 0:
		return ", by " + failures[len(failures)-1][1]
	}
	return ", by a panic"
}
