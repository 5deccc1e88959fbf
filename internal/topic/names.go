package topic

import "strings"

// Names holds values by topic name. The zero value is empty. The caller locks: Get, Match and Len may run at the same time
// as each other, Set and Delete only alone.
type Names[V any] struct {
	root place[V]
	size int
}

// place is a node in the tree of names: the levels of a name up to here.
type place[V any] struct {
	children *trie[child[place[V]]]
	value    *named[V] // nil: no such name
}

type named[V any] struct {
	name  string
	value V
}

// Len is the number of names.
func (t *Names[V]) Len() int { return t.size }

// Get returns the value of a name. It allocates nothing.
func (t *Names[V]) Get(name []byte) (v V, ok bool) {
	n := &t.root
	rest := view(name)
	for more := true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		c := find(n.children, level, levelHash(level))
		if c == nil {
			return v, false
		}
		n = c.node
	}
	if n.value == nil {
		return v, false
	}
	return n.value.value, true
}

// Set enters v under name, in place of the old value. The name is not checked (CheckName does that); it is kept.
func (t *Names[V]) Set(name string, v V) (old V, had bool) {
	n := &t.root
	rest := name
	for more := true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.make(level)
	}
	if n.value != nil {
		old, n.value.value = n.value.value, v
		return old, true
	}
	n.value = &named[V]{name, v}
	t.size++
	return old, false
}

// make returns the node under level, new if it has to be.
func (n *place[V]) make(level string) *place[V] {
	tag := levelHash(level)
	if c := find(n.children, level, tag); c != nil {
		return c.node
	}
	c := child[place[V]]{strings.Clone(level), tag, new(place[V])}
	n.children, _, _ = n.children.put(c)
	return c.node
}

// Delete removes a name.
func (t *Names[V]) Delete(name string) (old V, had bool) {
	was := t.root.remove(name, true)
	if was == nil {
		return old, false
	}
	t.size--
	return was.value, true
}

// remove takes out the value of rest, if there are more levels, else the one here, and the nodes that are empty then.
func (n *place[V]) remove(rest string, more bool) (was *named[V]) {
	if !more {
		was, n.value = n.value, nil
		return was
	}
	level, rest, more := strings.Cut(rest, "/")
	tag := levelHash(level)
	c := find(n.children, level, tag)
	if c == nil {
		return nil
	}
	was = c.node.remove(rest, more)
	if *c.node == (place[V]{}) {
		n.children, _, _ = n.children.drop(*c)
	}
	return was
}

// Match calls visit for every name that filter matches, in no order, until visit returns false. The rule for "$" holds
// ([MQTT-4.7.2-1]). visit must not change the tree. "$share/GROUP/" has to be off the filter. It visits a node at most
// once, and those of "+" and "#" are all that exist there: the bound is the number of levels of all names.
func (t *Names[V]) Match(filter string, visit func(name string, v V) bool) {
	level, rest, more := strings.Cut(filter, "/")
	if level == "#" && !more {
		rest, more = "#", true // "#" is "+/#": every name has a level
	} else if level != "+" {
		t.root.match(filter, true, visit)
		return
	}
	t.root.children.each(func(c child[place[V]]) bool {
		return strings.HasPrefix(c.level, "$") || c.node.match(rest, more, visit)
	})
}

// All calls visit for every name, those that begin with "$" too, in no order, until visit returns false. visit must not change
// the tree.
func (t *Names[V]) All(visit func(name string, v V) bool) {
	t.root.children.each(func(c child[place[V]]) bool { return c.node.match("#", true, visit) })
}

// match visits the names below n that rest matches, if there are more levels in the filter, else the one that ends here. It
// is false if visit was.
func (n *place[V]) match(rest string, more bool, visit func(string, V) bool) bool {
	if !more {
		return n.visit(visit)
	}
	if rest == "#" { // matches the name that ends here too (4.7.1.2)
		return n.visit(visit) && n.children.each(func(c child[place[V]]) bool { return c.node.match(rest, true, visit) })
	}
	level, rest, more := strings.Cut(rest, "/")
	if level == "+" {
		return n.children.each(func(c child[place[V]]) bool { return c.node.match(rest, more, visit) })
	}
	c := find(n.children, level, levelHash(level))
	return c == nil || c.node.match(rest, more, visit)
}

func (n *place[V]) visit(visit func(string, V) bool) bool {
	return n.value == nil || visit(n.value.name, n.value.value)
}
