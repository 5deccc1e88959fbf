//go:build !race

package access

import "testing"

func TestPublishCheckDoesNotAllocate(t *testing.T) {
	g := grantOf("agent-01", "client", "", standard(
		deny("%", "secret/#", PermitBoth),
		allow("agent-%", "agents/%u/+/%c/#", PermitBoth),
		allow("%", "a/+/c", PermitBoth),
	))
	topics := [][]byte{[]byte("agents/agent-01/x/client/y"), []byte("a/b/c"), []byte("secret/x"), []byte("other")}
	allowed := 0
	if n := testing.AllocsPerRun(100, func() {
		for _, topic := range topics {
			if g.Check(Publish, topic) {
				allowed++
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if allowed != 2*101 {
		t.Errorf("%d allowed", allowed)
	}
}
