package pebble

import (
	"cmp"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine/enginetest"
)

// small is a store with buffers so small that a hundred batches reach flushes, new logs and compactions.
func small(change func(*Options)) enginetest.Factory {
	return func(o enginetest.Options) (enginetest.Store, error) {
		options := Options{Dir: cmp.Or(o.Dir, "store"), FS: o.FS, Reserve: o.Reserve, FreeBytes: o.FreeBytes, Now: o.Now, Cache: 1 << 20, memTable: 16 << 10}
		if change != nil {
			change(&options)
		}
		s, err := Open(options)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

func TestContract(t *testing.T) { enginetest.Run(t, small(nil)) }

// TestContractOnDisk is the contract over the real disk, with its files, locks and syncs.
func TestContractOnDisk(t *testing.T) {
	enginetest.RunOn(t, small(nil), func(t *testing.T) enginetest.Options {
		return enginetest.Options{FS: vfs.Default, Dir: t.TempDir()}
	})
}

// TestBroken has the suite find stores that break a promise: one that acknowledges before the sync, one whose readers
// see what is not synced yet.
func TestBroken(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"acknowledges before the sync": func(o *Options) { o.unsynced = true },
		"shows what is not synced":     func(o *Options) { o.readUnsynced = true },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) { // what readers see during a sync depends on who runs first
				if _, err := enginetest.Crashes(small(change), 100+seed); err != nil {
					t.Log(err)
					return
				}
			}
			t.Fatal("no crash found it")
		})
	}
}
