//go:build !race

package enginetest

const (
	crashEvery  = 1 // of the crashes, how many are opened: each, or one in so many
	randomSeeds = 6
	faultStep   = 2 // changes of the file system between those that fail, run by run
)
