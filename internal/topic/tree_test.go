package topic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// pair is a key of the dumb model of a Tree: a map.
type pair struct {
	filter string
	key    int
}

type model map[pair]string

// match is what Tree.Match has to return: the sorted values, which name their filter and key, and the number of filters.
func (m model) match(name string) (values []string, filters int) {
	distinct := map[string]bool{}
	for p, v := range m {
		if Match(p.filter, name) {
			values = append(values, v)
			distinct[p.filter] = true
		}
	}
	slices.Sort(values)
	return values, len(distinct)
}

func compare(t *testing.T, tree *Tree[int, string], m model, name string) {
	t.Helper()
	before := Hit[int, string]{-1, "before"}
	hits, filters := tree.Match([]byte(name), []Hit[int, string]{before})
	if len(hits) == 0 || hits[0] != before {
		t.Fatalf("%q: Match does not append: %v", name, hits)
	}
	var values []string
	for _, h := range hits[1:] {
		values = append(values, h.Value)
		if !strings.HasSuffix(h.Value, fmt.Sprint(" ", h.Key)) {
			t.Fatalf("%q: key %d with value %q", name, h.Key, h.Value)
		}
	}
	slices.Sort(values)
	if want, distinct := m.match(name); !slices.Equal(values, want) || filters != distinct {
		t.Fatalf("%q: got %d filters, %q; want %d, %q", name, filters, values, distinct, want)
	}
}

// nodes counts the nodes of the tree and checks what they promise: none is empty, and tries are packed as they should be.
func (n *node[K, V]) nodes(t *testing.T) (count int) {
	if n == nil {
		return 0
	}
	if *n == (node[K, V]{}) {
		t.Fatal("empty node in the tree")
	}
	n.here.audit(t, 0)
	n.many.audit(t, 0)
	n.children.audit(t, 0)
	n.children.each(func(c child[node[K, V]]) bool {
		count += c.node.nodes(t)
		return true
	})
	return count + 1 + n.plus.nodes(t)
}

func (t *trie[E]) audit(test *testing.T, depth int) {
	if t == nil {
		return
	}
	if t.kids == nil {
		if t.count != len(t.items) || t.count == 0 || t.count > leafMax && depth < depthMax {
			test.Fatalf("leaf with %d entries says %d", len(t.items), t.count)
		}
		return
	}
	sum := 0
	for _, kid := range t.kids {
		if kid.audit(test, depth+1); kid != nil {
			sum += kid.count
		}
	}
	if t.count != sum || sum <= leafMin || t.items != nil {
		test.Fatalf("branch over %d entries says %d", sum, t.count)
	}
}

func randomText(r *rand.Rand, levels []string, depth int, tail string) string {
	for {
		parts := make([]string, 1+r.IntN(depth))
		for i := range parts {
			parts[i] = levels[r.IntN(len(levels))]
		}
		if tail != "" && r.IntN(4) == 0 {
			parts[len(parts)-1] = tail
		}
		if s := strings.Join(parts, "/"); s != "" {
			return s
		}
	}
}

// TestTreeModel applies random sets and deletes, few filters and many, few keys and many, and at the end takes all out again.
func TestTreeModel(t *testing.T) {
	wide := []string{"", "+", "$x"}
	for i := range 200 {
		wide = append(wide, fmt.Sprint("level", i))
	}
	for seed, c := range []struct {
		levels              []string
		depth, keys, rounds int
	}{
		{[]string{"a", "b", "", "$x", "+"}, 4, 3, 4000},
		{[]string{"a", "+"}, 2, 300, 4000}, // large sets of subscribers
		{wide, 2, 2, 4000},                 // large tables of children
		{[]string{"a", "+"}, 12, 2, 1000},
	} {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		tree, m := NewTree[int, string](), model{}
		remove := func(p pair) {
			old, had := tree.Delete(p.filter, p.key)
			if want, in := m[p]; old != want || had != in {
				t.Fatalf("Delete(%q, %d) = %q, %v; want %q, %v", p.filter, p.key, old, had, want, in)
			}
			delete(m, p)
		}
		for i := range c.rounds {
			p := pair{randomText(r, c.levels, c.depth, "#"), r.IntN(c.keys)}
			if r.IntN(3) > 0 {
				v := fmt.Sprint(p.filter, " ", i, " ", p.key)
				old, had := tree.Set(p.filter, p.key, v)
				if want, in := m[p]; old != want || had != in {
					t.Fatalf("Set(%q, %d) = %q, %v; want %q, %v", p.filter, p.key, old, had, want, in)
				}
				m[p] = v
			} else {
				remove(p)
			}
			if tree.Len() != len(m) {
				t.Fatalf("Len is %d, want %d", tree.Len(), len(m))
			}
			if i%8 == 0 {
				compare(t, tree, m, randomText(r, slices.DeleteFunc(slices.Clone(c.levels), func(l string) bool { return l == "+" }), c.depth, ""))
			}
		}
		tree.root.Load().nodes(t)
		left := make([]pair, 0, len(m))
		for p := range m {
			left = append(left, p)
		}
		slices.SortFunc(left, func(a, b pair) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		for i, p := range left {
			remove(p)
			if i%100 == 0 {
				tree.root.Load().nodes(t)
			}
		}
		if tree.Len() != 0 || tree.root.Load() != nil {
			t.Fatalf("after all deletes: %d entries, %d nodes", tree.Len(), tree.root.Load().nodes(t))
		}
	}
}

// TestTreeExhaustive has every filter of up to 3 levels in one tree, and matches every name of up to 4.
func TestTreeExhaustive(t *testing.T) {
	tree, m := NewTree[int, string](), model{}
	for i, f := range allFilters(3) {
		v := fmt.Sprint(f, " ", i)
		tree.Set(f, i, v)
		m[pair{f, i}] = v
	}
	for _, n := range allNames(4) {
		compare(t, tree, m, n)
	}
}

// TestTreeDeep matches a name of more levels than Match has room for without allocating.
func TestTreeDeep(t *testing.T) {
	tree := NewTree[int, int]()
	deep := strings.Repeat("a/", 1000) + "a"
	tree.Set(deep, 1, 1)
	tree.Set(strings.Repeat("a/", 1000)+"+", 2, 2)
	tree.Set(strings.Repeat("a/", 999)+"#", 3, 3)
	tree.Set(strings.Repeat("a/", 999)+"a", 4, 4)
	if hits, filters := tree.Match([]byte(deep), nil); len(hits) != 3 || filters != 3 {
		t.Errorf("got %v in %d filters", hits, filters)
	}
}

// TestTreeKeepsNoString: the filter may be a view of a buffer that is used again.
func TestTreeKeepsNoString(t *testing.T) {
	tree := NewTree[int, int]()
	buffer := []byte("aa/bb/cc")
	tree.Set(view(buffer), 1, 1)
	copy(buffer, "xx/xx/xx")
	if hits, _ := tree.Match([]byte("aa/bb/cc"), nil); len(hits) != 1 {
		t.Error("the entry is gone with the buffer")
	}
}

// sameHash has one hash for all keys of a tag.
type sameHash struct {
	tag uint32
	key int
}

func (s sameHash) hash() uint32         { return s.tag }
func (s sameHash) same(o sameHash) bool { return s == o }

// TestTrieCollisions: entries whose hashes are equal to the last bit are told apart.
func TestTrieCollisions(t *testing.T) {
	var set *trie[sameHash]
	const n = 5 * leafMax
	for i := range n {
		var had bool
		if set, _, had = set.put(sameHash{uint32(i%2) << 31, i}); had {
			t.Fatalf("%d was there", i)
		}
		if _, _, had = set.put(sameHash{uint32(i%2) << 31, i / 2}); had != (i/2%2 == i%2) {
			t.Fatalf("put of %d again: %v", i/2, had)
		}
	}
	set.audit(t, 0)
	if set.count != n || len(set.appendTo(nil)) != n {
		t.Fatalf("%d entries", set.count)
	}
	for i := range n {
		next, old, had := set.drop(sameHash{uint32(i%2) << 31, i})
		if !had || old.key != i {
			t.Fatalf("drop of %d: %v, %v", i, old, had)
		}
		if again, _, had := next.drop(sameHash{uint32(i%2) << 31, i}); had || again != next {
			t.Fatalf("%d is still there", i)
		}
		set = next
		set.audit(t, 0)
	}
	if set != nil {
		t.Fatal("entries left")
	}
}

// TestFindCollision: two levels of one parent with the same hash are two children.
func TestFindCollision(t *testing.T) {
	var children *trie[child[string]]
	for _, level := range []string{"a", "b"} {
		children, _, _ = children.put(child[string]{level, 7, &level})
	}
	for _, level := range []string{"a", "b"} {
		if c := find(children, level, 7); c == nil || *c.node != level {
			t.Errorf("%q leads to %v", level, c)
		}
	}
	if c := find(children, "c", 7); c != nil {
		t.Errorf("\"c\" leads to %q", *c.node)
	}
}

// TestMatchWaitsForNobody matches while a writer is at work for good.
func TestMatchWaitsForNobody(t *testing.T) {
	tree := NewTree[int, int]()
	tree.Set("a", 1, 1)
	tree.writing.Lock()
	defer tree.writing.Unlock()
	if hits, _ := tree.Match([]byte("a"), nil); len(hits) != 1 {
		t.Error("no hit")
	}
}

const (
	writers = 3
	stable  = 150 // keys below are those that no writer touches, with 5 filters each; each writer has 100 above
)

// checkHits is what every reader of TestTreeConcurrent is owed.
func checkHits(t *testing.T, hits []Hit[int, string], filters int, name []byte) {
	seen, distinct, kept := map[Hit[int, string]]bool{}, map[string]bool{}, 0
	for _, h := range hits {
		if seen[h] || !Match(h.Value, name) {
			t.Errorf("hit %v is wrong or there twice", h)
		}
		seen[h], distinct[h.Value] = true, true
		if h.Key < stable {
			kept++
		}
	}
	if kept != 5*stable || len(distinct) != filters {
		t.Errorf("%d entries of %d that nobody touches, %d filters of %d", kept, 5*stable, filters, len(distinct))
	}
	for w := range writers {
		first := stable + w*100
		if !seen[Hit[int, string]{first, "a/b/c"}] && !seen[Hit[int, string]{first, "#"}] {
			t.Errorf("entry %d was missed while it moved", first)
		}
	}
}

// TestTreeConcurrent has readers check, while writers work on the same nodes, that entries nobody touches are always found,
// that an entry that moves between two filters is never missed, and that every hit is right and unique.
func TestTreeConcurrent(t *testing.T) {
	const readers, rounds = 3, 1500
	name := []byte("a/b/c")
	matching := []string{"a/b/c", "a/b/+", "a/+/c", "+/b/c", "a/#", "#", "a/b/#", "a/b/c/#", "+/+/+", "+/#"}
	filters := append([]string{"a/b", "a/b/d", "b/#", "a/b/c/d", "+/b/d", "+"}, matching...)
	tree := NewTree[int, string]()
	for i := range stable {
		for _, f := range matching[i%2*5:][:5] {
			tree.Set(f, i, f)
		}
	}
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for w := range writers {
		first := stable + w*100 // each writer has keys of its own
		here, there := "a/b/c", "#"
		tree.Set(here, first, here)
		writing.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				tree.Set(there, first, there) // the move
				tree.Delete(here, first)
				here, there = there, here
				f, key := filters[r.IntN(len(filters))], first+1+r.IntN(99)
				if r.IntN(2) == 0 {
					tree.Set(f, key, f)
				} else if old, had := tree.Delete(f, key); had && old != f {
					t.Errorf("Delete(%q, %d) returned %q", f, key, old)
				}
			}
			for _, f := range filters {
				for key := first + 1; key < first+100; key++ {
					tree.Delete(f, key)
				}
			}
		})
	}
	for range readers {
		reading.Go(func() {
			var hits []Hit[int, string]
			for !done.Load() && !t.Failed() {
				var count int
				hits, count = tree.Match(name, hits[:0])
				checkHits(t, hits, count, name)
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	if want := 5*stable + writers; tree.Len() != want {
		t.Errorf("%d entries left, want %d", tree.Len(), want)
	}
	tree.root.Load().nodes(t)
}
