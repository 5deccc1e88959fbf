package topic

import "hash/maphash"

const (
	leafMax  = 32 // entries of a leaf; one more splits it
	leafMin  = 16 // entries of a branch; at this number it becomes a leaf again
	fanBits  = 2  // bits of the hash that choose a branch's child: a split leaf leaves four of some 8 entries
	fan      = 1 << fanBits
	depthMax = 32 / fanBits // where the hash is used up; a leaf there may grow, which takes 33 equal hashes
)

// seed keeps clients from choosing levels whose hashes collide.
var seed = maphash.MakeSeed()

// entry is what a trie holds: something with a key.
type entry[E any] interface {
	hash() uint32
	same(E) bool // the key is the same
}

// trie is a persistent set of entries by key, a leaf or a branch. nil is the empty set. Nothing in it is ever written after
// it was made: put and drop copy the way to one leaf, at most leafMax entries and one branch for every two bits of the hash
// (about log4(n/16) of them), and share the rest. So readers need no lock, whatever the writers do.
type trie[E entry[E]] struct {
	count int
	items []E            // leaf: 1 to leafMax entries
	kids  *[fan]*trie[E] // branch: by the next fanBits of the hash; nil for a leaf
}

// put returns t with e in place of the entry with the same key.
func (t *trie[E]) put(e E) (next *trie[E], old E, had bool) { return t.putAt(e, e.hash(), 0) }

func (t *trie[E]) putAt(e E, hash uint32, depth int) (next *trie[E], old E, had bool) {
	if t == nil {
		return &trie[E]{count: 1, items: []E{e}}, old, false
	}
	if t.kids != nil {
		kids, count := *t.kids, t.count
		kid := &kids[hash>>(depth*fanBits)%fan]
		if *kid, old, had = (*kid).putAt(e, hash, depth+1); !had {
			count++
		}
		return &trie[E]{count: count, kids: &kids}, old, had
	}
	for i := range t.items {
		if t.items[i].same(e) {
			items := make([]E, len(t.items))
			copy(items, t.items)
			old, items[i] = items[i], e
			return &trie[E]{count: t.count, items: items}, old, true
		}
	}
	items := make([]E, len(t.items)+1)
	items[copy(items, t.items)] = e
	return split(items, depth), old, false
}

// split makes a trie of entries with different keys and equal hashes up to depth. It keeps items.
func split[E entry[E]](items []E, depth int) *trie[E] {
	if len(items) == 0 {
		return nil
	}
	if len(items) <= leafMax || depth == depthMax {
		return &trie[E]{count: len(items), items: items}
	}
	var (
		sizes [fan]int
		parts [fan][]E
		kids  [fan]*trie[E]
	)
	for i := range items {
		sizes[items[i].hash()>>(depth*fanBits)%fan]++
	}
	for i, n := range sizes {
		parts[i] = make([]E, 0, n)
	}
	for i := range items {
		part := &parts[items[i].hash()>>(depth*fanBits)%fan]
		*part = append(*part, items[i])
	}
	for i := range kids {
		kids[i] = split(parts[i], depth+1)
	}
	return &trie[E]{count: len(items), kids: &kids}
}

// drop returns t without the entry that has the key of e, and that entry; t itself if there is none.
func (t *trie[E]) drop(e E) (next *trie[E], old E, had bool) { return t.dropAt(e, e.hash(), 0) }

func (t *trie[E]) dropAt(e E, hash uint32, depth int) (next *trie[E], old E, had bool) {
	if t == nil {
		return nil, old, false
	}
	if t.kids != nil {
		kids, slot := *t.kids, hash>>(depth*fanBits)%fan
		if kids[slot], old, had = t.kids[slot].dropAt(e, hash, depth+1); !had {
			return t, old, false
		}
		next = &trie[E]{count: t.count - 1, kids: &kids}
		if next.count <= leafMin {
			next = &trie[E]{count: next.count, items: next.appendTo(make([]E, 0, next.count))}
		}
		return next, old, true
	}
	for i := range t.items {
		if !t.items[i].same(e) {
			continue
		}
		if len(t.items) == 1 {
			return nil, t.items[i], true
		}
		items := make([]E, len(t.items)-1)
		copy(items[copy(items, t.items[:i]):], t.items[i+1:])
		return &trie[E]{count: len(items), items: items}, t.items[i], true
	}
	return t, old, false
}

// appendTo appends all entries, in no order.
func (t *trie[E]) appendTo(dst []E) []E {
	if t == nil {
		return dst
	}
	if t.kids == nil {
		return append(dst, t.items...)
	}
	for _, kid := range t.kids {
		dst = kid.appendTo(dst)
	}
	return dst
}

// each calls f for all entries, in no order, until it returns false; it reports whether it never did.
func (t *trie[E]) each(f func(E) bool) bool {
	if t == nil {
		return true
	}
	for i := range t.items {
		if !f(t.items[i]) {
			return false
		}
	}
	if t.kids != nil {
		for _, kid := range t.kids {
			if !kid.each(f) {
				return false
			}
		}
	}
	return true
}

// child is a node of type N under its level. Its key is the level.
type child[N any] struct {
	level string
	tag   uint32 // hash of level
	node  *N
}

func (c child[N]) hash() uint32             { return c.tag }
func (c child[N]) same(other child[N]) bool { return c.tag == other.tag && c.level == other.level }

func levelHash(level string) uint32 { return uint32(maphash.String(seed, level)) }

// find returns the child under level, nil if there is none; it is not to be written to. It allocates nothing.
func find[N any](t *trie[child[N]], level string, tag uint32) *child[N] {
	for bits := tag; t != nil; bits >>= fanBits {
		if t.kids == nil {
			for i := range t.items {
				if c := &t.items[i]; c.tag == tag && c.level == level {
					return c
				}
			}
			return nil
		}
		t = t.kids[bits%fan]
	}
	return nil
}
