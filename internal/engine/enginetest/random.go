package enginetest

import (
	"fmt"
	"sync"
	"testing"

	"cloudsignal/internal/engine"
)

const (
	randomBatches       = 250
	randomOrganizations = 3
)

// testRandom compares the store with the model, again and again, over restarts.
func testRandom(t *testing.T, g ground) {
	for seed := range uint64(randomSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			at := g.place(t)
			s, err := g.open(at)
			must(t, err)
			model, release := newOracle(), func() {}
			for i, b := range generate(seed, randomBatches, randomOrganizations) {
				want := model.Apply(b)
				if i%16 == 0 {
					release = hold(s)
				}
				if i%16 < 15 { // together: the store is held up until they wait, and has them share a write
					s.Commit(b, func(first engine.Position, err error) {
						if first != want || err != nil {
							t.Errorf("batch %d: at %d, %v, want %d", i, first, err, want)
						}
					})
					continue
				}
				release()
				first, err := commit(s, b.Organization, b.Operations...)
				must(t, err)
				if first != want {
					t.Fatalf("batch %d: at %d, want %d", i, first, want)
				}
				compare(t, s, model)
				if i%32 == 31 {
					must(t, s.Close())
					s, err = g.open(at)
					must(t, err)
					compare(t, s, model)
				}
			}
			release()
			must(t, s.Close())
		})
	}
}

// hold keeps the store from calling anything until it is released.
func hold(s Store) (release func()) {
	held, released := make(chan struct{}), make(chan struct{})
	s.Commit(&engine.Batch{Organization: 1}, func(engine.Position, error) {
		close(held)
		<-released
	})
	<-held
	return sync.OnceFunc(func() { close(released) })
}

func compare(t *testing.T, s Store, model *oracle) {
	t.Helper()
	for organization := range uint64(randomOrganizations) {
		got, err := dump(s, organization+1)
		must(t, err)
		want, err := dump(model, organization+1)
		must(t, err)
		if got != want {
			t.Fatalf("organization %d: %s", organization+1, difference(got, want))
		}
	}
}
