package topic

import (
	"fmt"
	"strings"
	"testing"
)

const many = 100_000

// fleet is a tree of 100,000 filters as devices and their services have them; fleetName is matched by three of them.
func fleet() *Tree[*int, *int] {
	tree, value := NewTree[*int, *int](), new(int)
	keys := make([]int, many)
	for i := range many - 2 {
		tree.Set(fmt.Sprintf("site/%d/device/%d/command", i%100, i), &keys[i], value)
	}
	tree.Set("site/+/device/+/command", &keys[many-2], value)
	tree.Set("site/42/#", &keys[many-1], value)
	return tree
}

var fleetName = []byte("site/42/device/77742/command")

const adversarialDepth = 12

// adversarial is a tree with "a", "+" and "#" at every place of its first levels: all its 2^13-1 "#" and 2^12 other filters match adversarialName.
func adversarial() (tree *Tree[*int, *int], filters int) {
	tree, key := NewTree[*int, *int](), new(int)
	var add func(prefix string, depth int)
	add = func(prefix string, depth int) {
		tree.Set(prefix+"#", key, key)
		if depth == adversarialDepth {
			tree.Set(strings.TrimSuffix(prefix, "/"), key, key)
			return
		}
		add(prefix+"a/", depth+1)
		add(prefix+"+/", depth+1)
	}
	add("", 0)
	return tree, tree.Len()
}

var adversarialName = []byte(strings.Repeat("a/", adversarialDepth-1) + "a")

// crowd is a tree with n keys under one filter.
func crowd(n int) *Tree[*int, *int] {
	tree, value := NewTree[*int, *int](), new(int)
	keys := make([]int, n)
	for i := range keys {
		tree.Set("news/all", &keys[i], value)
	}
	return tree
}

func benchmarkMatch(b *testing.B, tree *Tree[*int, *int], name []byte, want int) {
	hits, _ := tree.Match(name, nil)
	if len(hits) != want {
		b.Fatalf("%d hits, want %d", len(hits), want)
	}
	b.ReportAllocs()
	for b.Loop() {
		hits, _ = tree.Match(name, hits[:0])
	}
}

func BenchmarkMatch100k(b *testing.B) { benchmarkMatch(b, fleet(), fleetName, 3) }

func BenchmarkMatchAdversarial(b *testing.B) {
	tree, filters := adversarial()
	benchmarkMatch(b, tree, adversarialName, filters)
}

func BenchmarkMatch1000Subscribers(b *testing.B) {
	benchmarkMatch(b, crowd(1000), []byte("news/all"), 1000)
}

// BenchmarkSubscribe is one Set and one Delete on a filter that 100,000 others hold.
func BenchmarkSubscribe(b *testing.B) {
	tree, key := crowd(many), new(int)
	b.ReportAllocs()
	for b.Loop() {
		tree.Set("news/all", key, key)
		tree.Delete("news/all", key)
	}
}

// BenchmarkSubscribeFleet is one Set and one Delete of a new filter among 100,000 others.
func BenchmarkSubscribeFleet(b *testing.B) {
	tree, key := fleet(), new(int)
	b.ReportAllocs()
	for b.Loop() {
		tree.Set("site/42/device/x/command", key, key)
		tree.Delete("site/42/device/x/command", key)
	}
}

func BenchmarkNamesMatch(b *testing.B) {
	var names Names[int]
	for i := range many {
		names.Set(fmt.Sprintf("site/%d/device/%d/status", i%100, i), i)
	}
	b.ReportAllocs()
	for b.Loop() {
		count := 0
		names.Match("site/42/+/+/status", func(string, int) bool { count++; return true })
		if count != many/100 {
			b.Fatalf("%d names", count)
		}
	}
}
