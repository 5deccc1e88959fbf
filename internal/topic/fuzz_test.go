package topic

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// FuzzFilter: nothing panics on any text, and on valid ones the functions agree with each other and with the trees.
func FuzzFilter(f *testing.F) {
	for _, s := range [][3]string{
		{"a/#", "a/+", "a"},
		{"#", "+/#", "$SYS/a"},
		{"/#", "+", "/"},
		{"$share/g/a/#", "$share/g", "a//b"},
		{"a+", "#/a", "a\x00"},
		{"+/b/+", "a/+/c", "a/b/c"},
		{"", "/", "//"},
		{"\xff", "é/+", "é/x"},
		{"$share/g/$share/h/#", "$x/+", "$x/"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, name string) {
		Match(a, name)
		Covers(a, name)
		Contains(a, b)
		Overlaps(a, b)
		for _, filter := range []string{a, b} {
			err := CheckFilter(filter, Limits{})
			if again := CheckFilter([]byte(filter), Limits{}); fmt.Sprint(err) != fmt.Sprint(again) {
				t.Fatalf("%q: %v, as bytes %v", filter, err, again)
			}
			group, rest, shared, shareErr := SplitShare(filter)
			if shareErr == nil && shared && filter != "$share/"+group+"/"+rest || !shared && rest != filter {
				t.Fatalf("SplitShare(%q) = %q, %q", filter, group, rest)
			}
			if err == nil && shareErr != nil || errors.Is(err, ErrShare) && !shared {
				t.Fatalf("%q: CheckFilter %v, SplitShare %v", filter, err, shareErr)
			}
			if !shared && err == nil && !strings.ContainsAny(filter, "+#") != (CheckName(filter, Limits{}) == nil) {
				t.Fatalf("%q: a filter, and as a name %v", filter, CheckName(filter, Limits{}))
			}
		}
		if CheckFilter(a, Limits{}) != nil || CheckFilter(b, Limits{}) != nil {
			return
		}
		agree(t, a, b)
		if CheckName(name, Limits{}) == nil {
			agreeOn(t, a, b, name)
		}
	})
}

// agree checks what holds for any two filters.
func agree(t *testing.T, a, b string) {
	if !Contains(a, a) || !Overlaps(a, a) || !Contains("#", a) || !Overlaps(a, "#") {
		t.Fatalf("%q is at odds with itself or #", a)
	}
	if Overlaps(a, b) != Overlaps(b, a) || Contains(a, b) && !Overlaps(a, b) {
		t.Fatalf("%q and %q: overlap %v and %v, contained %v", a, b, Overlaps(a, b), Overlaps(b, a), Contains(a, b))
	}
	if sample := sample(b); !Covers(b, sample) || Contains(a, b) && !Covers(a, sample) || Covers(a, sample) && !Overlaps(a, b) {
		t.Fatalf("%q and %q disagree on %q", a, b, sample)
	}
}

// sample is a name that filter covers.
func sample(filter string) string {
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if l == "+" || l == "#" {
			levels[i] = "sample"
		}
	}
	return strings.Join(levels, "/")
}

// agreeOn checks two filters and a name.
func agreeOn(t *testing.T, a, b, name string) {
	inA, inB := Covers(a, name), Covers(b, name)
	if inA && inB && !Overlaps(a, b) || inB && !inA && Contains(a, b) {
		t.Fatalf("%q, %q and %q: covered %v, %v; contained %v, overlap %v", a, b, name, inA, inB, Contains(a, b), Overlaps(a, b))
	}
	if inA != Contains(a, name) || inA != Overlaps(a, name) {
		t.Fatalf("%q and %q: a name is a filter too", a, name)
	}
	want := 0
	tree := NewTree[int, string]()
	for i, f := range []string{a, b, a} {
		tree.Set(f, i, f)
		if Match(f, name) {
			want++
		}
	}
	if hits, _ := tree.Match([]byte(name), nil); len(hits) != want {
		t.Fatalf("%q, %q and %q: %d hits, want %d", a, b, name, len(hits), want)
	}
	var names Names[int]
	names.Set(name, 1)
	found := false
	names.Match(a, func(string, int) bool { found = true; return true })
	if found != Match(a, name) {
		t.Fatalf("Names: %q and %q: %v", a, name, found)
	}
}

// FuzzTree applies sets and deletes read from text, a line each, and compares with the model.
func FuzzTree(f *testing.F) {
	f.Add("a/#\na/+\n-a/#\n#\na/b/c", "a/b")
	f.Add("+/+\n+/+\n-+/+\n$x/#\n/", "$x")
	f.Add("a#\n#/a\n-a\n", "a")
	f.Fuzz(func(t *testing.T, script, name string) {
		tree, m := NewTree[int, string](), model{}
		for i, line := range strings.Split(script, "\n") {
			filter, remove := strings.CutPrefix(line, "-")
			p := pair{filter, i % 3}
			if want, in := m[p]; remove {
				if old, had := tree.Delete(filter, p.key); old != want || had != in {
					t.Fatalf("Delete(%q, %d) = %q, %v; want %q, %v", filter, p.key, old, had, want, in)
				}
				delete(m, p)
			} else {
				v := fmt.Sprint(filter, " ", p.key)
				if old, had := tree.Set(filter, p.key, v); old != want || had != in {
					t.Fatalf("Set(%q, %d) = %q, %v; want %q, %v", filter, p.key, old, had, want, in)
				}
				m[p] = v
			}
		}
		if tree.Len() != len(m) {
			t.Fatalf("%d entries, want %d", tree.Len(), len(m))
		}
		if CheckName(name, Limits{}) == nil {
			compare(t, tree, m, name)
		}
		for p := range m {
			tree.Delete(p.filter, p.key)
		}
		if tree.Len() != 0 || tree.root.Load() != nil {
			t.Fatal("something is left")
		}
	})
}
