package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func matched(t *testing.T, names *Names[int], m map[string]int, filter string) {
	t.Helper()
	got := map[string]int{}
	names.Match(filter, func(name string, v int) bool {
		if _, twice := got[name]; twice {
			t.Fatalf("%q: %q is visited twice", filter, name)
		}
		got[name] = v
		return true
	})
	want := map[string]int{}
	for name, v := range m {
		if Match(filter, name) {
			want[name] = v
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%q: got %v, want %v", filter, got, want)
	}
}

// nodes counts the nodes below n and checks that none is empty.
func (n *place[V]) nodes(t *testing.T) (count int) {
	n.children.audit(t, 0)
	n.children.each(func(c child[place[V]]) bool {
		if *c.node == (place[V]{}) {
			t.Fatal("empty node in the tree")
		}
		count += 1 + c.node.nodes(t)
		return true
	})
	return count
}

func TestNamesModel(t *testing.T) {
	var wide []string
	for i := range 300 {
		wide = append(wide, fmt.Sprint("level", i))
	}
	for seed, c := range []struct {
		levels []string
		depth  int
	}{
		{plain, 4},
		{append(slices.Clone(plain), wide...), 2},
		{wide, 1},
	} {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		var names Names[int]
		m := map[string]int{}
		remove := func(n string) {
			old, had := names.Delete(n)
			if want, in := m[n]; old != want || had != in {
				t.Fatalf("Delete(%q) = %d, %v; want %d, %v", n, old, had, want, in)
			}
			delete(m, n)
		}
		for i := range 4000 {
			n := randomText(r, c.levels, c.depth, "")
			if r.IntN(3) > 0 {
				old, had := names.Set(n, i)
				if want, in := m[n]; old != want || had != in {
					t.Fatalf("Set(%q) = %d, %v; want %d, %v", n, old, had, want, in)
				}
				m[n] = i
			} else {
				remove(n)
			}
			n = randomText(r, c.levels, c.depth, "")
			v, ok := names.Get([]byte(n))
			if want, in := m[n]; v != want || ok != in || names.Len() != len(m) {
				t.Fatalf("Get(%q) = %d, %v; want %d, %v; Len %d of %d", n, v, ok, want, in, names.Len(), len(m))
			}
			if i%16 == 0 {
				matched(t, &names, m, randomText(r, append([]string{"+", "+"}, c.levels...), c.depth, "#"))
			}
		}
		names.root.nodes(t)
		for _, n := range slices.Sorted(maps.Keys(m)) {
			remove(n)
		}
		if names.Len() != 0 || names.root.nodes(t) != 0 {
			t.Fatalf("after all deletes: %d names, %d nodes", names.Len(), names.root.nodes(t))
		}
	}
}

// TestNamesExhaustive has every name of up to 4 levels, and matches every filter of up to 4.
func TestNamesExhaustive(t *testing.T) {
	var names Names[int]
	m := map[string]int{}
	for i, n := range allNames(4) {
		names.Set(n, i)
		m[n] = i
	}
	for _, f := range allFilters(4) {
		matched(t, &names, m, f)
	}
}

func TestNamesMatchStops(t *testing.T) {
	var names Names[int]
	for i, n := range allNames(3) {
		names.Set(n, i)
	}
	for _, f := range []string{"#", "+", "+/#", "+/+", "a/#", "a/+", "$x/#", "a"} {
		for stop := 1; stop <= 3; stop++ {
			all, visits := 0, 0
			names.Match(f, func(string, int) bool { all++; return true })
			names.Match(f, func(string, int) bool { visits++; return visits < stop })
			if visits != min(stop, all) {
				t.Errorf("%q: %d visits, want %d of %d", f, visits, stop, all)
			}
		}
	}
}

func TestNamesEmpty(t *testing.T) {
	var names Names[int]
	for _, f := range []string{"#", "+", "a", "a/#", "+/+"} {
		names.Match(f, func(name string, _ int) bool { t.Errorf("%q visits %q", f, name); return true })
	}
	if _, had := names.Delete("a/b"); had {
		t.Error("Delete found something")
	}
	names.Set("a/b", 1)
	for _, n := range []string{"a", "a/b/c", "b", "a/"} {
		if _, ok := names.Get([]byte(n)); ok {
			t.Errorf("%q is there", n)
		}
		if _, had := names.Delete(n); had {
			t.Errorf("%q was there", n)
		}
	}
}

func TestNamesDeep(t *testing.T) {
	var names Names[int]
	deep := strings.Repeat("/", 65534)
	names.Set(deep, 1)
	if v, ok := names.Get([]byte(deep)); v != 1 || !ok {
		t.Error("not found")
	}
	count := 0
	names.Match(strings.Repeat("+/", 60000)+"#", func(string, int) bool { count++; return true })
	if _, had := names.Delete(deep); !had || count != 1 || names.root.nodes(t) != 0 {
		t.Errorf("visited %d times, %d nodes left", count, names.root.nodes(t))
	}
}
