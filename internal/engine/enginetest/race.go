//go:build race

package enginetest

// Under the race detector Pebble checks itself, twenty times slower. What follows a crash is one goroutine, of little
// interest there: one crash in a dozen is opened. Every one is without it.
const (
	crashEvery  = 12
	randomSeeds = 1
	faultStep   = 29
)
