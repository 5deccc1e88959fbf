package topic

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// Hit is one entry of a Tree whose filter matched.
type Hit[K comparable, V any] struct {
	Key   K
	Value V
}

func (h Hit[K, V]) hash() uint32              { return uint32(maphash.Comparable(seed, h.Key)) }
func (h Hit[K, V]) same(other Hit[K, V]) bool { return h.Key == other.Key }

// Tree holds entries by filter and key: the filters are subscriptions, the keys subscribers. All methods may be called at
// any time. Set and Delete wait for each other; Match waits for nobody, and sees the tree as it was at one moment: all of a
// Set or Delete, or nothing of it.
//
// The tree is a persistent one behind an atomic pointer. A Set or Delete copies one node, and a logarithmic part of its
// table of children, for each level of the filter, and a logarithmic part of one set of subscribers; it never copies a table or a set whole.
//
// A key must equal itself (no NaN in it).
type Tree[K comparable, V any] struct {
	writing sync.Mutex                 // held by Set and Delete
	root    atomic.Pointer[node[K, V]] // nil: empty
	size    atomic.Int64
}

// node is a place in the tree: the levels of a filter up to here. It is never written after it was made, and never empty.
type node[K comparable, V any] struct {
	children *trie[child[node[K, V]]]
	plus     *node[K, V]      // under "+"
	here     *trie[Hit[K, V]] // entries of the filter that ends here
	many     *trie[Hit[K, V]] // entries of the filter that goes on with "#"
}

// NewTree returns an empty tree.
func NewTree[K comparable, V any]() *Tree[K, V] { return new(Tree[K, V]) }

// Len is the number of (filter, key) pairs.
func (t *Tree[K, V]) Len() int { return int(t.size.Load()) }

// Set enters value under filter and key, in place of the old one. The filter is not checked (CheckFilter does that), and
// "$share/GROUP/" has to be off. The tree keeps no part of the string.
func (t *Tree[K, V]) Set(filter string, key K, value V) (old V, had bool) {
	t.writing.Lock()
	defer t.writing.Unlock()
	var was Hit[K, V]
	root := t.root.Load().edit(filter, true, func(set *trie[Hit[K, V]]) *trie[Hit[K, V]] {
		set, was, had = set.put(Hit[K, V]{key, value})
		return set
	})
	t.root.Store(root)
	if !had {
		t.size.Add(1)
	}
	return was.Value, had
}

// Delete removes the entry of filter and key.
func (t *Tree[K, V]) Delete(filter string, key K) (old V, had bool) {
	t.writing.Lock()
	defer t.writing.Unlock()
	var was Hit[K, V]
	root := t.root.Load().edit(filter, true, func(set *trie[Hit[K, V]]) *trie[Hit[K, V]] {
		set, was, had = set.drop(Hit[K, V]{Key: key})
		return set
	})
	if had {
		t.root.Store(root)
		t.size.Add(-1)
	}
	return was.Value, had
}

// edit returns n (nil: an empty node) with change applied to the set of one filter: rest, if there are more levels, else the
// one that ends here. It returns nil if nothing is left.
func (n *node[K, V]) edit(rest string, more bool, change func(*trie[Hit[K, V]]) *trie[Hit[K, V]]) *node[K, V] {
	var next node[K, V]
	if n != nil {
		next = *n
	}
	level, after, deeper := strings.Cut(rest, "/")
	switch {
	case !more:
		next.here = change(next.here)
	case rest == "#":
		next.many = change(next.many)
	case level == "+":
		next.plus = next.plus.edit(after, deeper, change)
	default:
		next.children = editChild(next.children, level, func(kid *node[K, V]) *node[K, V] { return kid.edit(after, deeper, change) })
	}
	if next == (node[K, V]{}) {
		return nil
	}
	return &next
}

// editChild returns t with the node under level (nil: none) replaced by what change makes of it.
func editChild[N any](t *trie[child[N]], level string, change func(*N) *N) *trie[child[N]] {
	tag := levelHash(level)
	if c := find(t, level, tag); c != nil {
		next := child[N]{c.level, tag, change(c.node)}
		if next.node == nil {
			t, _, _ = t.drop(next)
		} else {
			t, _, _ = t.put(next)
		}
	} else if n := change(nil); n != nil {
		t, _, _ = t.put(child[N]{strings.Clone(level), tag, n}) // uncloned, one level of a long filter would keep all of it
	}
	return t
}

// Match appends the entries of all filters that match name, in no order, one for each filter and key; filters is the number
// of distinct filters among them. The rule for "$" holds ([MQTT-4.7.2-1]).
//
// It visits at most two nodes for each one it visited a level above (the name's level and "+"), and only nodes that exist:
// at level i at most min(2^i, filters in the tree), so at most filters times levels of the name in all. It allocates
// nothing if dst has room and the name has at most DefaultLevels levels.
func (t *Tree[K, V]) Match(name []byte, dst []Hit[K, V]) (hits []Hit[K, V], filters int) {
	root := t.root.Load()
	if root == nil {
		return dst, 0
	}
	var room [DefaultLevels]step
	levels := room[:0]
	rest := view(name)
	for more := true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		levels = append(levels, step{level, levelHash(level)})
	}
	if len(name) == 0 || name[0] != '$' {
		return root.match(levels, dst, 0)
	}
	if c := find(root.children, levels[0].level, levels[0].tag); c != nil {
		return c.node.match(levels[1:], dst, 0)
	}
	return dst, 0
}

// step is one level of the name that is being matched.
type step struct {
	level string
	tag   uint32
}

// match appends what matches levels, the rest of the name, at and below n.
func (n *node[K, V]) match(levels []step, hits []Hit[K, V], filters int) ([]Hit[K, V], int) {
	if n.many != nil { // also if no level is left: "a/#" matches "a" (4.7.1.2)
		hits, filters = n.many.appendTo(hits), filters+1
	}
	if len(levels) == 0 {
		if n.here != nil {
			hits, filters = n.here.appendTo(hits), filters+1
		}
		return hits, filters
	}
	if n.children != nil {
		if c := find(n.children, levels[0].level, levels[0].tag); c != nil {
			hits, filters = c.node.match(levels[1:], hits, filters)
		}
	}
	if n.plus != nil {
		hits, filters = n.plus.match(levels[1:], hits, filters)
	}
	return hits, filters
}
