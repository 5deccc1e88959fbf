//go:build !race

package mqtt

import "testing"

func TestPublishAllocatesNothing(t *testing.T) {
	p := samplePublish()
	for _, v := range []Version{V311, V5} {
		wire := p.Append(nil, v)
		h, n, err := ReadHeader(wire)
		if err != nil {
			t.Fatal(err)
		}
		d := Decoder{Version: v}
		if _, err := d.Decode(h, wire[n:]); err != nil {
			t.Fatal(err)
		}
		if a := testing.AllocsPerRun(1000, func() {
			h, n, _ := ReadHeader(wire)
			if _, err := d.Decode(h, wire[n:]); err != nil {
				t.Fatal(err)
			}
		}); a != 0 {
			t.Errorf("decoding a PUBLISH of %s allocates %v times", v, a)
		}
		dst := make([]byte, 0, 2*len(wire))
		if a := testing.AllocsPerRun(1000, func() { dst = p.Append(dst[:0], v) }); a != 0 {
			t.Errorf("encoding a PUBLISH of %s allocates %v times", v, a)
		}
	}
}
