//go:build !race

package broker

import (
	"fmt"
	"runtime/debug"
	"testing"

	"cloudsignal/internal/mqtt"
)

// TestPublishAllocates: a publish, from the bytes of its packet to those of the last subscriber and, at QoS 1, to the last
// acknowledgement, takes no memory once buffers have their size. The rules of two users are in force.
func TestPublishAllocates(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would empty the pools
	for _, n := range []int{1, 1000} {
		for q := range mqtt.QoS(2) {
			t.Run(fmt.Sprintf("%d subscribers, QoS %d", n, q), func(t *testing.T) {
				s := newServer(t, nil)
				defer s.Close()
				k := newCrowd(t, s, n, q)
				const warm, runs = 5, 50
				for range warm {
					k.publish(t)
				}
				if a := testing.AllocsPerRun(runs, func() { k.publish(t) }); a != 0 {
					t.Errorf("%v allocations for one publish", a)
				}
				k.check(t, warm+1+runs)
			})
		}
	}
}
