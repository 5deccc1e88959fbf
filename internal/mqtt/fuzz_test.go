package mqtt

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func seed(f *testing.F, v Version) {
	for _, c := range vectors {
		if c.v == v {
			f.Add(unhex(f, c.hex))
		}
	}
}

// fuzz: what decodes also encodes, and decodes again to the same; what does not has a reason a peer can be told.
func fuzz(t *testing.T, v Version, b []byte) {
	h, n, err := ReadHeader(b)
	if err == nil && (n == 0 || len(b) < n+h.Length) {
		return
	}
	var p Packet
	if err == nil {
		d := Decoder{Version: v}
		p, err = d.Decode(h, b[n:n+h.Length])
	}
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || !e.Reason.Failed() || e.Detail == "" {
			t.Fatalf("error without a reason: %v", err)
		}
		return
	}
	if c, ok := p.(*Connect); ok {
		v = c.Version
	}
	enc := p.Append(nil, v)
	again, err := decodeAll(t, v, enc)
	if err != nil {
		t.Fatalf("% x was encoded as % x, which is refused: %v", b, enc, err)
	}
	if d := cmp.Diff(p, again, same); d != "" {
		t.Fatalf("% x was encoded as % x (-first +second):\n%s", b, enc, d)
	}
	if twice := again.Append(nil, v); string(twice) != string(enc) {
		t.Fatalf("encoded as % x, then as % x", enc, twice)
	}
}

func FuzzDecode31(f *testing.F) {
	seed(f, V31)
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, V31, b) })
}

func FuzzDecode311(f *testing.F) {
	seed(f, V311)
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, V311, b) })
}

func FuzzDecode5(f *testing.F) {
	seed(f, V5)
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, V5, b) })
}

func FuzzFirstPacket(f *testing.F) {
	for _, v := range []Version{V31, V311, V5} {
		seed(f, v)
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, 0, b) })
}
