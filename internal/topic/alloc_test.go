//go:build !race

package topic

import (
	"fmt"
	"runtime"
	"testing"
)

func noAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(100, f); n != 0 {
		t.Errorf("%s: %v allocations", what, n)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	adverse, filters := adversarial()
	for _, c := range []struct {
		what string
		tree *Tree[*int, *int]
		name []byte
		hits int
	}{
		{"100,000 filters", fleet(), fleetName, 3},
		{"100,000 filters, no match", fleet(), []byte("$site/42/device/77742/command"), 0},
		{"adversarial", adverse, adversarialName, filters},
		{"1,000 subscribers", crowd(1000), []byte("news/all"), 1000},
	} {
		dst := make([]Hit[*int, *int], 0, c.hits)
		noAllocs(t, c.what, func() {
			if hits, _ := c.tree.Match(c.name, dst); len(hits) != c.hits {
				t.Fatalf("%s: %d hits, want %d", c.what, len(hits), c.hits)
			}
		})
	}
}

func TestFunctionsDoNotAllocate(t *testing.T) {
	type text []byte
	name, filter := text("site/42/device/77742/command/of/more/than/32/bytes"), text("$share/group/site/+/device/#")
	plain := "site/+/device/#"
	var names Names[int]
	names.Set(string(name), 1)
	noAllocs(t, "CheckName", func() { _ = CheckName(name, Limits{}) })
	noAllocs(t, "CheckFilter", func() { _ = CheckFilter(filter, Limits{}) })
	noAllocs(t, "Match", func() { Match(plain, name) })
	noAllocs(t, "Covers", func() { Covers(text(nil), name) })
	noAllocs(t, "Contains", func() { Contains(plain, "site/#") })
	noAllocs(t, "Overlaps", func() { Overlaps(plain, "site/#") })
	noAllocs(t, "Get", func() { names.Get(name) })
}

// allocated is the number of bytes that one call of f allocates, on average.
func allocated(f func(i int)) uint64 {
	const rounds = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		f(i)
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / rounds
}

// TestSubscribeCopiesLittle: with 100,000 subscribers of one filter, or 100,000 children of one level, a Set and a Delete
// copy a logarithmic part of them (a copy of all would be 1.6 MB).
func TestSubscribeCopiesLittle(t *testing.T) {
	const most = 8 << 10
	one := crowd(many)
	keys := make([]int, 500)
	if n := allocated(func(i int) { one.Set("news/all", &keys[i], nil) }); n > most {
		t.Errorf("Set among 100,000 subscribers allocates %d bytes", n)
	}
	if n := allocated(func(i int) { one.Delete("news/all", &keys[i]) }); n > most {
		t.Errorf("Delete among 100,000 subscribers allocates %d bytes", n)
	}
	wide, key := NewTree[int, int](), 1
	filters := make([]string, many)
	for i := range filters {
		filters[i] = fmt.Sprint("device", i)
		wide.Set(filters[i], key, i)
	}
	for i := range 500 {
		wide.Delete(filters[i], key)
	}
	if n := allocated(func(i int) { wide.Set(filters[i], key, i) }); n > most {
		t.Errorf("Set among 100,000 children allocates %d bytes", n)
	}
	if n := allocated(func(i int) { wide.Delete(filters[i], key) }); n > most {
		t.Errorf("Delete among 100,000 children allocates %d bytes", n)
	}
}

// TestTreeMemory bounds the heap of 100,000 filters with a subscriber each.
func TestTreeMemory(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	tree := fleet()
	bytes := (heap() - before) / many
	runtime.KeepAlive(tree)
	t.Logf("%d bytes for each filter", bytes)
	if bytes > 500 {
		t.Errorf("%d bytes for each filter, want at most 500", bytes)
	}
}
